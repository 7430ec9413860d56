"""One batch: its steps, its pauses, and how far it moves the cursor."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.errors import InvalidKeyError
from slipstream.model import KvEntry, KvUpdate, Operation, VersionToken, WatchCursor
from slipstream.replica import BatchConfig, WatchScope
from slipstream.replica.flush import RETRIES, Flush, Step, advance, already_held, next_step, pause_after

LIFE_1 = datetime(2026, 1, 1, tzinfo=UTC)
LIFE_2 = LIFE_1 + timedelta(microseconds=1)


def cursor(revision: int | None, life: datetime | None = LIFE_1) -> WatchCursor:
    return WatchCursor.none() if revision is None else WatchCursor(revision=revision, incarnation=life)


def version(revision: int | None) -> VersionToken:
    return VersionToken.unknown() if revision is None else VersionToken.from_u64(revision)


class TestNextStep:
    @pytest.mark.parametrize(
        ("flush", "expected"),
        [
            (Flush(), Step.APPLY),
            (Flush(applied=True), Step.STORE),
            (Flush(applied=True, failures=RETRIES), Step.STORE),
            (Flush(applied=True, failures=RETRIES + 1), Step.GIVE_UP),
            (Flush(applied=True, stored=True), Step.ANNOUNCE),
            (Flush(applied=True, stored=True, announced=True), Step.DONE),
            (Flush(stored=True, announced=True), Step.APPLY),
            (Flush(applied=True, announced=True), Step.STORE),
        ],
    )
    def test_the_order(self, flush: Flush, expected: Step) -> None:
        assert next_step(flush) is expected

    def test_sixteen_retries(self) -> None:
        assert RETRIES == 16

    def test_the_pauses_grow_to_a_bound(self) -> None:
        pauses = [pause_after(failures) for failures in range(1, RETRIES + 1)]
        assert pauses == sorted(pauses)
        assert 0 < pauses[0] < pauses[-1] == 1.0
        assert sum(pauses) < 15


class TestAdvance:
    @pytest.mark.parametrize(
        ("applied", "seen", "expected"),
        [
            (cursor(None), cursor(None), cursor(None)),
            (cursor(None), cursor(3), cursor(3)),
            (cursor(3), cursor(None), cursor(3)),
            (cursor(3), cursor(5), cursor(5)),
            (cursor(5), cursor(3), cursor(5)),
            (cursor(5), cursor(3, LIFE_2), cursor(3, LIFE_2)),
            (cursor(5, None), cursor(3), cursor(5, None)),
            (cursor(5, None), cursor(5), cursor(5)),
        ],
    )
    def test_backwards_only_into_another_life(
        self, applied: WatchCursor, seen: WatchCursor, expected: WatchCursor
    ) -> None:
        assert advance(applied, seen) == expected

    @given(st.integers(0, 9), st.integers(0, 9))
    def test_within_one_life_it_is_the_later_one(self, one: int, other: int) -> None:
        assert advance(cursor(one), cursor(other)) == advance(cursor(other), cursor(one)) == cursor(max(one, other))


@pytest.mark.parametrize(
    ("update", "held", "expected"),
    [(5, 5, True), (4, 5, True), (6, 5, False), (5, None, False), (None, 5, False), (5, "absent", False)],
)
def test_what_is_already_held(update: int | None, held: int | str | None, expected: bool) -> None:
    arrived = KvUpdate(operation=Operation.PUT, key="k", value=b"1", version=version(update))
    entry = None if isinstance(held, str) else KvEntry(key="k", value=b"1", version=version(held))
    assert already_held(arrived, entry) is expected


class TestScope:
    @pytest.mark.parametrize(
        ("given_prefixes", "kept"),
        [
            ([""], ("",)),
            (["a", ""], ("",)),
            (["b.", "a.", "a.1", "a."], ("a.", "b.")),
            (["a.1", "a.10", "a.2"], ("a.1", "a.2")),
            ([], ()),
        ],
    )
    def test_no_prefix_lies_within_another(self, given_prefixes: list[str], kept: tuple[str, ...]) -> None:
        assert WatchScope.of(given_prefixes).prefixes == kept

    def test_what_it_is_made_of(self) -> None:
        assert WatchScope.of("a") == WatchScope.prefix("a")
        assert WatchScope.of(WatchScope.everything()) == WatchScope() == WatchScope.prefix("")

    def test_membership(self) -> None:
        scope = WatchScope.several(["a.", "b"])
        assert [key in scope for key in ("a.1", "a", "b", "bc", "c", 1)] == [True, False, True, True, False, False]
        assert "a" not in WatchScope.several([])

    def test_a_bad_prefix(self) -> None:
        with pytest.raises(InvalidKeyError):
            WatchScope.prefix("a*")

    @given(st.lists(st.text("ab.", max_size=3).filter(lambda text: ".." not in text and not text.startswith("."))))
    def test_it_matches_what_its_prefixes_match(self, prefixes: list[str]) -> None:
        scope = WatchScope.several(prefixes)
        for key in ("a", "b", "a.a", "ab", "ab.b", "ba.a.b"):
            assert (key in scope) is any(key.startswith(prefix) for prefix in prefixes)


class TestBatchConfig:
    def test_the_defaults(self) -> None:
        config = BatchConfig()
        assert (config.max_items, config.window_seconds, config.progress_seconds) == (1000, 0.01, 1.0)

    def test_spans(self) -> None:
        config = BatchConfig(window=timedelta(milliseconds=5), progress_interval=timedelta(minutes=1))
        assert (config.window_seconds, config.progress_seconds) == (0.005, 60.0)
        assert BatchConfig(window=0).window_seconds == 0

    @pytest.mark.parametrize(
        "fields",
        [
            {"max_items": 0},
            {"max_items": True},
            {"window": -1},
            {"window": float("nan")},
            {"window": timedelta(seconds=-1)},
            {"progress_interval": 0},
        ],
    )
    def test_what_makes_no_sense(self, fields: dict[str, float]) -> None:
        with pytest.raises(ValueError, match=next(iter(fields))):
            BatchConfig(**fields)  # type: ignore[arg-type]
