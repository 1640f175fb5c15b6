"""``whisq search``: what it writes, prints, and measures again or not."""

import re

import pytest

import whisq
from tests.support.calibrations import write as write_calibration
from tests.support.command_line import run
from tests.support.containers import write_model
from tests.support.models import WIDE
from tests.support.schema import checked
from whisq.cli import main
from whisq.clips.builtin import SOURCE
from whisq.clips.clip import ClipSet
from whisq.search import Sensitivity, Space
from whisq.search.judging import Divergences
from whisq.search.sensitivity import read_sensitivity, write_sensitivity


@pytest.mark.parametrize("how", ["one", "few"])
def test_a_search_writes_what_it_measured_and_prints_how_it_agrees(
    tiny_en_bin,
    tiny_en_calibration,
    tmp_path,
    capsys,
    monkeypatch,
    how,
) -> None:
    monkeypatch.setattr("whisq.search.measure.N_MIXES", {"one": 3, "few": 3})
    file, recipe = tmp_path / "s.json", tmp_path / "mix.toml"
    common = [
        str(tiny_en_bin),
        "--calibration",
        str(tiny_en_calibration.path),
        "--protect",
        r"encoder\.blocks\.[012].*",
        "--embedding",
        "f16",
    ]
    made = ["--types", "q4_0,q8_0", "--method", "ggml", "--size", "68MB", "--measure", how]
    assert main(["search", *common, *made, "-o", str(recipe), "--sensitivity", str(file)]) == 0
    said = capsys.readouterr().out
    assert re.search(r"predicted and measured totals correlate \d\.\d{3}", said)
    assert re.search(r"of 1?\d matrices, predicted and measured correlate -?\d\.\d{3}", said)
    known = read_sensitivity(file)
    n_matrices = len(known.harms)
    assert known.n_measured == (n_matrices + 12 if how == "one" else 12)
    assert known.correlation > 0.5
    with whisq.open_model(tiny_en_bin) as model:
        assert known.provenance["model_fingerprint"] == model.fingerprint
        size = whisq.make_plan(model, whisq.load_recipe(str(recipe))).size_bytes
    assert 0.995 * 68_000_000 <= size <= 68_000_000
    again = ["--types", "q4_0,q8_0", "--size", "63MB", "--reuse", str(file), "-o", str(tmp_path / "b.toml")]
    assert main(["search", *common, *again, "--json", "--quiet"]) == 0
    found = checked(capsys.readouterr().out, "search")
    assert found["mixes"][0]["size_bytes"] == found["size_bytes"] <= 63_000_000
    assert main(["search", *common, *again, "--method", "feedback"]) == 1
    assert "was measured with --method ggml, not feedback" in capsys.readouterr().err


def test_speeds_are_measured_in_the_target_and_kept(tmp_path, monkeypatch) -> None:
    source = write_model(tmp_path / "wide.bin", WIDE)
    write_calibration(tmp_path / "a.calib")
    asked = []

    def timed(model, types, clip, runtime):
        asked.append(runtime.name)
        return {kind.name: 1.0 + kind.bits_per_weight for kind in types}

    monkeypatch.setattr("whisq.search.speed.seconds_by_type", timed)
    with whisq.open_model(source) as model:
        space = Space.of(model, ("q4_0", "q8_0"), "transcribe.cpp", (), ())
        harms = {t.name: {kind.name: 4.0**-kind.bits_per_weight for kind in space.types[t.name]} for t in space.tensors}
        known = {"method": "ggml", "tokens": 1, "model_sha256": model.sha256, "calibration_data_sha256": None}
        limit = space.size_of(space.smallest()) + 100_000
    write_sensitivity(tmp_path / "s.json", Sensitivity(harms, 1.0, 1.0, (), known, {}))
    words = ["search", source, "--calibration", tmp_path / "a.calib", "--reuse", tmp_path / "s.json", "--types"]
    words += ["q4_0,q8_0", "--size", f"{limit}B", "--prefer-fast", "-o", tmp_path / "mix.toml"]
    assert main([str(word) for word in [*words, "--sensitivity", tmp_path / "timed.json"]]) == 0
    assert asked == ["transcribe.cpp"]
    assert read_sensitivity(tmp_path / "timed.json").seconds == {
        kind.name: 1.0 + kind.bits_per_weight for kind in {k for kinds in space.types.values() for k in kinds}
    }


@pytest.fixture
def judged_by_nobody(monkeypatch, tmp_path):
    """A model and its calibration; every type diverges as its precision says, and feedback less."""

    class MadeUp:
        languages = ()

        def __init__(self, *given) -> None:
            del given

        def divergences(self, plan) -> Divergences:
            total = (0.5 if plan.method.name == "feedback" else 1.0) * 10 ** (-plan.recipe.default.precision_db / 10)
            return Divergences((total, 2 * total), (1, 1))

    monkeypatch.setattr("whisq.optimization.choices.Judge", MadeUp)
    monkeypatch.setattr("whisq.formats.special_tokens.special_tokens", lambda model: None)
    monkeypatch.setattr("whisq.clips.builtin.builtin_clips", lambda part, special: ClipSet(SOURCE, part, ()))
    write_calibration(tmp_path / "a.calib")
    return ["search", write_model(tmp_path / "wide.bin", WIDE), "--calibration", tmp_path / "a.calib"]


def test_for_stock_whisper_cpp_the_best_type_is_found_and_the_command_it_names_makes_the_file(
    judged_by_nobody, tmp_path, capsys
) -> None:
    source, recipe = judged_by_nobody[1], tmp_path / "best.toml"
    with whisq.open_model(source) as model:
        kind = whisq.parse_type("q5_0")
        size = whisq.make_plan(model, whisq.Recipe(kind, embedding=kind)).size_bytes
    words = [*judged_by_nobody, "--target", "whisper.cpp", "--types", "q4_0,q5_0,q8_0"]
    code, out, err = run(capsys, *words, "--size", f"{size}B", "-o", recipe)
    assert code == 0, err
    assert "-> q5_0 feedback" in out
    assert "synthetic speech" in out
    assert whisq.load_recipe(str(recipe)).embedding is kind
    named = out.splitlines()[-1].partition("whisq quantize: ")[2].split()
    code, _, err = run(capsys, "quantize", source, tmp_path / "out.bin", *named)
    assert code == 0
    assert "embedding: q5_0" in err
    assert (tmp_path / "out.bin").stat().st_size == size


def test_what_is_for_mixes_is_refused_there(judged_by_nobody, tmp_path, capsys) -> None:
    words = [*judged_by_nobody, "--target", "whisper.cpp", "--bits", 9, "-o", tmp_path / "best.toml"]
    code, _, err = run(capsys, *words, "--sensitivity", tmp_path / "s.json")
    assert code == 1
    assert "--sensitivity is for mixes, and whisper.cpp loads one type only" in err
    code, _, err = run(capsys, *judged_by_nobody, "--target", "whisper.cpp", "--size", 9, "-o", tmp_path / "best.toml")
    assert code == 1
    assert "--size 9 has no unit; the smallest possible file has" in err
