"""The conformance suite of snapshot stores: what each of them does, also on a full or damaged disk.

A store subclasses `SnapshotConformance` in a test module of its own and says what it is:

    class TestMySnapshot(SnapshotConformance):
        kind = MySnapshot  # importable by its name: child processes open it, too

        def tail(self, folder: Path) -> Path:
            return folder / "my.log"

        def make_newer(self, folder: Path) -> None:
            ...

The suite needs pytest and pytest-asyncio with `asyncio_mode = "auto"`, and a POSIX system. The areas can be subclassed
one by one, too: `FoldConformance` needs no disk. What kills processes 200 times is marked `slow`.
"""

import pytest

pytest.register_assert_rewrite(
    *(f"{__name__}.{area}" for area in ("base", "child", "crashes", "damage", "disks", "folds", "owners"))
)

from slipstream.testing.snapshots.crashes import CrashConformance  # noqa: E402
from slipstream.testing.snapshots.damage import DamageConformance  # noqa: E402
from slipstream.testing.snapshots.disks import DiskConformance  # noqa: E402
from slipstream.testing.snapshots.folds import FoldConformance  # noqa: E402
from slipstream.testing.snapshots.owners import OwnerConformance  # noqa: E402

__all__ = [
    "CrashConformance",
    "DamageConformance",
    "DiskConformance",
    "FoldConformance",
    "OwnerConformance",
    "SnapshotConformance",
]


class SnapshotConformance(FoldConformance, OwnerConformance, DamageConformance, DiskConformance, CrashConformance):
    """All of it."""
