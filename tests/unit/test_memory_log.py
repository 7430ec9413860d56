"""RecordLog against a plain sorted dict."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from slipstream.model import Operation
from slipstream.stores.memory.log import RecordLog
from slipstream.stores.memory.record import Record

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def record(seq: int) -> Record:
    return Record(seq=seq, key="k", operation=Operation.PUT, value=b"", created=NOW)


@given(
    gaps=st.lists(st.integers(1, 3), min_size=1, max_size=300),
    removals=st.lists(st.integers(0, 10**6), max_size=300),
    positions=st.lists(st.integers(0, 900), max_size=20),
)
def test_it_is_a_sorted_dict_of_its_records(gaps: list[int], removals: list[int], positions: list[int]) -> None:
    log, model = RecordLog(), dict[int, Record]()
    seq = 0
    for index, gap in enumerate(gaps):
        seq += gap
        model[seq] = record(seq)
        log.append(model[seq])
        if index < len(removals) and index % 2:
            victim = sorted(model)[removals[index] % len(model)]
            del model[victim]
            log.remove(victim)
    for choice in removals[: len(model)]:
        victim = sorted(model)[choice % len(model)]
        del model[victim]
        log.remove(victim)
        assert log.first() is (model[min(model)] if model else None)
    assert len(log) == len(model)
    for position in [0, *positions]:
        assert list(log.after(position)) == [model[kept] for kept in sorted(model) if kept > position]
        assert log.get(position) is model.get(position)
        assert (position in log) == (position in model)


def test_one_old_record_does_not_keep_the_numbers_of_all_that_were_removed() -> None:
    log = RecordLog()
    log.append(record(1))
    for seq in range(2, 10_000):
        log.append(record(seq))
        log.remove(seq)
    assert len(log._order) < 100
    assert [kept.seq for kept in log.after(0)] == [1]
