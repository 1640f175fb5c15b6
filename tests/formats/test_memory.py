"""Converting a large model takes no more memory than a small one. benchmarks/memory.py has the figures of large-v3."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.containers import WRITERS
from tests.support.models import hollow_weights, released
from tests.support.process import Run, run_whisq


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells in /proc what a process holds")
@pytest.mark.parametrize("kind", ["huggingface", "openai", "ctranslate2", "bin"])
def test_memory_does_not_grow_with_the_model(kind: str, tmp_path: Path) -> None:
    most: dict[str, Run] = {}
    for size in ("tiny", "small"):
        folder = tmp_path / size
        folder.mkdir()
        source = WRITERS[kind](folder, hollow_weights(released(size)))
        most[size] = run_whisq(["convert", "--quiet", str(source), str(folder / "out.gguf")])
        assert (folder / "out.gguf").stat().st_size > (60 if size == "tiny" else 400) << 20
        (folder / "out.gguf").unlink()
    for measure in ("resident_bytes", "held_bytes"):
        small, large = (getattr(most[size], measure) for size in ("tiny", "small"))
        assert 10 << 20 < small < 200 << 20, measure
        assert large < small + (40 << 20), measure
