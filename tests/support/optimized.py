"""Fixtures: tiny.en optimized on copies of the shipped sentence, once a session."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import whisq
from whisq.demo import SENTENCE

if TYPE_CHECKING:
    from whisq.optimization.run import Optimized, Settings

FEW = (r"decoder\..*", r"encoder\.blocks\.[123]\..*", r"encoder\.blocks\.0\.attn\..*")
"""Protect all but two matrices: the search has little to measure."""


@pytest.fixture(scope="session")
def speakers(tmp_path_factory: pytest.TempPathFactory, speech_wav: Path) -> Path:
    """The shipped sentence under the names of three speakers."""
    folder = tmp_path_factory.mktemp("speakers")
    for name in ("one", "two", "three"):
        (folder / f"{name}.wav").write_bytes(speech_wav.read_bytes())
    rows = [f'{name}.wav,"{SENTENCE}",{name}' for name in ("one", "two", "three")]
    (folder / "clips.csv").write_text("\n".join(["path,text,speaker", *rows]) + "\n")
    return folder / "clips.csv"


def settings(**changed: Any) -> Settings:
    """Return the settings of ``optimized``, or others that differ from them as said."""
    from whisq.optimization.run import Settings

    return Settings(types=("q4_0", "q8_0"), protect=FEW, probes=1, **changed)


@pytest.fixture(scope="session")
def optimized_size(tiny_en_bin: Path) -> int:
    """A size between that of both types."""
    with whisq.open_model(tiny_en_bin) as model:
        sizes = [
            whisq.make_plan(model, whisq.Recipe(whisq.parse_type(name), protect=FEW)).size_bytes
            for name in ("q4_0", "q8_0")
        ]
    return sum(sizes) // 2


@pytest.fixture(scope="session")
def optimized(
    torch,
    transcribe_cpp,
    tiny_en_bin: Path,
    speakers: Path,
    optimized_size: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> Optimized:
    """What ``optimize`` returned for tiny.en; needs torch."""
    from whisq.optimization.run import optimize

    output = tmp_path_factory.mktemp("made") / "mix.bin"
    return optimize(tiny_en_bin, output, speakers, size_bytes=optimized_size, settings=settings())
