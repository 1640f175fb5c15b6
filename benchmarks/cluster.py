"""What work on a cluster costs beside the work: simulated for many workers, and measured on a cluster that is there.

    python benchmarks/cluster.py                      # makespan and bytes moved, simulated
    python benchmarks/cluster.py --address HOST:PORT  # also: empty units on a real cluster, and simulated beside real

The simulator gives units out with whisq's own dispatcher, on a clock of its own.
"""

from __future__ import annotations

import argparse
import heapq
import random
import resource
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whisq.work import Account, Bench, Job, Needs, Parcel, Unit, executor_at
from whisq.work.dispatch import Dispatcher, Event, Hand, Hands

N_CLIPS, MODELS, MODEL_BYTES, AUDIO_BYTES = 5000, 11, (1_620_000_000, 600_000_000), 600_000_000
"""turbo in f16 and in ten types of 600 MB on average; 5000 clips of 7 s as FLAC."""
TURBO_S = 80.0
"""Seconds of a core for a clip of up to 30 s: tiny.en's encoder here (1.2 s) by the ratio of their multiplications."""
WORKERS = (1, 8, 64, 512)
PER_NODE = 16
LOST_AN_HOUR, BACK_S = 0.01, 600.0
LINK_BYTES_S = 1_250_000_000
"""Of the machine that sends, 10 Gbit/s: every node takes its files from there."""


@dataclass
class _Node:
    """When it takes work, when it is lost, and which model each of its workers has loaded."""

    name: str
    ready_s: float
    lost_s: float
    loaded: dict[int, Any] = field(default_factory=dict)


class Simulated(Hands):
    """Workers on nodes that are lost and come back, each with its files to be sent and its models to be loaded."""

    def __init__(self, workers: int, per_node: int, *, sent_bytes: int, load_s: float, lost_an_hour: float, seed: int):
        self._random, self._time = random.Random(seed), 0.0
        self._sent, self._load_s, self._lost_an_hour = sent_bytes, load_s, lost_an_hour
        self._link_free = 0.0
        self.moved_bytes = self.n_lost = 0
        self.busy_s = 0.0
        each = min(workers, per_node)
        self._nodes = [self._new(number) for number in range(max(1, workers // each))]
        self._hands = {Hand(n, self._nodes[n // each].name): self._nodes[n // each] for n in range(workers)}
        self._at: dict[Hand, Unit] = {}
        self._idle = dict.fromkeys(self._hands)
        self._ends: list[tuple[float, int, Hand, Unit, bool, float]] = []
        self._count = 0

    def _new(self, number: int) -> _Node:
        self._link_free = max(self._link_free, self._time) + self._sent / LINK_BYTES_S
        self.moved_bytes += self._sent
        return _Node(f"node{number}", self._link_free, self._link_free + self._lives())

    def _lives(self) -> float:
        return self._random.expovariate(self._lost_an_hour / 3600) if self._lost_an_hour else float("inf")

    def idle(self) -> list[Hand]:
        """Return the workers whose node is ready and that do nothing."""
        return [hand for hand in self._idle if self._hands[hand].ready_s <= self._time]

    def give(self, hand: Hand, unit: Unit) -> None:
        """Have a worker do a unit, its model loaded first where it is another."""
        node = self._hands[hand]
        del self._idle[hand]
        self._at[hand] = unit
        model, seconds = unit.argument
        takes = seconds + (0.0 if node.loaded.get(hand.number) == model else self._load_s)
        node.loaded[hand.number] = model
        end = self._time + takes
        lost = end > node.lost_s
        self._count += 1
        heapq.heappush(self._ends, (min(end, node.lost_s), self._count, hand, unit, lost, takes))

    def wait(self, most_s: float) -> list[Event]:
        """Go on to the next end of a unit or start of a node, and return what ended."""
        waiting = [node.ready_s for node in self._nodes if node.ready_s > self._time]
        ends = [*(self._ends[0][:1] if self._ends else ()), *waiting]
        # Whoever is idle may be given a copy of what hangs by and by: then the clock goes on in steps.
        self._time = min(ends) if ends and not self.idle() else min([self._time + most_s, *ends])
        events = []
        while self._ends and self._ends[0][0] <= self._time:
            _, _, hand, unit, lost, takes = heapq.heappop(self._ends)
            if self._at.get(hand) is not unit:
                continue  # it was dropped
            del self._at[hand]
            self._idle[hand] = None
            if lost:
                self._lose(self._hands[hand])
                events.append(Event(hand, unit, lost="the node is gone"))
            else:
                self.busy_s += unit.argument[1]
                events.append(Event(hand, unit, seconds=takes))
        return events

    def _lose(self, node: _Node) -> None:
        if node.ready_s <= self._time:
            self.n_lost += 1
            self.moved_bytes += self._sent
            node.loaded.clear()
            node.ready_s = self._time + BACK_S + self._sent / LINK_BYTES_S
            node.lost_s = node.ready_s + self._lives()

    def now(self) -> float:
        """Return the simulated seconds."""
        return self._time

    def are_gone(self) -> str:
        """Return nothing: lost nodes come back."""
        return ""

    def drop(self, hand: Hand) -> None:
        """Take a unit from a worker."""
        self._at.pop(hand, None)
        self._idle[hand] = None


def evaluation(unit_s: float, spread: float, seed: int) -> list[Unit]:
    """Return the units of turbo, its files in ten types, and 5000 clips: a clip each, of ``unit_s`` in the median."""
    drawn = random.Random(seed)
    return [
        Unit(f"{model} {clip}", (model, unit_s * drawn.lognormvariate(0, spread)), unit_s)
        for model in range(MODELS)
        for clip in range(N_CLIPS)
    ]


def simulate(units: list[Unit], workers: int, **how: Any) -> tuple[float, Simulated, Account]:
    """Return the makespan in seconds, and what the simulated workers and the dispatcher counted."""
    hands, account = Simulated(workers, **how), Account()
    done = sum(1 for _ in Dispatcher(hands, account).run(units))
    if done != len(units):
        raise RuntimeError(f"{done} units came back, {len(units)} were given")
    return hands.now(), hands, account


class Waits(Bench):
    """Waits as long as it is told."""

    def do(self, argument: Any) -> None:
        """Wait."""
        time.sleep(argument[1])

    def close(self) -> None:
        """Hold nothing."""


@dataclass(frozen=True)
class WaitsParcel(Parcel):
    """Reads nothing."""

    def open(self, paths: Mapping[str, Path], threads: int) -> Waits:
        """Return a bench."""
        return Waits()


class WaitsJob(Job):
    """Units that wait."""

    def open(self) -> Waits:
        """Return a bench."""
        return Waits()

    def parcel(self) -> WaitsParcel:
        """Return what is sent."""
        return WaitsParcel({}, Needs(100_000_000, threads=1))


def overhead(address: str, n_units: int) -> None:
    """Print what empty units take on a real cluster, and how near the simulator is to units that wait."""
    cluster = executor_at(address, print)
    try:
        job = WaitsJob()
        list(cluster.run(job, [Unit("first", (0, 0.0))]))  # processes start
        started = time.perf_counter()
        n = sum(1 for _ in cluster.run(job, (Unit(str(number), (0, 0.0)) for number in range(n_units))))
        took = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
        print(f"{n} empty units: {took:.1f} s, {1000 * took / n:.2f} ms each; driver {peak:.0f} MB at its peak")
        drawn = random.Random(1)
        units = [Unit(f"w{number}", (0, drawn.lognormvariate(-0.7, 0.6)), 0.5) for number in range(120)]
        started = time.perf_counter()
        nodes = {done.node for done in cluster.run(job, units)}
        took = time.perf_counter() - started
        simulated, _, _ = simulate(units, len(nodes), per_node=1, sent_bytes=0, load_s=0.0, lost_an_hour=0.0, seed=0)
        ideal = sum(unit.argument[1] for unit in units) / len(nodes)
        print(
            f"120 units that wait on {len(nodes)} nodes: {took:.2f} s, simulated {simulated:.2f} s"
            f" ({100 * (took / simulated - 1):+.1f} %), evenly shared {ideal:.2f} s"
        )
    finally:
        cluster.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", help="measure on this Ray cluster, too")
    parser.add_argument("--units", type=int, default=10_000, help="empty units to measure with (default: 10000)")
    parser.add_argument("--unit-s", type=float, default=TURBO_S, help="core-seconds of a unit (default: %(default)s)")
    parser.add_argument("--spread", type=float, default=0.3, help="sigma of the logarithm of what a unit takes")
    parser.add_argument("--load-s", type=float, default=4.0, help="seconds that loading a model takes")
    args = parser.parse_args()
    if args.address:
        overhead(args.address, args.units)
    sent = MODEL_BYTES[0] + (MODELS - 1) * MODEL_BYTES[1] + AUDIO_BYTES
    units = evaluation(args.unit_s, args.spread, seed=0)
    work = sum(unit.argument[1] for unit in units)
    print(f"turbo x 10 types x {N_CLIPS} clips: {len(units)} units, {work / 3600:.0f} core-hours (simulated)")
    print(f"{'workers':>8} {'makespan':>10} {'efficiency':>10} {'moved':>9} {'nodes lost':>10} {'tried again':>11}")
    for workers in WORKERS:
        makespan, hands, account = simulate(
            units, workers, per_node=PER_NODE, sent_bytes=sent, load_s=args.load_s, lost_an_hour=LOST_AN_HOUR, seed=1
        )
        print(
            f"{workers:>8} {makespan / 3600:>8.2f} h {100 * work / workers / makespan:>8.1f} %"
            f" {hands.moved_bytes / 10**9:>6.0f} GB {hands.n_lost:>10} {account.retried:>11}"
        )


if __name__ == "__main__":
    main()
