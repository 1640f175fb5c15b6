"""Groups of windows and of lines, and their sums added in the order of the groups.

The groups follow from the data alone. What each has is added to what those before it have together, whoever made it
and whenever it came: so the sums are the same, bit for bit, in one process and on any number of machines of one kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from whisq.calibration.spill import save_arrays
from whisq.calibration.sums import Sums

if TYPE_CHECKING:
    from whisq.calibration.sums import Packed
    from whisq.calibration.texts import Line
    from whisq.network.operations import Operations

MOST_GROUPS = 64
"""The sums of a group are sent, and those of large-v3 take 70 MB in a layer: of many windows groups are larger."""
WINDOWS = 2
"""Windows of a group, at least: both go into one half of the sums, by one product."""
LINES = 16
"""Lines of a group, at least: so many vectors are worth a product."""
_IN_MEMORY = 4
"""Groups that wait for others in memory; more of them wait on disk."""


def groups_of_windows(n_windows: int) -> list[range]:
    """Return the numbers of windows, group by group."""
    size = WINDOWS * -(-n_windows // (WINDOWS * MOST_GROUPS))
    return [range(start, min(start + size, n_windows)) for start in range(0, n_windows, size)]


def groups_of_lines(lines: Sequence[Line]) -> list[range]:
    """Return the numbers of lines, which are sorted by window, group by group: all lines of a window are in one."""
    size = max(LINES, -(-len(lines) // MOST_GROUPS))
    groups, start = [], 0
    for stop in range(1, len(lines) + 1):
        is_end = stop == len(lines) or lines[stop].window != lines[stop - 1].window
        if is_end and (stop - start >= size or stop == len(lines)):
            groups.append(range(start, stop))
            start = stop
    return groups


class InOrder:
    """The sums of all groups together, by input; ``folder`` is for what comes early and waits, None for memory."""

    def __init__(self, operations: Operations, folder: Path | None) -> None:
        self.sums: dict[str, Sums] = {}
        self._operations, self._folder = operations, folder
        self._early: dict[int, Mapping[str, Sums | Packed] | Path] = {}
        self._next = 0

    def put(self, number: int, found: Mapping[str, Sums | Packed]) -> None:
        """Add what the group of a number has, counted from 0, by input: as it is, or packed."""
        self._early[number] = found
        while self._next in self._early:
            self._add(self._early.pop(self._next))
            self._next += 1
        if number in self._early:
            self._set_aside(number, found)

    def _add(self, found: Mapping[str, Sums | Packed] | Path) -> None:
        if isinstance(found, Path):
            path, found = found, _load(found)
            path.unlink()
        for name, some in found.items():
            mine = self.sums.setdefault(name, Sums(self._operations))
            mine.take(some if isinstance(some, Sums) else Sums.unpacked(self._operations, some))

    def _set_aside(self, number: int, found: Mapping[str, Sums | Packed]) -> None:
        if self._folder is None or len(self._early) <= _IN_MEMORY:
            return
        path = self._folder / f"early-{number}.npz"
        packed = {name: some.packed() if isinstance(some, Sums) else some for name, some in found.items()}
        entries = {f"{name}:{key}": values for name, some in packed.items() for key, values in some.items()}
        save_arrays(path, **entries)
        self._early[number] = path


def _load(path: Path) -> dict[str, Packed]:
    found: dict[str, dict[str, np.ndarray]] = {}
    with np.load(path) as file:
        for entry in file.files:
            name, _, key = entry.rpartition(":")
            found.setdefault(name, {})[key] = file[entry]
    return dict(found)
