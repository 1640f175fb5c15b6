"""Units done in this process, one after the other."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from whisq.work.account import Account
from whisq.work.units import Bench, Done, Executor, Job, Unit


class Local(Executor):
    """Does units as they are asked for; what uses several threads inside does so."""

    def __init__(self) -> None:
        self.account = Account()
        self._job: Job | None = None
        self._bench: Bench | None = None

    def run(self, job: Job, units: Iterable[Unit]) -> Iterator[Done]:
        """Yield every unit with its value, in their order; raises what the bench raises."""
        for unit in units:
            if self._bench is None or self._job is not job:
                self.close()
                self._bench, self._job = job.open(), job
            started = time.perf_counter()
            value = self._bench.do(unit.argument)
            yield Done(unit, value, seconds=time.perf_counter() - started)

    def close(self) -> None:
        """Let go of the job's bench."""
        if self._bench is not None:
            self._bench.close()
        self._bench = self._job = None
