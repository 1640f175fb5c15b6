"""What optimize and search say of the files that were judged."""

from __future__ import annotations

import pytest

import whisq
from tests.support.command_line import run
from tests.support.containers import write_model
from tests.support.models import WIDE
from whisq.cli.ladder import answer_line, embedding_line, ladder_lines
from whisq.clips.builtin import SOURCE
from whisq.clips.clip import ClipSet
from whisq.search.judging import Divergences
from whisq.search.uniform import Candidate, Judged, Ladder
from whisq.types import F16, TYPES


@pytest.fixture
def source(tmp_path):
    return write_model(tmp_path / "wide.bin", WIDE)


@pytest.fixture
def plans(source):
    with whisq.open_model(source) as model:
        q5 = whisq.make_plan(model, whisq.Recipe(TYPES["q5_0"], embedding=TYPES["q5_0"]))
        rule = whisq.parse_rule(r".*mlp.*\.weight=q4_0")
        yield q5, whisq.make_plan(model, whisq.Recipe(TYPES["q5_0"], (rule,), embedding=TYPES["q8_0"]))


def judged(name, plan, *sums, is_uniform=True):
    return Judged(Candidate(name, plan, is_uniform), Divergences(sums, (10,) * len(sums)))


def test_the_answer_is_marked_and_the_speech_named(plans) -> None:
    first, second = judged("q5_0 ggml", plans[0], 0.2, 0.4), judged("q5_0 feedback", plans[0], 0.1, 0.2)
    untried = ("q4_0 importance", "q4_0 feedback", "q4_1 feedback")
    lines = list(ladder_lines(Ladder((second, first), second, untried), ClipSet(SOURCE, "judge", ())))
    (marked,) = [line for line in lines if line.startswith("->")]
    assert marked.split()[1:5] == ["q5_0", "feedback", f"{plans[0].size_bytes / 1e6:.2f}", "0.01500"]
    assert "on 2 pieces of synthetic speech that comes with whisq" in lines[-2]
    assert lines[-1].endswith("too far off: q4_0 importance; q4_0, q4_1 feedback")
    assert "clips held out" in list(ladder_lines(Ladder((first,), first, ()), ClipSet("mine", "folder", ())))[-1]


def test_it_says_why_the_answer_is_the_answer(plans) -> None:
    q5, mix = judged("q5_0 feedback", plans[0], 0.1), judged("searched mix", plans[1], 0.2, is_uniform=False)
    share = plans[0].size_bytes / plans[1].size_bytes
    said = answer_line(Ladder((q5, mix), q5, ()), plans[0])
    assert said.startswith("the answer is a file of one type: q5_0 feedback diverges 0.50 times as much as the")
    assert f"{share:.1%}" in said
    better = judged("searched mix", plans[1], 0.05, is_uniform=False)
    said = answer_line(Ladder((q5, better), better, ()), plans[1])
    assert said == "the searched mix diverges 0.50 times as much as q5_0 feedback, the closest file of one type"
    said = answer_line(Ladder((q5,), q5, ()), plans[0])
    assert said == "the answer is q5_0 feedback: of what the goal allows it is closest to the source"
    near = judged("q6_K ggml", plans[0], 0.099, 0.101), judged("q5_0 ggml", plans[0], 0.101, 0.1)
    said = answer_line(Ladder(near, near[1], ()), plans[0])
    assert said.endswith("as far as these clips can tell as close to the source as q6_K ggml, and smaller")
    far = judged("q4_0 ggml", plans[0], 0.5, 0.5)
    assert answer_line(Ladder((far, *near), far, ()), plans[0]).endswith("the smallest that is close enough")


def test_what_became_of_the_embedding(plans, source) -> None:
    q5, mix = plans
    with whisq.open_model(source) as model:
        kept = whisq.make_plan(model, whisq.Recipe(F16))
    assert embedding_line(kept, target="x", loads_mixes=True, asked=None) == "embedding: f16 [skipped]"
    assert embedding_line(q5, target="whisper.cpp", loads_mixes=False, asked=None).endswith("loads one type only")
    assert embedding_line(q5, target="x", loads_mixes=True, asked=None) == "embedding: q5_0, as all matrices"
    assert "--embedding f16 keeps it whole" in embedding_line(mix, target="x", loads_mixes=True, asked=None)
    assert embedding_line(mix, target="x", loads_mixes=True, asked="q8_0") == "embedding: q8_0, as asked for"


@pytest.mark.parametrize("target", ["whisper.cpp", "transcribe.cpp"])
def test_a_size_without_a_unit_is_told_the_smallest_possible_before_any_work(capsys, source, tmp_path, target) -> None:
    words = ("optimize", "--target", target, source, tmp_path / "out.bin", "--size")
    code, out, err = run(capsys, *words, "45")
    assert (code, out) == (1, "")
    smallest = float(err.partition("the smallest possible file has ")[2].split()[0])
    assert err.startswith("error: --size 45 has no unit")
    assert err.endswith("hint: --size 45MB\n")
    code, _, err = run(capsys, *words, "1B")
    assert code == 1
    assert f"the smallest possible file has {smallest:.2f} MB" in err
    code, _, err = run(capsys, *words, "45GB")
    assert code == 1
    assert f"leave nothing to choose: the smallest possible file has {smallest:.2f} MB" in err
    assert not list(tmp_path.glob("out*"))
