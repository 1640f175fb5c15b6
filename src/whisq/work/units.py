"""Work in units that do not depend on each other: what one is, what many have in common, and who does them.

A command says what is to be done as a ``Job`` and its units, and an ``Executor`` does them: in this process, or on the
nodes of a Ray cluster. The values do not depend on which, nor on how many do it: a unit's value follows from the job
and its argument alone, and whoever adds values up does so in an order of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whisq.work.account import Account
    from whisq.work.content import Source


@dataclass(frozen=True, slots=True)
class Unit:
    """A piece of work: ``key`` tells it from all others of its job, ``argument`` is what the bench is given.

    ``cost`` is how long it takes beside other units, in seconds of one core as far as that is known: what time is left
    and which unit hangs are judged by it. ``leaves`` says that it makes something besides its value that later units
    can use, which then name its key in ``uses``: they do without, where that is lost.
    """

    key: str
    argument: Any
    cost: float = 1.0
    leaves: bool = False
    uses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Done:
    """A unit's value, the node that it was done on (empty: this process), and how many seconds that took."""

    unit: Unit
    value: Any
    node: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Needs:
    """What one bench takes: bytes of memory, threads (None: any number), GPUs, packages as NAME or NAME==VERSION."""

    memory_bytes: int
    threads: int | None = None
    gpus: int = 0
    packages: tuple[str, ...] = ()


class Bench(ABC):
    """Where the units of one job are done, one at a time: a model that is loaded, say."""

    @abstractmethod
    def do(self, argument: Any) -> Any:
        """Return the value of a unit."""

    def left(self, key: str) -> Any:
        """Return what the unit of a key left for others, None where there is nothing."""
        return None

    def take(self, key: str, left: Any) -> None:
        """Take what the unit of a key left on another bench; one whose ``has`` is always true is never given any."""
        raise NotImplementedError(key, left)

    def has(self, key: str) -> bool:
        """Return whether what a unit left is here already."""
        return True

    @abstractmethod
    def close(self) -> None:
        """Let go of what the bench holds."""


@dataclass(frozen=True)
class Parcel(ABC):
    """A job as it can be sent to another process: a picklable value. ``sources`` are the files that it reads."""

    sources: Mapping[str, Source]
    needs: Needs

    @abstractmethod
    def open(self, paths: Mapping[str, Path], threads: int) -> Bench:
        """Return a bench, given where each of ``sources`` is there."""


class Job(ABC):
    """What many units have in common."""

    @property
    def title(self) -> str:
        """What the units do, in a word or two."""
        return "work"

    @abstractmethod
    def open(self) -> Bench:
        """Return a bench in this process, made of what is open here."""

    @abstractmethod
    def parcel(self) -> Parcel:
        """Return the job as it can be sent."""


class Executor(ABC):
    """Who does units. One job is open at a time: of that the bench is kept from call to call."""

    account: Account

    @abstractmethod
    def run(self, job: Job, units: Iterable[Unit]) -> Iterator[Done]:
        """Yield every unit with its value, in the order in which they are finished.

        Units are taken as there is room for them. Raises what a bench raises of the user's own, and ``ClusterError``
        with the names of units that failed again and again, after all others were yielded.
        """

    @property
    def is_here(self) -> bool:
        """True where units are done in this process, which has the job's files and packages then."""
        return True

    @abstractmethod
    def close(self) -> None:
        """Let go of the job."""


@dataclass(slots=True)
class Failure:
    """A unit that could not be done, and why, once for each try."""

    unit: Unit
    reasons: list[str] = field(default_factory=list)
