"""Which harms are measured, and how the others follow, made up."""

import numpy as np
import pytest

from whisq.search.prediction import combined, correlation, largest_errors, random_mixes, random_parts, to_measure
from whisq.types import TYPES

Q4, Q5, Q8 = TYPES["q4_0"], TYPES["q5_0"], TYPES["q8_0"]
BLOCKS = {f"{stack}.blocks.{i}.mlp.0.weight": [Q4, Q5, Q8] for stack in ("encoder", "decoder") for i in range(8)}
ERRORS = {
    name: {"q4_0": 0.16 * (i + 1), "q5_0": 0.04 * (i + 1), "q8_0": 0.001 * (i + 1)} for i, name in enumerate(BLOCKS)
}


def test_one_measures_every_matrix_in_its_worst_type_and_some_pairs_more() -> None:
    wanted = to_measure("one", ERRORS, BLOCKS, 0)
    assert {name for name, kind in wanted if kind is Q4} == set(BLOCKS)
    assert len(wanted) == len(set(wanted)) == len(BLOCKS) + 12
    assert len(to_measure("all", ERRORS, BLOCKS, 0)) == 48
    few = to_measure("few", ERRORS, BLOCKS, 0)
    assert len(few) == 12
    assert {name for name, _ in few} >= {"encoder.blocks.7.mlp.0.weight", "decoder.blocks.7.mlp.0.weight"}


def test_the_unmeasured_types_follow_by_the_ratio_of_the_errors() -> None:
    found = {name: {"q4_0": 3 * errors["q4_0"]} for name, errors in ERRORS.items()}
    other = "decoder.blocks.2.mlp.0.weight"
    found[other]["q5_0"] = 0.5
    harms, checks = combined("one", ERRORS, found, BLOCKS)
    name = "encoder.blocks.1.mlp.0.weight"
    assert harms[name] == pytest.approx({"q4_0": 0.96, "q5_0": 0.24, "q8_0": 0.006, "f16": 0.0})
    assert harms[other]["q5_0"] == 0.5
    assert checks == [(pytest.approx(3 * ERRORS[other]["q5_0"]), 0.5)]


def test_with_few_measured_each_stack_has_its_own_scale() -> None:
    wanted = to_measure("few", ERRORS, BLOCKS, 0)
    found = {name: {} for name in BLOCKS}
    for name, kind in wanted:
        found[name][kind.name] = (2 if name.startswith("encoder") else 5) * ERRORS[name][kind.name]
    harms, checks = combined("few", ERRORS, found, BLOCKS)
    for name, factor in (("encoder.blocks.3.mlp.0.weight", 2), ("decoder.blocks.3.mlp.0.weight", 5)):
        assert harms[name]["q8_0"] == pytest.approx(factor * ERRORS[name]["q8_0"])
    assert len(checks) == 12


def test_random_mixes_differ_in_size_and_take_the_best_of_types_of_one_size() -> None:
    blocks = {f"m{i}": [TYPES["q4_K"], Q4, Q5, Q8] for i in range(40)}
    harms = {name: {"q4_K": 0.1, "q4_0": 0.2, "q5_0": 0.05, "q8_0": 0.01} for name in blocks}
    mixes = random_mixes(blocks, harms, 10, 1)
    assert {kind.name for mix in mixes for kind in mix.values()} == {"q4_K", "q5_0", "q8_0"}
    assert np.ptp([sum(kind.bits_per_weight for kind in mix.values()) for mix in mixes]) > 20
    assert random_mixes(blocks, harms, 10, 1) == mixes


def test_random_parts_are_of_one_mix_and_grow_to_all_of_it() -> None:
    worst = largest_errors(ERRORS, BLOCKS)
    assert worst == dict.fromkeys(BLOCKS, Q4)
    parts = random_parts(worst, 8, 0)
    assert all(part.items() <= worst.items() for part in parts)
    assert parts[-1] == worst
    assert 0 < len(parts[0]) < len(worst) / 2 < len(parts[-2])
    assert random_parts(worst, 8, 0) == parts


def test_correlation_is_that_of_logarithms() -> None:
    assert correlation([(1, 2), (10, 20), (100, 200)]) == pytest.approx(1)
    assert correlation([(1, 4), (10, 2), (100, 1)]) < -0.9
    assert np.isnan(correlation([(1, 1)]))
