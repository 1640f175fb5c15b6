"""What ``whisq quantize`` says in brief: a line for each group of equal tensors, and what is lost beside the file."""

from __future__ import annotations

import re
import subprocess

import pytest

import whisq
from tests.support.command_line import run
from tests.support.containers import write_model
from tests.support.models import WIDE
from whisq.cli.plan_groups import MOST_RULES, conclusion_lines, group_lines, wrapped
from whisq.whisper import PROTECTED

GROUP = re.compile(
    r"^ +(?P<count>\d+) (?P<role>\S+) +(?P<type>\S+) +(?P<what>.*?) *size = +(?P<before>[\d.]+) MB"
    r"(?: -> +(?P<after>[\d.]+) MB)?$"
)


def plan_of(path, *rules, default="q8_0", **more):
    recipe = whisq.Recipe(whisq.parse_type(default), tuple(whisq.parse_rule(rule) for rule in rules), **more)
    return whisq.make_plan(whisq.open_model(path), recipe)


def groups_of(lines):
    return [match for line in lines if (match := GROUP.match(line))]


def test_every_tensor_is_in_one_group_or_has_a_line_of_its_own(source) -> None:
    plan = plan_of(source, r"encoder.*mlp.*\.weight=q4_0", r".*mlp\.0\.weight=q4_0", r".*attn.*\.weight=q4_K")
    groups = groups_of(group_lines(plan))
    skipped = [line for line in conclusion_lines(plan, "out.bin", 1.0) if "[skipped]" in line]
    assert [line.split()[0] for line in skipped] == [a.tensor.name for a in plan.assignments if a.why == "protected"]
    assert {line.split()[0] for line in skipped} == set(PROTECTED)
    assert sum(int(group["count"]) for group in groups) + len(skipped) == len(plan.assignments)
    # Equal tensors are in one group, the same role under another rule in another.
    assert [group["what"] for group in groups if group["role"] == "mlp.0"] == ["matched pattern -> q4_0"] * 2
    assert len({(g["role"], g["what"]) for g in groups}) == len(groups) - 1


def test_the_sizes_of_a_group_are_those_of_its_tensors(tiny_en_bin) -> None:
    plan = plan_of(tiny_en_bin, r".*mlp\.0\.weight=q4_0")
    (group,) = [group for group in groups_of(group_lines(plan)) if group["role"] == "mlp.0"]
    mine = [a for a in plan.assignments if a.tensor.role == "mlp.0"]
    assert int(group["count"]) == len(mine) == 8
    assert float(group["before"]) == pytest.approx(sum(a.size_before for a in mine) / 1e6, abs=0.005)
    assert float(group["after"]) == pytest.approx(sum(a.size_after for a in mine) / 1e6, abs=0.005)


def test_what_matters_comes_last(capsys, source, tmp_path) -> None:
    _, out, _ = run(capsys, "quantize", source, tmp_path / "out.bin", "q4_0")
    lines = out.splitlines()
    assert lines[0] == "default q4_0:"
    assert lines[-1].startswith(f"wrote {tmp_path / 'out.bin'}: {(tmp_path / 'out.bin').stat().st_size} bytes in ")
    assert lines[-2].startswith("size: ")
    assert lines.index("loads in:") == len(lines) - 6
    assert "[skipped]" in lines[lines.index("loads in:") - 1]


def test_verbose_prints_every_tensor(capsys, source, tmp_path) -> None:
    _, brief, _ = run(capsys, "quantize", "--dry-run", source, tmp_path / "out.bin", "q4_0")
    _, long, _ = run(capsys, "quantize", "--dry-run", "--verbose", source, tmp_path / "out.bin", "q4_0")
    name = "encoder.blocks.0.mlp.0.weight"
    assert name not in brief
    assert "default -> q4_0" in brief
    assert f"{name} - [" in long


def test_many_rules_are_told_as_one(source) -> None:
    rules = [rf"encoder\.blocks\.{n}\.mlp\.0\.weight=q4_0" for n in range(MOST_RULES + 1)]
    lines = list(group_lines(plan_of(source, *rules)))
    assert lines[0] == f"{len(rules)} rules:"
    assert not any("encoder" in line for line in lines)
    few = list(group_lines(plan_of(source, rules[0], r"nothing\.like\.it=q4_0")))
    assert few[0] == r"'encoder\.blocks\.0\.mlp\.0\.weight'=q4_0:"
    assert r"'nothing\.like\.it'=q4_0: changed nothing" in few


@pytest.mark.parametrize("width", [80, 120])
def test_no_line_is_longer_than_the_terminal(source, width) -> None:
    plan = plan_of(source, r".*mlp.*\.weight=q4_K", r".*cross_attn.*\.weight=iq4_nl")
    for lines in (group_lines(plan), conclusion_lines(plan, "out.bin", 0.5)):
        given = list(lines)
        shown = list(wrapped(given, width))
        assert max(map(len, shown)) <= width
        assert " ".join(" ".join(shown).split()) == " ".join(" ".join(given).split())
        assert all(line in shown for line in given if GROUP.match(line))


@pytest.fixture
def with_encoder(tmp_path):
    """A model with a compiled Core ML encoder beside it."""
    source = write_model(tmp_path / "ggml-base.bin", WIDE)
    (tmp_path / "ggml-base-encoder.mlmodelc").mkdir()
    return source


@pytest.mark.parametrize("name", ["ggml-base-q5_1.bin", "ggml-base-q4_K.bin", "ggml-base-q8_0.bin"])
def test_a_name_that_finds_the_core_ml_encoder_is_not_remarked_on(capsys, with_encoder, name) -> None:
    _, _, err = run(capsys, "quantize", "--target", "whisper.cpp", with_encoder, with_encoder.with_name(name), "q8_0")
    assert "mlmodelc" not in err


@pytest.mark.parametrize("name", ["ggml-base-iq4_nl.bin", "ggml-base-best.bin", "small base.bin"])
def test_a_name_that_loses_it_is_said_to_and_the_command_mends_it(capsys, with_encoder, name) -> None:
    words = ("quantize", "--quiet", "--target", "whisper.cpp", with_encoder, with_encoder.with_name(name), "q8_0")
    _, _, err = run(capsys, *words)
    wanted = with_encoder.with_name(f"{name.removesuffix('.bin')}-encoder.mlmodelc")
    (line,) = [line for line in err.splitlines() if "mlmodelc" in line]
    assert line.startswith(f"note: whisper.cpp looks for {wanted.name} beside the file")
    subprocess.run(line.partition(": ln -s ")[2].join(["ln -s ", ""]), shell=True, check=True)
    assert wanted.is_dir()
    _, _, err = run(capsys, *words)
    assert "mlmodelc" not in err


def test_an_encoder_beside_the_source_only_is_linked_by_its_whole_path(capsys, with_encoder, tmp_path) -> None:
    (tmp_path / "elsewhere").mkdir()
    output = tmp_path / "elsewhere" / "ggml-base-q8_0.bin"
    _, _, err = run(capsys, "quantize", "--target", "whisper.cpp", with_encoder, output, "q8_0")
    assert f"ln -s {tmp_path / 'ggml-base-encoder.mlmodelc'} {output.with_name('ggml-base-encoder.mlmodelc')}" in err


def test_nothing_is_said_where_no_runtime_that_looks_for_it_loads_the_file(capsys, with_encoder) -> None:
    _, _, err = run(capsys, "quantize", with_encoder, with_encoder.with_name("x.gguf"), "q8_0")
    assert "mlmodelc" not in err
