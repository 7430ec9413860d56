"""An object store below one prefix: its errors as ours, its versions, its conditional put."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from slipstream.errors import ArtifactError

try:
    import obstore
    from obstore import exceptions
    from obstore.store import LocalStore
except ImportError as missing:
    raise ImportError("artifacts need blake3 and obstore: pip install 'slipstream-kv[artifacts]'") from missing

if TYPE_CHECKING:
    from obstore import UpdateVersion
    from obstore.store import ObjectStore

_QUERY = re.compile(r"\?[^\s\"'<>)]*")  # where an Azure SAS token and a presigned URL keep their secrets
_LONGEST = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """An object as it was read.

    Attributes:
        version: what a conditional put compares.
    """

    content: bytes
    version: UpdateVersion


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """An object of a listing; `modified` (UTC) is by the object store's clock."""

    name: str
    modified: datetime


class Objects:
    """The objects whose names begin with a prefix; names are relative to it.

    Raises, all of it: ArtifactError, with what the store said but without what it may keep secret.
    """

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        self._store = store
        self._prefix = prefix.strip("/")

    @property
    def has_conditional_put(self) -> bool:
        """False for a local folder, where a file is replaced whatever it was."""
        return not isinstance(self._store, LocalStore)

    def path(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name

    async def read(self, name: str) -> Stored | None:
        """The object, for small ones; None if there is none."""
        with self._errors(name):
            try:
                found = await obstore.get_async(self._store, self.path(name))
            except FileNotFoundError:
                return None
            version: UpdateVersion = {}
            if (e_tag := found.meta["e_tag"]) is not None:
                version["e_tag"] = e_tag
            if (number := found.meta["version"]) is not None:
                version["version"] = number
            return Stored(content=bytes(await found.bytes_async()), version=version)

    async def chunks(self, name: str) -> AsyncIterator[bytes]:
        """The object in pieces. Raises: KeyError if there is none."""
        with self._errors(name):
            try:
                found = await obstore.get_async(self._store, self.path(name))
            except FileNotFoundError:
                raise KeyError(name) from None
            async for chunk in found.stream():
                yield bytes(chunk)

    async def write(self, name: str, content: bytes | Path) -> None:
        """Put it there, whatever was there. A file goes up in parts."""
        with self._errors(name):
            await obstore.put_async(self._store, self.path(name), content)

    async def touch(self, name: str) -> datetime:
        """Put nothing there; when that was, by the object store's clock."""
        await self.write(name, b"")
        with self._errors(name):
            return (await obstore.head_async(self._store, self.path(name)))["last_modified"]

    async def replace(self, name: str, content: bytes, *, expected: Stored | None) -> bool:
        """Put it there if the object is still the expected one, or still absent; whether it was.

        Where there is no conditional put, what is there is replaced.
        """
        with self._errors(name):
            try:
                if expected is None:
                    await obstore.put_async(self._store, self.path(name), content, mode="create")
                elif self.has_conditional_put:
                    await obstore.put_async(self._store, self.path(name), content, mode=expected.version)
                else:
                    await obstore.put_async(self._store, self.path(name), content)
            except (exceptions.AlreadyExistsError, exceptions.PreconditionError, FileNotFoundError):
                return False
            return True

    async def list(self, under: str) -> list[Listed]:
        """The objects whose names begin with `under/`."""
        found: list[Listed] = []
        with self._errors(under):
            async for page in obstore.list(self._store, self.path(under)):
                for meta in page:
                    name = meta["path"].removeprefix(self.path("")) if self._prefix else meta["path"]
                    found.append(Listed(name=name, modified=meta["last_modified"]))
        return found

    async def remove(self, names: Sequence[str]) -> None:
        """Those that are gone already are as well."""
        if not names:
            return
        with self._errors(names[0]):
            try:
                await obstore.delete_async(self._store, [self.path(name) for name in names])
            except FileNotFoundError:
                for name in names:  # the first of a folder's that is gone ends the deletion of the others
                    await self._remove_one(name)

    async def _remove_one(self, name: str) -> None:
        try:
            await obstore.delete_async(self._store, self.path(name))
        except FileNotFoundError:
            return

    @contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except (exceptions.BaseError, OSError, NotImplementedError) as error:
            text = _QUERY.sub("?...", str(error).partition("\n\nDebug source")[0])[:_LONGEST]
            # Without its cause, which shows whole URLs.
            raise ArtifactError(message=f"object {self.path(name)}: {_advice(error)}: {text}") from None


def _advice(error: Exception) -> str:
    if isinstance(error, (exceptions.UnauthenticatedError, exceptions.PermissionDeniedError, PermissionError)):
        return "the object store refuses these credentials: give them reading, writing, listing and deleting there"
    if isinstance(error, (exceptions.NotSupportedError, NotImplementedError)):
        return "the object store cannot do this: it needs conditional puts (If-Match, If-None-Match)"
    return "the object store failed, try again later"
