"""L2: stores in the memory of this process; the executable reference of what every backend does.

From the bottom up:

    record, log, stream, follower   pure: what a bucket keeps, and where a reader of it stands
    bucket, server                  the clock, who waits, which buckets there are
    reader, watcher, transaction    the roles
    writer, store
    connection                      the way in
"""

from slipstream.stores.memory.connection import MemoryConnection

__all__ = ["MemoryConnection"]
