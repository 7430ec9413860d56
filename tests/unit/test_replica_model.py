"""Every state of a small world: with production's decisions nothing breaks, without any one guard something does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from slipstream.model import KvEntry, KvUpdate, VersionToken, WatchCursor
from slipstream.replica.difference import Difference, Findings, Recovery, compare, findings, put_of, removal
from slipstream.replica.flush import Flush, Step
from tests.unit import replica_audit_model as audits
from tests.unit import replica_model as following

STARTS = {
    "from nothing": following.State(writes=3, lives=1, crashes=1, failures=1),
    "from nothing, one write more": following.State(writes=4, lives=0, crashes=1, failures=0),
    "from three keys": following.followed(("a", "b", "c"), writes=2, lives=0, crashes=1, failures=0),
}


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_production_breaks_nothing(start: following.State) -> None:
    found = following.search(start, following.Rules())
    assert (found.wrong, found.way) == (None, ())
    assert found.states > 3_000


def _store_before_apply(flush: Flush) -> Step:
    if not flush.stored:
        return Step.STORE
    return Step.APPLY if not flush.applied else Step.DONE if flush.announced else Step.ANNOUNCE


def _announce_before_store(flush: Flush) -> Step:
    if not flush.applied:
        return Step.APPLY
    return Step.ANNOUNCE if not flush.announced else Step.DONE if flush.stored else Step.STORE


def _never_store(flush: Flush) -> Step:
    if not flush.applied:
        return Step.APPLY
    return Step.DONE if flush.announced else Step.ANNOUNCE


def _nothing_vanishes(held: Mapping[str, VersionToken], live: Mapping[str, VersionToken]) -> Difference:
    return replace(compare(held, live), vanished=[])


def _nothing_changes(held: Mapping[str, VersionToken], live: Mapping[str, VersionToken]) -> Difference:
    return replace(compare(held, live), changed=[])


def _only_new_keys_change(held: Mapping[str, VersionToken], live: Mapping[str, VersionToken]) -> Difference:
    return replace(compare(held, live), changed=[key for key in live if key not in held])


def _one_too_far(applied: WatchCursor, seen: WatchCursor) -> WatchCursor:
    return WatchCursor(revision=(seen.revision or 0) + 1, incarnation=seen.incarnation)


MUTANTS: dict[str, following.Rules] = {
    "the snapshot goes before apply": following.Rules(next_step=_store_before_apply),
    "the cursor is announced before it is stored": following.Rules(next_step=_announce_before_store),
    "the snapshot is left out": following.Rules(next_step=_never_store),
    "a batch that failed is dropped": following.Rules(batch_kept_on_failure=False),
    "the cursor runs ahead of the batch": following.Rules(advance=_one_too_far),
    "the cursor stays": following.Rules(advance=lambda applied, seen: applied),
    "another life is compared by its revisions": following.Rules(recovery=lambda *_, **__: Recovery.COMPARE),
    "what vanished stays": following.Rules(compare=_nothing_vanishes),
    "what changed is not read": following.Rules(compare=_nothing_changes),
    "a newer value of a known key is not read": following.Rules(compare=_only_new_keys_change),
    "removals come after what follows": following.Rules(removals_first=False),
    "the bucket is listed before the watch is entered": following.Rules(watch_before_listing=False),
    "a repair moves the cursor before it is done": following.Rules(repair_moves_cursor=True),
}


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_without_a_guard_something_breaks(mutant: following.Rules) -> None:
    searches = (following.search(start, mutant) for start in STARTS.values())
    assert any(found.wrong is not None and found.way for found in searches)


AUDIT = audits.State(writes=3, removals=1, audits=1)


def test_an_audit_repairs_what_went_without_a_trace_and_nothing_else() -> None:
    states, wrong = audits.search(AUDIT, audits.Rules())
    assert wrong is None
    assert states > 5_000


def _corrections(*, unchanged: bool = True, in_turn: bool = True) -> Callable[..., list[KvUpdate]]:
    """Production's, without one of its conditions."""

    def corrections(
        found: Findings,
        fetched: Iterable[KvEntry],
        *,
        before: Mapping[str, VersionToken],
        now: Callable[[str], KvEntry | None],
        applied: int,
    ) -> list[KvUpdate]:
        gone = [
            key
            for key in found.gone
            if (entry := now(key)) is not None and (not unchanged or entry.version == before[key])
        ]
        missed = [
            entry
            for entry in fetched
            if (not in_turn or (entry.revision or 0) <= applied)
            and ((ours := now(entry.key)) is None or (ours.revision or 0) < (entry.revision or 0))
        ]
        return [*map(removal, gone), *map(put_of, missed)]

    return corrections


def _everything_is_missed(held: Any, live: Any, *, applied: int) -> Findings:
    return findings(held, live, applied=2**63)


AUDIT_MUTANTS: dict[str, audits.Rules] = {
    "the bucket is listed before the fold": audits.Rules(fold_listed_first=False),
    "a key that was written since is removed": audits.Rules(corrections=_corrections(unchanged=False)),
    "what is on its way is put at once": audits.Rules(
        findings=_everything_is_missed, corrections=_corrections(in_turn=False)
    ),
    "nothing is removed": audits.Rules(
        findings=lambda held, live, *, applied: replace(findings(held, live, applied=applied), gone=[])
    ),
}


def test_the_rewritten_corrections_are_productions_but_for_the_conditions() -> None:
    assert audits.search(AUDIT, audits.Rules(corrections=_corrections()))[1] is None


@pytest.mark.parametrize("mutant", AUDIT_MUTANTS.values(), ids=AUDIT_MUTANTS)
def test_without_a_guard_an_audit_does_harm(mutant: audits.Rules) -> None:
    assert audits.search(AUDIT, mutant)[1] is not None
