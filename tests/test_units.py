"""Units are one thing everywhere: MB is 10⁶ bytes, bits per weight are those of the whole file."""

import json
from pathlib import Path

import pytest

from tests.support.containers import write_model
from tests.support.models import WIDE
from whisq import Recipe, make_plan, open_model, parse_type, quantize
from whisq.cli import main
from whisq.cli.arguments import size_bytes
from whisq.evaluation.model_files import describe
from whisq.report.wording import megabytes_text
from whisq.units import megabytes


@pytest.mark.parametrize("name", ["q.bin", "q.gguf"])
def test_bits_per_weight_are_the_files_wherever_they_are_said(tmp_path: Path, capsys, name: str) -> None:
    path = tmp_path / name
    with open_model(write_model(tmp_path / "f16.bin", WIDE)) as model:
        plan = make_plan(model, Recipe(parse_type("q5_0")), container="gguf" if path.suffix == ".gguf" else "bin")
        quantize(plan, path)
        expected = 8 * path.stat().st_size / model.n_weights
    assert main(["inspect", str(path), "--json"]) == 0
    inspected = json.loads(capsys.readouterr().out)["bits_per_weight"]
    with open_model(path) as written:
        found = (plan.bits_per_weight, inspected, written.bits_per_weight, describe(path, "q").bits_per_weight)
    assert found == (expected,) * 4


def test_a_megabyte_is_a_million_bytes() -> None:
    assert size_bytes("55MB") == 55_000_000
    assert size_bytes("55 MiB") == 55 * 2**20
    assert megabytes(55_000_000) == 55
    assert megabytes_text(55_000_000) == "55.0"
