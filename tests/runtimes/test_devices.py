"""On which devices models run: what the installed wheel lists, by torch's names, and the CPU where it lists nothing."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.command_line import run
from whisq.cli.arguments import device
from whisq.errors import RuntimeUnavailableError
from whisq.evaluation.model_files import describe
from whisq.evaluation.transcribing import Running, transcripts_cache
from whisq.network import devices
from whisq.runtimes.registry import parse_runtime
from whisq.runtimes.transcribe_cpp import TRANSCRIBE_CPP, device_names


@dataclass(frozen=True)
class Listed:
    """What transcribe-cpp says of a device, as far as it is looked at."""

    kind: str


def test_devices_have_torchs_names(transcribe_cpp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [Listed("cpu"), Listed("cuda"), Listed("vulkan"), Listed("cuda"), Listed("metal")]
    monkeypatch.setattr(transcribe_cpp, "backends", lambda: listed)
    assert set(device_names()) == {"cpu", "cuda", "cuda:0", "cuda:1", "mps", "mps:0"}
    asked: list[dict[str, Any]] = []

    class Model:
        def __init__(self, path: str, **where: Any) -> None:
            asked.append(where)

        def session(self, n_threads: int) -> None:
            return None

    monkeypatch.setattr(transcribe_cpp, "Model", Model)
    for name in ("cpu", "cuda", "cuda:1", "mps"):
        TRANSCRIBE_CPP.transcriber(Path("a.bin"), 1, False, name)
    assert asked == [{"backend": "cpu"}, {"device": listed[1]}, {"device": listed[3]}, {"device": listed[4]}]


def test_what_the_wheel_lacks_is_refused_with_what_it_has(transcribe_cpp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcribe_cpp, "backends", lambda: [Listed("cpu")])
    assert TRANSCRIBE_CPP.device_for("cuda") == "cpu"
    with pytest.raises(RuntimeUnavailableError, match="runs models on cpu, not on cuda"):
        TRANSCRIBE_CPP.transcriber(Path("a.bin"), 1, False, "cuda")
    assert parse_runtime("whisper.cpp").device_for("cuda") == "cpu"


def test_transcripts_of_another_device_are_not_taken_for_these(
    transcribe_cpp: Any, tiny_en_bin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transcribe_cpp, "backends", lambda: [Listed("cpu"), Listed("cuda")])
    file, running = describe(tiny_en_bin, "tiny"), Running(1, fallback=False, jobs=1, cache=tmp_path)
    transcripts_cache(file, "transcribe.cpp", running).put("clip", {"text": "tea"})
    assert transcripts_cache(file, "transcribe.cpp", running).get("clip") == {"text": "tea"}
    assert transcripts_cache(file, "transcribe.cpp", replace(running, device="cuda")).get("clip") is None
    # Where a device is not there the CPU's are what would be heard.
    assert transcripts_cache(file, "transcribe.cpp", replace(running, device="mps")).get("clip") is not None


def test_auto_takes_what_is_there_and_says_which(
    tiny_en_bin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert device("auto") == "auto"
    monkeypatch.setattr(devices, "is_installed", lambda name: False)
    assert devices.device_there() == "cpu"
    found = SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: True))
    monkeypatch.setattr(devices, "is_installed", lambda name: True)
    monkeypatch.setitem(sys.modules, "torch", found)
    assert devices.device_there() == "cuda"
    found.cuda.is_available = lambda: False
    assert devices.device_there() == "cpu"
    monkeypatch.setattr(devices, "is_installed", lambda name: False)
    code, _, told = run(capsys, "calibrate", tiny_en_bin, "--device", "auto", "--plan", "-o", tmp_path / "a.calib")
    assert code == 0
    assert "--device auto: cpu" in told


def test_results_name_the_device_and_a_note_says_what_is_lacking(
    transcribe_cpp: Any,
    tiny_en_bin: Path,
    sentence_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(transcribe_cpp, "backends", lambda: [Listed("cpu")])
    words = ["evaluate", tiny_en_bin, "--data", sentence_folder, "--inside", "0", "--runtime", "transcribe.cpp"]
    code, told, said = run(capsys, *words, "--no-cache", "--device", "cuda", "--json", "-")
    assert code == 0
    assert '"transcribed_on": {\n      "transcribe.cpp": "cpu"\n    }' in told
    assert "transcribed on cpu in transcribe.cpp, which has no cuda as it is installed" in said
