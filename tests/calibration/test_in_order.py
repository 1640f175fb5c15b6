"""Groups follow from the data, and their sums are the same bit for bit whenever they come."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from whisq.calibration.in_order import InOrder, groups_of_lines, groups_of_windows
from whisq.calibration.sums import Sums
from whisq.calibration.texts import Line
from whisq.network.numpy_operations import NumpyOperations

OPERATIONS = NumpyOperations(1)
WIDTH = 24


def sums_of(windows: range, *, weighted: bool = True) -> Sums:
    """Return the sums of windows whose vectors follow from their numbers; no two windows are equally large."""
    found = Sums(OPERATIONS, windows.start)
    for number in windows:
        random = np.random.default_rng(number)
        x = (10.0 ** (number * 7 % 5) * random.standard_normal((50 + number, WIDTH))).astype(np.float32)
        found.add(x, random.uniform(0.5, 1, len(x)).astype(np.float32) if weighted else None)
    return found


def total(order: tuple[int, ...], groups: list[range], folder: Path | None, *, packed: bool) -> Sums:
    adding = InOrder(OPERATIONS, folder)
    for number in order:
        found = sums_of(groups[number])
        adding.put(number, {"a.b": found.packed() if packed else found})
    return adding.sums["a.b"]


def bits(sums: Sums) -> dict[str, bytes]:
    """Return the sums in float64, before they are rounded to moments."""
    return {name: values.tobytes() for name, values in sums.packed().items()}


@pytest.mark.parametrize("packed", [False, True])
def test_sums_do_not_depend_on_when_groups_come(tmp_path: Path, packed: bool) -> None:
    groups = groups_of_windows(11)
    assert groups == [*(range(start, start + 2) for start in range(0, 10, 2)), range(10, 11)]
    in_turn = tuple(range(len(groups)))
    expected = bits(total(in_turn, groups, None, packed=False))
    for order in itertools.islice(itertools.permutations(in_turn), 0, None, 37):
        assert bits(total(order, groups, tmp_path, packed=packed)) == expected, order
    assert bits(total(in_turn, groups[::-1], None, packed=False)) != expected, "any order of adding would have served"


def test_many_that_wait_do_so_on_disk_and_leave_nothing(tmp_path: Path) -> None:
    groups = groups_of_windows(20)
    adding = InOrder(OPERATIONS, tmp_path)
    for number in range(1, len(groups)):
        adding.put(number, {"a.b": sums_of(groups[number]).packed()})
    assert len(list(tmp_path.iterdir())) == len(groups) - 1 - 4
    adding.put(0, {"a.b": sums_of(groups[0]).packed()})
    assert not list(tmp_path.iterdir())
    assert bits(adding.sums["a.b"]) == bits(total(tuple(range(len(groups))), groups, None, packed=False))


def test_there_are_never_many_groups_and_windows_are_not_split() -> None:
    for count in (1, 2, 3, 127, 128, 129, 5000):
        groups = groups_of_windows(count)
        assert [number for group in groups for number in group] == list(range(count))
        assert len(groups) <= 64
        assert all(group.start % 2 == 0 for group in groups)
    lines = [Line(number // 7, "en", [1, 2]) for number in range(1000)]
    groups = groups_of_lines(lines)
    assert [number for group in groups for number in group] == list(range(1000))
    assert len(groups) <= 64
    assert all(lines[group.start].window != lines[group.start - 1].window for group in groups[1:])
    assert groups_of_lines(lines[:10]) == [range(10)]
