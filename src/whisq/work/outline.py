"""What work would take, said before any of it is done: units, seconds of a core, files to be sent, memory of a unit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from whisq.units import megabytes
from whisq.work.account import Account
from whisq.work.units import Done, Executor, Job, Unit


def _hours(core_s: float) -> str:
    hours = core_s / 3600
    return f"{hours:.2g}" if hours < 10 else f"{hours:.0f}"


@dataclass(frozen=True, slots=True)
class Stage:
    """Units of one kind; ``sent_bytes`` is what goes to and fro with them, files apart."""

    name: str
    units: int
    core_s: float
    sent_bytes: int = 0


class Outline(Executor):
    """Takes note of units and does none of them: their stages, what files they read, and what memory one takes."""

    def __init__(self) -> None:
        self.account = Account()
        self.stages: list[Stage] = []
        self.memory_bytes = 0
        self._files: dict[str, int] = {}

    @property
    def is_here(self) -> bool:
        """False: nothing is done in this process."""
        return False

    def run(self, job: Job, units: Iterable[Unit]) -> Iterator[Done]:
        """Take note of units, and yield none."""
        self.note(job.title, job, [unit.cost for unit in units])
        yield from ()

    def note(self, name: str, job: Job, costs: Iterable[float], sent_bytes: int = 0) -> None:
        """Take note of units of a job by what they cost, in seconds of a core each."""
        listed = list(costs)
        if not listed:
            return
        parcel = job.parcel()
        self.stages.append(Stage(name, len(listed), sum(listed), sent_bytes))
        self._files |= {source.key: source.size_bytes for source in parcel.sources.values()}
        self.memory_bytes = max(self.memory_bytes, parcel.needs.memory_bytes)

    def close(self) -> None:
        """Hold nothing."""

    @property
    def file_bytes(self) -> int:
        """Bytes of the files that a node is sent which has none of them."""
        return sum(self._files.values())

    def lines(self) -> Iterator[str]:
        """Yield what was noted, as a table."""
        if not self.stages:
            yield "nothing is left to do elsewhere"
            return
        width = max(len(stage.name) for stage in self.stages)
        yield f"{'':{width}} {'units':>8} {'core-hours':>11} {'MB to and fro':>14}"
        for stage in self.stages:
            sent = f"{megabytes(stage.sent_bytes):.0f}"
            yield f"{stage.name:{width}} {stage.units:>8} {_hours(stage.core_s):>11} {sent:>14}"
        units, core_s = sum(stage.units for stage in self.stages), sum(stage.core_s for stage in self.stages)
        sent = f"{megabytes(sum(stage.sent_bytes for stage in self.stages)):.0f}"
        yield f"{'all':{width}} {units:>8} {_hours(core_s):>11} {sent:>14}"
        yield (
            f"a unit takes {megabytes(self.memory_bytes):.0f} MB of memory; a node that has none of the files is sent"
            f" {megabytes(self.file_bytes):.0f} MB"
        )
        yield "hours are an estimate for a core with AVX2 at 2 GHz; nothing was started"

    def document(self, command: str) -> Mapping[str, Any]:
        """Return the same as JSON's types."""
        return {
            "command": command,
            "stages": [
                {"name": s.name, "units": s.units, "core_s": round(s.core_s, 1), "sent_bytes": s.sent_bytes}
                for s in self.stages
            ],
            "units": sum(stage.units for stage in self.stages),
            "core_s": round(sum(stage.core_s for stage in self.stages), 1),
            "sent_bytes": sum(stage.sent_bytes for stage in self.stages),
            "file_bytes": self.file_bytes,
            "unit_memory_bytes": self.memory_bytes,
        }
