"""A number that many count."""

from __future__ import annotations

from slipstream.coordination.turns import Pauses
from slipstream.errors import ConflictError, DeserializationError
from slipstream.interfaces import KvStore
from slipstream.keys import check_key
from slipstream.model import KvEntry


class Counter:
    """An integer under a key, as decimal text: each change is a compare-and-swap, so that none is lost or done twice.

    The counters of nats-server itself need a stream of another kind than a bucket's, which refuses its plain writes:
    they are not available here.

    Raises: InvalidKeyError.
    """

    def __init__(self, store: KvStore, key: str) -> None:
        self._store = store
        self.key = check_key(key, store=store.name)

    async def value(self) -> int:
        """The number; 0 where the key is absent. Raises: DeserializationError where the key holds something else."""
        return self._number(await self._store.get(self.key))

    async def add(self, amount: int = 1) -> int:
        """Add the amount, which may be negative; the new number.

        Tries again for as long as others come first: bound it with `asyncio.timeout`. Cancelled, it may have been done.

        Raises: DeserializationError; KvError, with `outcome_unknown` where it may have been done: then read the value,
            or accept that a repetition may count twice.
        """
        pauses = Pauses()
        while True:
            entry = await self._store.get(self.key)
            number = self._number(entry) + amount
            try:
                await self._write(number, entry)
            except ConflictError as error:
                if error.outcome_unknown:
                    raise
            else:
                return number
            await pauses.pause()

    async def set(self, number: int) -> None:
        """Make it this number, whatever it was."""
        await self._store.put(self.key, _text(number))

    async def _write(self, number: int, last: KvEntry | None) -> None:
        if last is None:
            await self._store.create(self.key, _text(number))
        else:
            await self._store.update(self.key, _text(number), last.version)

    def _number(self, entry: KvEntry | None) -> int:
        if entry is None:
            return 0
        try:
            return int(entry.value)
        except ValueError:
            raise DeserializationError(
                store=self._store.name, key=self.key, message="this key holds no number: a counter needs its own"
            ) from None


def _text(number: int) -> bytes:
    return b"%d" % number
