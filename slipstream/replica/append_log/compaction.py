"""Writing a log anew without what is overwritten: when, and in which steps.

The steps are small, so that neither the event loop nor a batch waits long: a few hundred entries of the fold at a
time, while the log goes on. What is copied so is of no one moment. That is mended by the last step: everything that
was appended to the log since the first one follows in its order, and decides. Only then, whole and durable, does the
new file take the name of the old one.
"""

from __future__ import annotations

from slipstream.model import KvEntry, WatchCursor
from slipstream.replica.append_log.file import LogFile
from slipstream.replica.append_log.frame import HEADER_BYTES, pack_frame
from slipstream.replica.change import Change

SLICE = 512
"""Entries of one step: well below a millisecond of the event loop."""
CATCH_UP_BYTES = 4 << 20
"""What the last step may leave for the time in which no batch can be applied."""
_SLACK_BYTES = 16 << 20


def is_due(*, log_bytes: int, live_bytes: int) -> bool:
    """Most of the log is overwritten, and it is worth the trouble: a log has at most twice its fold and 16 MiB."""
    return log_bytes - HEADER_BYTES - live_bytes > max(live_bytes, _SLACK_BYTES)


class Rewrite:
    """The new file on its way. Blocking; raises OSError.

    It is begun while nothing is appended and everything appended is in the fold that the entries come from.
    """

    def __init__(self, old: LogFile) -> None:
        self._old = old
        self._copied = old.end
        self._finished = False
        self._new = LogFile.begin(old.path, salt=old.header.salt)

    @property
    def behind(self) -> int:
        """Bytes that were appended to the old log and are not in the new one."""
        return self._old.end - self._copied

    def add(self, entries: dict[str, KvEntry]) -> None:
        """Some entries, as they are now."""
        change = Change(puts=entries, removed=[])
        self._new.add(pack_frame(change, WatchCursor.none(), salt=self._new.header.salt))

    def catch_up(self) -> None:
        end = self._old.end
        self._new.copy_from(self._old, self._copied, end)
        self._copied = end
        self._new.sync()

    def finish(self, cursor: WatchCursor) -> LogFile:
        """Put the new file in the place of the old one; nothing is appended meanwhile."""
        self.catch_up()
        self._new.add(pack_frame(Change(puts={}, removed=[]), cursor, salt=self._new.header.salt))
        self._new.publish(self._old.path)
        self._finished = True
        self._old.close()
        return self._new

    def discard(self) -> None:
        """Give up, unless it is finished; the old file is as it was."""
        if not self._finished:
            self._new.discard()
