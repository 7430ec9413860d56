"""What was in force, and what was refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, TypeVar

from pydantic import BaseModel

S = TypeVar("S", bound=BaseModel)


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldError:
    """What is wrong with one field; `field` is its dotted path, empty where the whole is wrong. Shows no value."""

    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field or '(whole)'}: {self.message}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigRevision(Generic[S]):
    """Settings that were valid.

    Attributes:
        revision: of the write that completed them, None where nothing was stored.
        settings: the model.
        received: when they came here (UTC).
        stored: keys and values as they were in the store.
    """

    revision: int | None
    settings: S
    received: datetime
    stored: Mapping[str, bytes] = field(repr=False)  # may hold what the model knows to be secret


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedRevision:
    """Settings that were not valid, and not taken."""

    revision: int | None
    errors: tuple[FieldError, ...]
    received: datetime

    def __str__(self) -> str:
        at = "what is stored" if self.revision is None else f"revision {self.revision}"
        return f"{at} is rejected: {'; '.join(map(str, self.errors))}"
