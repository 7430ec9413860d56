"""What the tests of artifacts share: artifacts whose content is known, and an S3 to carry them through."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from obstore.store import S3Store

from slipstream.model import KvUpdate, Operation, VersionToken, WatchCursor
from slipstream.replica import (
    AppendLogSnapshot,
    Manifest,
    RocksSnapshot,
    SnapshotStore,
    SqliteSnapshot,
    export_artifact,
)
from slipstream.testing._waiting import bounded

BUCKET = "config"
LIFE = datetime(2026, 1, 1, tzinfo=UTC)
SECRET = "a-key-that-nobody-may-see"

on_each_disk = pytest.mark.parametrize(
    "kind", [AppendLogSnapshot, SqliteSnapshot, RocksSnapshot], ids=lambda kind: kind.__name__
)


def at(revision: int, *, life: int = 0) -> WatchCursor:
    return WatchCursor(revision=revision, incarnation=LIFE + timedelta(days=life))


def put(key: str, value: bytes, revision: int) -> KvUpdate:
    return KvUpdate(operation=Operation.PUT, key=key, value=value, version=VersionToken.from_u64(revision))


async def snapshot_of(kind: type[SnapshotStore], folder: Path, values: dict[str, bytes], cursor: WatchCursor) -> Any:
    """An open one with these values."""
    snapshot, _ = await kind.open(folder)
    await snapshot.apply([put(key, value, number) for number, (key, value) in enumerate(values.items(), 1)], cursor)
    return snapshot


async def artifact_of(
    folder: Path,
    cursor: WatchCursor,
    *,
    kind: type[SnapshotStore] = AppendLogSnapshot,
    values: dict[str, bytes] | None = None,
    bucket: str = BUCKET,
    prefix: str = "",
) -> Manifest:
    """An artifact of such a snapshot; by default its one value is the cursor."""
    values = {"at": str(cursor).encode()} if values is None else values
    async with await snapshot_of(kind, folder.with_name(f"{folder.name}.source"), values, cursor) as snapshot:
        return await export_artifact(snapshot, folder, bucket=bucket, prefix=prefix)


async def opened(kind: type[SnapshotStore], folder: Path) -> tuple[dict[str, bytes], WatchCursor]:
    """What a snapshot store makes of the folder."""
    snapshot, cursor = await kind.open(folder)
    async with snapshot:
        return {entry.key: entry.value for entry in snapshot.range()}, cursor


def leftovers(folder: Path) -> list[str]:
    """What was begun beside the folders of the tests and not finished."""
    return [path.name for path in folder.iterdir() if path.name.endswith(".partial")]


# One request at a time: moto compares and then stores, and has no lock around the two.
_SERVE = """
from werkzeug.serving import make_server
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=False)
print(server.server_port, flush=True)
server.serve_forever()
"""


class S3Server:
    """An S3 in a process of its own, on a free port of loopback."""

    def __init__(self, log: Path) -> None:
        self.log = log
        with log.open("wb") as errors:
            self._process = subprocess.Popen([sys.executable, "-c", _SERVE], stdout=subprocess.PIPE, stderr=errors)
        assert self._process.stdout is not None
        try:
            line = self._process.stdout.readline()
            assert line, log.read_text()
            self.port = int(line)
        except BaseException:
            self.kill()
            raise

    def make_bucket(self, name: str) -> None:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/{name}", method="PUT")
        with urllib.request.urlopen(request, timeout=20):
            return

    def store(self, bucket: str, *, port: int | None = None) -> S3Store:
        """The bucket; through another port if there is a proxy."""
        return S3Store(
            bucket,
            endpoint=f"http://127.0.0.1:{port or self.port}",
            access_key_id="test",
            secret_access_key=SECRET,
            region="us-east-1",
            virtual_hosted_style_request=False,
            client_options={"allow_http": True, "timeout": timedelta(seconds=20)},
            retry_config={"max_retries": 2, "retry_timeout": timedelta(seconds=5)},
        )

    async def logged(self, text: str) -> None:
        """Return once the log has it; moto tells of its requests in no other way."""
        await until(lambda: text in self.log.read_text())

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate(timeout=20)


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    server = S3Server(folder / "s3.log")
    try:
        yield server
    finally:
        server.kill()


def flipped(content: bytes, place: int, bit: int) -> bytes:
    changed = bytearray(content)
    changed[place] ^= 1 << bit
    return bytes(changed)


async def until(condition: Callable[[], bool]) -> None:
    """Return once it holds, for what nobody announces: of another process, or inside of what is tested."""
    async with bounded():
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
