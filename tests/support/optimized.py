"""Fixtures: tiny.en optimized on copies of the shipped sentence, once a session."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import whisq
from whisq.demo import SENTENCE

if TYPE_CHECKING:
    from whisq.optimization.run import OptimizationSettings, Optimized

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


def settings(**changed: Any) -> OptimizationSettings:
    """Return the settings of ``optimized``, or others that differ from them as said."""
    from whisq.optimization.run import OptimizationSettings

    return OptimizationSettings(types=("q4_0", "q8_0"), protect=FEW, probes=1, **changed)


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
    transcribe_cpp,
    tiny_en_bin: Path,
    speakers: Path,
    optimized_size: int,
    hashed_sizes: list[int],
    stages_of_optimized: Stages,
    tmp_path_factory: pytest.TempPathFactory,
) -> Optimized:
    """What ``optimize`` returned for tiny.en."""
    from whisq.optimization.run import optimize

    output = tmp_path_factory.mktemp("made") / "mix.bin"
    with counted_hashes(hashed_sizes):
        return optimize(
            tiny_en_bin,
            output,
            speakers,
            size_bytes=optimized_size,
            settings=settings(),
            progress=stages_of_optimized.see,
            expect=stages_of_optimized.expected.update,
        )


@dataclass
class Stages:
    """Stages that were foreseen, with their shares, and those that were seen, in order."""

    expected: dict[str, float] = field(default_factory=dict)
    seen: dict[str, None] = field(default_factory=dict)

    def see(self, stage: str, done: float, total: float) -> None:
        """Note that a stage was seen."""
        self.seen.setdefault(stage)


@pytest.fixture(scope="session")
def stages_of_optimized() -> Stages:
    """The stages of the run that made ``optimized``."""
    return Stages()


@pytest.fixture(scope="session")
def hashed_sizes() -> list[int]:
    """The bytes that went through each SHA-256 while ``optimized`` was made."""
    return []


@contextlib.contextmanager
def counted_hashes(sizes: list[int]) -> Iterator[None]:
    """Add to ``sizes``, while in the block, the bytes of everything of which this process takes a SHA-256."""
    sha256, file_digest = hashlib.sha256, hashlib.file_digest

    class Counting:
        def __init__(self, data: bytes = b"") -> None:
            self._digest, self._number = sha256(data), len(sizes)
            sizes.append(len(data))

        def update(self, data: bytes) -> None:
            self._digest.update(data)
            sizes[self._number] += len(data)

        def hexdigest(self) -> str:
            return self._digest.hexdigest()

    def counting_file_digest(stream: Any, name: str) -> Any:
        sizes.append(os.fstat(stream.fileno()).st_size)
        return file_digest(stream, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hashlib, "sha256", Counting)
        patch.setattr(hashlib, "file_digest", counting_file_digest)
        yield
