"""The fold in memory, its order and what a batch does, against a plain dict."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.model import KvEntry, KvUpdate, Operation, VersionToken, WatchCursor
from slipstream.replica.append_log.fold import Fold
from slipstream.replica.append_log.frame import HEAD_BYTES, Frame, entry_bytes, pack_frame
from slipstream.replica.change import change_of
from slipstream.replica.order import KeyOrder

KEYS = st.integers(0, 30).map(lambda number: f"k.{number}" if number % 3 else f"node.{number}")
UPDATES = st.builds(
    lambda key, operation, value: KvUpdate(
        operation=operation,
        key=key,
        value=value if operation is Operation.PUT else b"",
        version=VersionToken.from_u64(len(value)),
    ),
    KEYS,
    st.sampled_from([Operation.PUT, Operation.PUT, Operation.DELETE, Operation.PURGE]),
    st.binary(min_size=1, max_size=50),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["apply", "load"]), st.lists(UPDATES, max_size=20)),
        st.tuples(st.sampled_from(["get", "range", "clear"]), st.just([])),
    ),
    max_size=15,
)


@settings(max_examples=300)
@given(STEPS, st.sampled_from(["", "k.", "k.1", "node", "absent"]))
def test_it_is_a_dict_whether_applied_or_loaded(steps: list[tuple[str, list[KvUpdate]]], prefix: str) -> None:
    fold, model = Fold(), dict[str, KvEntry]()
    for step, batch in steps:
        change = change_of(batch)
        if step == "apply":
            fold.take(change)
        elif step == "load":
            fold.take_frame(Frame(pack_frame(change, WatchCursor.none(), salt=0)[HEAD_BYTES:]))
        elif step == "get":
            assert {key: fold.get(key) for key in [*model, "absent"]} == {**model, "absent": None}
        elif step == "range":
            assert in_order(fold, prefix) == [model[key] for key in sorted(model) if key.startswith(prefix)]
        else:
            fold.clear()
            model.clear()
        for update in batch:
            if update.entry is None:
                model.pop(update.key, None)
            else:
                model[update.key] = update.entry
        assert len(fold) == len(model)
        assert fold.live_bytes == sum(map(entry_bytes, model.values()))
    assert in_order(fold, prefix) == [model[key] for key in sorted(model) if key.startswith(prefix)]
    assert fold.pick([*fold.keys(), "absent"]) == model
    assert (fold._frames, fold._unread) == ({}, {}), "nothing is left to be read from them"


@given(st.lists(UPDATES, max_size=30))
def test_the_last_update_of_a_key_counts(batch: list[KvUpdate]) -> None:
    change = change_of(batch)
    assert not change.puts.keys() & set(change.removed)
    assert len(set(change.removed)) == len(change.removed)
    for key in {update.key for update in batch}:
        last = [update for update in batch if update.key == key][-1]
        assert change.puts.get(key) == last.entry
        assert (key in change.removed) == (last.entry is None)


def test_an_entry_is_read_from_its_frame_once() -> None:
    update = KvUpdate(operation=Operation.PUT, key="a", value=b"v")
    fold = Fold()
    fold.take_frame(Frame(pack_frame(change_of([update]), WatchCursor.none(), salt=0)[HEAD_BYTES:]))
    assert fold.get("a") is fold.get("a")


def test_a_key_that_went_and_came_back_is_in_the_order_once() -> None:
    order, live = KeyOrder(), {"a": None, "b": None, "c": None}
    order.add(live)
    order.page(live, prefix="", after=None, size=10)
    order.add(["b", "b"])
    assert order.page(live, prefix="", after=None, size=10) == ["a", "b", "c"]
    assert order.page(live, prefix="", after="b", size=10) == ["c"]


def test_keys_that_come_and_go_do_not_pile_up_in_the_order() -> None:
    order, live = KeyOrder(), {"a": None}
    order.add(live)
    for number in range(5000):
        order.add([f"k.{number}"])
        if number % 50 == 0:
            assert order.page(live, prefix="", after=None, size=10) == ["a"]
    assert order.page(live, prefix="", after=None, size=10) == ["a"]
    assert len(order._sorted) <= 2 * len(live) + 1000


def in_order(fold: Fold, prefix: str) -> list[KvEntry]:
    found: list[KvEntry] = []
    while page := fold.page(prefix, found[-1].key if found else None):
        found += page
    return found
