"""Keys by something that their values say."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

V = TypeVar("V")
T = TypeVar("T", bound=Hashable)


class Index(Generic[V, T]):
    """The keys of a cache by the terms that a function finds in each; current whenever the cache is."""

    def __init__(self, terms_of: Callable[[str, V], Iterable[T]]) -> None:
        self._terms_of = terms_of
        self._keys: dict[T, set[str]] = {}
        self._terms: dict[str, frozenset[T]] = {}

    def __getitem__(self, term: T) -> list[str]:
        """The keys with this term, sorted; empty where there is none."""
        return sorted(self._keys.get(term, ()))

    def __contains__(self, term: T) -> bool:
        return term in self._keys

    def __len__(self) -> int:
        return len(self._keys)

    def terms(self) -> list[T]:
        """Every term that some key has, in no order."""
        return list(self._keys)

    def _set(self, key: str, value: V) -> None:
        """Raises what the function raises; then the key is under no term."""
        self._remove(key)
        terms = frozenset(self._terms_of(key, value))
        self._terms[key] = terms
        for term in terms:
            self._keys.setdefault(term, set()).add(key)

    def _remove(self, key: str) -> None:
        for term in self._terms.pop(key, ()):
            keys = self._keys[term]
            keys.discard(key)
            if not keys:
                del self._keys[term]
