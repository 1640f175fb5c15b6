"""What the runtime on this machine takes for a clip with all matrices in one type."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from whisq.errors import MissingExtraError, PlanError
from whisq.extras import install_hint
from whisq.model import Model
from whisq.quantization.plan import make_plan
from whisq.quantization.write import quantize
from whisq.recipe import Recipe
from whisq.runtimes.process import WorkerProcess
from whisq.runtimes.runtime import Runtime
from whisq.runtimes.transcribe_cpp import TRANSCRIBE_CPP
from whisq.types import TensorType
from whisq.writing import scratch_folder

RUNS = 4
"""Runs of a clip; the fastest counts, and the first also warms up."""


def seconds_by_type(
    model: Model, types: Sequence[TensorType], clip: Path, runtime: Runtime = TRANSCRIBE_CPP, threads: int = 2
) -> dict[str, float]:
    """Return seconds by type: the model in that type throughout, in a runtime that loads mixes, on a clip.

    Raises ``MissingExtraError`` without the runtime, ``PlanError`` when none can run it or it takes none of the types.
    """
    if runtime.package is None:
        raise PlanError(f"{runtime.name} cannot be timed: {runtime.reason_not_here()}", hint="leave out --prefer-fast")
    if runtime.installed_version() is None:
        raise MissingExtraError(f"{runtime.name} is not installed, to time types in", hint=install_hint("evaluate"))
    found = {}
    for kind in types:
        if kind not in runtime.types:
            continue
        with scratch_folder() as folder, WorkerProcess("whisq.runtimes.worker") as worker:
            path = folder / "model.bin"
            quantize(make_plan(model, Recipe(kind)), path)
            worker.ask("load", runtime=runtime.name, path=str(path), threads=threads, fallback=False)
            runs = [
                worker.ask("run", path=str(clip), row=None, segment=None, language="en")["seconds"] for _ in range(RUNS)
            ]
            found[kind.name] = float(min(runs))
    if not found:
        raise PlanError(f"{runtime.name} takes none of these types: none can be timed", hint="leave out --prefer-fast")
    return found
