"""What all stages together will still take, by what was expected of them and by what they took."""

from __future__ import annotations

import pytest

from whisq.progress import TimeLeft

SHARES = {"reading": 10.0, "rounding": 60.0, "measuring": 30.0}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_nothing_is_said_as_long_as_nothing_tells(clock: Clock) -> None:
    left = TimeLeft(SHARES, clock)
    assert left.at("something else", 1, 2) is None
    assert left.at("reading", 0, 4) is None


def test_the_pace_of_a_stage_is_that_of_all_to_come(clock: Clock) -> None:
    left = TimeLeft(SHARES, clock)
    left.at("reading", 0, 4)
    clock.now = 10.0
    # Half of ten took ten seconds: another ten, and twice ninety.
    assert left.at("reading", 2, 4) == pytest.approx(10 + 180)


def test_a_stage_that_has_hardly_begun_is_judged_by_those_before(clock: Clock) -> None:
    left = TimeLeft(SHARES, clock)
    left.at("reading", 0, 1)
    clock.now = 20.0
    assert left.at("rounding", 0, 100) == pytest.approx(2 * 90)
    clock.now = 20.5
    assert left.at("rounding", 0, 100) == pytest.approx(2 * 90)
    clock.now = 50.0
    # Half of sixty in thirty seconds. All of it: 50 s for 10 + 30.
    assert left.at("rounding", 50, 100) == pytest.approx(30 + 30 * 50 / 40)


def test_it_comes_down_to_nothing(clock: Clock) -> None:
    left = TimeLeft(SHARES, clock)
    told = []
    for stage, took in (("reading", 10), ("rounding", 60), ("measuring", 30)):
        for tenth in range(11):
            told.append(left.at(stage, tenth, 10))
            clock.now += took / 10 if tenth < 10 else 0
    known = [seconds for seconds in told if seconds is not None]
    assert known == sorted(known, reverse=True)
    assert known[0] == pytest.approx(99)
    assert known[-1] == pytest.approx(0)


def test_what_was_not_expected_belongs_to_the_stage_before(clock: Clock) -> None:
    left = TimeLeft(SHARES, clock)
    left.at("reading", 1, 1)
    clock.now = 10.0
    assert left.at("writing texts", 0, 5) == pytest.approx(90)
    clock.now = 20.0
    assert left.at("rounding", 0, 5) == pytest.approx(180)


def test_stages_that_an_earlier_run_has_done_are_not_waited_for(clock: Clock) -> None:
    left = TimeLeft(SHARES, clock)
    left.at("measuring", 0, 10)
    clock.now = 6.0
    assert left.at("measuring", 2, 10) == pytest.approx(24)
    left = TimeLeft(SHARES, clock)
    left.at("reading", 1, 1)
    clock.now = 16.0
    # Rounding was skipped: reading alone tells the pace.
    assert left.at("measuring", 0, 10) == pytest.approx(30)
