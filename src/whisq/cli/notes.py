"""What whoever made a file should know of it: where it loads, and what is not found beside it under its name."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from whisq.formats.layout import CONTAINERS
from whisq.quantization.plan import Plan
from whisq.recipe import Recipe
from whisq.runtimes.registry import RUNTIMES
from whisq.runtimes.runtime import Runtime
from whisq.whisper import TOKEN_EMBEDDING

if TYPE_CHECKING:
    from whisq.calibration import Calibration
    from whisq.model import Model


def notes_on(plan: Plan, asked: Recipe, target: Runtime | None, output: str | Path) -> Iterator[str]:
    """Yield a lifted embedding, which runtimes load the file, and what these miss beside it."""
    embedding = next((a for a in plan.assignments if a.tensor.name == TOKEN_EMBEDDING), None)
    if embedding is not None and embedding.why != "protected":
        why = "its protection is lifted"
        if target is not None and asked.protects(embedding.tensor.spec):
            why = f"since {target.name} loads one type only"
        yield f"embedding: {embedding.type}, {why}"
    loading = [verdict for verdict in plan.verdicts if verdict.loads]
    refusing = [runtime for runtime, verdict in zip(RUNTIMES, plan.verdicts, strict=True) if not verdict.loads]
    others = [runtime for runtime in refusing if not runtime.reads_its_own]
    if target is None and loading and others:
        options = "; ".join(f"for {runtime.name}: {_way_to(runtime, plan)}" for runtime in others)
        yield f"loads in {', '.join(verdict.runtime for verdict in loading)}; {options}"
    yield from lost_companions(plan, output)


def weights_note(calibration: Calibration, model: Model) -> str | None:
    """Return what is to be said of the weights that a calibration was measured on, None where they are the model's."""
    found = calibration.is_of(model)
    if found is None:
        return (
            f"{calibration.path}: does not say of which weights it is; that these are {model.path}'s cannot be checked"
        )
    if not found:
        return f"{calibration.path}: was made with other weights ({calibration.model_name}), taken for --other-model"
    return None


def _way_to(runtime: Runtime, plan: Plan) -> str:
    container = "" if plan.container in runtime.containers else f"a {CONTAINERS[runtime.containers[0]].suffix} with "
    return f"{container}--target {runtime.name}"


def miscounted_tokens(plan: Plan) -> Iterator[tuple[str, str]]:
    """Yield a warning, and what to do, where a ``.bin`` cannot tell its loader where the special tokens are."""
    from whisq.formats.special_tokens import mistaken_by_counting

    if plan.container == "bin" and mistaken_by_counting(plan.model):
        yield (
            f"{plan.model.path}: the vocabulary has tokens of its own ({plan.model.dims.n_vocab}); loaders of a .bin"
            " count the special tokens off from its size and will take others for them",
            "write a .gguf, which names them",
        )


def lost_companions(plan: Plan, output: str | Path) -> Iterator[str]:
    """Yield what the source has beside it, or the output would have, that no runtime finds under the output's name.

    whisper.cpp runs the encoder in Core ML where a compiled one lies beside the model, and finds it by the name alone.
    """
    source, written, said = plan.model.path, Path(output), set()
    for runtime, verdict in zip(RUNTIMES, plan.verdicts, strict=True):
        if runtime.companion is None or not verdict.loads:
            continue
        wanted, theirs = runtime.companion(written), runtime.companion(source)
        there = next((p for p in (written.with_name(theirs.name), theirs) if p.exists()), None)
        if there is None or wanted.exists() or wanted in said:
            continue
        said.add(wanted)
        # A link is resolved from the folder that it is in.
        original = there.name if there.parent == wanted.parent else there.resolve()
        link = f"ln -s {shlex.quote(str(original))} {shlex.quote(str(wanted))}"
        yield f"{runtime.name} looks for {wanted.name} beside the file and would not find {there}: {link}"
