"""A job whose units say when they are done, wait, fail or die: for what a cluster does about it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whisq.errors import WeightError
from whisq.work import Bench, Job, Needs, Parcel, Source


class Squares(Bench):
    """Squares numbers; a line of the journal for each."""

    def __init__(self, journal: Path, offset: int) -> None:
        self._journal, self._offset, self._done = journal, offset, {}

    def do(self, argument: tuple[str, Any]) -> Any:
        """Return the square, or do what is said."""
        what, value = argument
        if what == "empty":
            return None
        with self._journal.open("a") as stream:
            stream.write(f"{what} {value} {os.environ.get('WHISQ_CACHE')}\n")
        if what == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "fails":
            raise ValueError(f"{value} has no square")
        if what == "refuses":
            raise WeightError(f"{value} is not finite", hint="convert it again")
        if what == "waits":
            time.sleep(0.4)
        if what == "hangs once" and not (marker := self._journal.with_suffix(".hung")).exists():
            marker.touch()
            time.sleep(600)
        self._done[str(value)] = value
        return value * value + self._offset

    def left(self, key: str) -> Any:
        return self._done.get(key)

    def close(self) -> None:
        self._done.clear()


@dataclass(frozen=True)
class SquaresParcel(Parcel):
    """How it is sent: the journal's place, and the offset in a file."""

    journal: Path = Path()

    def open(self, paths: Mapping[str, Path], threads: int) -> Squares:
        return Squares(self.journal, int(paths["offset"].read_text()))


@dataclass(frozen=True, eq=False)
class SquaresJob(Job):
    """Units of it."""

    journal: Path
    offset: Path
    needs: Needs = field(default_factory=lambda: Needs(200_000_000))

    def open(self) -> Squares:
        return Squares(self.journal, int(self.offset.read_text()))

    def parcel(self) -> SquaresParcel:
        return SquaresParcel({"offset": Source.of(self.offset)}, self.needs, self.journal)
