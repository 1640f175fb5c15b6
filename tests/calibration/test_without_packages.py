"""What nobody needs to install: calibrating and quantizing in a process that cannot import it."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.containers import write_huggingface
from tests.support.models import TINY, tiny_weights

ABSENT = ("torch", "transformers", "jiwer", "whisper_normalizer", "jinja2", "transcribe_cpp", "pywhispercpp")

_PROGRAM = f"""
import sys

class Blocks:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocks())
from whisq.cli import main
sys.exit(main(sys.argv[1:]))
"""


def run(folder: Path, *words: str) -> str:
    found = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *words], cwd=folder, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    return found.stdout + found.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, sentence_folder: Path) -> Path:
    """A folder with a small model and a clip."""
    made = tmp_path_factory.mktemp("without")
    write_huggingface(made / "hf", tiny_weights(replace(TINY, n_audio_ctx=1500, n_text_ctx=128)))
    (made / "clips").symlink_to(sentence_folder)
    return made


def test_the_packages_are_really_out_of_reach(folder: Path) -> None:
    code = _PROGRAM.replace("from whisq.cli import main", "import jiwer")
    found = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert "No module named 'jiwer'" in found.stderr


def test_calibrating_and_quantizing_need_none_of_them(folder: Path) -> None:
    run(folder, "calibrate", "hf", "--data", "clips", "-o", "model.calib", "--no-cache")
    run(folder, "quantize", "hf", "q8_0.bin", "q8_0", "--calibration", "model.calib", "--method", "feedback")
    run(folder, "quantize", "hf", "drop-in.bin", "q4_0", "--target", "whisper.cpp")
    assert (folder / "q8_0.bin").stat().st_size > (folder / "drop-in.bin").stat().st_size > 0
