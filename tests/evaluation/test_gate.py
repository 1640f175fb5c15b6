"""Files that are broken are caught before they have a name, and files that are merely bad pass and say how bad."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import whisq
from whisq.errors import BrokenFileError
from whisq.evaluation import gate
from whisq.evaluation.gate import Checked, Hearing, check_file, edit_distance, runtime_for, why_unheard
from whisq.extras import install_hint
from whisq.formats import open_model
from whisq.quantization.plan import Plan
from whisq.quantization.readback import lost_rows
from whisq.types import TYPES


@pytest.fixture
def plan(tiny_en_bin: Path):
    with whisq.open_model(tiny_en_bin) as model:
        yield whisq.make_plan(model, whisq.Recipe(whisq.parse_type("q5_0")))


@pytest.fixture(autouse=True)
def heard_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The source writes the same each time: once is enough, and one recording."""
    texts, recordings = gate._texts, gate._recordings
    monkeypatch.setattr(gate, "_recordings", lambda part, model: recordings(part, model)[:1])
    monkeypatch.setattr(gate, "available_cpus", lambda: 1)

    def kept(runtime, path: Path, clips):
        if path.name == "tiny.en-f16.bin":
            if (runtime.name, path) not in HEARD:
                HEARD[runtime.name, path] = texts(runtime, path, clips)
            return HEARD[runtime.name, path]
        return texts(runtime, path, clips)

    monkeypatch.setattr(gate, "_texts", kept)


END = 50256
"""tiny.en's token for the end of a text."""
HEARD: dict[object, list[tuple[str, str]]] = {}


def spoilt(path: Path, name: str, spoil: Callable[[np.ndarray], None]) -> None:
    """Change the bytes of a tensor's rows ``[rows, bytes]`` in a file."""
    with open_model(path) as model:
        tensor = model[name]
        offset, size, n_rows = tensor.location.offset, tensor.location.size_bytes, tensor.n_rows
    content = bytearray(path.read_bytes())
    rows = np.frombuffer(content, np.uint8, size, offset).reshape(n_rows, -1)
    spoil(rows)
    path.write_bytes(content)


def zero_scales_of_a_row(rows: np.ndarray) -> None:
    rows[17].reshape(-1, TYPES["q5_0"].block_bytes)[:, :2] = 0


def test_one_row_whose_scales_are_zero_is_caught(plan: Plan, tmp_path: Path) -> None:
    out = tmp_path / "out.bin"
    whisq.quantize(plan, out, threads=1)
    assert lost_rows(plan.model, out) == []
    spoilt(out, "encoder.blocks.2.mlp.0.weight", zero_scales_of_a_row)
    (lost,) = lost_rows(plan.model, out)
    assert (lost.tensor, lost.row, lost.relative_error) == ("encoder.blocks.2.mlp.0.weight", 17, 1.0)
    with pytest.raises(
        BrokenFileError, match=r"a row .* nothing of the source:\n  encoder.blocks.2.mlp.0.weight, row 17"
    ):
        check_file(plan, out)


@pytest.mark.parametrize("kind", ["q2_K", "q3_K", "q4_0", "mxfp4"])
def test_no_honest_type_loses_a_row(tiny_en_bin: Path, tmp_path: Path, kind: str) -> None:
    with whisq.open_model(tiny_en_bin) as model:
        parsed = whisq.parse_type(kind)
        whisq.quantize(whisq.make_plan(model, whisq.Recipe(parsed, embedding=parsed)), tmp_path / "out.bin", threads=1)
        assert lost_rows(model, tmp_path / "out.bin") == []


def test_a_bad_file_passes_and_says_how_bad(transcribe_cpp: object, tiny_en_bin: Path, tmp_path: Path) -> None:
    q4_0 = whisq.parse_type("q4_0")
    with whisq.open_model(tiny_en_bin) as model:
        plan = whisq.make_plan(model, whisq.Recipe(q4_0, embedding=q4_0))
        found: list[Checked] = []
        whisq.quantize(plan, tmp_path / "x.bin", check=lambda path: found.append(check_file(plan, path)))
    (checked,) = found
    hearing = checked.hearing
    assert 0 < hearing.edits < hearing.unrelated <= hearing.words
    assert hearing.unrelated > 0.75 * hearing.words
    assert str(checked).startswith("checked: no row is lost; of ")


def test_a_decoder_that_loops_is_caught_by_ear(
    transcribe_cpp: object, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of a text is as unlikely as it was likely: it goes on and on. What was there before stays."""
    monkeypatch.setattr(gate, "lost_rows", lambda *_: [])
    out = tmp_path / "out.bin"
    out.write_bytes(b"of before")

    def never_ends(rows: np.ndarray) -> None:
        rows[END, 1::2] ^= 0x80  # the signs of f16

    def broken(path: Path) -> None:
        spoilt(path, "decoder.token_embedding.weight", never_ends)
        check_file(plan, path)

    with pytest.raises(BrokenFileError, match=r"repeats itself|gave up on it"):
        whisq.quantize(plan, out, check=broken)
    assert [path.name for path in tmp_path.iterdir()] == ["out.bin"]
    assert out.read_bytes() == b"of before"


def test_what_a_runtime_does_not_load_is_broken(
    transcribe_cpp: object, plan: Plan, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(gate, "lost_rows", lambda *_: [])
    (tmp_path / "x.bin").write_bytes(b"nothing")
    with pytest.raises(BrokenFileError, match=r"transcribe.cpp does not run what was written"):
        check_file(plan, tmp_path / "x.bin")


def test_without_a_runtime_it_says_so_and_names_the_extra(plan: Plan, tmp_path: Path, monkeypatch) -> None:
    whisq.quantize(plan, tmp_path / "x.bin", threads=1)
    monkeypatch.setattr("whisq.runtimes.runtime.Runtime.installed_version", lambda self: None)
    assert runtime_for(plan) is None
    checked = check_file(plan, tmp_path / "x.bin")
    assert str(checked) == "checked: no row is lost; it was not heard: transcribe.cpp is not installed"
    assert checked.hint == install_hint("evaluate")


def test_a_file_for_what_python_cannot_run_says_that(tiny_en_bin: Path) -> None:
    with whisq.open_model(tiny_en_bin) as model:
        plan = whisq.make_plan(model, whisq.Recipe(whisq.parse_type("iq4_nl")))
        assert runtime_for(plan) is None
        assert "only whisper.cpp-pr3605 would load it" in why_unheard(plan)[0]


@pytest.mark.parametrize(
    ("hearing", "said"),
    [
        (Hearing("r", 100, 0, 90), ""),
        (Hearing("r", 100, 89, 90), ""),
        (Hearing("r", 100, 90, 90), "of 100 words"),
        (Hearing("r", 100, 5, 90, loops=12), "repeats itself (12 words)"),
        (Hearing("r", 100, 5, 90, stopped="OutputTruncated"), "gave up on it (OutputTruncated)"),
        (Hearing("r", 0, 0, 20), ""),
    ],
)
def test_what_is_broken(hearing: Hearing, said: str) -> None:
    assert (said in hearing.failure) if said else not hearing.failure


@pytest.mark.parametrize(
    ("one", "other", "edits"), [("a b c", "a c", 1), ("", "a b", 2), ("a b", "b a", 2), ("a", "a", 0)]
)
def test_edit_distance(one: str, other: str, edits: int) -> None:
    assert edit_distance(one.split(), other.split()) == edits


@pytest.mark.parametrize(
    ("others_cpus", "threads"), [(0.0, 4), (0.4, 4), (3.0, 3), (5.0, 1), (9.0, 1)], ids=lambda value: str(value)
)
def test_a_runtime_gets_threads_for_idle_cpus_only(
    monkeypatch: pytest.MonkeyPatch, others_cpus: float, threads: int
) -> None:
    monkeypatch.setattr(gate, "available_cpus", lambda: 6)
    monkeypatch.setattr(gate, "busy_s", lambda: 100.0 + others_cpus * clock[0])
    clock = [0.0]
    monkeypatch.setattr(gate.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(gate.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    assert gate._idle_threads() == threads
    monkeypatch.setattr(gate, "busy_s", lambda: None)
    assert gate._idle_threads() == 4, "where nobody tells, as many as there may be"
