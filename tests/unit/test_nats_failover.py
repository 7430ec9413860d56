"""Which server is next: those that answer before those that do not, and each in its turn."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from slipstream.stores.nats.failover import FIRST_WAIT, Failover

MAX_WAIT = 1.0
TIMEOUT = 2.0  # what an attempt at a black hole costs
REFUSED = 0.001


def longest(low: float, high: float) -> float:
    return high


class World:
    """Servers that refuse, keep silent or answer, and the attempts that were made at them, with their time."""

    def __init__(self, behaviour: dict[str, Callable[[float], float | None]]) -> None:
        self.behaviour = behaviour
        self.failover = Failover(MAX_WAIT, spread=longest)
        self.now = 1000.0
        self.attempts: list[tuple[str, float]] = []

    def reconnect(self, within: float = 600.0) -> str:
        """The server that answered at last."""
        ends_at = self.now + within
        while self.now < ends_at:
            server, wait = self.failover.choose(list(self.behaviour), self.now)
            assert wait <= MAX_WAIT
            self.now += wait
            if self.attempt(server):
                return server
        raise AssertionError(f"nobody answered: {self.attempts}")

    def attempt(self, server: str) -> bool:
        self.failover.attempt(server, self.now)
        self.attempts.append((server, self.now))
        cost = self.behaviour[server](self.now)
        self.now += cost or 0.0
        if cost is None:
            self.failover.connected(self.now)
        return cost is None

    def lose(self, server: str, after: float) -> None:
        self.now += after
        self.failover.lost(server, self.now)


def dead(now: float) -> float | None:
    return REFUSED


def black_hole(now: float) -> float | None:
    return TIMEOUT


def alive(now: float) -> float | None:
    return None


def test_a_server_that_was_lost_comes_after_the_others() -> None:
    world = World({"lost": alive, "other": alive})
    world.attempt("lost")
    world.lose("lost", after=3600.0)
    assert world.reconnect() == "other"


def test_a_single_server_is_tried_again_and_again_with_a_growing_bounded_wait() -> None:
    world = World({"only": black_hole})
    world.lose("only", after=0.0)
    waits = []
    for _ in range(12):
        _, wait = world.failover.choose(["only"], world.now)
        waits.append(wait)
        world.now += wait
        world.failover.attempt("only", world.now)
        world.now += REFUSED
    assert waits[0] == FIRST_WAIT
    assert waits == sorted(waits)
    assert waits[-1] == MAX_WAIT


def test_after_success_the_wait_is_short_again() -> None:
    world = World({"only": lambda now: None if now > 1020.0 else REFUSED})
    world.reconnect()
    world.lose("only", after=3600.0)
    assert world.failover.choose(["only"], world.now) == ("only", FIRST_WAIT)


def test_the_life_of_a_connection_is_no_attempt_that_took_long() -> None:
    world = World({"a": alive})
    world.attempt("a")
    world.lose("a", after=86400.0)
    assert world.failover.choose(["a"], world.now) == ("a", FIRST_WAIT)


def test_what_was_learned_when_it_first_connected_is_not_forgotten_hours_later() -> None:
    world = World({"black hole": black_hole, "dead": dead, "alive": alive})
    assert [world.attempt(server) for server in world.behaviour] == [False, False, True]
    world.attempts.clear()
    for _ in range(5):
        world.lose("alive", after=3600.0)
        assert world.reconnect() == "alive"
    assert {server for server, _ in world.attempts} == {"alive"}


def test_one_that_takes_every_connection_and_keeps_none_does_not_hold_us() -> None:
    down_until = 1010.0
    world = World({"flapping": alive, "back": lambda now: REFUSED if now < down_until else None})
    assert not world.attempt("back")
    assert world.attempt("flapping")
    while world.now < down_until + MAX_WAIT:
        world.lose("flapping", after=0.01)
        if world.reconnect() == "back":
            return
    raise AssertionError(world.attempts)


def test_a_black_hole_takes_no_more_than_a_third_of_the_time() -> None:
    back = 1300.0
    world = World({"black hole": black_hole, "restarting": lambda now: None if now > back else REFUSED})
    assert world.reconnect() == "restarting"
    silent = sum(TIMEOUT for server, _ in world.attempts if server == "black hole")
    assert silent <= (back - 1000.0) / 3 + TIMEOUT
    # Found soon after it came back, however long that took: one attempt at the black hole may lie between.
    assert world.now - back <= MAX_WAIT + TIMEOUT


@given(back=st.floats(1.0, 300.0), others=st.lists(st.sampled_from([dead, black_hole]), max_size=4))
def test_whoever_comes_back_gets_its_chance(back: float, others: list[Callable[[float], float | None]]) -> None:
    behaviour: dict[str, Callable[[float], float | None]] = {f"other {i}": kind for i, kind in enumerate(others)}
    behaviour["back"] = lambda now: None if now >= 1000.0 + back else TIMEOUT
    world = World(behaviour)
    assert world.reconnect() == "back"
    # Its own rest, and an attempt at each of the others.
    assert world.now - (1000.0 + back) <= 3 * TIMEOUT + MAX_WAIT + len(others) * (TIMEOUT + MAX_WAIT)


def test_a_server_that_is_new_in_the_list_comes_before_those_that_failed() -> None:
    world = World({"a": dead})
    world.attempt("a")
    server, _ = world.failover.choose(["a", "discovered"], world.now)
    assert server == "discovered"


@given(st.integers(0, 20))
def test_jitter_shortens_the_wait_and_never_lengthens_it(failures: int) -> None:
    random, fixed = Failover(MAX_WAIT), Failover(MAX_WAIT, spread=longest)
    for now in range(failures):
        random.attempt("a", float(now))
        fixed.attempt("a", float(now))
    wait, most = random.choose(["a"], float(failures))[1], fixed.choose(["a"], float(failures))[1]
    assert most / 2 <= wait <= most
