"""How long work says how far it is, and how long all of its stages together will still take."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

Progress = Callable[[str, float, float], None]
"""Called with what is being done, how much of it is done, and how much there is; from any thread."""

Expect = Callable[[Mapping[str, float]], None]
"""Called with the stages to come in order, and how long each takes compared with the others."""

_ENOUGH = 0.1
"""Done of a stage by which its own pace says more than that of the others."""


def no_progress(label: str, done: float, total: float) -> None:
    """Say nothing."""
    del label, done, total


def expect_nothing(shares: Mapping[str, float]) -> None:
    """Say nothing."""
    del shares


class TimeLeft:
    """Seconds that all stages will still take, by what is expected of them and by how long the earlier ones took.

    A stage that is not among those expected counts as part of the one before it. Those that were skipped, since an
    earlier run had done them, are not waited for.
    """

    def __init__(self, shares: Mapping[str, float], clock: Callable[[], float] = time.monotonic) -> None:
        self._shares, self._clock = dict(shares), clock
        self._order = list(self._shares)
        self._spent_s = dict.fromkeys(self._shares, 0.0)
        self._stage, self._since, self._done = "", clock(), 0.0

    def at(self, stage: str, done: float, total: float) -> float | None:
        """Return the seconds left when so much of a stage is done, None as long as nothing tells."""
        now = self._clock()
        if stage in self._shares and stage != self._stage:
            self._pass(now)
            self._stage, self._since = stage, now
        if not self._stage:
            return None
        if stage == self._stage:
            self._done = min(1.0, done / total) if total else 1.0
        place = self._order.index(self._stage)
        spent_s, share = now - self._since, self._shares[self._stage]
        behind = [name for name in self._order[:place] if self._spent_s[name]]
        paced = sum(self._shares[name] for name in behind) + share * self._done
        if not paced:
            return None
        pace = (sum(self._spent_s[name] for name in behind) + (spent_s if self._done else 0.0)) / paced
        mine_s = pace * share * (1 - self._done)
        if self._done >= _ENOUGH:
            mine_s = spent_s * (1 - self._done) / self._done
        return mine_s + pace * sum(self._shares[name] for name in self._order[place + 1 :])

    def _pass(self, now: float) -> None:
        if self._stage:
            self._spent_s[self._stage] += now - self._since
            self._done = 0.0
