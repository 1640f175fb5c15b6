"""Every example in the README and the docs runs: shell blocks marked ``bash`` and Python blocks.

Blocks marked ``sh`` install things and are what .ci/run calls. The files that examples name are made here.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.containers import write_model
from tests.support.models import WIDE

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language):
    found = []
    for page in PAGES:
        for number, body in enumerate(re.findall(rf"```{language}\n(.*?)```", page.read_text("utf-8"), re.DOTALL)):
            found.append(pytest.param(body, id=f"{page.name}-{language}-{number}", marks=marks_of(body)))
    return found


def marks_of(body):
    """Mark an example by what it runs."""
    return [pytest.mark.runtime, pytest.mark.slow] if measures(body) else []


def measures(body):
    words = (
        "evaluate",
        "--check",
        "whisq calibrate",
        "whisq optimize",
        "whisq search",
        "whisq publish",
        "--method feedback",
    )
    return any(word in body for word in words)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "model-f16.bin", WIDE)
    write_model(tmp_path / "model-f32.bin", WIDE, kind=0)
    for name in ("whisq", "quantize"):
        entry = "main" if name == "whisq" else "quantize_main"
        script = tmp_path / "bin" / name
        script.parent.mkdir(exist_ok=True)
        call = f"import sys; from whisq.cli import {entry}; sys.exit({entry}())"
        script.write_text(f"#!/bin/sh\nexec {shlex.quote(sys.executable)} -c '{call}' \"$@\"\n")
        script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    return tmp_path


@pytest.fixture
def measurable(folder, tiny_en_bin, speech_wav, tmp_path_factory, monkeypatch):
    """What examples that transcribe need: real weights under the usual name, and clips with texts."""
    from whisq.demo import SENTENCE

    (folder / "model-f16.bin").unlink()
    (folder / "model-f16.bin").symlink_to(tiny_en_bin)
    rows = []
    for name in ("morning", "noon", "evening"):
        clip = folder / "clips" / f"{name}.wav"
        clip.parent.mkdir(exist_ok=True)
        clip.write_bytes(speech_wav.read_bytes())
        clip.with_suffix(".txt").write_text(SENTENCE)
        rows.append(f'clips/{name}.wav,"{SENTENCE}",en\n')
    (folder / "clips.csv").write_text("path,text,language\n" + "".join(rows))
    # One cache for all examples: they say the same clip to the same models.
    monkeypatch.setenv("WHISQ_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    return folder


def prepare(request, body):
    if measures(body):
        request.getfixturevalue("transcribe_cpp")
        request.getfixturevalue("measurable")


@pytest.mark.parametrize("body", blocks("bash"))
def test_shell_examples(folder, body, request):
    prepare(request, body)
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", body], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr, done.stderr


@pytest.mark.parametrize("body", blocks("python"))
def test_python_examples(folder, body, request):
    prepare(request, body)
    done = subprocess.run([sys.executable, "-c", body], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
