"""Which tokens a reference may write, with timestamps and without, and what a model led through them is asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.support.containers import write_model
from tests.support.models import NARROW
from whisq.clips.audio import Samples
from whisq.evaluation.divergence import compare
from whisq.evaluation.forced import Choices, InRuntime
from whisq.formats.special_tokens import SpecialTokens
from whisq.network.numpy_operations import NumpyOperations

# Ids 0 to 9 are text, 10 the end, 11 the start, 12 "no timestamps", and from 13 on times: 13 is 0.00 s.
END, START, NO_TIMES, BEGIN, N_VOCAB = 10, 11, 12, 13, 100


@pytest.fixture
def special() -> SpecialTokens:
    return SpecialTokens(
        Path("model.bin"), END, START, None, None, None, None, NO_TIMES, BEGIN, {}, {}, suppress=(), begin_suppress=()
    )


@pytest.fixture
def choices(special: SpecialTokens) -> Choices:
    return Choices(special, np.arange(N_VOCAB) < END)


def scores(**likely: float) -> np.ndarray:
    """Return logits of -9, with those given by id (``t3=1.0``) instead."""
    found = np.full(N_VOCAB, -9, np.float32)
    for name, value in likely.items():
        found[int(name[1:])] = value
    return found


def test_text_is_text_or_the_end(choices: Choices) -> None:
    assert choices.text(scores(t12=9, t20=8, t3=1)) == 3
    assert choices.text(scores(t12=9, t10=2, t3=1)) == END


@pytest.mark.parametrize(
    ("written", "likely", "chosen"),
    [
        ([], {"t3": 9, "t14": 1}, 14),  # the first is a time
        ([], {"t90": 9, "t14": 1}, 14),  # of a second at most
        ([13], {"t20": 9, "t3": 1}, 3),  # a segment that was opened has text
        ([13, 3], {"t20": 9, "t4": 1}, 20),  # and may be ended
        ([13, 3], {"t13": 9, "t4": 1}, 4),  # but not where it began
        ([13, 3, 20], {"t4": 9, "t20": 1}, 20),  # after its end the next one begins, there at the earliest
        ([13, 3, 20], {"t4": 9, "t19": 8, "t10": 7}, END),  # or all ends
        ([13, 3, 20, 20, 5], {"t20": 9, "t21": 8}, 21),
    ],
)
def test_timestamps_come_in_pairs_and_never_go_back(
    choices: Choices, written: list[int], likely: dict[str, float], chosen: int
) -> None:
    assert choices.with_timestamps(scores(**likely), written) == chosen


def test_times_that_are_likely_together_are_written(choices: Choices) -> None:
    many = {f"t{number}": 0.9 for number in range(20, 30)}
    assert choices.with_timestamps(scores(t3=1, **many), [13, 4]) == 20
    assert choices.with_timestamps(scores(t3=9, **many), [13, 4]) == 3


class Told:
    """Writes 1 2 with times around it; ``late`` puts its second time off by three steps."""

    def __init__(self, late: int = 0, less: float = 0.0) -> None:
        self.late, self.less, self.calls = late, less, 0

    def hear(self, samples: Samples) -> None:
        pass

    def close(self) -> None:
        pass

    def after(self, ids: Sequence[int]) -> np.ndarray:
        self.calls += 1
        written = [number for number in ids if number not in (START, NO_TIMES)]
        text = sum(number < END for number in written)
        if NO_TIMES not in ids and (not written or (text == 2 and written[-1] < BEGIN)):
            return scores(**{f"t{BEGIN + 30 + self.late if written else BEGIN}": 9})
        following = [1, 2, END][text]
        return scores(**{f"t{following}": 9 - self.less, "t7": 1})


def in_runtime(tmp_path: Path, choices: Choices, told: Told) -> InRuntime:
    model = InRuntime(write_model(tmp_path / "model.bin", NARROW), told)
    model.special, model.choices, model._n_text_ctx = choices.special, choices, 20
    return model


def test_divergence_and_shift_of_times_are_apart(tmp_path: Path, choices: Choices) -> None:
    reference, candidate = Told(), Told(late=3, less=1.0)
    found = {
        "divergences": [], "same_top": 0, "encoder_error": 0.0, "encoder_power": 0.0,
        "timestamp_divergences": [], "shifts_s": [],
    }  # fmt: skip
    models = [in_runtime(tmp_path, choices, told) for told in (reference, candidate)]
    compare(*models, NumpyOperations(), np.zeros(16000, np.float32), "en", found)
    assert len(found["divergences"]) == found["same_top"] == 3
    assert found["shifts_s"] == [0.0, 0.06]
    assert found["timestamp_divergences"][0] == 0
    assert found["timestamp_divergences"][1] > 1
    # 1, 2 and the end, and the same with two times: the reference's own logits are not asked for again.
    assert reference.calls == candidate.calls == 3 + 5


def test_the_text_context_is_not_exceeded(tmp_path: Path, choices: Choices) -> None:
    model = in_runtime(tmp_path, choices, Told())
    model._n_text_ctx = 3
    assert model.write([START, NO_TIMES]) == [START, NO_TIMES, 1]
