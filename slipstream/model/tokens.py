"""What a caller keeps and hands back: the version of a write, the position in a bucket."""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from slipstream.model.times import EPOCH

_U64 = 2**64
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class VersionToken:
    """Which write a value came from: compare-and-swap hands it back. Opaque, 0 to 10 bytes, hashable."""

    raw: bytes = b""

    def __post_init__(self) -> None:
        if len(self.raw) > 10:
            raise ValueError(f"a version token has at most 10 bytes, not {len(self.raw)}")

    @classmethod
    def unknown(cls) -> "VersionToken":
        """The token of a write whose revision could not be read; it never moves a cursor."""
        return _UNKNOWN

    @classmethod
    def from_u64(cls, revision: int) -> "VersionToken":
        """The token of a revision, 0 to 2**64 - 1. Raises: ValueError outside of that."""
        if not 0 <= revision < _U64:
            raise ValueError(f"a revision lies between 0 and 2**64 - 1, not {revision}")
        token = object.__new__(cls)
        object.__setattr__(token, "raw", revision.to_bytes(8, "big"))  # the length is right: nothing to check
        return token

    @classmethod
    def from_bytes(cls, raw: bytes) -> "VersionToken":
        """The token that `bytes(token)` gave. Raises: ValueError for more than 10 bytes."""
        return cls(raw=bytes(raw))

    @property
    def is_unknown(self) -> bool:
        return not self.raw

    def as_u64(self) -> int | None:
        """The revision, or None unless the token has exactly 8 bytes."""
        return int.from_bytes(self.raw, "big") if len(self.raw) == 8 else None

    def __bytes__(self) -> bytes:
        return self.raw

    def __str__(self) -> str:
        revision = self.as_u64()
        if revision is not None:
            return str(revision)
        return f"0x{self.raw.hex()}" if self.raw else "unknown"

    def __repr__(self) -> str:
        return f"VersionToken({self})"


_UNKNOWN = VersionToken()

_CURSOR_TEXT = re.compile(r"(?P<revision>[0-9]{1,20})(?:@(?P<micros>[0-9]{1,18}))?")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class WatchCursor:
    """A position to resume a watch from: everything up to `revision` has been seen.

    Cursors are compared (`<`, `<=`, ...) within one incarnation only; an unknown incarnation compares with any.

    Attributes:
        revision: the bucket-wide revision, None for "from the beginning".
        incarnation: which life of the bucket it belongs to (the stream's creation time, UTC), None if unknown.
    """

    revision: int | None = None
    incarnation: datetime | None = None

    def __post_init__(self) -> None:
        if self.revision is not None and not 0 <= self.revision < _U64:
            raise ValueError(f"a revision lies between 0 and 2**64 - 1, not {self.revision}")
        if self.incarnation is None:
            return
        if self.revision is None:
            raise ValueError("an incarnation belongs to a revision: without one there is nothing to compare")
        if self.incarnation.tzinfo is None:
            raise ValueError("an incarnation is a time with its zone")
        if self.incarnation < EPOCH:
            raise ValueError("an incarnation lies after 1970: text and bytes hold no other")

    @classmethod
    def none(cls) -> "WatchCursor":
        """The cursor before everything: a watch from it begins with the current state."""
        return _NO_CURSOR

    @classmethod
    def from_version(cls, version: VersionToken) -> "WatchCursor":
        """The position right after this write, of an unknown incarnation; `none()` for an unknown version.

        Raises: ValueError for a token that holds no revision.
        """
        if version.is_unknown:
            return _NO_CURSOR
        revision = version.as_u64()
        if revision is None:
            raise ValueError(f"version {version} holds no revision to resume from")
        return cls(revision=revision)

    @classmethod
    def from_u64(cls, revision: int) -> "WatchCursor":
        """The position right after this revision, of an unknown incarnation."""
        return cls(revision=revision)

    @property
    def is_none(self) -> bool:
        return self.revision is None

    def as_u64(self) -> int | None:
        return self.revision

    def to_bytes(self) -> bytes:
        """0 bytes for `none()`, else the revision (8) and, where known, the incarnation in microseconds (8)."""
        if self.revision is None:
            return b""
        head = self.revision.to_bytes(8, "big")
        return head if self.incarnation is None else head + _micros(self.incarnation).to_bytes(8, "big")

    @classmethod
    def from_bytes(cls, raw: bytes) -> "WatchCursor":
        """The cursor that `to_bytes` gave. Raises: ValueError for anything else."""
        if not raw:
            return _NO_CURSOR
        if len(raw) not in (8, 16):
            raise ValueError(f"a cursor has 0, 8 or 16 bytes, not {len(raw)}")
        incarnation = _from_micros(int.from_bytes(raw[8:], "big")) if len(raw) == 16 else None
        return cls(revision=int.from_bytes(raw[:8], "big"), incarnation=incarnation)

    @classmethod
    def parse(cls, text: str) -> "WatchCursor":
        """The cursor that `str` gave. Raises: ValueError for anything else."""
        if text == "none":
            return _NO_CURSOR
        found = _CURSOR_TEXT.fullmatch(text)
        if found is None:
            raise ValueError(f"not a cursor: {text!r}")
        micros = found["micros"]
        return cls(revision=int(found["revision"]), incarnation=None if micros is None else _from_micros(int(micros)))

    def __str__(self) -> str:
        if self.revision is None:
            return "none"
        return str(self.revision) if self.incarnation is None else f"{self.revision}@{_micros(self.incarnation)}"

    def __repr__(self) -> str:
        return f"WatchCursor({self})"

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, WatchCursor):
            return NotImplemented
        return self._order(other) < other._order(self)

    def __le__(self, other: object) -> bool:
        if not isinstance(other, WatchCursor):
            return NotImplemented
        return self._order(other) <= other._order(self)

    def __gt__(self, other: object) -> bool:
        if not isinstance(other, WatchCursor):
            return NotImplemented
        return self._order(other) > other._order(self)

    def __ge__(self, other: object) -> bool:
        if not isinstance(other, WatchCursor):
            return NotImplemented
        return self._order(other) >= other._order(self)

    def _order(self, other: "WatchCursor") -> int:
        if None not in (self.incarnation, other.incarnation) and self.incarnation != other.incarnation:
            raise ValueError("cursors of two incarnations of a bucket do not compare: their revisions restart")
        return -1 if self.revision is None else self.revision


_NO_CURSOR = WatchCursor()


def _micros(moment: datetime) -> int:
    return (moment - EPOCH) // _MICROSECOND


def _from_micros(micros: int) -> datetime:
    try:
        return EPOCH + timedelta(microseconds=micros)
    except OverflowError:
        raise ValueError("not a cursor: its incarnation lies outside of the calendar") from None
