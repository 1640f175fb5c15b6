"""Who does which unit next: a bounded queue, tries that are counted, and copies of what hangs.

Knows nothing of Ray: ``Hands`` are whatever does one unit at a time, and the clock is theirs. The simulator of
benchmarks/ has hands of its own.
"""

from __future__ import annotations

import statistics
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from whisq.errors import ClusterError, WhisqError
from whisq.work.account import Account
from whisq.work.units import Done, Failure, Unit

MOST_TRIES = 3
STRAGGLES = 3.0
"""A unit is copied when it takes so many times as long as its cost lets expect,"""
STRAGGLES_FROM_S = 20.0
"""and no less than this: a process that starts, or loads a model, is no straggler."""
_REMEMBERED = 100
_WAIT_S = 1.0


@dataclass(frozen=True, slots=True)
class Hand:
    """One that does a unit at a time, and the node it is on."""

    number: int
    node: str


@dataclass(frozen=True, slots=True)
class Event:
    """What became of a unit: its value; or an ``error`` that it raised; or it is ``lost`` with who did it.

    ``unfit`` says that the node, and not the unit, is to blame: it is no try then.
    """

    hand: Hand
    unit: Unit
    value: Any = None
    seconds: float = 0.0
    error: BaseException | None = None
    lost: str = ""
    unfit: bool = False


class Hands(ABC):
    """Those who do units."""

    @abstractmethod
    def idle(self) -> list[Hand]:
        """Return those that have nothing to do."""

    @abstractmethod
    def give(self, hand: Hand, unit: Unit) -> None:
        """Have one do a unit."""

    @abstractmethod
    def wait(self, most_s: float) -> list[Event]:
        """Return what happened, waiting for it so long at most."""

    @abstractmethod
    def now(self) -> float:
        """Return seconds of their clock."""

    @abstractmethod
    def are_gone(self) -> str:
        """Return why nobody will ever do anything, empty while there is somebody, or may be."""

    @abstractmethod
    def drop(self, hand: Hand) -> None:
        """End what one is doing: it is not wanted any more."""


@dataclass(slots=True)
class _Running:
    """A unit that somebody does, since when."""

    unit: Unit
    started: float


@dataclass(slots=True)
class _Tried:
    """A unit that comes again: what was wrong each time, and the nodes on which it was."""

    failure: Failure
    nodes: set[str] = field(default_factory=set)


class Dispatcher:
    """Gives units to hands until all are done, each unit's value told once."""

    def __init__(self, hands: Hands, account: Account) -> None:
        self._hands, self._account = hands, account
        self._running: dict[Hand, _Running] = {}
        self._again: deque[Unit] = deque()
        self._tried: dict[str, _Tried] = {}
        self._failed: list[Failure] = []
        self._finished: set[str] = set()
        self._pace: deque[float] = deque(maxlen=_REMEMBERED)

    def run(self, units: Iterable[Unit]) -> Iterator[Done]:
        """Yield every unit with its value as they are finished; only as many are taken as there are hands.

        Raises a ``WhisqError`` of a bench at once, ``ClusterError`` where nobody is left, and, at the end, where units
        failed ``MOST_TRIES`` times.
        """
        source = iter(units)
        try:
            while True:
                source_is_empty = self._give_out(source)
                waits = any(running.unit.key not in self._finished for running in self._running.values())
                if source_is_empty and not self._again and not waits:
                    break
                if why := self._hands.are_gone():
                    raise ClusterError(
                        f"nobody is left to work: {why}",
                        hint="start nodes, and run it again: what is kept is not done anew",
                    )
                for event in self._hands.wait(_WAIT_S):
                    done = self._seen(event)
                    if done is not None:
                        yield done
        finally:
            for hand in self._running:
                self._hands.drop(hand)
            self._running.clear()
        if self._failed:
            raise _error_of(self._failed)

    def _give_out(self, source: Iterator[Unit]) -> bool:
        """Give idle hands something to do; returns whether the source has no more."""
        for hand in self._hands.idle():
            unit = self._again_for(hand)
            if unit is None:
                unit = next(source, None)
            if unit is None:
                unit = self._hanging(hand)
                if unit is None:
                    return True
                self._account.copied += 1
            self._running[hand] = _Running(unit, self._hands.now())
            self._hands.give(hand, unit)
        return False

    def _again_for(self, hand: Hand) -> Unit | None:
        """Return a unit that failed, on another node than before where there is one."""
        nodes = {other.node for other in self._hands.idle()} | {hand.node}
        for index, unit in enumerate(self._again):
            failed_on = self._tried[unit.key].nodes if unit.key in self._tried else set()
            if hand.node not in failed_on or nodes <= failed_on:
                del self._again[index]
                return unit
        return None

    def _hanging(self, hand: Hand) -> Unit | None:
        """Return a unit of another hand that takes far too long, and nobody else does."""
        if not self._pace:
            return None
        pace, now = statistics.median(self._pace), self._hands.now()
        counts: dict[str, int] = {}
        for running in self._running.values():
            counts[running.unit.key] = counts.get(running.unit.key, 0) + 1
        for other, running in self._running.items():
            key, expected = running.unit.key, pace * running.unit.cost
            late = now - running.started > max(STRAGGLES_FROM_S, STRAGGLES * expected)
            if late and counts[key] == 1 and key not in self._finished and other != hand:
                return running.unit
        return None

    def _seen(self, event: Event) -> Done | None:
        self._running.pop(event.hand, None)
        unit = event.unit
        if unit.key in self._finished:
            return None
        if event.unfit:
            self._again.append(unit)
        elif event.error is not None or event.lost:
            if isinstance(event.error, WhisqError) and not isinstance(event.error, ClusterError):
                raise event.error
            self._try_again(event)
        else:
            self._finished.add(unit.key)
            self._pace.append(event.seconds / max(unit.cost, 1e-9))
            return Done(unit, event.value, event.hand.node, event.seconds)
        return None

    def _try_again(self, event: Event) -> None:
        unit = event.unit
        tried = self._tried.setdefault(unit.key, _Tried(Failure(unit)))
        tried.failure.reasons.append(f"{event.hand.node}: {event.lost or _told(event.error)}")
        tried.nodes.add(event.hand.node)
        self._account.retried += 1
        if len(tried.failure.reasons) < MOST_TRIES:
            self._again.append(unit)
            return
        if any(running.unit.key == unit.key for running in self._running.values()):
            return  # a copy of it may still come to its end
        self._finished.add(unit.key)
        self._failed.append(tried.failure)


def _told(error: BaseException | None) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _error_of(failed: list[Failure]) -> ClusterError:
    listed = "\n".join(f"  {one.unit.key}: {one.reasons[-1]}" for one in failed)
    units = "a unit" if len(failed) == 1 else f"{len(failed)} units"
    return ClusterError(
        f"{units} failed {MOST_TRIES} times, all others are done:\n{listed}",
        hint="the same command tries these again; what is kept is not done anew",
    )
