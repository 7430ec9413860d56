"""What the server can do, decided by the gates of PROTOCOL.md section 0. Pure."""

from __future__ import annotations

from dataclasses import dataclass

MINIMUM = (2, 10, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFeatures:
    """Decided from the JetStream API level (absent before 2.11), with the version only where levels do not tell.

    Attributes:
        api_level: 1 = 2.11, 2 and 3 = 2.12, 4 = 2.14, 5 = 2.15; 0 where the server names none.
    """

    version: tuple[int, int, int]
    api_level: int

    @property
    def text(self) -> str:
        return ".".join(map(str, self.version))

    @property
    def metadata(self) -> bool:
        """Metadata, compression and several filters on one consumer."""
        return self.version >= (2, 10, 0)

    @property
    def markers(self) -> bool:
        """Per-message TTL with limit markers. 2.11.0 and 2.11.1 have the fields, but place no marker for a TTL."""
        return self.api_level >= 1 and self.version >= (2, 11, 2)

    @property
    def guards_on_others(self) -> bool:
        """A write guarded by another subject than its own. Older servers ignore the header, and write."""
        return self.api_level >= 1

    @property
    def atomic_batches(self) -> bool:
        """2.12.0 accepts a batch over a concurrent put, at the same API level as the good versions after it."""
        return self.api_level >= 2 and self.version != (2, 12, 0)

    @property
    def batched_gets(self) -> bool:
        """Direct gets of many subjects in one request (`multi_last`)."""
        return self.api_level >= 1
