"""The append log: a fold in memory, and on disk a log of everything that was applied to it.

From the bottom up:

    frame           pure: the format
    recovery, fold  pure: what a file holds after a crash; the entries in memory
    file            the log as a file
    compaction      when and how it is written anew
    snapshot        the store
"""

from slipstream.replica.append_log.snapshot import AppendLogSnapshot

__all__ = ["AppendLogSnapshot"]
