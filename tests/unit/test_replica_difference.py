"""A fold beside a listing: what is removed, what is read, what is left alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.errors import ExpiryReason
from slipstream.model import KvEntry, Operation, VersionToken, WatchCursor
from slipstream.replica.difference import Findings, Recovery, compare, corrections, findings, put_of, recovery, removal

LIFE_1 = datetime(2026, 1, 1, tzinfo=UTC)
LIFE_2 = LIFE_1 + timedelta(microseconds=1)
REVISIONS = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 9))


def versions(revisions: dict[str, int | None]) -> dict[str, VersionToken]:
    return {
        key: VersionToken.unknown() if revision is None else VersionToken.from_u64(revision)
        for key, revision in revisions.items()
    }


def entry(key: str, revision: int | None) -> KvEntry:
    return KvEntry(key=key, value=b"v", version=versions({key: revision})[key])


class TestRecovery:
    @pytest.mark.parametrize(
        ("revision", "of_cursor", "reason", "first", "last", "expected"),
        [
            (4, LIFE_1, "compacted", 6, 9, Recovery.COMPARE),
            (4, LIFE_1, "compacted", 1, 9, Recovery.COMPARE),
            (4, LIFE_1, "recreated", 6, 9, Recovery.REBUILD),
            (4, LIFE_1, "rolled_back", 6, 9, Recovery.REBUILD),
            # What has become of the bucket since the watch said why.
            (4, LIFE_2, "compacted", 6, 9, Recovery.REBUILD),
            (10, LIFE_1, "compacted", 6, 9, Recovery.REBUILD),
            # Nobody can say that it is the same bucket.
            (4, None, "compacted", 6, 9, Recovery.REBUILD),
        ],
    )
    def test_a_fold_is_compared_only_with_the_bucket_that_it_is_of(
        self,
        revision: int,
        of_cursor: datetime | None,
        reason: ExpiryReason,
        first: int,
        last: int,
        expected: Recovery,
    ) -> None:
        cursor = WatchCursor(revision=revision, incarnation=of_cursor)
        assert recovery(cursor, reason, first_revision=first, last_revision=last, incarnation=LIFE_1) is expected

    def test_a_bucket_that_does_not_say_when_it_was_made(self) -> None:
        cursor = WatchCursor(revision=4, incarnation=LIFE_1)
        assert recovery(cursor, "compacted", first_revision=6, last_revision=9, incarnation=None) is Recovery.REBUILD


class TestCompare:
    @pytest.mark.parametrize(
        ("held", "live", "vanished", "changed", "kept"),
        [
            ({}, {}, [], [], 0),
            ({"a": 1}, {"a": 1}, [], [], 1),
            ({"a": 1}, {}, ["a"], [], 0),
            ({}, {"a": 1}, [], ["a"], 0),
            ({"a": 1}, {"a": 2}, [], ["a"], 0),
            ({"a": 3}, {"a": 2}, [], [], 1),
            ({"a": None}, {"a": 2}, [], ["a"], 0),
            ({"a": 2}, {"a": None}, [], ["a"], 0),
        ],
    )
    def test_each_case(
        self,
        held: dict[str, int | None],
        live: dict[str, int | None],
        vanished: list[str],
        changed: list[str],
        kept: int,
    ) -> None:
        difference = compare(versions(held), versions(live))
        assert (difference.vanished, difference.changed, difference.kept) == (vanished, changed, kept)

    @given(REVISIONS, REVISIONS)
    def test_done_to_the_fold_it_is_no_older_than_the_listing(self, held: dict[str, int], live: dict[str, int]) -> None:
        difference = compare(versions({**held}), versions({**live}))
        mended = {key: revision for key, revision in held.items() if key not in difference.vanished}
        mended.update({key: live[key] for key in difference.changed})
        assert mended.keys() == live.keys()
        assert all(mended[key] >= live[key] for key in live)
        assert difference.kept + len(difference.changed) == len(live)


class TestAudit:
    def test_what_is_newer_than_the_cursor_is_on_its_way(self) -> None:
        found = findings(versions({"a": 1, "b": 2}), versions({"a": 5, "c": 4, "d": 6}), applied=5)
        assert found == Findings(gone=["b"], missed=["a", "c"])

    def test_an_unknown_version_may_be_on_its_way(self) -> None:
        assert findings({}, versions({"a": None}), applied=5) == Findings(gone=[], missed=[])

    def test_a_key_that_has_moved_on_is_left_alone(self) -> None:
        before = versions({"same": 1, "newer": 1, "removed": 1})
        now = {"same": entry("same", 1), "newer": entry("newer", 7)}
        updates = corrections(Findings(gone=list(before), missed=[]), [], before=before, now=now.get, applied=5)
        assert updates == [removal("same")]

    def test_a_value_is_restored_only_where_it_is_newer_and_lies_before_the_cursor(self) -> None:
        now = {"older": entry("older", 1), "same": entry("same", 3), "newer": entry("newer", 4)}
        fetched = [
            entry("older", 3),
            entry("same", 3),
            entry("newer", 3),
            entry("absent", 5),
            entry("later", 6),
            entry("blank", None),
        ]
        updates = corrections(Findings(gone=[], missed=[]), fetched, before={}, now=now.get, applied=5)
        assert updates == [put_of(entry("older", 3)), put_of(entry("absent", 5))]

    @given(REVISIONS)
    def test_a_fold_that_is_right_needs_nothing(self, live: dict[str, int]) -> None:
        same = versions({**live})
        assert findings(same, same, applied=9) == Findings(gone=[], missed=[])


def test_a_removal_never_moves_a_cursor() -> None:
    update = removal("k")
    assert (update.operation, update.key, update.value) == (Operation.DELETE, "k", b"")
    assert WatchCursor.from_version(update.version).is_none
