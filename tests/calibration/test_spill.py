"""What an unfinished calibration keeps, in memory and in a folder that the next run finds."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.calibrations import moments_of
from whisq.calibration.spill import Checkpoint
from whisq.network.numpy_operations import NumpyOperations

OPERATIONS = NumpyOperations()


def windows(seed: int) -> list[np.ndarray]:
    """Return something of each of twelve windows: more than one digit numbers."""
    random = np.random.default_rng(seed)
    return [random.standard_normal((1, 2 + n, 3)).astype(np.float32) for n in range(12)]


@pytest.mark.parametrize("in_memory", [False, True])
def test_attention_is_that_of_all_layers_together(tmp_path: Path, in_memory: bool) -> None:
    states = Checkpoint(None if in_memory else tmp_path, "key", OPERATIONS).states
    layers = [windows(seed) for seed in range(3)]
    for number, received in enumerate(layers):
        states.put_attention(number, received)
    found = states.attention(3)
    for mine, parts in zip(found, zip(*layers, strict=True), strict=True):
        np.testing.assert_allclose(mine, sum(parts), rtol=1e-6)


def test_another_run_finds_how_far_the_last_one_was(tmp_path: Path) -> None:
    first = Checkpoint(tmp_path, "key", OPERATIONS)
    assert first.stage == 0
    moments, hidden = moments_of(8, seed=1), windows(2)
    first.put("a", moments)
    first.put_texts({"clip": [3, 4]})
    first.finish(5, hidden)
    again = Checkpoint(tmp_path, "key", OPERATIONS)
    assert again.stage == 5
    assert (again.text("clip"), again.text("other")) == ([3, 4], [])
    assert again.counts(["b", "a"]) == {"a": 500}
    assert np.array_equal(again.load("a").second_moment, moments.second_moment)
    assert all(map(np.array_equal, again.states.load(5), hidden))
    assert Checkpoint(tmp_path, "other", OPERATIONS).stage == 0
    again.remove()
    assert Checkpoint(tmp_path, "key", OPERATIONS).stage == 0


@pytest.mark.skipif(sys.platform == "win32", reason="no locks that end with their process are used there")
def test_two_processes_at_once_are_not_in_each_others_way(tmp_path: Path) -> None:
    other = (
        "import sys; from pathlib import Path; from whisq.calibration.spill import Checkpoint;"
        " from whisq.network.numpy_operations import NumpyOperations as Used;"
        " held = Checkpoint(Path(sys.argv[1]), 'key', Used()); print('held', flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", other, tmp_path]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        mine = Checkpoint(tmp_path, "key", OPERATIONS)
        mine.finish(3, [])
        assert (tmp_path / "calibrate" / "key-2" / "state.json").exists()
        assert Checkpoint(tmp_path, "key", OPERATIONS).stage == 3
        mine.remove()
        assert (tmp_path / "calibrate" / "key" / "lock").exists()
    assert Checkpoint(tmp_path, "key", OPERATIONS).stage == 0
