"""The public surface is data: whoever changes it changes a table in here."""

from __future__ import annotations

import ast
import copy
import dataclasses
import inspect
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import slipstream
from slipstream import coordination, errors, interfaces, model, replica
from slipstream.errors import KvError
from slipstream.interfaces import Connection, KvReader, KvStore, KvWatcher, KvWriter, Transaction, Watch
from slipstream.model import VersionToken, WatchCursor
from slipstream.stores.nats import NatsConnection, NatsConnectionConfig

# The interfaces: every member that a class adds, as it is called.

INTERFACES: dict[type, list[str]] = {
    Watch: [
        "async __aenter__(self)",
        "async __aexit__(self, kind, error, trace)",
        "__aiter__(self)",
        "async __anext__(self)",
        "batches(self, max_items=1000, max_wait=0.01)",
        "property cursor",
        "property hydrated",
        "async wait_hydrated(self)",
        "statistics(self)",
        "async aclose(self)",
    ],
    Transaction: [
        "async __aenter__(self)",
        "async __aexit__(self, kind, error, trace)",
        "put(self, key, value, *, ttl=None)",
        "create(self, key, value, *, ttl=None)",
        "update(self, key, value, expected, *, ttl=None)",
        "delete(self, key)",
        "purge(self, key)",
        "async get(self, key)",
        "require(self, key, version)",
        "require_unchanged(self, prefix, version)",
        "property versions",
    ],
    KvReader: [
        "async get(self, key, *, min_version=None)",
        "async entry(self, key)",
        "async get_many(self, keys)",
        "async keys(self, prefix='')",
        "async scan(self, prefix='')",
        "iter_scan(self, prefix='')",
        "async history(self, key)",
        "async revision(self, key, version)",
    ],
    KvWriter: [
        "async put(self, key, value, *, ttl=None)",
        "async create(self, key, value, *, ttl=None)",
        "async update(self, key, value, expected, *, ttl=None)",
        "async touch(self, key, expected, *, ttl)",
        "async delete(self, key)",
        "async delete_with_version(self, key, expected)",
        "async purge(self, key, *, expected=None)",
        "async purge_deletes(self, older_than=0)",
        "async put_many(self, items)",
        "transaction(self)",
        "async atomically(self, fn)",
        "fenced(self, key, version)",
    ],
    KvWatcher: ["watch(self, prefix='', *, cursor=None)"],
    KvStore: [
        "property name",
        "async status(self)",
        "reader(self)",
        "writer(self)",
        "watcher(self)",
    ],
    Connection: [
        "async connect(self)",
        "async shutdown(self)",
        "is_healthy(self)",
        "events(self)",
        "async store(self, config, *, reads=None)",
        "async stores(self)",
        "async delete_store(self, name)",
        "property capabilities",
        "async __aenter__(self)",
        "async __aexit__(self, kind, error, trace)",
    ],
}
INHERITED: dict[type, list[type]] = {KvStore: [KvReader, KvWriter, KvWatcher]}

# The errors: bases, and whether trying again may help.

ERRORS = {
    "KvError": (["Exception"], False),
    "NotConnectedError": (["KvError"], True),
    "ConnectionFailedError": (["KvError"], True),
    "AuthenticationError": (["KvError"], False),
    "PermissionDeniedError": (["KvError"], False),
    "StoreNotFoundError": (["KvError"], False),
    "KeyNotFoundError": (["KvError"], False),
    "InvalidKeyError": (["KvError", "ValueError"], False),
    "ConflictError": (["KvError"], False),
    "AlreadyExistsError": (["ConflictError"], False),
    "RevisionMismatchError": (["ConflictError"], False),
    "FencedError": (["RevisionMismatchError"], False),
    "ValueTooLargeError": (["KvError"], False),
    "StoreFullError": (["KvError"], False),
    "CursorExpiredError": (["KvError"], False),
    "WatchError": (["KvError"], True),
    "OperationFailedError": (["KvError"], False),
    "OperationTimeoutError": (["KvError", "TimeoutError"], True),
    "BulkWriteError": (["KvError"], False),
    "UnsupportedError": (["KvError"], False),
    "SerializationError": (["KvError"], False),
    "DeserializationError": (["KvError"], False),
    "SnapshotError": (["KvError"], False),
    "SnapshotCorruptedError": (["SnapshotError"], False),
    "ArtifactError": (["KvError"], False),
}
COMMON = {"message": None, "store": None, "key": None, "outcome_unknown": False}
OWN: dict[str, dict[str, Any]] = {
    "RevisionMismatchError": {"expected": None, "actual": None},
    "FencedError": {"expected": None, "actual": None},
    "CursorExpiredError": {"cursor": None, "first_revision": None, "reason": "compacted"},
    "OperationFailedError": {"code": None, "err_code": None},
    "BulkWriteError": {"versions": None, "errors": None},
}
EXAMPLES: dict[str, dict[str, Any]] = {
    "RevisionMismatchError": {"expected": VersionToken.from_u64(1), "actual": VersionToken.from_u64(2)},
    "FencedError": {"expected": VersionToken.from_u64(1), "actual": None},
    "CursorExpiredError": {"cursor": WatchCursor.from_u64(5), "first_revision": 9, "reason": "rolled_back"},
    "OperationFailedError": {"code": 500, "err_code": 10077},
    "BulkWriteError": {
        "versions": {"a": VersionToken.from_u64(1)},
        "errors": {"b": errors.ValueTooLargeError(store="config", key="b")},
    },
}
CONNECT_OPTIONS = {
    "creds": None,
    "creds_file": None,
    "nkey_seed": None,
    "nkey_file": None,
    "op_timeout": 30.0,
    "name": None,
    "tls": None,
    "tls_hostname": None,
    "tls_handshake_first": False,
    "connect_timeout": 2.0,
    "ping_interval": 2.0,
    "max_pings_out": 2,
    "reconnect_max_wait": 1.0,
    "heartbeat": 2.0,
    "inbox_prefix": "_INBOX",
    "retry_writes": True,
    "lane": "data",
    "domain": None,
}

# What `slipstream` imports when it is asked for.

LAZY = {
    *coordination.__all__,
    *replica.__all__,
    "JsonLinesSnapshot",
    "KvCache",
    "LiveConfig",
    "NatsConnection",
    "TypedEntry",
    "TypedStore",
    "TypedUpdate",
}

every_interface = pytest.mark.parametrize("interface", INTERFACES, ids=lambda kind: kind.__name__)
every_error = pytest.mark.parametrize("name", ERRORS)


# Names.


def test_all_is_sorted_and_has_no_repeats() -> None:
    assert slipstream.__all__ == sorted(set(slipstream.__all__))


def test_all_is_complete() -> None:
    values = {
        name
        for name, kind in vars(model).items()
        if not name.startswith("_") and inspect.isclass(kind) and kind.__module__ == model.__name__
    }
    expected = {*ERRORS, *values, *(kind.__name__ for kind in INTERFACES), *LAZY, "connect"}
    assert set(slipstream.__all__) == expected


def test_every_name_in_all_is_there() -> None:
    for name in slipstream.__all__:
        assert getattr(slipstream, name).__name__ == name
    assert slipstream.NatsConnection is NatsConnection


def test_what_is_imported_when_asked_for_has_one_table_in_order() -> None:
    assert list(slipstream._HOMES) == sorted(LAZY)


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        _ = slipstream.no_such_name


def test_nothing_else_looks_public() -> None:
    modules = {name for name, value in vars(slipstream).items() if inspect.ismodule(value)}
    public = {name for name in vars(slipstream) if not name.startswith("_")} - modules
    assert public - {"TYPE_CHECKING", "Any", "import_module"} == set(slipstream.__all__) - LAZY


@pytest.mark.parametrize(
    "name", [name for name in slipstream.__all__ if dataclasses.is_dataclass(vars(model).get(name))]
)
def test_values_are_built_with_keywords_only(name: str) -> None:
    parameters = inspect.signature(getattr(model, name)).parameters.values()
    assert {parameter.kind for parameter in parameters} == {inspect.Parameter.KEYWORD_ONLY}


def test_importing_slipstream_imports_no_backend_and_no_client() -> None:
    program = "import sys, slipstream; print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    loaded: list[str] = ast.literal_eval(done.stdout)
    assert "slipstream.connect" in loaded
    when_asked = {".".join(home.split(".")[:2]) for home in slipstream._HOMES.values()}
    assert [name for name in loaded if ".".join(name.split(".")[:2]) in when_asked] == []
    foreign = {"nats", "ahocorasick", "nats_server", "rocksdict", "sqlite3"}
    assert [name for name in loaded if name.partition(".")[0] in foreign] == []


def test_memory_needs_no_nats_client() -> None:
    program = "import sys, slipstream; slipstream.connect('memory://'); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    loaded: list[str] = ast.literal_eval(done.stdout)
    assert "slipstream.stores.memory" in loaded
    assert [name for name in loaded if name.partition(".")[0] == "nats"] == []


def test_the_types_are_shipped() -> None:
    assert (Path(slipstream.__file__).parent / "py.typed").exists()


# connect().


def test_connect_takes_the_fields_of_the_nats_configuration() -> None:
    parameters = dict(inspect.signature(slipstream.connect).parameters)
    url = parameters.pop("url")
    assert (url.kind, url.default) == (inspect.Parameter.POSITIONAL_OR_KEYWORD, None)
    assert {parameter.kind for parameter in parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}
    assert {name: parameter.default for name, parameter in parameters.items()} == CONNECT_OPTIONS
    fields = dict(NatsConnectionConfig.model_fields)
    del fields["url"]
    assert {name: field.default for name, field in fields.items()} == CONNECT_OPTIONS


# Interfaces.


def test_every_interface_is_in_the_table() -> None:
    protocols = {
        kind
        for kind in vars(interfaces).values()
        if inspect.isclass(kind) and kind.__module__ == interfaces.__name__ and getattr(kind, "_is_protocol", False)
    }
    assert protocols == set(INTERFACES)


@every_interface
def test_the_members_and_how_they_are_called(interface: type) -> None:
    assert sorted(described(name, member) for name, member in members_of(interface)) == sorted(INTERFACES[interface])


@every_interface
def test_every_member_is_abstract(interface: type) -> None:
    inherited = [line for base in INHERITED.get(interface, []) for line in INTERFACES[base]]
    names = {name_in(line) for line in [*INTERFACES[interface], *inherited]}
    assert interface.__abstractmethods__ == names  # type: ignore[attr-defined]


@every_interface
def test_every_public_member_says_what_it_is(interface: type) -> None:
    for name, member in members_of(interface):
        if not name.startswith("_") and (interface, name) != (KvStore, "name"):
            assert inspect.getdoc(member), name


@every_interface
def test_a_class_that_lacks_a_member_cannot_be_instantiated(interface: type) -> None:
    members = {name: (lambda self: None) for name in interface.__abstractmethods__}  # type: ignore[attr-defined]
    type("Complete", (interface,), dict(members))()
    for missing in members:
        partial = type("Partial", (interface,), {name: member for name, member in members.items() if name != missing})
        with pytest.raises(TypeError, match=missing):
            partial()


# Errors.


def make(name: str, **common: Any) -> KvError:
    kind: type[KvError] = getattr(errors, name)
    return kind(**EXAMPLES.get(name, {}), **common)


def test_every_error_is_in_the_table() -> None:
    defined = {name for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, BaseException)}
    assert defined == set(ERRORS)


@every_error
def test_its_bases_and_whether_it_is_retryable(name: str) -> None:
    kind = getattr(errors, name)
    assert ([base.__name__ for base in kind.__bases__], kind.retryable) == ERRORS[name]
    assert kind().retryable is ERRORS[name][1]
    assert issubclass(kind, KvError)


@every_error
def test_the_tree_in_the_docstring_is_the_tree(name: str) -> None:
    assert errors.__doc__ is not None
    line = next(line for line in errors.__doc__.splitlines() if line.lstrip("│├└─ ").split(" ")[0] == name)
    assert ("retryable" in line) == ERRORS[name][1]
    # KvError is drawn four columns in, each level four further.
    depth = [base.__name__ for base in getattr(errors, name).__mro__].index("KvError")
    assert line.index(name) == 4 + 4 * depth
    for attribute in OWN.get(name, {}):
        owner = "RevisionMismatchError" if name == "FencedError" else name
        assert f".{attribute}" in next(line for line in errors.__doc__.splitlines() if owner in line)


@every_error
def test_its_constructor_takes_keywords_only(name: str) -> None:
    kind = getattr(errors, name)
    parameters = inspect.signature(kind).parameters.values()
    assert {parameter.kind for parameter in parameters} == {inspect.Parameter.KEYWORD_ONLY}
    assert {parameter.name: parameter.default for parameter in parameters} == {**COMMON, **OWN.get(name, {})}
    with pytest.raises(TypeError):
        kind("a message")


@every_error
def test_its_attributes(name: str) -> None:
    error = make(name, store="config", key="node.a")
    assert (error.store, error.key, error.outcome_unknown) == ("config", "node.a", False)
    for attribute, value in EXAMPLES.get(name, {}).items():
        assert getattr(error, attribute) == value


@every_error
def test_its_text_names_the_store_and_the_key(name: str) -> None:
    both = make(name, store="config", key="node.a")
    assert both.message
    assert str(both) == f"store 'config', key 'node.a': {both.message}"
    assert str(make(name, key="node.a")) == f"key 'node.a': {both.message}"
    assert str(make(name, store="config")) == f"store 'config': {both.message}"
    assert str(make(name)) == both.message
    assert str(make(name, message="as told", store="config")) == "store 'config': as told"
    assert make(name, message="").message == ""


@every_error
def test_an_unknown_outcome_is_told(name: str) -> None:
    error = make(name, key="node.a", outcome_unknown=True)
    assert error.outcome_unknown
    assert str(error) == f"key 'node.a': {error.message} (the outcome of the write is unknown)"


@every_error
@pytest.mark.parametrize("outcome_unknown", [False, True])
def test_it_survives_pickle_and_copy(name: str, outcome_unknown: bool) -> None:
    error = make(name, store="config", key="node.a", outcome_unknown=outcome_unknown)
    error.add_note("seen by the test")
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is type(error)
        assert (str(again), again.args, again.__notes__) == (str(error), error.args, ["seen by the test"])
        state, expected = dict(vars(again)), dict(vars(error))
        # Errors do not compare: those inside are told apart by what they say.
        assert {key: str(inner) for key, inner in state.pop("errors", {}).items()} == {
            key: str(inner) for key, inner in expected.pop("errors", {}).items()
        }
        assert state == expected


def test_the_builtin_that_an_error_also_is() -> None:
    with pytest.raises(TimeoutError):
        raise errors.OperationTimeoutError(store="config")
    with pytest.raises(ValueError, match="not valid"):
        raise errors.InvalidKeyError(key="a b")
    with pytest.raises(errors.ConflictError):
        raise errors.FencedError(key="a")


@pytest.mark.parametrize("reason", ["compacted", "recreated", "rolled_back"])
def test_an_expired_cursor_says_why(reason: errors.ExpiryReason) -> None:
    texts = {
        "compacted": "no longer holds everything after the cursor",
        "recreated": "was deleted and made again",
        "rolled_back": "lies beyond the end",
    }
    error = errors.CursorExpiredError(cursor=WatchCursor.from_u64(5), first_revision=9, reason=reason)
    assert "cursor 5 expired" in error.message
    assert texts[reason] in error.message


def test_a_bulk_error_holds_copies_and_tells_the_first_failure() -> None:
    versions, failures = {"a": VersionToken.from_u64(1)}, {"b": errors.StoreFullError(key="b")}
    error = errors.BulkWriteError(versions=versions, errors=failures)
    assert error.message == "1 of 2 writes failed, first: key 'b': the bucket is full"
    versions.clear()
    failures.clear()
    assert (list(error.versions), list(error.errors)) == (["a"], ["b"])
    assert (errors.BulkWriteError().versions, errors.BulkWriteError().errors) == ({}, {})


def test_a_mismatch_tells_both_versions_where_they_are_known() -> None:
    one, two = VersionToken.from_u64(1), VersionToken.from_u64(2)
    both = errors.RevisionMismatchError(expected=one, actual=two)
    assert both.message == "expected revision 1, the server holds 2"
    assert errors.RevisionMismatchError(expected=one).message == "expected revision 1, the server holds another one"


# Reading the interfaces.


def members_of(interface: type) -> Iterator[tuple[str, Any]]:
    """What the body of the class defines, but for what `typing.Protocol` puts there."""
    for name, member in vars(interface).items():
        if name not in {"__init__", "__subclasshook__"} and (
            inspect.isfunction(member) or isinstance(member, property)
        ):
            yield name, member


def described(name: str, member: Any) -> str:
    if isinstance(member, property):
        return f"property {name}"
    signature = inspect.signature(member)
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
    prefix = "async " if inspect.iscoroutinefunction(member) else ""
    return f"{prefix}{name}{inspect.Signature(bare)}"


def name_in(line: str) -> str:
    return line.removeprefix("async ").removeprefix("property ").partition("(")[0]
