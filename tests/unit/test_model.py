"""The values that every layer speaks in."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from datetime import UTC, datetime, timedelta, timezone
from types import FunctionType
from typing import Any, get_type_hints

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from slipstream import model
from slipstream.model import (
    ConnectionCapabilities,
    Drift,
    KvEntry,
    KvUpdate,
    Operation,
    Placement,
    StoreConfig,
    StoreStatus,
    VersionToken,
    WatchCursor,
    WatchStatistics,
)

U64 = 2**64
revisions = st.integers(0, U64 - 1)
EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - hypothesis adds the zone
incarnations = st.datetimes(
    min_value=EPOCH, timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))])
).filter(lambda moment: moment.astimezone(UTC).year >= 1970)
cursors = st.one_of(
    st.just(WatchCursor.none()),
    st.builds(lambda revision, incarnation: WatchCursor(revision=revision, incarnation=incarnation), revisions,
              st.none() | incarnations),
)  # fmt: skip
versions = st.binary(max_size=10).map(VersionToken.from_bytes)
LIFE_1 = datetime(2026, 1, 1, 12, 30, 0, 123456, tzinfo=UTC)
LIFE_2 = LIFE_1 + timedelta(microseconds=1)


class TestVersionToken:
    @given(revisions)
    def test_a_revision_round_trips(self, revision: int) -> None:
        token = VersionToken.from_u64(revision)
        assert token.as_u64() == revision
        assert bytes(token) == revision.to_bytes(8, "big")
        assert VersionToken.from_bytes(bytes(token)) == token
        assert not token.is_unknown
        assert str(token) == str(revision)

    @given(st.binary(max_size=10))
    def test_bytes_round_trip(self, raw: bytes) -> None:
        token = VersionToken.from_bytes(raw)
        assert bytes(token) == raw
        assert (token.as_u64() is None) == (len(raw) != 8)
        assert token.is_unknown == (raw == b"")
        assert pickle.loads(pickle.dumps(token)) == copy.deepcopy(token) == token

    @given(st.binary(min_size=11, max_size=30))
    def test_more_than_ten_bytes_are_refused(self, raw: bytes) -> None:
        with pytest.raises(ValueError, match="at most 10 bytes"):
            VersionToken.from_bytes(raw)

    @pytest.mark.parametrize("revision", [-1, U64])
    def test_what_is_no_u64_is_refused(self, revision: int) -> None:
        with pytest.raises(ValueError, match="between 0 and"):
            VersionToken.from_u64(revision)

    @given(versions, versions)
    def test_equal_and_hashed_by_its_bytes(self, one: VersionToken, other: VersionToken) -> None:
        assert (one == other) == (bytes(one) == bytes(other))
        assert len({one, other}) == len({bytes(one), bytes(other)})

    def test_bytes_like_input_is_copied(self) -> None:
        raw = bytearray(b"abc")
        token = VersionToken.from_bytes(raw)  # type: ignore[arg-type]
        raw[0] = 0
        assert bytes(token) == b"abc"
        assert hash(token) == hash(VersionToken.from_bytes(b"abc"))

    def test_unknown(self) -> None:
        unknown = VersionToken.unknown()
        assert (unknown.is_unknown, unknown.as_u64(), bytes(unknown), str(unknown)) == (True, None, b"", "unknown")
        assert unknown == VersionToken.from_bytes(b"")
        assert unknown != VersionToken.from_u64(0)

    def test_what_it_looks_like(self) -> None:
        assert repr(VersionToken.from_u64(7)) == "VersionToken(7)"
        assert repr(VersionToken.from_bytes(b"\x01\xff")) == "VersionToken(0x01ff)"

    def test_it_is_immutable_and_has_no_order(self) -> None:
        token = VersionToken.from_u64(1)
        with pytest.raises(dataclasses.FrozenInstanceError):
            token.raw = b""  # type: ignore[misc]
        with pytest.raises(TypeError):
            token < token  # type: ignore[operator]  # noqa: B015

    def test_its_constructor_takes_keywords_only(self) -> None:
        with pytest.raises(TypeError):
            VersionToken(b"")  # type: ignore[call-arg]


class TestWatchCursor:
    @given(cursors)
    def test_text_and_bytes_round_trip(self, cursor: WatchCursor) -> None:
        assert WatchCursor.parse(str(cursor)) == cursor
        assert WatchCursor.from_bytes(cursor.to_bytes()) == cursor
        assert pickle.loads(pickle.dumps(cursor)) == copy.copy(cursor) == cursor
        assert hash(WatchCursor.parse(str(cursor))) == hash(cursor)

    @given(revisions, incarnations)
    def test_bytes_keep_the_order_of_revisions(self, revision: int, incarnation: datetime) -> None:
        assume(revision + 1 < U64)
        older = WatchCursor(revision=revision, incarnation=incarnation)
        newer = WatchCursor(revision=revision + 1, incarnation=incarnation)
        assert older.to_bytes() < newer.to_bytes()

    @given(st.text(max_size=40))
    def test_a_text_is_parsed_or_refused(self, text: str) -> None:
        try:
            cursor = WatchCursor.parse(text)
        except ValueError:
            return
        assert WatchCursor.parse(str(cursor)) == cursor

    @pytest.mark.parametrize(
        "text",
        ["", "None", "-1", "+1", "1@", "@1", "1@-1", "1 ", "1\n", "1@2\n", "1@2@3", "1.5", "0x1", "٣", "1@1e3",
         str(U64), "9" * 20, "1@" + "9" * 18, "1@" + "9" * 19],
    )  # fmt: skip
    def test_what_is_no_cursor(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"not a cursor|between 0 and"):
            WatchCursor.parse(text)

    @given(st.binary(max_size=24))
    def test_bytes_are_read_or_refused(self, raw: bytes) -> None:
        try:
            cursor = WatchCursor.from_bytes(raw)
        except ValueError:
            assert len(raw) not in (0, 8)
        else:
            assert cursor.to_bytes() == raw

    def test_the_cursor_before_everything(self) -> None:
        none = WatchCursor.none()
        assert (none.is_none, none.as_u64(), none.to_bytes(), str(none)) == (True, None, b"", "none")
        assert none == WatchCursor()
        assert none != WatchCursor.from_u64(0)
        assert none < WatchCursor.from_u64(0)

    @given(revisions)
    def test_from_a_version_or_a_revision(self, revision: int) -> None:
        cursor = WatchCursor.from_version(VersionToken.from_u64(revision))
        assert cursor == WatchCursor.from_u64(revision)
        assert (cursor.as_u64(), cursor.revision, cursor.incarnation) == (revision, revision, None)
        assert not cursor.is_none

    def test_an_unknown_version_gives_no_position(self) -> None:
        assert WatchCursor.from_version(VersionToken.unknown()).is_none

    @pytest.mark.parametrize("size", [1, 7, 9, 10])
    def test_a_version_that_holds_no_revision_is_refused(self, size: int) -> None:
        with pytest.raises(ValueError, match="no revision"):
            WatchCursor.from_version(VersionToken.from_bytes(bytes(size)))

    @pytest.mark.parametrize("revision", [-1, U64])
    def test_what_is_no_u64_is_refused(self, revision: int) -> None:
        with pytest.raises(ValueError, match="between 0 and"):
            WatchCursor.from_u64(revision)

    @given(revisions, revisions, st.none() | incarnations)
    def test_ordered_by_revision_within_an_incarnation(self, a: int, b: int, incarnation: datetime | None) -> None:
        one, other = (WatchCursor(revision=revision, incarnation=incarnation) for revision in (a, b))
        assert (one < other, one <= other, one > other, one >= other) == (a < b, a <= b, a > b, a >= b)

    def test_an_unknown_incarnation_compares_with_any(self) -> None:
        assert WatchCursor.from_u64(1) < WatchCursor(revision=2, incarnation=LIFE_1)
        assert WatchCursor(revision=2, incarnation=LIFE_1) > WatchCursor.from_u64(1)

    @pytest.mark.parametrize("operator", ["__lt__", "__le__", "__gt__", "__ge__"])
    def test_two_incarnations_do_not_compare(self, operator: str) -> None:
        one, other = (WatchCursor(revision=1, incarnation=life) for life in (LIFE_1, LIFE_2))
        assert one != other
        with pytest.raises(ValueError, match="two incarnations"):
            getattr(one, operator)(other)

    @pytest.mark.parametrize("operator", ["__lt__", "__le__", "__gt__", "__ge__"])
    def test_it_compares_with_cursors_only(self, operator: str) -> None:
        assert getattr(WatchCursor.none(), operator)(1) is NotImplemented

    def test_an_incarnation_has_a_zone(self) -> None:
        with pytest.raises(ValueError, match="zone"):
            WatchCursor(revision=1, incarnation=LIFE_1.replace(tzinfo=None))

    def test_the_zone_of_an_incarnation_does_not_matter(self) -> None:
        elsewhere = LIFE_1.astimezone(timezone(timedelta(hours=-7)))
        assert WatchCursor(revision=1, incarnation=elsewhere) == WatchCursor(revision=1, incarnation=LIFE_1)

    @pytest.mark.parametrize(
        "incarnation",
        [datetime(1970, 1, 1, tzinfo=UTC) - timedelta.resolution, datetime.min.replace(tzinfo=UTC)],
        ids=str,
    )
    def test_an_incarnation_that_could_not_be_written_down_is_refused(self, incarnation: datetime) -> None:
        with pytest.raises(ValueError, match="1970"):
            WatchCursor(revision=1, incarnation=incarnation)

    def test_an_incarnation_belongs_to_a_revision(self) -> None:
        with pytest.raises(ValueError, match="revision"):
            WatchCursor(incarnation=LIFE_1)

    def test_it_is_immutable(self) -> None:
        with pytest.raises(dataclasses.FrozenInstanceError):
            WatchCursor.none().revision = 1  # type: ignore[misc]

    def test_its_constructor_takes_keywords_only(self) -> None:
        with pytest.raises(TypeError):
            WatchCursor(1)  # type: ignore[call-arg]

    def test_what_it_looks_like(self) -> None:
        assert repr(WatchCursor.none()) == "WatchCursor(none)"
        assert repr(WatchCursor.from_u64(5)) == "WatchCursor(5)"
        assert repr(WatchCursor(revision=5, incarnation=LIFE_1)) == "WatchCursor(5@1767270600123456)"


class TestKvEntry:
    def test_its_revision_is_that_of_its_version(self) -> None:
        entry = KvEntry(key="a", value=b"1", version=VersionToken.from_u64(7))
        assert (entry.revision, entry.created) == (7, None)
        assert KvEntry(key="a", value=b"1", version=VersionToken.unknown()).revision is None

    def test_it_is_a_value(self) -> None:
        entry = KvEntry(key="a", value=b"1", version=VersionToken.from_u64(7), created=LIFE_1)
        assert entry == pickle.loads(pickle.dumps(entry)) == dataclasses.replace(entry)
        assert hash(entry) == hash(dataclasses.replace(entry))
        assert entry != dataclasses.replace(entry, created=None)
        with pytest.raises(dataclasses.FrozenInstanceError):
            entry.value = b"2"  # type: ignore[misc]
        with pytest.raises(TypeError):
            KvEntry("a", b"1", VersionToken.unknown())  # type: ignore[call-arg]

    def test_it_works_with_match(self) -> None:
        match KvEntry(key="a", value=b"1", version=VersionToken.from_u64(7)):
            case KvEntry(key, value, version):
                assert (key, value, version) == ("a", b"1", VersionToken.from_u64(7))
            case _:
                pytest.fail("an entry matches its own class")


class TestKvUpdate:
    def test_the_least_that_an_update_says(self) -> None:
        update = KvUpdate(operation=Operation.DELETE, key="a")
        assert (update.value, update.version) == (b"", VersionToken.unknown())
        assert (update.revision, update.created) == (None, None)
        assert (update.expired, update.transaction, update.commit) == (False, None, False)

    def test_a_put_leaves_an_entry(self) -> None:
        version = VersionToken.from_u64(7)
        update = KvUpdate(operation=Operation.PUT, key="a", value=b"1", version=version, created=LIFE_1)
        assert update.entry == KvEntry(key="a", value=b"1", version=version, created=LIFE_1)
        assert update.revision == 7

    @pytest.mark.parametrize("operation", [Operation.DELETE, Operation.PURGE])
    def test_nothing_else_does(self, operation: Operation) -> None:
        assert KvUpdate(operation=operation, key="a", version=VersionToken.from_u64(7)).entry is None

    def test_it_is_a_value(self) -> None:
        update = KvUpdate(operation=Operation.PUT, key="a", value=b"1", transaction="t", commit=True)
        assert update == pickle.loads(pickle.dumps(update)) == dataclasses.replace(update)
        assert hash(update) == hash(dataclasses.replace(update))
        with pytest.raises(dataclasses.FrozenInstanceError):
            update.value = b"2"  # type: ignore[misc]
        with pytest.raises(TypeError):
            KvUpdate(Operation.PUT, "a")  # type: ignore[call-arg]

    @pytest.mark.parametrize(
        ("update", "told"),
        [
            (KvUpdate(operation=Operation.PUT, key="a", value=b"1"), "a is 1"),
            (KvUpdate(operation=Operation.DELETE, key="a"), "a is gone"),
            (KvUpdate(operation=Operation.PURGE, key="a", expired=True), "a has expired"),
            (KvUpdate(operation=Operation.PURGE, key="a"), "a is gone"),
        ],
    )
    def test_it_works_with_match(self, update: KvUpdate, told: str) -> None:
        said = ""
        match update:
            case KvUpdate(Operation.PUT, key, value):
                said = f"{key} is {value.decode()}"
            case KvUpdate(Operation.PURGE, key, expired=True):
                said = f"{key} has expired"
            case KvUpdate(_, key):
                said = f"{key} is gone"
        assert said == told

    def test_the_operations(self) -> None:
        assert [operation.value for operation in Operation] == ["PUT", "DELETE", "PURGE"]


seconds = st.timedeltas(timedelta(seconds=1), timedelta(days=3650))
names = st.from_regex(r"[-_a-zA-Z0-9]{1,40}", fullmatch=True)
configs = st.builds(
    StoreConfig,
    name=names.map(lambda name: f"b{name}"),
    storage=st.sampled_from(["persistent", "memory"]),
    max_history=st.integers(1, 64),
    max_age=st.none() | seconds,
    max_bytes=st.none() | st.integers(1, 2**63 - 1),
    max_value_size=st.none() | st.integers(1, 2**31 - 1),
    num_replicas=st.integers(1, 5),
    discard=st.sampled_from(["new", "old"]),
    description=st.none() | st.text(max_size=20),
    compression=st.booleans(),
    marker_ttl=st.none() | seconds,
    placement=st.none() | st.builds(Placement, cluster=st.none() | names, tags=st.lists(names).map(tuple)),
    mirror=st.none() | names.map(lambda name: f"m{name}"),
    metadata=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
)


class TestStoreConfig:
    def test_the_defaults(self) -> None:
        assert StoreConfig(name="jobs").model_dump() == {
            "name": "jobs",
            "storage": "persistent",
            "max_history": 1,
            "max_age": None,
            "max_bytes": None,
            "max_value_size": None,
            "num_replicas": 1,
            "discard": "new",
            "description": None,
            "compression": False,
            "marker_ttl": timedelta(hours=1),
            "placement": None,
            "mirror": None,
            "metadata": {},
        }

    @given(configs)
    def test_it_round_trips(self, config: StoreConfig) -> None:
        assert StoreConfig(**config.model_dump()) == config
        assert StoreConfig.model_validate_json(config.model_dump_json()) == config
        assert pickle.loads(pickle.dumps(config)) == config

    @given(st.integers(1, 10**6) | st.floats(1, 1e6))
    def test_durations_are_seconds_or_timedelta(self, number: float) -> None:
        span = timedelta(seconds=number)
        by_number = StoreConfig(name="a", max_age=number, marker_ttl=number)  # type: ignore[arg-type]
        for taken in (by_number.max_age, by_number.marker_ttl):
            assert taken is not None
            assert abs(taken - span) <= timedelta(microseconds=1)
        assert StoreConfig(name="a", max_age=span, marker_ttl=span).max_age == span

    @pytest.mark.parametrize(
        "accepted",
        [
            {"max_history": 1}, {"max_history": 64}, {"num_replicas": 1}, {"num_replicas": 5}, {"max_age": 0.1},
            {"marker_ttl": 1}, {"marker_ttl": None}, {"max_bytes": 1}, {"max_value_size": 1}, {"mirror": "origin"},
        ],
        ids=str,
    )  # fmt: skip
    def test_the_last_value_that_is_accepted(self, accepted: dict[str, Any]) -> None:
        StoreConfig(name="jobs", **accepted)

    @pytest.mark.parametrize(
        "refused",
        [
            {"max_history": 0}, {"max_history": 65}, {"max_history": True}, {"max_history": None},
            {"num_replicas": 0}, {"num_replicas": 6}, {"num_replicas": True},
            {"max_age": 0.099}, {"max_age": 0}, {"max_age": -1}, {"max_age": True}, {"max_age": float("inf")},
            {"marker_ttl": 0.999}, {"marker_ttl": 0}, {"marker_ttl": True},
            {"max_bytes": 0}, {"max_bytes": -1}, {"max_bytes": True}, {"max_value_size": 0}, {"max_value_size": -1},
            {"storage": "disk"}, {"discard": "newest"}, {"compression": "s2"},
            {"mirror": "a.b"}, {"mirror": "jobs"}, {"mirror": ""},
            {"history": 5}, {"placement": {"clusters": "a"}},
        ],
        ids=str,
    )  # fmt: skip
    def test_what_is_refused(self, refused: dict[str, Any]) -> None:
        with pytest.raises(ValidationError) as caught:
            StoreConfig(name="jobs", **refused)
        assert isinstance(caught.value, ValueError)

    @pytest.mark.parametrize("name", ["", "a.b", "a b", "a/b", "a=b", "a*", ">", "é", "a\n", "b" * 253, None, 1])
    def test_a_name_that_no_bucket_can_have(self, name: Any) -> None:
        with pytest.raises(ValidationError):
            StoreConfig(name=name)

    def test_it_is_frozen(self) -> None:
        with pytest.raises(ValidationError):
            StoreConfig(name="a").max_history = 2
        with pytest.raises(ValidationError):
            Placement(cluster="a").cluster = "b"


class TestStatus:
    def test_no_drift_unless_told(self) -> None:
        one, other = (
            StoreStatus(
                keys=0,
                bytes=0,
                first_revision=1,
                last_revision=0,
                incarnation=LIFE_1,
                replicas=1,
                leader=None,
                config=StoreConfig(name="a"),
            )
            for _ in range(2)
        )
        assert one.drift == []
        assert one.drift is not other.drift

    def test_the_least_that_a_backend_does(self) -> None:
        assert dataclasses.asdict(ConnectionCapabilities()) == {
            "streaming_watch": True,
            "prefix_watch": True,
            "ttl": False,
            "purge": True,
            "cas": True,
            "transactions": False,
            "fencing": False,
            "max_value_size": 0,
            "global_ordering": False,
        }

    @pytest.mark.parametrize(
        "value",
        [
            ConnectionCapabilities(),
            Drift(field="max_history", wanted=5, actual=1),
            WatchStatistics(pending=0, delivered=0, resumes=0, last_heard=0.0),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_they_are_frozen_values(self, value: Any) -> None:
        assert value == pickle.loads(pickle.dumps(value)) == copy.copy(value)
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, dataclasses.fields(value)[0].name, None)


@pytest.mark.parametrize(
    "name", [name for name in model.__all__ if isinstance(getattr(model, name), type | FunctionType)]
)
def test_pickles_do_not_name_the_module_that_a_value_is_written_in(name: str) -> None:
    named = getattr(model, name)
    assert named.__module__ == "slipstream.model"
    assert pickle.loads(pickle.dumps(named)) is named
    get_type_hints(named)  # raises for a name that this module lacks


def test_a_pickle_from_before_the_model_was_a_package_is_read() -> None:
    entry = b"cslipstream.model\nnew_entry\n(Vk\nc_codecs\nencode\n(Vv\nVlatin1\ntRI5\nNtR."
    assert pickle.loads(entry) == KvEntry(key="k", value=b"v", version=VersionToken.from_u64(5))
