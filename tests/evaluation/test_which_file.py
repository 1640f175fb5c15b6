"""Which file to ship: order, what is dropped, and when there is no answer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from whisq.evaluation.statistics import Interval, paired_difference
from whisq.evaluation.which_file import HARMLESS_NATS, LOSS_NATS, MeasuredFile, which_file

N_CLIPS = 20
TOKENS = (30,) * N_CLIPS
ANYWHERE = frozenset({"stock", "mixes"})
RUNTIMES = ("stock", "mixes")


def words(edits: int, clips: int = N_CLIPS):
    """The difference of a file that writes so many words more wrong in each clip."""
    return paired_difference([1 + edits] * clips, [1] * clips, [20] * clips)


def file(name: str, size: int, nats: float, loads_in=ANYWHERE, edits: int = 0, wobble: float = 0.1) -> MeasuredFile:
    sums = tuple(30 * nats * (1 + wobble * (-1) ** clip) for clip in range(N_CLIPS))
    return MeasuredFile(name, size, loads_in, sums, TOKENS, words(edits), Interval(0.01, 0.0, 0.02))


REFERENCE = MeasuredFile("f16", 100, ANYWHERE, is_reference=True)
Q8, Q5, Q4 = file("q8", 60, 0.0003), file("q5", 40, 0.006), file("q4", 30, 0.08)


def names(rungs) -> list[str]:
    return [rung.file.name for rung in rungs]


def test_files_stand_by_size_and_the_smallest_good_enough_are_the_answers() -> None:
    found = which_file([REFERENCE, Q8, Q4, Q5], RUNTIMES)
    assert names(found.ladder) == ["q4", "q5", "q8", "f16"]
    assert [rung.standing for rung in found.rungs] == ["beyond the loss", "within the loss", "not worse", "reference"]
    assert [(one.runtime, one.rung.file.name) for one in found.not_worse] == [("", "q8")]
    assert [(one.runtime, one.rung.file.name) for one in found.within] == [("", "q5")]


def test_a_loss_that_was_stated_is_the_one_that_counts() -> None:
    assert which_file([REFERENCE, Q8, Q4, Q5], loss_nats=0.1).within[0].rung.file.name == "q4"
    assert which_file([REFERENCE, Q8, Q4, Q5], loss_nats=0.001).within[0].rung.file.name == "q8"


def test_larger_and_not_closer_is_dropped_and_says_for_which() -> None:
    larger = file("balanced", 50, 0.006)
    found = which_file([REFERENCE, Q8, Q5, larger, Q4])
    assert names(found.ladder) == ["q4", "q5", "q8", "f16"]
    assert [(rung.file.name, rung.dropped_for) for rung in found.dropped] == [("balanced", "q5")]


def test_closer_beyond_the_paired_interval_stays_however_wide_the_two_intervals_are() -> None:
    """Clips differ a hundredfold; on each of them the larger file is a tenth closer."""
    per_clip = [30 * 0.0001 * (1 + clip) ** 2 for clip in range(N_CLIPS)]
    small = replace(Q5, sums=tuple(per_clip))
    large = replace(Q8, sums=tuple(0.9 * value for value in per_clip))
    found = which_file([REFERENCE, small, large])
    assert found.rungs[0].divergence.low < found.rungs[1].divergence.estimate < found.rungs[0].divergence.high
    assert not found.dropped
    noisy = replace(large, sums=tuple(value * (1.3 if clip % 2 else 0.7) for clip, value in enumerate(per_clip)))
    assert names(which_file([REFERENCE, small, noisy]).dropped) == ["q8"]


def test_what_loads_elsewhere_is_not_dropped_for_what_does_not_and_has_its_own_answer() -> None:
    mix = file("mix", 35, 0.0003, frozenset({"mixes"}))
    found = which_file([REFERENCE, mix, Q8, Q5], RUNTIMES)
    assert names(found.ladder) == ["mix", "q5", "q8", "f16"]
    assert [(one.runtime, one.rung.file.name) for one in found.not_worse] == [("", "mix"), ("stock", "q8")]
    uniform = file("uniform", 30, 0.0003)
    assert names(which_file([REFERENCE, mix, uniform], RUNTIMES).dropped) == ["mix"]


def test_worse_in_words_is_worse_however_near_inside() -> None:
    harmed = file("harmed", 20, 0.0001, edits=3)
    found = which_file([REFERENCE, harmed, Q8])
    assert found.rungs[0].standing == "worse in words"
    assert found.not_worse[0].rung.file.name == "q8"
    assert not found.dropped, "nothing is dropped for a file that is worse in words"


def test_words_alone_tell_nothing_but_that_a_file_is_worse() -> None:
    same, worse = replace(Q8, sums=(), tokens=()), replace(Q4, sums=(), tokens=(), words=words(3))
    found = which_file([REFERENCE, same, worse])
    assert {rung.file.name: rung.standing for rung in found.rungs} == {
        "f16": "reference", "q8": "not told", "q4": "worse in words"
    }  # fmt: skip
    assert found.not_worse[0].rung is found.within[0].rung is None


def test_divergence_alone_never_says_not_worse() -> None:
    found = which_file([REFERENCE, replace(Q8, words=None)])
    assert found.rungs[0].standing == "within the loss"
    assert found.not_worse[0].rung is None


def test_one_clip_gives_no_interval_and_no_answer() -> None:
    one = replace(Q8, sums=(0.001,), tokens=(30,), words=words(0, 1))
    other = replace(Q5, sums=(0.002,), tokens=(30,), words=words(0, 1))
    found = which_file([REFERENCE, one, other])
    assert {rung.standing for rung in found.rungs} == {"reference", "not told"}
    assert not found.dropped


def test_an_interval_across_the_loss_is_called_so() -> None:
    wide = replace(Q5, sums=tuple(30 * 0.005 * (8 if clip % 7 == 0 else 1) for clip in range(N_CLIPS)))
    (rung, _) = which_file([REFERENCE, wide]).rungs
    assert rung.divergence.low < LOSS_NATS < rung.divergence.high
    assert rung.standing == "perhaps within the loss"


def test_a_file_that_was_not_run_is_no_answer() -> None:
    failed = MeasuredFile("iq4", 25, frozenset(), failure="it does not take iq4_nl")
    found = which_file([REFERENCE, failed, Q8])
    assert found.named("iq4").standing == "not run"
    assert found.not_worse[0].rung.file.name == "q8"


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
def test_the_order_in_which_files_are_named_changes_nothing(order) -> None:
    files = [REFERENCE, Q8, Q5, Q4]
    assert which_file([files[place] for place in order], RUNTIMES) == which_file(files, RUNTIMES)


def test_harmless_is_less_than_the_loss() -> None:
    assert 0 < HARMLESS_NATS < LOSS_NATS
