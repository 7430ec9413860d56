"""What the command decides, without a process or a server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import slipstream
from slipstream import errors
from slipstream.cli.commands import diagnosis
from slipstream.cli.commands.diagnosis import Level
from slipstream.cli.commands.differences import UNKNOWN, Kind, differences, value_at
from slipstream.cli.commands.dump import writing
from slipstream.cli.commands.grants import grants
from slipstream.cli.commands.plan import Step, make_plan, queue
from slipstream.cli.commands.records import check_head, parse_write, write_line
from slipstream.cli.commands.tree import leaves, parse_document, read_source
from slipstream.cli.contexts import NatsContext, context_file, contexts_folder, parse_context
from slipstream.cli.exits import Exit, UsageError, failure_of
from slipstream.cli.options import Options
from slipstream.cli.render import as_text, shown, shown_in_line, value_fields, value_of
from slipstream.cli.target import choose_target
from slipstream.errors import KvError
from slipstream.interfaces import KvStore
from slipstream.model import (
    ConnectionCapabilities,
    Drift,
    KvEntry,
    KvUpdate,
    Operation,
    StoreConfig,
    StoreStatus,
    VersionToken,
)

SECRET = "s3cr3t/@:x"
NOW = datetime(2026, 1, 2, tzinfo=UTC)


class TestContexts:
    def parse(self, **fields: Any) -> NatsContext:
        return parse_context(json.dumps(fields), "c", {"HOME": "/home/me", "KEYS": "/keys"})

    def test_where_they_are(self) -> None:
        assert contexts_folder({"HOME": "/home/me"}) == Path("/home/me/.config/nats")
        assert contexts_folder({"HOME": "/home/me", "XDG_CONFIG_HOME": "/cfg"}) == Path("/cfg/nats")
        assert context_file(Path("/cfg/nats"), "ngs.js") == Path("/cfg/nats/context/ngs.js.json")

    @pytest.mark.parametrize("name", ["", "../x", "a/b"])
    def test_a_name_that_leads_elsewhere(self, name: str) -> None:
        with pytest.raises(UsageError, match="not the name"):
            context_file(Path("/cfg"), name)

    def test_an_empty_one_is_the_server_of_this_machine(self) -> None:
        assert self.parse() == NatsContext(url="nats://127.0.0.1:4222")

    def test_user_and_password_reach_every_server_that_has_no_login(self) -> None:
        found = self.parse(url="nats://a:1, tls://u:p@b:2,c", user="me", password=SECRET)
        login = "me:s3cr3t%2F%40%3Ax"
        assert found.url == f"nats://{login}@a:1,tls://u:p@b:2,nats://{login}@c"
        assert "s3cr3t" not in repr(found)

    def test_the_order_of_logins_is_that_of_the_nats_command(self) -> None:
        assert self.parse(url="h", user="u", creds="/f").creds is None
        assert self.parse(url="h", user="u", nkey="/n").nkey is None
        assert self.parse(url="h", creds="/f", nkey="/n") == NatsContext(url="h", creds=Path("/f"))
        assert self.parse(url="h", nkey="~/n") == NatsContext(url="h", nkey=Path("/home/me/n"))
        assert self.parse(url="h", token="t").url == "nats://t@h"
        assert self.parse(url="h", token="t", user="u").url == "nats://u:@h"

    def test_paths_know_home_and_variables(self) -> None:
        found = self.parse(creds="~/a.creds", ca="$KEYS/ca.pem", cert="${KEYS}/c.pem", key="/k.pem")
        assert (found.creds, found.ca) == (Path("/home/me/a.creds"), Path("/keys/ca.pem"))
        assert (found.cert, found.key) == (Path("/keys/c.pem"), Path("/k.pem"))

    def test_the_rest_of_the_fields(self) -> None:
        found = self.parse(jetstream_domain="hub", inbox_prefix="_INBOX_me", tls_first=True, description="x", token="")
        assert (found.domain, found.inbox_prefix, found.tls_first) == ("hub", "_INBOX_me", True)
        assert self.parse(jetstream_api_prefix="$JS.hub.API").domain == "hub"
        assert self.parse(jetstream_api_prefix="$JS.API").domain is None

    @pytest.mark.parametrize(
        "fields",
        [
            {"nsc": SECRET},
            {"user_jwt": SECRET},
            {"socks_proxy": SECRET},
            {"url": 7},
            {"jetstream_api_prefix": "other.api"},
        ],
    )
    def test_what_cannot_be_done_is_said_without_its_value(self, fields: dict[str, Any]) -> None:
        with pytest.raises(UsageError, match="context 'c'") as caught:
            self.parse(**fields)
        assert SECRET not in str(caught.value)

    @pytest.mark.parametrize("text", [SECRET, f'["{SECRET}"]', ""])
    def test_what_is_no_context(self, text: str) -> None:
        with pytest.raises(UsageError, match="nats context edit") as caught:
            parse_context(text, "c", {})
        assert SECRET not in str(caught.value)


class TestTarget:
    def choose(self, environment: Mapping[str, str], selected: str | None = None, **options: Any) -> tuple[str, str]:
        target = choose_target(
            Options(**options), environment, selected=selected, load=lambda name: NatsContext(url=f"nats://{name}")
        )
        return target.url, target.source

    def test_the_first_that_is_there(self) -> None:
        all_there = {"SLIPSTREAM_URL": "nats://s", "NATS_URL": "nats://n", "NATS_CONTEXT": "v", "HOME": "/me"}
        assert self.choose(all_there, "sel", url="nats://u", context="c") == ("nats://u", "--url")
        assert self.choose(all_there, "sel", context="c") == ("nats://c", "nats context 'c'")
        assert self.choose(all_there, "sel") == ("nats://s", "$SLIPSTREAM_URL")
        del all_there["SLIPSTREAM_URL"]
        assert self.choose(all_there, "sel") == ("nats://n", "$NATS_URL")
        del all_there["NATS_URL"]
        assert self.choose(all_there, "sel") == ("nats://v", "nats context 'v'")
        del all_there["NATS_CONTEXT"]
        assert self.choose(all_there, "sel") == ("nats://sel", "nats context 'sel'")
        assert self.choose(all_there) == ("embedded:///me/.local/share/slipstream/server", "your private server")

    def test_a_url_shows_in_no_repr(self) -> None:
        target = choose_target(Options(url=f"nats://{SECRET}@h"), {}, selected=None, load=lambda _: NatsContext())
        assert SECRET not in f"{target!r}{Options(url=SECRET)!r}"


class TestExits:
    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (errors.KeyNotFoundError(), Exit.FALSE),
            (errors.StoreNotFoundError(), Exit.FALSE),
            (errors.InvalidKeyError(), Exit.USAGE),
            (errors.UnsupportedError(), Exit.USAGE),
            (errors.ValueTooLargeError(), Exit.USAGE),
            (errors.AlreadyExistsError(), Exit.CONFLICT),
            (errors.RevisionMismatchError(), Exit.CONFLICT),
            (errors.FencedError(), Exit.CONFLICT),
            (errors.CursorExpiredError(), Exit.CONFLICT),
            (errors.ConnectionFailedError(), Exit.CONNECTION),
            (errors.NotConnectedError(), Exit.CONNECTION),
            (errors.AuthenticationError(), Exit.CONNECTION),
            (errors.PermissionDeniedError(), Exit.CONNECTION),
            (errors.OperationTimeoutError(), Exit.TIMEOUT),
            (errors.StoreFullError(), Exit.FALSE),
            (errors.BulkWriteError(errors={"k": errors.OperationTimeoutError()}), Exit.TIMEOUT),
            (ValueError("x"), Exit.USAGE),
            (FileNotFoundError(2, "No such file", "f"), Exit.USAGE),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_every_error_has_a_code(self, error: Exception, code: Exit) -> None:
        failure = failure_of(error)
        assert failure is not None
        assert failure.exit is code
        assert failure.record["exit_code"] == code

    def test_a_fault_of_the_program_is_shown_as_it_is(self) -> None:
        assert failure_of(TypeError("x")) is None
        assert failure_of(KeyError("x")) is None

    def test_every_kind_of_error_of_the_library_has_one(self) -> None:
        for kind in errors.__dict__.values():
            if isinstance(kind, type) and issubclass(kind, KvError):
                assert failure_of(kind()) is not None

    def test_a_bad_configuration_is_told_without_its_input(self) -> None:
        with pytest.raises(ValueError, match="max_history") as caught:
            StoreConfig(name="b", max_history=99, description=SECRET, storage=SECRET)  # type: ignore[arg-type]
        failure = failure_of(caught.value)
        assert failure is not None
        assert "max_history: " in failure.message
        assert "storage: " in failure.message
        assert SECRET not in failure.text + json.dumps(failure.record)


class TestValues:
    @given(st.binary(min_size=1))
    def test_what_is_told_can_be_read_back(self, value: bytes) -> None:
        assert value_of(json.loads(json.dumps(value_fields(value)))) == value

    @given(st.binary() | st.text().map(str.encode))
    def test_no_terminal_obeys_what_is_shown(self, value: bytes) -> None:
        assert not any(ord(letter) < 32 and letter not in "\n\r\t" for letter in shown(value))
        assert "\x7f" not in shown(value)
        assert shown_in_line(value).isprintable()

    def test_control_characters_are_binary(self) -> None:
        assert as_text(b"\x1b[2J") is None
        assert as_text("grün\n".encode()) == "grün\n"

    def test_a_line_is_cut_where_it_is_asked_for(self) -> None:
        assert shown_in_line(b"abcdef", width=4) == "abc…"
        assert shown_in_line(b"abcd", width=4) == "abcd"

    @pytest.mark.parametrize(
        "fields", [{}, {"value": 1}, {"value": "x", "encoding": "hex"}, {"value": "", "encoding": "z"}]
    )
    def test_what_is_no_value(self, fields: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=r"value|hex"):
            value_of(fields)


class TestTrees:
    def test_names_on_the_way_are_the_key(self) -> None:
        tree = {"db": {"host": "h", "port": 5432, "tags": ["a", 1]}, "on": True, "none": None, "a.b": "x"}
        assert dict(leaves(tree)) == {
            "db.host": b"h",
            "db.port": b"5432",
            "db.tags": b'["a",1]',
            "on": b"true",
            "none": b"null",
            "a.b": b"x",
        }

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("t.yaml", "a: {b: 1}\nday: 2026-01-02"),
            ("t.yml", "a:\n  b: 1\nday: 2026-01-02"),
            ("t.json", '{"a": {"b": 1}, "day": "2026-01-02"}'),
            ("t.toml", "day = 2026-01-02\n[a]\nb = 1"),
        ],
    )
    def test_every_format_says_the_same(self, tmp_path: Path, name: str, text: str) -> None:
        (tmp_path / name).write_text(text)
        found = read_source(tmp_path / name, "app.")
        assert set(found) == {"app.a.b", "app.day"}
        assert found["app.a.b"] == b"1"
        assert found["app.day"].strip(b'"') == b"2026-01-02"

    def test_a_folder_has_a_key_for_each_file(self, tmp_path: Path) -> None:
        (tmp_path / "nginx").mkdir()
        (tmp_path / "nginx" / "site.conf").write_bytes(b"\x00raw\n")
        (tmp_path / ".git").mkdir()
        (tmp_path / ".git" / "config").write_text("x")
        assert read_source(tmp_path) == {"nginx.site.conf": b"\x00raw\n"}

    @pytest.mark.parametrize(
        ("name", "text", "why"),
        [
            ("t.yaml", "a: [", "is no YAML"),
            ("t.json", "{", "is no JSON"),
            ("t.toml", "=", "is no TOML"),
            ("t.ini", "a=1", "a document ends in"),
            ("t.yaml", "just text", "names with values below"),
            ("t.yaml", "a: ''", "empty value"),
            ("t.yaml", "a: {b: 1}\na.b: 2", "twice"),
            ("t.yaml", "a b: 1", "a key is"),
        ],
    )
    def test_what_is_no_tree(self, tmp_path: Path, name: str, text: str, why: str) -> None:
        (tmp_path / name).write_text(text)
        with pytest.raises((UsageError, errors.InvalidKeyError), match=why):
            read_source(tmp_path / name)

    def test_yaml_makes_no_objects(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError):
            parse_document("!!python/object/apply:os.getcwd []", tmp_path / "t.yaml")


def entry(key: str, value: bytes, revision: int = 1) -> KvEntry:
    return KvEntry(key=key, value=value, version=VersionToken.from_u64(revision))


def update(revision: int, value: bytes = b"", operation: Operation = Operation.PUT) -> KvUpdate:
    return KvUpdate(operation=operation, key="k", value=value, version=VersionToken.from_u64(revision))


class TestDifferences:
    def test_each_kind(self) -> None:
        left = {"same": b"1", "gone": b"1", "other": b"1", "lost": UNKNOWN}
        right = {"same": b"1", "new": b"2", "other": b"2", "lost": b"3"}
        found = [(each.key, each.kind, each.left, each.right) for each in differences(left, right)]
        assert found == [
            ("gone", Kind.REMOVED, b"1", None),
            ("lost", Kind.UNKNOWN, None, b"3"),
            ("new", Kind.ADDED, None, b"2"),
            ("other", Kind.CHANGED, b"1", b"2"),
        ]

    def test_the_value_at_a_revision(self) -> None:
        history = [update(3, b"a"), update(5, b"b"), update(8, operation=Operation.DELETE)]
        assert [value_at(history, at, max_history=10) for at in (2, 3, 4, 5, 7, 8, 9)] == [
            None, b"a", b"a", b"b", b"b", None, None,
        ]  # fmt: skip

    def test_what_the_history_no_longer_holds_is_unknown(self) -> None:
        assert value_at([update(5, b"b")], 4, max_history=1) is UNKNOWN
        assert value_at([update(4, b"a"), update(5, b"b")], 3, max_history=2) is UNKNOWN
        assert value_at([update(5, operation=Operation.PURGE)], 4, max_history=9) is UNKNOWN
        assert value_at([update(5, b"b")], 4, max_history=2) is None
        assert value_at([], 4, max_history=1) is None

    @given(st.dictionaries(st.sampled_from("abcd"), st.binary(min_size=1, max_size=2)),
           st.dictionaries(st.sampled_from("abcd"), st.binary(min_size=1, max_size=2)), st.booleans())  # fmt: skip
    def test_a_plan_leads_where_it_says(self, there: dict[str, bytes], wanted: dict[str, bytes], prune: bool) -> None:
        after = dict(there)
        for step in make_plan(wanted, [entry(key, value) for key, value in there.items()], prune=prune):
            assert (step.version is None) == (step.difference.key not in there)
            if step.difference.right is None:
                del after[step.difference.key]
            else:
                assert after.get(step.difference.key) != step.difference.right
                after[step.difference.key] = step.difference.right
        assert after == (wanted if prune else there | wanted)


class TestPlans:
    """What is done of a plan holds only as long as nobody has written these keys since."""

    @pytest.mark.parametrize("change", ["overwritten", "deleted", "created"])
    @pytest.mark.parametrize("prune", [True, False])
    async def test_a_stale_one_changes_nothing(self, change: str, prune: bool) -> None:
        async with slipstream.connect("memory://") as connection:
            store = await connection.store("b")
            await store.put_many({"changed": b"1", "pruned": b"1"})
            steps = make_plan({"changed": b"2", "new": b"2"}, await store.scan(), prune=prune)
            match change:
                case "overwritten":
                    await store.put("pruned" if prune else "changed", b"9")
                case "deleted":
                    await store.delete("pruned" if prune else "changed")
                case _:
                    await store.put("new", b"9")
            before = await store.scan()
            with pytest.raises(errors.ConflictError):
                await commit(store, steps)
            assert await store.scan() == before

    async def test_a_fresh_one_does_all_of_it(self) -> None:
        async with slipstream.connect("memory://") as connection:
            store = await connection.store("b")
            await store.put_many({"changed": b"1", "pruned": b"1", "same": b"1"})
            await commit(store, make_plan({"changed": b"2", "new": b"2", "same": b"1"}, await store.scan(), prune=True))
            found = {entry.key: entry.value for entry in await store.scan()}
            assert found == {"changed": b"2", "new": b"2", "same": b"1"}


async def commit(store: KvStore, steps: list[Step]) -> None:
    async with store.transaction() as txn:
        for step in steps:
            queue(step, txn)


def write_some(file: Path) -> None:
    with writing(str(file)) as write:
        write("one")
        raise errors.NotConnectedError


class TestDumps:
    def test_a_file_appears_only_when_it_is_whole(self, tmp_path: Path) -> None:
        file = tmp_path / "dump.jsonl"
        with pytest.raises(errors.NotConnectedError):
            write_some(file)
        assert list(tmp_path.iterdir()) == []
        with writing(str(file)) as write:
            write("one")
            assert not file.exists()
        assert [path.read_text() for path in tmp_path.iterdir()] == ["one\n"]

    def test_a_write_can_be_read_back(self) -> None:
        written = KvUpdate(
            operation=Operation.PUT, key="k", value=b"\xff", version=VersionToken.from_u64(7), created=NOW,
            expires=NOW + timedelta(seconds=9),
        )  # fmt: skip
        found = parse_write(write_line(written), 2)
        assert (found.operation, found.key, found.value, found.revision) == (Operation.PUT, "k", b"\xff", 7)
        assert found.expires == NOW + timedelta(seconds=9)

    @pytest.mark.parametrize(
        "line", ["", "[]", "{}", '{"operation":"PUT","key":"a b","value":"x","revision":1}', '{"operation":"X"}']
    )
    def test_a_damaged_line_is_named(self, line: str) -> None:
        with pytest.raises(UsageError, match="line 7"):
            parse_write(line, 7)

    @pytest.mark.parametrize("line", ["x", "{}", '{"slipstream_dump": 2}'])
    def test_another_format_is_refused(self, line: str) -> None:
        with pytest.raises(UsageError, match="line 1"):
            check_head(line)


class TestGrants:
    def test_a_prefix_limits_what_is_written(self) -> None:
        found = grants(["writer"], "b", prefix="node.")
        assert "$KV.b.node.>" in found.publish
        assert "$KV.b.>" not in found.publish
        assert found.note

    def test_a_reader_writes_nothing(self) -> None:
        found = grants(["reader", "watcher"], "b")
        assert not any(subject.startswith("$KV.") for subject in found.publish)

    def test_in_a_domain(self) -> None:
        assert "$JS.hub.API.INFO" in grants(["reader"], "b", domain="hub").publish

    @pytest.mark.parametrize(("roles", "prefix"), [(["king"], ""), ([], ""), (["writer"], "node")])
    def test_what_cannot_be(self, roles: list[Any], prefix: str) -> None:
        with pytest.raises(UsageError):
            grants(roles, "b", prefix=prefix)


def status(used: int, *, keys: int = 10, **config: Any) -> StoreStatus:
    return StoreStatus(
        keys=keys, bytes=used, first_revision=1, last_revision=9, incarnation=NOW, replicas=1, leader=None,
        config=StoreConfig(name="b", **config),
    )  # fmt: skip


class TestDiagnosis:
    ABLE = ConnectionCapabilities(ttl=True, transactions=True, fencing=True)

    @pytest.mark.parametrize(
        ("version", "level"), [((2, 9, 25), Level.RED), ((2, 10, 26), Level.YELLOW), ((2, 15, 1), Level.GREEN)]
    )
    def test_old_servers(self, version: tuple[int, int, int], level: Level) -> None:
        able = self.ABLE if level is Level.GREEN else ConnectionCapabilities()
        check = diagnosis.server_check(version, able)
        assert check.level is level
        assert (check.fault == "old_server") == (level is not Level.GREEN)

    @pytest.mark.parametrize(
        ("used", "config", "level"),
        [
            (100, {}, Level.GREEN),
            (790, {"max_bytes": 1000}, Level.GREEN),
            (800, {"max_bytes": 1000}, Level.YELLOW),
            (950, {"max_bytes": 1000}, Level.RED),  # 95 bytes each, and 50 are left
            (1000, {"max_bytes": 1000}, Level.RED),
            (1000, {"max_bytes": 1000, "discard": "old"}, Level.GREEN),
        ],
    )
    def test_full_stores(self, used: int, config: dict[str, Any], level: Level) -> None:
        check = diagnosis.fill_check("store b", status(used, **config))
        assert check.level is level
        assert (check.fault == "bucket_full") == (level is not Level.GREEN)

    def test_an_empty_store_with_a_limit_is_not_full(self) -> None:
        assert diagnosis.fill_check("b", status(0, keys=0, max_bytes=10)).level is Level.GREEN

    @pytest.mark.parametrize(
        ("error", "fault"),
        [
            (errors.ConnectionFailedError(), "server_down"),
            (errors.AuthenticationError(), "wrong_credentials"),
            (
                errors.UnsupportedError(message="nats-server 2.15.1 at h has no JetStream: start it with -js"),
                "no_jetstream",
            ),
            (errors.UnsupportedError(message="JetStream is not enabled for this account"), "no_jetstream"),
            (errors.PermissionDeniedError(), "no_permission"),
            (errors.OperationTimeoutError(), "no_answer"),
            (errors.StoreNotFoundError(), "no_store"),
            (errors.OperationFailedError(), "other"),
        ],
        ids=str,
    )
    def test_errors_name_the_fault(self, error: KvError, fault: str) -> None:
        check = diagnosis.trouble("x", error)
        assert (check.level, check.fault) == (Level.RED, fault)
        assert check.advice or fault == "other"

    def test_the_worst_decides_the_exit(self) -> None:
        fine = diagnosis.green("x", "y")
        down = diagnosis.trouble("x", errors.ConnectionFailedError())
        full = diagnosis.fill_check("x", status(1000, max_bytes=1000))
        yellow = diagnosis.fill_check("x", status(800, max_bytes=1000))
        assert diagnosis.exit_of([fine, yellow]) is Exit.OK
        assert diagnosis.exit_of([fine, full, yellow]) is Exit.FALSE
        assert diagnosis.exit_of([full, down]) is Exit.CONNECTION

    def test_a_slow_way_and_a_clock_that_is_off(self) -> None:
        assert diagnosis.round_trip_check(0.01).level is Level.GREEN
        assert diagnosis.round_trip_check(0.5).fault == "slow"
        tiny = timedelta(milliseconds=1)
        assert diagnosis.clock_check(timedelta(seconds=0.5), tiny).level is Level.GREEN
        assert diagnosis.clock_check(timedelta(seconds=-90), tiny).fault == "clock"
        # It cannot be told from the way there and back.
        assert diagnosis.clock_check(timedelta(seconds=3), timedelta(seconds=5)).level is Level.GREEN

    def test_what_differs_from_a_specification(self) -> None:
        check = diagnosis.drift_check("x", [Drift(field="max_history", wanted=5, actual=1)])
        assert (check.fault, check.finding) == ("drift", "max_history is 1, not 5")
        assert diagnosis.drift_check("x", []).level is Level.GREEN

    def test_a_store_that_can_less_than_its_server(self) -> None:
        missing = {"ttl": "no ttl: because", "transactions": None, "fencing": None}
        assert diagnosis.abilities_check("x", missing, self.ABLE).finding == "no ttl: because"
        # That the server cannot was said already.
        assert diagnosis.abilities_check("x", missing, ConnectionCapabilities()).level is Level.GREEN

    def test_the_account(self) -> None:
        assert diagnosis.room_check("x", 5, None, unit="bytes").level is Level.GREEN
        assert [diagnosis.room_check("x", used, 10, unit="stores").level for used in (7, 8, 10)] == [
            Level.GREEN, Level.YELLOW, Level.RED,
        ]  # fmt: skip

    def test_who_only_reads_need_not_write(self) -> None:
        check = diagnosis.write_check("x", errors.PermissionDeniedError(message="these credentials do not permit it"))
        assert (check.level, check.fault) == (Level.YELLOW, "no_permission")
