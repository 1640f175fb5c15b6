"""What an evaluation needs to know of a model file, and which installed runtime can run it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from whisq.errors import RuntimeUnavailableError
from whisq.evaluation.known_hashes import known_sha256
from whisq.extras import install_hint
from whisq.formats import open_model
from whisq.formats.special_tokens import languages_of
from whisq.model import Model
from whisq.provenance import stated_provenance
from whisq.runtimes.registry import is_readable, parse_runtime, runnable_runtimes, verdicts
from whisq.runtimes.runtime import Runtime
from whisq.source_file import FileState
from whisq.types import TensorType
from whisq.whisper import Dimensions, TensorSpec


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model on disk as an evaluation sees it; nothing of it stays open.

    ``size_bytes`` is that of the file or, for a folder, of the files with weights; ``languages`` are the codes of those
    that it has tokens for, English of an English-only model; ``provenance`` is what it says of where it comes from,
    ``tokens`` are those that it lists.
    """

    label: str
    path: Path
    container: str
    sha256: str
    size_bytes: int
    dims: Dimensions
    tensors: tuple[tuple[TensorSpec, TensorType], ...]
    languages: frozenset[str]
    states: tuple[FileState, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)
    tokens: tuple[bytes, ...] = field(default=(), repr=False)

    @property
    def n_weights(self) -> int:
        """Weights of all tensors together."""
        total = 0
        for spec, _ in self.tensors:
            count = 1
            for size in spec.shape:
                count *= size
            total += count
        return total

    @property
    def loads_in(self) -> tuple[str, ...]:
        """Names of the runtimes that are known to load it, installed or not."""
        return tuple(verdict.runtime for verdict in verdicts(self.container, self.tensors) if verdict.loads)

    @property
    def bits_per_weight(self) -> float:
        """Bits of the whole file per weight."""
        return 8 * self.size_bytes / self.n_weights


def describe(source: str | Path | Model, label: str, cache_folder: Path | None = None) -> ModelFile:
    """Return what is to be known of a model, its hash included; one that is open stays so. Raises ``FormatError``.

    With a cache, a file that was hashed before and not written since is not read again for it.
    """
    if not isinstance(source, Model):
        with open_model(source) as model:
            return replace(describe(model, label, cache_folder), path=Path(source))
    return ModelFile(
        label=label,
        path=source.path,
        container=source.format,
        sha256=known_sha256(source, cache_folder),
        size_bytes=source.size_bytes,
        dims=source.dims,
        tensors=tuple((tensor.spec, tensor.type) for tensor in source.tensors),
        languages=frozenset(languages_of(source)) or frozenset({"en"}),
        states=source.states,
        provenance=stated_provenance(source),
        tokens=source.tokenizer.tokens,
    )


def labels_of(paths: Sequence[Path]) -> list[str]:
    """Return a short name for each path, as many folders before the stem as it takes to tell them apart."""
    # What follows the dot of a folder called tiny.en is a part of its name.
    names = [path.name if path.is_dir() else path.stem for path in paths]
    for depth in range(1, 1 + max((len(path.parts) for path in paths), default=1)):
        labels = ["/".join((*path.parts[-depth:-1], name)) for path, name in zip(paths, names, strict=True)]
        if len(set(labels)) == len(labels):
            return labels
    return [str(path) for path in paths]


def reasons_against(file: ModelFile, runtime: Runtime) -> tuple[str, ...]:
    """Return why this runtime cannot run this file; empty when nothing speaks against it."""
    if not is_readable(file.container):
        return (f"no ggml runtime reads a {file.container} model: write a .bin of it with `whisq quantize`",)
    not_here = runtime.reason_not_here()
    return ((not_here,) if not_here else ()) + runtime.reasons_against(file.container, file.tensors)


@dataclass(frozen=True, slots=True)
class RuntimeChoice:
    """The name of the runtime for one file, or why there is none."""

    runtime: str | None
    reason: str = ""


def _what_to_do(container: str, forced: Runtime | None) -> str:
    if not is_readable(container):
        return "write a .bin of it with `whisq quantize`, and take that as the reference"
    if forced is None:
        return f"{install_hint('evaluate')}; or take an f16 .bin as the reference"
    if forced.installed_version() is None and forced.package is not None:
        return f"pip install {forced.package}; or let another runtime be chosen: leave out --runtime"
    return "let another runtime be chosen: leave out --runtime; or take an f16 .bin as the reference"


def choose_runtimes(files: Sequence[ModelFile], forced: str | None = None) -> list[RuntimeChoice]:
    """Return the runtime for every file: one that runs them all if there is one, so that only weights differ.

    ``forced`` names the only one that may be chosen. Raises ``RuntimeUnavailableError`` when the first file, the
    reference, cannot be run at all: there is nothing to compare with then. Raises ``PlanError`` for an unknown name.
    """
    only = parse_runtime(forced) if forced else None
    runtimes = (only,) if only else runnable_runtimes()
    names = [runtime.name for runtime in runtimes]
    against = [{runtime.name: reasons_against(file, runtime) for runtime in runtimes} for file in files]
    able = [[name for name in names if not reasons[name]] for reasons in against]
    common = [name for name in names if all(name in runs for runs in able if runs)]
    choices = []
    for file, runs, reasons in zip(files, able, against, strict=True):
        if runs:
            choices.append(RuntimeChoice(common[0] if common else runs[0]))
            continue
        distinct = dict.fromkeys(f"{name}: {'; '.join(reasons[name])}" for name in names)
        if not is_readable(file.container):
            distinct = dict.fromkeys(reasons[names[0]])
        choices.append(RuntimeChoice(None, " · ".join(distinct)))
    if choices[0].runtime is None:
        raise RuntimeUnavailableError(
            f"{files[0].path}: no installed runtime can run the reference: {choices[0].reason}",
            hint=_what_to_do(files[0].container, only),
        )
    return choices
