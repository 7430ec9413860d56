"""diff, apply, dump, restore, replica."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from slipstream.interfaces import Connection, KvStore
from slipstream.model import StoreConfig
from tests.cli.conftest import Cli
from tests.replica.artifacts import s3_server

TREE = {"db": {"host": "h", "port": 5432}, "on": True}


class TestApply:
    async def test_plan_transaction_prune(self, bare_cli: Cli, url: str, bucket: str, tmp_path: Path) -> None:
        cli, at = bare_cli, ("--url", url, "--json")
        tree = tmp_path / "tree.json"
        tree.write_text(json.dumps(TREE))
        plan = (await cli("apply", bucket, tree, "--prefix", "app.", "--dry-run", *at, code=1)).records
        assert [(step["plan"], step["key"]) for step in plan] == [
            ("create", "app.db.host"),
            ("create", "app.db.port"),
            ("create", "app.on"),
        ]
        await cli("keys", bucket, *at, code=1)  # not even the store was made
        done = (await cli("apply", bucket, tree, "--prefix", "app.", *at)).records[-1]
        assert done["revisions"] == {"app.db.host": 1, "app.db.port": 2, "app.on": 3}
        assert (await cli("apply", bucket, tree, "--prefix", "app.", *at)).out == ""
        await cli("put", bucket, "other", "x", *at)
        tree.write_text(json.dumps({"on": False}))
        kept = (await cli("apply", bucket, tree, "--prefix", "app.", *at)).records
        assert [step.get("plan") for step in kept] == ["update", None]
        pruned = (await cli("apply", bucket, tree, "--prefix", "app.", "--prune", *at)).records
        assert [(step["plan"], step["key"]) for step in pruned[:-1]] == [
            ("delete", "app.db.host"),
            ("delete", "app.db.port"),
        ]
        assert (await cli("keys", bucket, "--url", url)).out == "app.on\nother\n"
        await cli("stores", "delete", bucket, "--yes", *at)

    async def test_what_is_no_transaction_is_not_begun(self, cli: Cli, store: KvStore, tmp_path: Path) -> None:
        tree = tmp_path / "tree.json"
        tree.write_text(json.dumps({f"k{number}": 1 for number in range(1001)}))
        ended = await cli("apply", store.name, tree, code=2)
        assert "1001 operations are more than the 1000" in ended.err
        tree.write_text('{"fine": 1, "not fine": 2}')
        assert "a key is" in (await cli("apply", store.name, tree, code=2)).err
        assert await store.keys() == []


class TestDiff:
    async def test_revisions_stores_and_folders(
        self, cli: Cli, connection: Connection, store: KvStore, bucket: str, tmp_path: Path
    ) -> None:
        other = await connection.store(StoreConfig(name=bucket, max_history=9))
        await other.put("a", b"1")
        await other.put("b", b"1")
        await other.put("a", b"2")
        await other.delete("b")
        await other.put("c", b"3")
        lines = (await cli("diff", f"{bucket}@2", bucket, code=1)).out.splitlines()
        assert lines == ["~ a\t1 -> 2", "- b\t1", "+ c\t3"]
        assert (await cli("diff", f"{bucket}@3", f"{bucket}@4", "--json", code=1)).records == [
            {"difference": "removed", "key": "b", "left": {"value": "1", "encoding": "utf-8"}}
        ]
        assert "come to revision 5" in (await cli("diff", f"{bucket}@9", bucket, code=2)).err
        await store.put("a", b"2")
        assert (await cli("diff", store.name, bucket, code=1)).out == "+ c\t3\n"
        (tmp_path / "tree").mkdir()
        (tmp_path / "tree" / "a").write_text("2")
        (tmp_path / "tree" / "c").write_text("3")
        assert (await cli("diff", tmp_path / "tree", bucket)).out == ""
        # With a history of 1 nobody knows what was overwritten.
        await store.put("a", b"3")
        assert (await cli("diff", f"{store.name}@1", store.name, code=1)).out.startswith("? a\t")
        await connection.delete_store(bucket)


class TestDump:
    async def test_there_and_back(
        self, cli: Cli, connection: Connection, store: KvStore, bucket: str, tmp_path: Path
    ) -> None:
        await store.put("b", b"\x00\xff")
        await store.put("a", b"text")
        await store.put("c", b"brief", ttl=3600)
        await store.put("gone", b"x")
        await store.delete("gone")
        file = tmp_path / "dump.jsonl"
        assert (await cli("dump", store.name, file, "--json")).record["writes"] == 3
        await cli("restore", bucket, file)
        copy = await connection.store(bucket)
        assert [(entry.key, entry.value) for entry in await copy.scan()] == [
            ("a", b"text"),
            ("b", b"\x00\xff"),
            ("c", b"brief"),
        ]
        revisions = [(entry.revision, entry.key) for entry in await copy.scan()]
        assert [key for _, key in sorted(revisions, key=lambda pair: pair[0] or 0)] == ["b", "a", "c"]
        (written,) = await copy.history("c")
        assert written.expires is not None
        assert "--overwrite" in (await cli("restore", bucket, file, code=3)).err
        await cli("restore", bucket, file, "--overwrite")
        await connection.delete_store(bucket)

    async def test_with_the_history(self, cli: Cli, connection: Connection, bucket: str, tmp_path: Path) -> None:
        source = await connection.store(StoreConfig(name=bucket, max_history=9))
        for value in (b"1", b"2"):
            await source.put("k", value)
        await source.delete("k")
        await source.put("other", b"3")
        dumped = await cli("dump", bucket, "--history")
        copy = await connection.store(StoreConfig(name=f"{bucket}-copy", max_history=9))
        await cli("restore", copy.name, "-", stdin=dumped.out.encode())
        told = [(update.operation, update.value) for update in await copy.history("k")]
        assert told == [(update.operation, update.value) for update in await source.history("k")]
        assert len(told) == 3
        for name in (bucket, copy.name):
            await connection.delete_store(name)

    async def test_an_empty_store_ends_too(self, cli: Cli, store: KvStore) -> None:
        assert len((await cli("dump", store.name)).records) == 1
        assert len((await cli("dump", store.name, "--history")).records) == 1

    async def test_nothing_is_written_of_a_damaged_dump(self, cli: Cli, store: KvStore, tmp_path: Path) -> None:
        file = tmp_path / "dump.jsonl"
        await store.put("k", b"v")
        await cli("dump", store.name, file)
        file.write_text(file.read_text() + '{"operation": "PUT", "key": "k2"')
        await store.delete("k")
        assert "line 3: no JSON" in (await cli("restore", store.name, file, code=2)).err
        assert await store.keys() == []


class TestReplica:
    async def test_follow_inspect_verify(self, bare_cli: Cli, url: str, bucket: str, tmp_path: Path) -> None:
        cli, at, folder = bare_cli, ("--url", url), tmp_path / "copy"
        await cli("put", bucket, "other", "1", *at)
        await cli("put", bucket, "node.a", "1", *at)
        followed = await cli("replica", "follow", bucket, folder, "--prefix", "node.", "--once", "--json", *at)
        assert followed.record["keys"] == 1
        running = await cli.start("replica", "follow", bucket, folder, "--prefix", "node.", "--json", *at)
        assert (await running.record())["ready"] is True
        ended = await running.end(signal.SIGTERM)
        assert (ended.code, ended.err) == (0, "")
        inspected = (await cli("replica", "inspect", folder, "--json")).record
        assert (inspected["kind"], inspected["keys"]) == ("log", 1)
        assert (await cli("replica", "inspect", folder, "--values")).out == "node.a\t1\n"
        verified = (await cli("replica", "verify", bucket, folder, "--prefix", "node.", "--json", *at)).record
        assert verified == {"right": True, "differences": 0, "compared": 1, "newer": 0}
        # Against all of the store, the copy of a part lacks something.
        wrong = (await cli("replica", "verify", bucket, folder, "--json", *at, code=1)).records
        assert (wrong[0]["difference"], wrong[0]["key"]) == ("removed", "other")
        await cli("put", bucket, "node.a", "2", *at)
        newer = (await cli("replica", "verify", bucket, folder, "--prefix", "node.", "--json", *at)).record
        assert (newer["right"], newer["newer"]) == (True, 1)
        await cli("stores", "delete", bucket, "--yes", *at)

    async def test_what_is_no_copy(self, cli: Cli, store: KvStore, tmp_path: Path) -> None:
        assert "holds no copy" in (await cli("replica", "inspect", tmp_path, code=1)).err
        await cli("replica", "follow", store.name, tmp_path / "c", "--once", "--kind", "sqlite")
        ended = await cli("replica", "follow", store.name, tmp_path / "c", "--once", "--kind", "log", code=2)
        assert "of the kind sqlite" in ended.err


class TestArtifact:
    async def test_a_copy_there_and_back_is_followed_from_its_cursor(
        self, bare_cli: Cli, url: str, bucket: str, tmp_path: Path
    ) -> None:
        cli, at = bare_cli, ("--url", url)
        copy, artifact, again = (tmp_path / name for name in ("copy", "artifact", "again"))
        await cli("put", bucket, "node.a", "1", *at)
        await cli("put", bucket, "node.b", "2", *at)
        followed = await cli("replica", "follow", bucket, copy, "--prefix", "node.", "--once", "--json", *at)
        exported = await cli(
            "replica", "export", copy, artifact, "--store", bucket, "--prefix", "node.", "--json", "--url", "nats://x:1"
        )
        assert exported.record["cursor"] == followed.record["cursor"]
        assert (exported.record["keys"], exported.record["prefixes"]) == (2, ["node."])
        imported = (await cli("replica", "import", artifact, again, "--json")).record
        assert (imported["store"], imported["keys"], imported["cursor"]) == (bucket, 2, exported.record["cursor"])
        assert (await cli("replica", "inspect", again, "--values")).out == "node.a\t1\nnode.b\t2\n"
        await cli("put", bucket, "node.a", "3", *at)
        await cli("replica", "follow", bucket, again, "--prefix", "node.", "--once", *at)
        assert (await cli("replica", "inspect", again, "--values")).out == "node.a\t3\nnode.b\t2\n"
        await cli("stores", "delete", bucket, "--yes", *at)

    async def test_nothing_is_overwritten_and_nothing_damaged_imported(
        self, cli: Cli, store: KvStore, tmp_path: Path
    ) -> None:
        copy, artifact, again = (tmp_path / name for name in ("copy", "artifact", "again"))
        await store.put("k", b"value")
        assert "holds no copy" in (await cli("replica", "export", copy, artifact, "--store", store.name, code=1)).err
        assert "holds no artifact" in (await cli("replica", "import", artifact, again, code=1)).err
        await cli("replica", "follow", store.name, copy, "--once")
        await cli("replica", "export", copy, artifact, "--store", store.name)
        await cli("replica", "export", copy, artifact, "--store", store.name, code=1)
        log = artifact / "fold.log"
        log.write_bytes(log.read_bytes().replace(b"value", b"valve"))
        damaged = (await cli("replica", "import", artifact, again, "--json", code=1)).error
        assert (damaged["error"], "fold.log is damaged" in damaged["message"]) == ("ArtifactError", True)
        assert not again.exists()

    async def test_through_an_object_store(self, cli: Cli, store: KvStore, tmp_path: Path) -> None:
        copy, artifact, fetched = (tmp_path / name for name in ("copy", "artifact", "fetched"))
        await store.put("k", b"v")
        await cli("replica", "follow", store.name, copy, "--once")
        exported = (await cli("replica", "export", copy, artifact, "--store", store.name, "--json")).record
        with s3_server(tmp_path) as s3:
            s3.make_bucket("backups")
            cli.environment |= {
                "AWS_ENDPOINT": f"http://127.0.0.1:{s3.port}",
                "AWS_ALLOW_HTTP": "true",
                "AWS_REGION": "us-east-1",
                "AWS_ACCESS_KEY_ID": "somebody",
                "AWS_SECRET_ACCESS_KEY": "a-key-that-nobody-may-see",
            }
            there = "s3://backups/config"
            assert "nothing was published" in (await cli("replica", "fetch", there, fetched, code=1)).err
            assert (await cli("replica", "publish", artifact, there, "--json")).record["moved"] is True
            assert (await cli("replica", "publish", artifact, there, "--json", code=1)).record["moved"] is False
            assert (await cli("replica", "fetch", there, fetched, "--json")).record["cursor"] == exported["cursor"]

    async def test_what_is_no_object_store_is_told_without_its_secret(
        self, cli: Cli, store: KvStore, tmp_path: Path
    ) -> None:
        copy, artifact = tmp_path / "copy", tmp_path / "artifact"
        await store.put("k", b"v")
        await cli("replica", "follow", store.name, copy, "--once")
        await cli("replica", "export", copy, artifact, "--store", store.name)
        ended = await cli("replica", "publish", artifact, "ftp://somebody:hidden@host/x", code=2)
        assert "not the URL of an object store" in ended.err
        assert "hidden" not in ended.err + ended.out
        assert "--allow-local" in (await cli("replica", "publish", artifact, f"file://{tmp_path}", code=2)).err
        target = tmp_path / "published"
        target.mkdir()
        await cli("replica", "publish", artifact, f"file://{target}", "--allow-local")
        assert (target / "latest.json").is_file()
