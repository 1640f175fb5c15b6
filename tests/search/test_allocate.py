"""The knapsack: never over the budget, never worse than any other mix, never worse with more."""

from itertools import product

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from whisq.errors import CalibrationError, PlanError
from whisq.search import Choice, Mix, Sensitivity, fastest, read_sensitivity, write_sensitivity
from whisq.search.allocate import LARGEST_TABLE, allocate, by_table, undominated
from whisq.search.integer_programme import least_cost

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


BOTH_WAYS = pytest.mark.parametrize("largest_table", [LARGEST_TABLE, 0], ids=["table", "HiGHS"])
"""Both ways of solving; the table takes every case of these tests."""


def budget_of(choices, part: float) -> int:
    """Return the budget at a part of the way from the smallest mix to the largest."""
    low = sum(min(c.size_bytes for c in opts) for opts in choices.values())
    high = sum(max(c.size_bytes for c in opts) for opts in choices.values())
    return round(low + part * (high - low))


@BOTH_WAYS
@settings(max_examples=60, deadline=None)
@given(choices=cases, part=st.floats(0, 1))
def test_it_is_the_best_of_all_mixes_and_within_the_budget(largest_table: int, choices, part: float) -> None:
    budget = budget_of(choices, part)
    size, harm = total(allocate(choices, budget, largest_table=largest_table))
    assert size <= budget
    assert harm <= brute_force(choices, budget) + (1e-5 if largest_table == 0 else 1e-12)


@BOTH_WAYS
@settings(max_examples=40, deadline=None)
@given(choices=cases, first=st.integers(0, 8000), second=st.integers(0, 8000))
def test_more_budget_never_does_more_harm(largest_table: int, choices, first: int, second: int) -> None:
    low = budget_of(choices, 0)
    less, more = sorted((low + first, low + second))
    harm_of_more, harm_of_less = (
        total(allocate(choices, budget, largest_table=largest_table))[1] for budget in (more, less)
    )
    assert harm_of_more <= harm_of_less + 1e-5


harms = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1e-300, 1e-12, 1.0]))
timed = st.lists(st.builds(Choice, st.just("q"), st.integers(1, 2000), harms, st.floats(0, 1)), min_size=1, max_size=4)
timed_cases = st.dictionaries(st.text("abcdef", min_size=1, max_size=3), timed, min_size=1, max_size=4)
MARGIN = 1e-4
"""Of the harm that is allowed: what ``fastest`` may leave to its solver's tolerance."""


def check_fastest(choices, budget: int, most: float) -> None:
    """Hold ``fastest`` against all mixes: a mix that is within the limits exists."""
    found = fastest(choices, budget, most)
    size, harm = total(found)
    assert size <= budget
    assert harm <= most
    allowed = [
        sum(c.seconds for c in mix)
        for mix in product(*choices.values())
        if sum(c.size_bytes for c in mix) <= budget and sum(c.harm for c in mix) <= most * (1 - MARGIN)
    ]
    slowest = max(c.seconds for opts in choices.values() for c in opts)
    if allowed:
        assert sum(c.seconds for c in found.values()) <= min(allowed) + 1e-5 * slowest


def a_matrix(*options: tuple[int, float, float]) -> dict[str, list[Choice]]:
    return {"m": [Choice("q", *option) for option in options]}


@settings(max_examples=150, deadline=None)
@given(timed_cases, st.floats(0, 1), st.floats(1, 3))
@example(a_matrix((1, 0.0, 1.0), (1, 1e-300, 0.0)), 0.0, 1.1)  # no harm is allowed, and hardly any is done
@example(a_matrix((1, 0.0, 1.0), (1, 5e-324, 5e-324)), 0.0, 1.1)  # nothing is left of a row of such harms
@example(a_matrix((2, 2.3e-308, 0.3), (2, 1e-300, 0.0), (2, 0.3, 0.0)), 0.0, 1.1)
@example(a_matrix((1, 1e-300, 1.0), (1, 2e-300, 0.0)), 0.0, 3.0)  # twice what is next to nothing is allowed
@example(a_matrix((1, 0.5, 1.0), (1, 0.5 + 1e-9, 0.0)), 0.0, 1.0)  # more than allowed, within the tolerance
def test_the_fastest_keeps_both_limits_and_no_mix_that_keeps_them_is_faster(choices, part, times) -> None:
    budget = budget_of(choices, part)
    check_fastest(choices, budget, times * total(allocate(choices, budget))[1])


def test_the_fastest_is_not_just_the_least_harmful() -> None:
    choices = {
        f"m{i}": [Choice("q", 100 + i, 0.1, 1.0), Choice("q", 90, 0.101, 0.2 + i / 10), Choice("q", 80, 0.5, 0.0)]
        for i in range(4)
    }
    budget = sum(options[0].size_bytes for options in choices.values())
    check_fastest(choices, budget, 0.45)
    assert sum(c.seconds for c in fastest(choices, budget, 0.45).values()) == pytest.approx(1.4)


def test_no_mix_within_both_limits_is_told() -> None:
    with pytest.raises(PlanError, match="no mix of timed types"):
        fastest(a_matrix((1, 0.5, 1.0), (9, 0.1, 0.0)), 8, 0.4)
    with pytest.raises(PlanError, match="no mix of timed types"):
        fastest({**a_matrix((1, 0.5, 1.0), (9, 0.0, 0.0)), "n": [Choice("q", 1, 0.4), Choice("q", 9, 0.0)]}, 10, 0.3)


@pytest.mark.parametrize(("over", "limit"), [("q5", 0), ("q4", 1)], ids=["size", "harm"])
def test_what_the_solver_lets_over_a_limit_is_solved_again_with_less_of_it(monkeypatch, over: str, limit: int) -> None:
    choices = {name: [Choice("q4", 10, 2.0, 1.0), Choice("q5", 20, 1.0, 3.0)] for name in "ab"}
    bounds: list[list[float]] = []

    def solver(groups, costs, limits):
        bounds.append([bound for _, bound in limits])
        if len(bounds) == 1:
            return {name: next(c for c in options if c.type == over) for name, options in groups.items()}
        return least_cost(groups, costs, limits)

    monkeypatch.setattr("whisq.search.allocate.least_cost", solver)
    assert total(fastest(choices, 35, 3.5)) == (30, 3.0)
    assert bounds[0] == [1.0, 1.0]
    assert [bound < 1 for bound in bounds[1]] == [limit == 0, limit == 1]


def test_where_the_solver_finds_nothing_the_least_harm_is_taken_if_it_is_within_the_limits(monkeypatch) -> None:
    monkeypatch.setattr("whisq.search.allocate.least_cost", lambda groups, costs, limits: None)
    choices = {name: [Choice("q4", 10, 2.0, 1.0), Choice("q5", 20, 1.0, 3.0)] for name in "ab"}
    assert total(fastest(choices, 40, 3.5)) == (40, 2.0)


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
        {"a": {"q4_0": 0.1, "f16": 0.0}},
        0.9,
        0.99,
        ((0.1, 0.2),),
        {"method": "feedback"},
        {"a": ("q4_0",)},
        ((0.3, 0.4),),
        (Mix("q4_0", "uniform", 5, 0.1, None),),
        {"q4_0": 1.5},
    )
    write_sensitivity(tmp_path / "s.json", made)
    assert read_sensitivity(tmp_path / "s.json") == made
    assert made.predicted({"a": "q4_0"}) == pytest.approx(0.09)


def test_one_matrix_of_another_shape_is_solved_exactly_without_a_large_table() -> None:
    """As the token embedding is, whose sizes share hardly a divisor with the others'."""
    choices = {
        f"m{i}": [Choice(str(bits), 4096 * bits, (1 + i % 4) * 4.0**-bits) for bits in (4, 5, 8)] for i in range(6)
    }
    choices["embedding"] = [Choice(str(bits), 51865 * bits, 3 * 4.0**-bits) for bits in (4, 5, 8, 16)]
    useful = {name: undominated(opts) for name, opts in choices.items()}
    for budget in (310_000, 400_000, 600_000, 1_000_000):
        found = by_table(useful, budget, largest_table=2000)
        assert found is not None
        size, harm = total(found)
        assert size <= budget
        assert harm == pytest.approx(brute_force(choices, budget), rel=1e-12)
        assert allocate(choices, budget, largest_table=2000) == found


NO_PROVENANCE = (
    '{"whisq.sensitivity": 1, "seconds": null, "harms": {}, "scale": 1, "correlation": 1, "mixes": [],'
    ' "provenance": [], "measured": {}, "checks": [], "curve": []}'
)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"whisq.sensitivity": 2}', "\x00", NO_PROVENANCE])
def test_other_files_are_no_sensitivity(tmp_path, content: str) -> None:
    (tmp_path / "s.json").write_text(content)
    with pytest.raises(CalibrationError):
        read_sensitivity(tmp_path / "s.json")
