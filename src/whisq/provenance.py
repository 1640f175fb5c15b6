"""Where a file comes from: what a GGUF carries inside, and what a ``.bin`` can have beside it as JSON.

A ``.bin`` has no room for it, so a sidecar, ``OUTPUT.json``, is written on request.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whisq.documents import Document
from whisq.errors import FormatError
from whisq.formats.gguf_metadata import VOCABULARY_COUNT_KEY
from whisq.model import Model
from whisq.recipe import Recipe, save_recipe
from whisq.version import __version__
from whisq.writing import text_with

if TYPE_CHECKING:
    from whisq.calibration import Calibration
    from whisq.quantization.method import Method
    from whisq.quantization.plan import Plan

_SIDECAR = Document("a sidecar", FormatError, "leave it out", 1 << 24)


def provenance_of(
    model: Model, recipe: Recipe | None = None, method: Method | None = None, calibration: Calibration | None = None
) -> dict[str, Any]:
    """Return where a file made from ``model`` comes from: the source's name and SHA-256, and the recipe as TOML.

    What a method adds is in it, too: its name, and what its calibration was made on; ``other_model`` names the model
    where that was one of other weights.
    """
    source = {"name": model.path.resolve().name, "format": model.format, "sha256": model.sha256}
    stated: dict[str, Any] = {"version": __version__, "source": source}
    if recipe is not None:
        stated["recipe"] = save_recipe(recipe)
    if method is not None:
        stated |= method.provenance(calibration)
        if calibration is not None and "calibration" in stated and calibration.is_of(model) is False:
            stated["calibration"] = {**stated["calibration"], "other_model": calibration.model_name}
    return stated


def sidecar_path(output: str | Path) -> Path:
    """Return where the sidecar of a file is: ``OUTPUT.json``."""
    return Path(f"{output}.json")


@contextlib.contextmanager
def sidecar(plan: Plan, output: str | Path) -> Iterator[Path]:
    """Write what a plan's file has no room for beside it, where it is once the block has written that file.

    Raises ``OutputError`` when it cannot be written, before the block where that can be told.
    """
    path = sidecar_path(output)
    document = {
        **plan.provenance,
        "output": {"name": Path(output).name, "size_bytes": plan.size_bytes},
        "bits_per_weight": plan.bits_per_weight,
        "tensors": {assignment.tensor.name: assignment.type.name for assignment in plan.assignments},
    }
    with text_with(path, json.dumps(document, indent=2, ensure_ascii=False) + "\n", hint="leave out --sidecar"):
        yield path


def stated_provenance(model: Model) -> dict[str, Any]:
    """Return what a model says of its origin, by dotted key: a GGUF's own keys, or those of a sidecar."""
    stated = {
        key: value
        for key, value in model.metadata.get("gguf", {}).items()
        if key.startswith(("whisq.", "quantize.", "general.license", "general.repo_url"))
        and key != VOCABULARY_COUNT_KEY
    }
    path = sidecar_path(model.path)
    if model.container == "bin" and path.is_file():
        try:
            document = _SIDECAR.json(path)
        except FormatError:
            return stated
        if isinstance(document, Mapping) and "version" in document:
            for key in ("version", "source", "recipe", "quantize", "method", "calibration"):
                _flatten(f"whisq.{key}", document.get(key), stated)
    return stated


def _flatten(key: str, value: object, into: dict[str, Any]) -> None:
    if isinstance(value, Mapping):
        for name, item in value.items():
            _flatten(f"{key}.{name}", item, into)
    elif value is not None:
        into[key] = value
