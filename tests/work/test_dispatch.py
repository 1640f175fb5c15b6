"""Units that fail, hang and wait, given to hands that are made up: who does what, and when."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from whisq.errors import ClusterError, WeightError
from whisq.work import Account, Unit
from whisq.work.dispatch import MOST_TRIES, STRAGGLES_FROM_S, Dispatcher, Event, Hand, Hands

Outcome = Callable[[Hand, Unit, int], Event | float]


class MadeUp(Hands):
    """Hands on nodes of a clock that is counted on: ``outcome`` says how long a unit takes, or what becomes of it."""

    def __init__(self, nodes: int, each: int, outcome: Outcome) -> None:
        self.hands = [Hand(number, f"node{number % nodes}") for number in range(nodes * each)]
        self.outcome, self.time = outcome, 0.0
        self.at: dict[Hand, tuple[Unit, Event, float]] = {}
        self.given: list[tuple[str, str]] = []
        self.dropped: list[Hand] = []

    def idle(self) -> list[Hand]:
        return [hand for hand in self.hands if hand not in self.at]

    def give(self, hand: Hand, unit: Unit) -> None:
        tries = sum(key == unit.key for key, _ in self.given)
        self.given.append((unit.key, hand.node))
        found = self.outcome(hand, unit, tries)
        event = found if isinstance(found, Event) else Event(hand, unit, unit.argument, seconds=found)
        self.at[hand] = unit, event, self.time + (event.seconds or 1.0)

    def wait(self, most_s: float) -> list[Event]:
        end = min([self.time + most_s, *(end for _, _, end in self.at.values())])
        self.time = end
        ready = [hand for hand, (_, _, until) in self.at.items() if until <= end]
        return [self.at.pop(hand)[1] for hand in ready]

    def now(self) -> float:
        return self.time

    def are_gone(self) -> str:
        return "" if self.hands else "all are gone"

    def drop(self, hand: Hand) -> None:
        self.dropped.append(hand)
        self.at.pop(hand, None)


def units(count: int) -> list[Unit]:
    return [Unit(str(number), number) for number in range(count)]


def test_every_unit_is_told_once_with_its_value() -> None:
    hands = MadeUp(3, 2, lambda hand, unit, tries: 1.0 + unit.argument % 3)
    done = list(Dispatcher(hands, Account()).run(units(50)))
    assert sorted((one.unit.key, one.value) for one in done) == sorted((str(n), n) for n in range(50))
    assert {one.node for one in done} == {"node0", "node1", "node2"}


def test_a_million_units_are_not_held() -> None:
    taken = itertools.count()
    n_taken = 0

    def endless() -> Iterator[Unit]:
        nonlocal n_taken
        for number in taken:
            n_taken = number + 1
            yield Unit(str(number), number)

    hands = MadeUp(2, 2, lambda *_: 1.0)
    run = Dispatcher(hands, Account()).run(endless())
    for number, _ in enumerate(run, 1):
        assert n_taken <= number + 2 * len(hands.hands)
        if number == 200:
            break
    run.close()
    assert set(hands.dropped) <= set(hands.hands)


def test_a_unit_that_is_lost_is_done_again_on_another_node() -> None:
    def outcome(hand: Hand, unit: Unit, tries: int) -> Event | float:
        return Event(hand, unit, lost="the process ended") if unit.key == "3" and not tries else 1.0

    hands, account = MadeUp(2, 1, outcome), Account()
    done = list(Dispatcher(hands, account).run(units(8)))
    assert len(done) == 8
    nodes = [node for key, node in hands.given if key == "3"]
    assert len(nodes) == 2
    assert nodes[0] != nodes[1]
    assert account.retried == 1


def test_a_unit_that_dies_every_time_is_named_when_all_others_are_done() -> None:
    def outcome(hand: Hand, unit: Unit, tries: int) -> Event | float:
        return Event(hand, unit, error=ValueError("no square")) if unit.key == "3" else 1.0

    hands, done = MadeUp(2, 2, outcome), []
    with pytest.raises(
        ClusterError, match=r"a unit failed 3 times, all others are done:\n  3: .*ValueError: no square"
    ):
        done.extend(Dispatcher(hands, Account()).run(units(8)))
    assert len(done) == 7
    assert sum(key == "3" for key, _ in hands.given) == MOST_TRIES
    assert {key for key, _ in hands.given} == {str(number) for number in range(8)}


def test_what_is_the_users_to_mend_is_raised_at_once() -> None:
    def outcome(hand: Hand, unit: Unit, tries: int) -> Event | float:
        return Event(hand, unit, error=WeightError("not finite")) if unit.key == "1" else 1.0

    hands = MadeUp(1, 1, outcome)
    with pytest.raises(WeightError):
        list(Dispatcher(hands, Account()).run(units(8)))
    assert [key for key, _ in hands.given] == ["0", "1"]


def test_a_node_that_is_unfit_costs_a_unit_no_try() -> None:
    def outcome(hand: Hand, unit: Unit, tries: int) -> Event | float:
        return Event(hand, unit, unfit=True) if tries < 5 else 1.0

    account = Account()
    assert len(list(Dispatcher(MadeUp(2, 1, outcome), account).run(units(3)))) == 3
    assert account.retried == 0


def test_a_unit_that_hangs_is_copied_and_the_first_to_end_counts() -> None:
    def outcome(hand: Hand, unit: Unit, tries: int) -> Event | float:
        return 10_000.0 if unit.key == "4" and not tries else 1.0

    hands, account = MadeUp(2, 2, outcome), Account()
    done = list(Dispatcher(hands, account).run(units(12)))
    assert sorted(one.unit.key for one in done) == sorted(str(number) for number in range(12))
    assert account.copied == 1
    assert STRAGGLES_FROM_S < hands.now() < 60
    assert len(hands.dropped) == 1  # the one that hung


def test_nothing_is_copied_that_its_cost_lets_expect() -> None:
    def outcome(hand: Hand, unit: Unit, tries: int) -> Event | float:
        return 100.0 * unit.cost

    hands, account = MadeUp(2, 1, outcome), Account()
    done = list(Dispatcher(hands, account).run([*units(5), Unit("long", 5, cost=2.5)]))
    assert len(done) == 6
    assert account.copied == 0


def test_nobody_left_is_an_error_that_says_how_to_go_on() -> None:
    hands = MadeUp(1, 1, lambda *_: 1.0)
    hands.hands = []
    with pytest.raises(ClusterError, match="nobody is left to work: all are gone"):
        list(Dispatcher(hands, Account()).run(units(2)))
