"""Which keys of a bucket are followed. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from slipstream.keys import check_prefix


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchScope:
    """Everything, the keys under a prefix, or those under one of several: each followed by one watch.

    Attributes:
        prefixes: none of them begins with another one; sorted.
    """

    prefixes: tuple[str, ...] = ("",)

    def __post_init__(self) -> None:
        kept: list[str] = []
        for prefix in sorted(map(check_prefix, self.prefixes)):
            if not kept or not prefix.startswith(kept[-1]):
                kept.append(prefix)
        object.__setattr__(self, "prefixes", tuple(kept))

    @classmethod
    def everything(cls) -> Self:
        return cls()

    @classmethod
    def prefix(cls, prefix: str) -> Self:
        """The keys that begin with it. Raises: InvalidKeyError."""
        return cls(prefixes=(prefix,))

    @classmethod
    def several(cls, prefixes: Iterable[str]) -> Self:
        """The keys that begin with one of them; of none, nothing. Raises: InvalidKeyError."""
        return cls(prefixes=tuple(prefixes))

    @classmethod
    def of(cls, prefix: str | Iterable[str] | WatchScope) -> WatchScope:
        """What `watch` would take for a prefix, or a scope as it is."""
        if isinstance(prefix, WatchScope):
            return prefix
        return cls.prefix(prefix) if isinstance(prefix, str) else cls.several(prefix)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and key.startswith(self.prefixes)
