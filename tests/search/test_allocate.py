"""The knapsack: never over the budget, never worse than any other mix, never worse with more."""

import sys
from itertools import product

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from whisq.errors import CalibrationError, PlanError
from whisq.search import Choice, Mix, Sensitivity, allocate, fastest, read_sensitivity, write_sensitivity

options = st.lists(
    st.builds(Choice, st.just("q"), st.integers(1, 2000), st.floats(0, 1, allow_subnormal=False)),
    min_size=1,
    max_size=4,
)
cases = st.dictionaries(st.text("abcdef", min_size=1, max_size=3), options, min_size=1, max_size=4)


def total(chosen) -> tuple[int, float]:
    return sum(c.size_bytes for c in chosen.values()), sum(c.harm for c in chosen.values())


def brute_force(choices, budget: int) -> float:
    mixes = product(*choices.values())
    return min(sum(c.harm for c in mix) for mix in mixes if sum(c.size_bytes for c in mix) <= budget)


@pytest.fixture(params=["table", "HiGHS"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of solving; the table takes every case of these tests."""
    if request.param == "HiGHS":
        monkeypatch.setattr(sys.modules["whisq.search.allocate"], "LARGEST_TABLE", 0)
    return request.param


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(choices=cases, part=st.floats(0, 1))
def test_it_is_the_best_of_all_mixes_and_within_the_budget(way: str, choices, part: float) -> None:
    low = sum(min(c.size_bytes for c in opts) for opts in choices.values())
    high = sum(max(c.size_bytes for c in opts) for opts in choices.values())
    budget = round(low + part * (high - low))
    size, harm = total(allocate(choices, budget))
    assert size <= budget
    assert harm <= brute_force(choices, budget) + (1e-12 if way == "table" else 1e-5)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(choices=cases, first=st.integers(0, 8000), second=st.integers(0, 8000))
def test_more_budget_never_does_more_harm(way: str, choices, first: int, second: int) -> None:
    low = sum(min(c.size_bytes for c in opts) for opts in choices.values())
    less, more = sorted((low + first, low + second))
    assert total(allocate(choices, more))[1] <= total(allocate(choices, less))[1] + 1e-5


timed = st.lists(
    st.builds(Choice, st.just("q"), st.integers(1, 2000), st.floats(0, 1, allow_subnormal=False), st.floats(0, 1)),
    min_size=1,
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text("abcdef", min_size=1, max_size=3), timed, min_size=1, max_size=4), st.floats(0, 1))
def test_the_fastest_keeps_both_limits_and_is_no_slower_than_any_that_keeps_them_by_a_margin(choices, part) -> None:
    low = sum(min(c.size_bytes for c in opts) for opts in choices.values())
    high = sum(max(c.size_bytes for c in opts) for opts in choices.values())
    budget = round(low + part * (high - low))
    most = 1.1 * total(allocate(choices, budget))[1]
    found = fastest(choices, budget, most)
    size, harm = total(found)
    assert size <= budget
    assert harm <= most + 1e-9
    allowed = [
        sum(c.seconds for c in mix)
        for mix in product(*choices.values())
        if sum(c.size_bytes for c in mix) <= budget * (1 - 1e-5) and sum(c.harm for c in mix) <= most * (1 - 1e-5)
    ]
    exact = total(found) != total(allocate(choices, budget))
    if exact and allowed:
        assert sum(c.seconds for c in found.values()) <= min(allowed) + 1e-4


def test_a_budget_below_the_smallest_is_refused() -> None:
    with pytest.raises(PlanError, match="at least 30 bytes"):
        allocate({"a": [Choice("q4_0", 10, 1), Choice("q8_0", 20, 0)], "b": [Choice("q4_0", 20, 1)]}, 29)


def test_a_model_of_realistic_size_is_filled_to_half_a_percent() -> None:
    sizes = {"q4_0": 18, "q4_1": 20, "q5_0": 22, "q5_1": 24, "q8_0": 34, "f16": 64}
    choices = {
        f"m{i}": [
            Choice(
                kind, size * 8192 * (1 + 3 * (i % 6 > 3)), (1 + i % 7) * 4.0 ** -(size / 8) if kind != "f16" else 0.0
            )
            for kind, size in sizes.items()
        ]
        for i in range(96)
    }
    for part in (0.2, 0.5, 0.8):
        low = sum(options[0].size_bytes for options in choices.values())
        budget = int(low * (1 + 1.5 * part))
        size, _ = total(allocate(choices, budget))
        assert 0.995 * budget <= size <= budget


def test_sensitivity_survives_its_file(tmp_path) -> None:
    made = Sensitivity(
        {"a": {"q4_0": 0.1, "f16": 0.0}}, 0.9, 0.99, ((0.1, 0.2),), {"method": "feedback"}, {"a": ("q4_0",)},
        ((0.3, 0.4),), (Mix("q4_0", "uniform", 5, 0.1, None),), {"q4_0": 1.5},
    )  # fmt: skip
    write_sensitivity(tmp_path / "s.json", made)
    assert read_sensitivity(tmp_path / "s.json") == made
    assert made.predicted({"a": "q4_0"}) == pytest.approx(0.09)


def test_one_matrix_of_another_shape_is_solved_exactly_without_a_large_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the token embedding is, whose sizes share hardly a divisor with the others'."""
    choices = {
        f"m{i}": [Choice(str(bits), 4096 * bits, (1 + i % 4) * 4.0**-bits) for bits in (4, 5, 8)] for i in range(6)
    }
    choices["embedding"] = [Choice(str(bits), 51865 * bits, 3 * 4.0**-bits) for bits in (4, 5, 8, 16)]
    module = sys.modules["whisq.search.allocate"]
    monkeypatch.setattr(module, "LARGEST_TABLE", 2000)
    monkeypatch.setattr(module, "_milp", None)  # is not called
    for budget in (310_000, 400_000, 600_000, 1_000_000):
        size, harm = total(allocate(choices, budget))
        assert size <= budget
        assert harm == pytest.approx(brute_force(choices, budget), rel=1e-12)


NO_PROVENANCE = (
    '{"whisq.sensitivity": 1, "seconds": null, "harms": {}, "scale": 1, "correlation": 1, "mixes": [],'
    ' "provenance": [], "measured": {}, "checks": [], "curve": []}'
)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"whisq.sensitivity": 2}', "\x00", NO_PROVENANCE])
def test_other_files_are_no_sensitivity(tmp_path, content: str) -> None:
    (tmp_path / "s.json").write_text(content)
    with pytest.raises(CalibrationError):
        read_sensitivity(tmp_path / "s.json")
