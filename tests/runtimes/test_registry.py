"""What the runtimes say of files and plans; a runtime that is made up here is known everywhere."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import whisq
from tests.support.containers import write_model
from tests.support.models import NARROW, WIDE
from whisq import Recipe, make_plan, open_model, parse_rule, quantize
from whisq.cli import main
from whisq.clips.audio import Samples
from whisq.errors import MissingExtraError, PlanError, RuntimeUnavailableError
from whisq.evaluation.environment import environment
from whisq.evaluation.model_files import choose_runtimes, describe, reasons_against
from whisq.model import Model
from whisq.recipe import Rule
from whisq.runtimes import registry
from whisq.runtimes.runtime import Heard, Objection, Runtime, Tensors, types_named
from whisq.runtimes.transcribe_cpp import TRANSCRIBE_CPP
from whisq.runtimes.whisper_cpp import WHISPER_CPP, WHISPER_CPP_PR3605
from whisq.runtimes.worker import Worker
from whisq.search import Space
from whisq.types import F16, F32, TYPES

pytestmark = pytest.mark.usefixtures("any_vocabulary")

LIFT = (r"decoder\.token_embedding\.weight",)


@pytest.fixture
def f16(tmp_path: Path) -> Iterator[Model]:
    with open_model(write_model(tmp_path / "f16.bin", WIDE)) as model:
        yield model


@pytest.fixture
def f32(tmp_path: Path) -> Iterator[Model]:
    with open_model(write_model(tmp_path / "f32.bin", WIDE, kind=0)) as model:
        yield model


class Parrot:
    """Says how long what it was given is."""

    def __init__(self, path: Path, threads: int, fallback: bool) -> None:
        self.name = path.name

    def transcribe(self, samples: Samples, language: str | None) -> Heard:
        return Heard(f"{self.name}: {samples.size / 16000:.1f} s of {language}", "repeats")


def _no_odd_rows(container: str, tensors: Tensors) -> Iterator[Objection]:
    if any(spec.role == "conv" and kind is F32 for spec, kind in tensors):
        yield Objection("it has no f32 convolution", "leave out --keep-f32")


# A runtime with everything: this value and its line in RUNTIMES are all that a new one takes.
MURMUR = Runtime(
    name="Murmur",
    title="Murmur (made up, 1.0)",
    types=types_named("f32 f16 q2_K q4_K q8_0 iq4_xs"),
    loads_mixes=True,
    containers=("gguf",),
    aliases=("murmur-whisper",),
    package="numpy",  # some package that is installed
    load=Parrot,
    more_objections=_no_odd_rows,
)


@pytest.fixture
def murmur(monkeypatch: pytest.MonkeyPatch) -> Runtime:
    monkeypatch.setattr(registry, "RUNTIMES", (*registry.RUNTIMES, MURMUR))
    return MURMUR


def test_no_two_runtimes_have_one_name(murmur: Runtime) -> None:
    names = [name for runtime in registry.RUNTIMES for name in runtime.names]
    assert len(set(names)) == len(names)
    for runtime in registry.RUNTIMES:
        for name in (runtime.name, runtime.name.upper(), f" {runtime.name} ", *runtime.aliases):
            assert registry.parse_runtime(name) is runtime
    with pytest.raises(PlanError, match="unknown runtime 'foo'") as caught:
        registry.parse_runtime("foo")
    assert caught.value.hint == "use one of: " + " ".join(runtime.name for runtime in registry.RUNTIMES)


@pytest.mark.parametrize(
    ("text", "meant"),
    [("PyWhisperCp", "whisper.cpp"), ("transcribe.ccp", "transcribe.cpp"), ("murmur-wisper", "Murmur")],
)
def test_a_name_that_is_nearly_one_is_asked_about(murmur: Runtime, text: str, meant: str) -> None:
    with pytest.raises(PlanError, match="unknown runtime") as caught:
        registry.parse_runtime(text)
    assert str(caught.value.hint).endswith(f" (did you mean {meant}?)")


def test_a_type_that_no_runtime_was_seen_to_take_loads_in_none() -> None:
    later = replace(TYPES["q4_0"], name="q9_9", ggml_type=99)
    with_it = [(spec, later) for spec in whisq.whisper.expected_tensors(WIDE).values()]
    for runtime in registry.RUNTIMES:
        assert later not in runtime.types
        assert any("it does not take q9_9" in reason for reason in runtime.reasons_against("bin", with_it)), (
            runtime.name
        )
        assert runtime.types <= frozenset(TYPES.values())


@pytest.mark.parametrize(
    ("runtime", "not_taken"),
    [
        (WHISPER_CPP, set()),
        (WHISPER_CPP_PR3605, set()),
        (TRANSCRIBE_CPP, {"q2_K", "q3_K", "iq4_nl", "iq4_xs", "mxfp4"}),
    ],
    ids=lambda value: value.name if isinstance(value, Runtime) else "",
)
def test_types_that_the_real_ones_were_not_seen_to_take(runtime: Runtime, not_taken: set[str]) -> None:
    assert {name for name, kind in TYPES.items() if kind not in runtime.types} == not_taken


def test_a_plan_for_a_made_up_runtime(murmur: Runtime, f16: Model) -> None:
    mixed = Recipe(TYPES["q4_K"], (parse_rule(r".*attn.*\.weight=q2_K"),))
    plan = make_plan(f16, mixed, container="gguf", target="MURMUR-whisper")
    assert {v.runtime: v.loads for v in plan.verdicts} == {
        "whisper.cpp": False, "whisper.cpp-pr3605": False, "transcribe.cpp": False, "candle": False, "Murmur": True,
    }  # fmt: skip
    with pytest.raises(PlanError) as caught:
        make_plan(f16, replace(mixed, default=TYPES["q5_K"]), target="Murmur")
    assert str(caught.value) == (
        "Murmur (made up, 1.0) would not load this file: it reads .gguf files, not bin; it does not take q5_K"
    )
    assert caught.value.hint == "write a .gguf file and use types among f32 f16 q8_0 q2_K q4_K iq4_xs"
    with pytest.raises(PlanError, match=r"\(rules: '.*=q5_1\)"):
        make_plan(f16, Recipe(TYPES["q4_K"], (parse_rule(r".*mlp.*\.weight=q5_1"),)), container="gguf", target="Murmur")


def test_what_a_runtime_alone_objects_to_comes_with_its_hint(murmur: Runtime, f32: Model) -> None:
    with pytest.raises(PlanError, match="it has no f32 convolution") as caught:
        make_plan(f32, Recipe(TYPES["q4_K"]), container="gguf", keep_f32=True, target="Murmur")
    assert caught.value.hint == "leave out --keep-f32"


def test_inspect_tells_of_a_made_up_runtime(
    murmur: Runtime, f16: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "q2.gguf"
    quantize(make_plan(f16, Recipe(TYPES["q2_K"]), container="gguf"), path)
    assert main(["inspect", str(path)]) == 0
    assert "  yes  Murmur (made up, 1.0)" in capsys.readouterr().out.splitlines()
    assert main(["inspect", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["runtimes"]
    assert told[-1] == {"runtime": "Murmur", "loads": True, "reasons": []}
    assert main(["inspect", str(f16.path)]) == 0
    assert " no  Murmur (made up, 1.0): it reads .gguf files, not bin" in capsys.readouterr().out


def test_evaluate_chooses_a_made_up_runtime_and_runs_it(
    murmur: Runtime, f16: Model, tmp_path: Path, speech_wav: Path
) -> None:
    path = tmp_path / "q2.gguf"
    quantize(make_plan(f16, Recipe(TYPES["q2_K"]), container="gguf"), path)
    file = describe(path, "q2")
    assert [choice.runtime for choice in choose_runtimes([file])] == ["Murmur"]
    assert [choice.runtime for choice in choose_runtimes([file], "murmur-whisper")] == ["Murmur"]
    assert registry.installed_runtimes()["Murmur"] == np.__version__
    assert environment()["packages"]["numpy"] == np.__version__
    pytest.importorskip("soundfile")
    pytest.importorskip("soxr")
    worker = Worker()
    worker.load(runtime="Murmur", path=str(path), threads=1, fallback=False)
    reply = worker.run(path=str(speech_wav), row=None, segment=None, language="en")
    assert (reply["text"], reply["remark"]) == ("q2.gguf: 4.5 s of en", "repeats")


def test_the_command_line_takes_a_made_up_runtime(murmur: Runtime) -> None:
    from whisq.cli.evaluate import add_arguments

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert "Murmur" in parser.format_help()
    arguments = ["reference.bin", "--data", "clips", "--runtime"]
    assert parser.parse_args([*arguments, "murmur-Whisper"]).runtime == "Murmur"
    with pytest.raises(SystemExit):
        parser.parse_args([*arguments, "whisper.cpp-pr3605"])


def test_the_search_space_of_a_made_up_runtime(murmur: Runtime, f16: Model) -> None:
    space = Space.of(f16, (), "murmur", (), ())
    kinds = {kind.name for types in space.types.values() for kind in types}
    assert kinds == {"q2_K", "q4_K", "q8_0", "iq4_xs", "f16"}
    with pytest.raises(PlanError, match="does not load q5_0"):
        Space.of(f16, ("q5_0",), "murmur", (), ())
    with pytest.raises(PlanError) as caught:
        Space.of(f16, (), "whisper.cpp", (), ())
    assert caught.value.hint == "use transcribe.cpp or Murmur or whisper.cpp-pr3605"


# --- What the real ones advise


def refused(model: Model, recipe: Recipe, target: str, **options: object) -> str:
    with pytest.raises(PlanError) as caught:
        make_plan(model, recipe, target=target, **options)
    return str(caught.value.hint)


def test_hints_for_stock_whisper_cpp(f16: Model, f32: Model) -> None:
    lift = "leave out --protect for decoder.token_embedding.weight"
    elsewhere = ", or target transcribe.cpp, which loads mixes"
    two = Recipe(TYPES["q4_1"], (Rule(r".*mlp.*\.weight", TYPES["q8_0"]),))
    kept = (r".*token_embedding.*",)
    assert refused(f16, Recipe(TYPES["q5_0"], protect=kept), "whisper.cpp") == lift + elsewhere
    assert refused(f16, two, "whisper.cpp") == f"drop the rules and use one type that fits all rows: q4_1{elsewhere}"
    # Where transcribe.cpp does not load the file either, it is not recommended.
    assert refused(f16, Recipe(TYPES["q3_K"], protect=kept), "whisper.cpp").endswith(
        "or target whisper.cpp-pr3605, which loads mixes"
    )
    # One instruction for each reason: following it is enough.
    gguf = refused(f16, Recipe(TYPES["q5_0"], unprotect=LIFT), "whisper.cpp", container="gguf")
    assert gguf == "write a .bin file"
    wide = refused(f32, Recipe(TYPES["q5_0"]), "whisper.cpp", keep_f32=True)
    assert wide == "leave out --keep-f32"
    assert refused(f32, Recipe(TYPES["q5_0"], protect=kept), "whisper.cpp", keep_f32=True) == (
        f"leave out --keep-f32 and {lift}{elsewhere}"
    )


def test_the_one_type_that_is_advised_fits_every_row(tmp_path: Path) -> None:
    mixed = Recipe(TYPES["q4_K"], (Rule(r".*attn.*\.weight", TYPES["q8_0"]),), unprotect=LIFT)
    with open_model(write_model(tmp_path / "narrow.bin", NARROW)) as model:
        advice = refused(model, mixed, "whisper.cpp")
        assert advice.startswith("drop the rules and use one type that fits all rows: iq4_nl or q4_0 or ")
        for name in (
            advice.removeprefix("drop the rules and use one type that fits all rows: ").split(",")[0].split(" or ")
        ):
            make_plan(model, Recipe(TYPES[name]), target="whisper.cpp")


def test_hints_for_pull_request_3605(f16: Model, f32: Model) -> None:
    two = Recipe(TYPES["q4_0"], (Rule(r".*mlp.*\.weight", TYPES["q8_0"]),))
    assert refused(f32, two, "whisper.cpp-pr3605", keep_f32=True) == "leave out --keep-f32"
    wide = Recipe(TYPES["q4_0"], (Rule(r"encoder\.blocks\.0\.mlp\.0\.weight", F32),))
    assert refused(f16, wide, "whisper.cpp-pr3605") == "use f16 instead of f32 for encoder.blocks.0.mlp.0.weight"


def test_hints_for_transcribe_cpp(f16: Model) -> None:
    assert refused(f16, Recipe(TYPES["q2_K"]), "transcribe.cpp") == (
        "use types among f32 f16 bf16 q4_0 q4_1 q5_0 q5_1 q8_0 q4_K q5_K q6_K"
    )


def test_whisper_cpp_is_not_said_to_run_f32(f32: Model) -> None:
    everything = Recipe(F32, unprotect=(".*",))
    for runtime in (WHISPER_CPP, WHISPER_CPP_PR3605):
        assert refused(f32, everything, runtime.name) == "use f16"
    make_plan(f32, everything, target="transcribe.cpp")
    make_plan(f32, Recipe(F16, unprotect=LIFT), target="whisper.cpp")


# --- What can be run here


def test_what_cannot_be_run_says_why(tmp_path: Path, f16: Model) -> None:
    file = describe(f16.path, "x")
    missing = replace(TRANSCRIBE_CPP, package="whisq-tests-no-such-package")
    assert reasons_against(file, missing) == ("whisq-tests-no-such-package is not installed",)
    with pytest.raises(MissingExtraError, match="whisq-tests-no-such-package is not installed") as caught:
        missing.transcriber(tmp_path, 1, False)
    assert caught.value.hint == "pip install whisq-tests-no-such-package"
    assert reasons_against(file, WHISPER_CPP_PR3605) == ("no Python package carries it",)
    with pytest.raises(RuntimeUnavailableError, match="no Python package carries it"):
        WHISPER_CPP_PR3605.transcriber(tmp_path, 1, False)
    with pytest.raises(RuntimeUnavailableError, match="no installed runtime can run the reference"):
        choose_runtimes([file], "whisper.cpp-pr3605")
    with pytest.raises(PlanError, match="unknown runtime 'foo'"):
        choose_runtimes([file], "foo")


def test_a_package_goes_with_what_loads_a_model_in_it() -> None:
    with pytest.raises(ValueError, match="a package needs a function"):
        replace(MURMUR, load=None)
    with pytest.raises(ValueError, match="a package needs a function"):
        replace(MURMUR, package=None)


def test_a_container_is_read_if_some_runtime_reads_it(murmur: Runtime) -> None:
    assert registry.is_readable("bin")
    assert registry.is_readable("gguf")
    assert not registry.is_readable("huggingface")


def test_the_worked_example_of_the_docs_is_a_runtime(f32: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "adding-a-runtime.md").read_text(encoding="utf-8")
    code = page.split("```python\n")[1].split("```")[0]
    names: dict[str, object] = {"__name__": "murmur"}
    exec(code, names)
    example = names["MURMUR"]
    assert isinstance(example, Runtime)
    monkeypatch.setattr(registry, "RUNTIMES", (*registry.RUNTIMES, example))
    assert registry.parse_runtime("murmur-whisper") is example
    assert refused(f32, Recipe(TYPES["q4_K"]), "murmur", container="gguf", keep_f32=True) == "leave out --keep-f32"
    make_plan(f32, Recipe(TYPES["q4_K"]), container="gguf", target="murmur")
    assert len(page.splitlines()) <= 60
