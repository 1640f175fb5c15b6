"""The processes on a cluster's nodes that do units: which there are, what they have been sent, what became of it."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from whisq.errors import ClusterError
from whisq.units import megabytes
from whisq.work.account import Account
from whisq.work.content import Source
from whisq.work.dispatch import Event, Hand, Hands
from whisq.work.site import Description, Site, Worker, identity
from whisq.work.units import Job, Needs, Parcel, Unit

LOOKS_EVERY_S = 5.0
"""How often it is asked which nodes there are."""
STARTS_S = 120.0
"""A node that says nothing for so long at the start is left out."""
MOST_THREADS = 8
"""Of one unit: memory may leave a node fewer units than cores."""
MOST_STARTS = 3
"""A node on which so many processes in a row ended before they did anything is left out."""
_IN_FLIGHT = 4
"""Pieces of a file that are under way at once."""


@dataclass(slots=True)
class _Node:
    """A node: Ray's id, its name, what it has, and who answers for it there."""

    id: str
    name: str
    resources: Mapping[str, float]
    site: Any
    description: Description | None = None
    paths: dict[str, Path] = field(default_factory=dict)
    unfit: str = ""
    failed_starts: int = 0


@dataclass(slots=True)
class _Slot:
    """A process that does units: idle, or at a unit."""

    hand: Hand
    node: _Node
    threads: int
    worker: Any
    unit: Unit | None = None
    ref: Any = None
    is_ready: bool = False


class RayHands(Hands):
    """The workers of all nodes, for one job at a time. Raises ``ClusterError`` where a node has another whisq."""

    def __init__(self, account: Account, say: Callable[[str], None]) -> None:
        self._account, self._say = account, say
        self._nodes: dict[str, _Node] = {}
        self._slots: dict[Hand, _Slot] = {}
        self._numbers = itertools.count()
        self._job: Job | None = None
        self._parcel: Parcel | None = None
        self._parcel_ref: Any = None
        self._left: dict[str, Any] = {}
        self._looked = 0.0
        self._identity = identity()
        self._look()
        if not self._nodes:
            raise ClusterError("the cluster has no node that can work", hint="look at: ray status")

    def take_job(self, job: Job) -> None:
        """Turn to a job: its files go where they are not yet, and its benches are opened by whoever does a unit."""
        if job is self._job:
            return
        self._job, self._parcel = job, job.parcel()
        self._left.clear()
        self._end_all()
        self._parcel_ref = ray.put(self._parcel)
        self._equip(list(self._nodes.values()))
        if not self._slots:
            raise ClusterError(
                f"no node can do this: {self._why_none()}", hint="add nodes that can, or leave out --ray"
            )

    # What the dispatcher asks for.

    def idle(self) -> list[Hand]:
        """Return the workers that have started and do nothing."""
        if time.monotonic() - self._looked > LOOKS_EVERY_S:
            self._look()
        return [slot.hand for slot in self._slots.values() if slot.is_ready and slot.unit is None]

    def give(self, hand: Hand, unit: Unit) -> None:
        """Send a unit to a worker."""
        slot = self._slots[hand]
        slot.unit = unit
        taken = {key: [self._left[key]] for key in unit.uses if key in self._left}
        arguments = (unit.argument, unit.key, unit.leaves, taken)
        if unit.leaves:
            slot.ref, self._left[unit.key] = slot.worker.do.options(num_returns=2).remote(*arguments)
        else:
            slot.ref = slot.worker.do.remote(*arguments)

    def wait(self, most_s: float) -> list[Event]:
        """Return what happened to units; workers that have started are idle from then on."""
        refs = {slot.ref: slot for slot in self._slots.values() if slot.ref is not None}
        if not refs:
            time.sleep(min(most_s, 0.1))
            return []
        ready, _ = ray.wait(list(refs), num_returns=1, timeout=most_s, fetch_local=False)
        if len(refs) > 1:
            ready, _ = (
                ray.wait(list(refs), num_returns=len(refs), timeout=0, fetch_local=False) if ready else (ready, 0)
            )
        events = [self._event(refs[ref]) for ref in ready]
        return [event for event in events if event is not None]

    def now(self) -> float:
        """Return seconds."""
        return time.monotonic()

    def are_gone(self) -> str:
        """Return why no worker is there and none will be."""
        return "" if self._slots else self._why_none()

    def drop(self, hand: Hand) -> None:
        """End a worker that is still at something; another takes its place."""
        slot = self._slots.get(hand)
        if slot is not None and slot.unit is not None:
            self._remove(slot)
            self._start(slot.node, slot.threads)

    def close(self) -> None:
        """End all that was started on the nodes."""
        self._end_all()
        for node in self._nodes.values():
            with contextlib.suppress(RayError):
                ray.kill(node.site)
        self._nodes.clear()

    # Nodes.

    def _look(self) -> None:
        """Take note of nodes that came, and of those that went."""
        self._looked = time.monotonic()
        alive = {found["NodeID"]: found for found in ray.nodes() if found["Alive"]}
        for gone in [each for each in self._nodes if each not in alive]:
            for slot in [slot for slot in self._slots.values() if slot.node.id == gone and slot.unit is None]:
                self._remove(slot)  # what is at a unit says so itself
            self._say(f"{self._nodes.pop(gone).name}: the node is gone")
        new = [self._met(each, found) for each, found in alive.items() if each not in self._nodes]
        new = [node for node in new if node.resources.get("CPU", 0) >= 1]
        self._describe(new)
        self._nodes |= {node.id: node for node in new if node.description is not None}
        if self._parcel is not None:
            self._equip([node for node in new if node.description is not None])

    def _met(self, number: str, found: Mapping[str, Any]) -> _Node:
        site = ray.remote(Site).options(num_cpus=0, scheduling_strategy=_on(number)).remote()
        host = str(found.get("NodeManagerHostname") or found.get("NodeName"))
        used = {node.name for node in self._nodes.values()}
        name = host if host not in used else f"{host}-{number[:4]}"
        return _Node(number, name, found["Resources"], site)

    def _describe(self, nodes: Iterable[_Node]) -> None:
        """Ask nodes what they are; raises ``ClusterError`` that lists those that have another whisq."""
        asked = {node.id: (node, node.site.describe.remote()) for node in nodes}
        wrong, names = [], {node.name for node in self._nodes.values()}
        for node, ref in asked.values():
            if node.name in names:
                node.name = f"{node.name}-{node.id[:4]}"
            names.add(node.name)
            try:
                node.description = ray.get(ref, timeout=STARTS_S)
            except RayTaskError as error:
                wrong.append(f"{node.name}: {error.cause if error.cause is not None else error}")
            except GetTimeoutError:
                self._say(f"{node.name}: left out: it does not answer")
            except RayActorError as error:
                if "import" in str(error).lower() or "No module" in str(error):
                    wrong.append(f"{node.name}: whisq cannot be imported there")
                else:
                    self._say(f"{node.name}: left out: it cannot start a process")
            else:
                wrong += [f"{node.name}: {text}" for text in self._identity.differences(node.description.identity)]
        if wrong:
            listed = "\n".join(f"  {line}" for line in wrong)
            raise ClusterError(
                f"nodes of the cluster are not as this machine is:\n{listed}",
                hint=f"install whisq {self._identity.whisq} of the same source on all nodes",
            )

    def _equip(self, nodes: list[_Node]) -> None:
        """Give nodes the job's files, and start workers on those that can do it."""
        parcel = self._parcel
        if parcel is None:
            return
        able = []
        for node in nodes:
            node.unfit = self._why_unfit(node, parcel.needs)
            if node.unfit:
                self._say(f"{node.name}: does not take part: {node.unfit}")
            else:
                able.append(node)
        self._send(able, parcel.sources)
        for node in able:
            if not node.unfit:
                slots, threads = _slots_of(node.resources, parcel.needs)
                for _ in range(slots):
                    self._start(node, threads)

    def _why_unfit(self, node: _Node, needs: Needs) -> str:
        slots, _ = _slots_of(node.resources, needs)
        if not slots:
            memory = megabytes(int(node.resources.get("memory", 0)))
            wants = f"a unit takes {megabytes(needs.memory_bytes):.0f} MB, {needs.threads or 1} cores"
            gpus = f" and {needs.gpus} GPUs" if needs.gpus else ""
            has = f"{memory:.0f} MB, {node.resources.get('CPU', 0):.0f} cores, {node.resources.get('GPU', 0):.0f} GPUs"
            return f"{wants}{gpus}; it has {has}"
        try:
            lacks = ray.get(node.site.lacks.remote(list(needs.packages)), timeout=STARTS_S)
        except RayError as error:
            return f"it does not answer ({type(error).__name__})"
        return f"it lacks {', '.join(lacks)}" if lacks else ""

    def _send(self, nodes: list[_Node], sources: Mapping[str, Source]) -> None:
        """Give nodes the sources that they do not have, each piece put into Ray's object store once for all of them."""
        found = [(node, node.site.find.remote(dict(sources))) for node in nodes]
        lacking: dict[str, list[_Node]] = {name: [] for name in sources}
        for node, ref in found:
            with self._blaming(node):
                for name, path in ray.get(ref).items():
                    if path is None:
                        lacking[name].append(node)
                    else:
                        node.paths[sources[name].key] = path
        for name, source in sources.items():
            self._send_one(source, lacking[name])

    def _send_one(self, source: Source, nodes: list[_Node]) -> None:
        for node in nodes:
            with self._blaming(node):
                ray.get(node.site.begin.remote(source))
        under_way: list[tuple[_Node, Any]] = []
        nodes = [node for node in nodes if not node.unfit]
        if not nodes:
            return
        for part, offset, content in source.pieces():
            piece = ray.put(content)
            for node in nodes:
                if not node.unfit:
                    under_way.append((node, node.site.put.remote(source, part, offset, piece)))
                    self._account.moved_bytes += len(content)
            del piece
            while len(under_way) > _IN_FLIGHT * len(nodes):
                self._take_note(*under_way.pop(0))
        for node, ref in under_way:
            self._take_note(node, ref)
        for node in nodes:
            if not node.unfit:
                with self._blaming(node):
                    node.paths[source.key] = ray.get(node.site.end.remote(source))

    def _take_note(self, node: _Node, ref: Any) -> None:
        with self._blaming(node):
            ray.get(ref)

    @contextlib.contextmanager
    def _blaming(self, node: _Node) -> Any:
        """Leave a node out where it fails."""
        try:
            yield
        except RayError as error:
            cause = error.cause if isinstance(error, RayTaskError) else None
            if not node.unfit:
                node.unfit = str(cause or type(error).__name__)
                self._say(f"{node.name}: does not take part: {node.unfit}")

    # Workers.

    def _start(self, node: _Node, threads: int) -> None:
        parcel = self._parcel
        if parcel is None or node.unfit or (node.id not in self._nodes and node.description is None):
            return
        worker = (
            ray.remote(Worker)
            .options(
                num_cpus=threads,
                num_gpus=parcel.needs.gpus,
                memory=parcel.needs.memory_bytes,
                scheduling_strategy=_on(node.id),
                max_restarts=0,
            )
            .remote()
        )
        slot = _Slot(Hand(next(self._numbers), node.name), node, threads, worker)
        slot.ref = worker.ready.remote()
        paths = {name: node.paths[source.key] for name, source in parcel.sources.items()}
        worker.begin.remote(self._parcel_ref, paths, threads)
        self._slots[slot.hand] = slot

    def _event(self, slot: _Slot) -> Event | None:
        unit, ref = slot.unit, slot.ref
        slot.unit = slot.ref = None
        try:
            result = ray.get(ref)
        except RayTaskError as error:
            cause = error.cause if isinstance(error.cause, Exception) else error
            return Event(slot.hand, unit, error=cause) if unit is not None else None
        except RayError as error:
            return self._ended(slot, unit, error)
        slot.node.failed_starts = 0
        if unit is None:
            slot.is_ready = True
            return None
        value, seconds = result
        kind = slot.node.description.kind if slot.node.description else ""
        gpus = self._parcel.needs.gpus if self._parcel else 0
        self._account.add(slot.node.name, kind, seconds, slot.threads, gpus)
        return Event(slot.hand, unit, value, seconds)

    def _ended(self, slot: _Slot, unit: Unit | None, error: RayError) -> Event | None:
        """Take note of a worker that is gone; where its node is there, another starts."""
        self._remove(slot)
        self._looked = 0.0
        if unit is None:
            slot.node.failed_starts += 1
            if slot.node.failed_starts >= MOST_STARTS * max(1, int(slot.node.resources.get("CPU", 1))):
                slot.node.unfit = "processes end there before they did anything"
                self._say(f"{slot.node.name}: does not take part: {slot.node.unfit}")
        if slot.node.id in {found["NodeID"] for found in ray.nodes() if found["Alive"]}:
            self._start(slot.node, slot.threads)
        if unit is None:
            return None
        self._left.pop(unit.key, None)
        return Event(slot.hand, unit, lost=f"the process ended ({type(error).__name__})")

    def _remove(self, slot: _Slot) -> None:
        self._slots.pop(slot.hand, None)
        with contextlib.suppress(RayError):
            ray.kill(slot.worker)

    def _end_all(self) -> None:
        for slot in list(self._slots.values()):
            self._remove(slot)

    def _why_none(self) -> str:
        reasons = [f"{node.name}: {node.unfit}" for node in self._nodes.values() if node.unfit]
        return "; ".join(reasons) or "the cluster has no nodes left"


def _on(node: str) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(node, soft=False)


def _slots_of(resources: Mapping[str, float], needs: Needs) -> tuple[int, int]:
    """Return how many units a node does at once, and the threads of each: memory first, then the cores it leaves."""
    cores = int(resources.get("CPU", 0))
    slots = min(cores // (needs.threads or 1), int(resources.get("memory", 0) // max(1, needs.memory_bytes)))
    if needs.gpus:
        slots = min(slots, int(resources.get("GPU", 0) // needs.gpus))
    if slots < 1:
        return 0, 0
    return slots, needs.threads or min(MOST_THREADS, cores // slots)
