"""whisper.cpp's own logits: those that its transcriptions come from, and those of the forward pass but for rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from whisq import demo, open_model
from whisq.clips.audio import Samples
from whisq.errors import RuntimeUnavailableError
from whisq.evaluation.forced import InRuntime
from whisq.runtimes import libwhisper
from whisq.runtimes.libwhisper import WhisperCppLogits
from whisq.runtimes.process import WorkerError, WorkerProcess
from whisq.runtimes.whisper_cpp import WHISPER_CPP


def test_the_defaults_are_read_where_the_header_has_them(whisper_cpp: object) -> None:
    """A version whose structure has other fields would fail here first."""
    found = libwhisper.default_parameters(libwhisper.find_library())
    assert (found.use_gpu, found.flash_attn, found.gpu_device) == (True, True, 0)
    assert (found.dtw_token_timestamps, found.dtw_n_top, found.dtw_mem_size) == (False, -1, 128 * 1024 * 1024)
    assert found.dtw_aheads.n_heads == 0
    assert not any(found.spare)


def test_what_it_writes_is_what_whisper_cpp_hears(whisper_cpp: object, tiny_en_bin: Path, speech: Samples) -> None:
    model = InRuntime(tiny_en_bin, WHISPER_CPP.next_tokens(tiny_en_bin, 1))
    with open_model(tiny_en_bin) as opened:
        tokens = opened.tokenizer.tokens
    model.hear(speech)
    prompt = model.special.prompt("en")
    ids = model.write(prompt)
    assert b"".join(tokens[number] for number in ids[len(prompt) : -1]).decode().strip() == demo.SENTENCE
    # Asked again, token by token or at once, from what is remembered or not, it says the same.
    start = len(prompt) - 1
    rows = model.rows(ids[:-1], start)
    fresh = model._tokens
    np.testing.assert_allclose(fresh.after(ids[:5]), rows[4 - start], rtol=0, atol=2e-3)
    np.testing.assert_array_equal(rows.argmax(-1), ids[start + 1 :])
    timed_prompt = model.special.prompt("en", timestamps=True)
    timed = model.write(timed_prompt, timestamps=True)
    begin = model.special.required("timestamps_begin")
    times = [0.02 * (number - begin) for number in timed if number >= begin]
    assert times[0] == 0
    assert times[-1] == pytest.approx(speech.size / 16000, abs=1)


def test_a_file_that_is_no_model_is_refused(whisper_cpp: object, tmp_path: Path) -> None:
    path = tmp_path / "nothing.bin"
    path.write_bytes(b"not a model")
    with pytest.raises(RuntimeUnavailableError, match=r"whisper\.cpp does not load it"):
        WhisperCppLogits(path, 1)


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(libwhisper.importlib, "import_module", missing)
    with pytest.raises(RuntimeUnavailableError, match="need pywhispercpp: not installed") as caught:
        libwhisper.find_library()
    assert caught.value.hint == "pip install pywhispercpp"


def test_a_runtime_that_dies_of_a_model_takes_nothing_with_it(
    whisper_cpp: object, tiny_en_bin: Path, tiny_en_f32_bin: Path, speech_wav: Path
) -> None:
    """whisper.cpp aborts on f32's conv kernels."""
    pytest.importorskip("soxr", reason="needs the extra 'evaluate'")
    with WorkerProcess("whisq.evaluation.divergence") as worker:
        files = {"reference": str(tiny_en_bin), "candidate": str(tiny_en_f32_bin)}
        worker.ask("load", **files, threads=1, device="cpu", runtime="whisper.cpp")
        with pytest.raises(WorkerError, match="died of SIGABRT"):
            worker.ask("run", path=str(speech_wav), row=None, segment=None, language="en")
