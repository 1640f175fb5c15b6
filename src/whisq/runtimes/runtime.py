"""What a runtime is: which files it loads, what to change about the others, and how a model is run in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from whisq.errors import MissingExtraError, RuntimeUnavailableError
from whisq.formats import container_of
from whisq.formats.layout import CONTAINERS, ContainerName
from whisq.types import TYPES, TensorType
from whisq.whisper import TOKEN_EMBEDDING, TensorSpec

if TYPE_CHECKING:
    # numpy comes with them, and `whisq evaluate --help` lists the runtimes without.
    import numpy as np
    from numpy.typing import NDArray

    from whisq.clips.audio import Samples

Tensors = Sequence[tuple[TensorSpec, TensorType]]
"""All tensors of a file, each with the type it is stored in."""

VOCABULARIES = (51864, 51865, 51866)
"""Tokens of Whisper's own: English, multilingual, and with Cantonese."""

SEED = 1
"""For the runtimes' sampling when their temperature fallback is on: by itself it differs from run to run."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What a runtime wrote: the text, and a remark where it stopped early.

    ``spans`` are start and end of each segment in seconds; ``encode_s`` and ``decode_s`` are what its two halves took,
    None where the runtime does not tell.
    """

    text: str
    remark: str = ""
    spans: tuple[tuple[float, float], ...] = ()
    encode_s: float | None = None
    decode_s: float | None = None


class Transcriber(Protocol):
    """A loaded model in some runtime."""

    def transcribe(self, samples: Samples, language: str | None) -> Heard:
        """Return what the model makes of the samples.

        ``samples`` are 16 kHz, one channel; without a ``language`` the runtime finds out by itself.
        """


class NextTokens(Protocol):
    """A loaded model in some runtime, asked what it would write next."""

    def hear(self, samples: Samples) -> None:
        """Encode up to 30 s of 16 kHz mono samples: what follows is asked about them."""

    def after(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Return the logits ``[vocabulary]`` of what follows these tokens, the prompt included."""

    def close(self) -> None:
        """Free the model."""


@dataclass(frozen=True, slots=True)
class Objection:
    """Why a runtime does not load a file, and what to do about it ("leave out --keep-f32"), if that can be said."""

    reason: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file before it is written, as much of it as a runtime needs to say what should be planned instead.

    ``kept`` names the matrices that the recipe leaves as they are, ``chosen`` holds the types that it gives to the
    others. ``uniform`` are types that all could have: the default, or some of about its size where a row does not fit.
    ``has_rules`` is whether the recipe has rules.
    ``elsewhere`` is the name of a runtime that loads the file as it is, empty when there is none.
    """

    container: str
    tensors: Tensors
    kept: tuple[str, ...]
    chosen: frozenset[TensorType]
    uniform: tuple[TensorType, ...]
    has_rules: bool
    elsewhere: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether one runtime loads a file, and if not, why not. ``reasons`` is empty when it does."""

    runtime: str
    title: str
    reasons: tuple[str, ...]

    @property
    def loads(self) -> bool:
        """True when the runtime loads the file."""
        return not self.reasons


def _the_cpu_alone() -> tuple[str, ...]:
    return ("cpu",)


def _nothing_else(container: str, tensors: Tensors) -> Iterable[Objection]:
    del container, tensors
    return ()


@dataclass(frozen=True, slots=True)
class Runtime:
    """A program or library that people load model files in. Its facts are those seen, with the version in ``title``.

    ``types`` are the types that it was seen to take, listed one by one: a type that whisq learns later is not in it
    by accident. ``loads_mixes`` is false when all matrices must have one type. ``containers`` begins with the one to
    write for it; with ``reads_its_own`` no other runtime reads it, and notes on files for others do not name it.
    ``aliases`` are other names by which people ask for it, ``in_tables`` is what a narrow column says, its name by
    default.

    ``package`` is the Python package that carries it, and ``load`` what loads a model with that package (arguments:
    path, threads, whether to retry at higher temperatures); both are None for one that cannot be run from Python.
    ``devices`` lists on what the package as installed runs models, as torch names it, and ``load_on`` loads a model on
    another of these than the CPU (one argument more, that name).
    ``logits`` is what loads a model to ask for the next token's logits (path, threads), None where it gives none.
    ``more_objections`` says what else it does not load. ``companion`` returns what it looks for beside a model of some
    name and does without where it is not there; None where it looks for nothing.
    """

    name: str
    title: str
    types: frozenset[TensorType]
    loads_mixes: bool
    containers: tuple[ContainerName, ...]
    aliases: tuple[str, ...] = ()
    package: str | None = None
    load: Callable[[Path, int, bool], Transcriber] | None = None
    devices: Callable[[], tuple[str, ...]] = _the_cpu_alone
    load_on: Callable[[Path, int, bool, str], Transcriber] | None = None
    logits: Callable[[Path, int], NextTokens] | None = None
    more_objections: Callable[[str, Tensors], Iterable[Objection]] = _nothing_else
    companion: Callable[[Path], Path] | None = None
    in_tables: str = ""
    reads_its_own: bool = False

    def __post_init__(self) -> None:
        """Raise ``ValueError`` for a package that nothing is loaded with, or the other way round."""
        if (self.package is None) != (self.load is None):
            raise ValueError(f"{self.name}: a package needs a function that loads a model with it, and it a package")
        if self.logits is not None and self.package is None:
            raise ValueError(f"{self.name}: a runtime that no package carries gives no logits")

    @property
    def short_name(self) -> str:
        """What a narrow column calls it."""
        return self.in_tables or self.name

    @property
    def names(self) -> frozenset[str]:
        """Its name and aliases in small letters."""
        return frozenset(name.lower() for name in (self.name, *self.aliases))

    def reasons_against(self, container: str, tensors: Tensors) -> tuple[str, ...]:
        """Return why the runtime does not load a file of these tensors; empty when it does."""
        return tuple(objection.reason for objection in self._objections(container, tensors))

    def container_for(self, path: Path) -> ContainerName:
        """Return the container to write under a name: the one that its suffix means here, else anywhere."""
        meant = container_of(path)
        suffix = CONTAINERS[meant].suffix
        alike = [name for name in self.containers if CONTAINERS[name].suffix == suffix]
        return meant if meant in self.containers or not alike else alike[0]

    def verdict(self, container: str, tensors: Tensors) -> Verdict:
        """Return the same under the runtime's name and title."""
        return Verdict(self.name, self.title, self.reasons_against(container, tensors))

    def hint(self, file: PlannedFile) -> str:
        """Return what to do so that the runtime loads a file that it objects to."""
        advice = [objection.hint for objection in self._objections(file.container, file.tensors) if objection.hint]
        if self.loads_mixes or len(_matrix_types(file.tensors)) < 2:
            return " and ".join(advice) or "choose another type"
        if len(file.chosen) > 1:
            fit = " or ".join(kind.name for kind in file.uniform if kind in self.types)
            advice.append(f"{'drop the rules and use' if file.has_rules else 'use'} one type that fits all rows: {fit}")
        if file.kept and len(file.chosen) == 1:
            advice.append(f"leave out --protect for {file.kept[0]}")
        other = f", or target {file.elsewhere}, which loads mixes" if file.elsewhere else ""
        return " and ".join(advice) + other

    def reason_not_here(self) -> str:
        """Return why no model can be run in it on this machine, empty when one can."""
        if self.package is None:
            return "no Python package carries it"
        return "" if self.installed_version() else f"{self.package} is not installed"

    def installed_version(self) -> str | None:
        """Return the version of its package, None when it is not installed or there is none."""
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version(self.package) if self.package else None
        except PackageNotFoundError:
            return None

    @property
    def gives_logits(self) -> bool:
        """True when it tells the next token's logits, so that divergence can be measured in it."""
        return self.logits is not None

    def device_for(self, device: str) -> str:
        """Return a device where the package as installed runs models on it, else the CPU."""
        return device if device == "cpu" or device in self.devices() else "cpu"

    def transcriber(self, path: Path, threads: int, fallback: bool, device: str = "cpu") -> Transcriber:
        """Return a model, loaded on a device that is there. ``threads`` 0 leaves their number to the runtime.

        ``fallback`` lets the runtime retry at higher temperatures what it finds unlikely. Raises
        ``RuntimeUnavailableError`` when no package carries the runtime, ``MissingExtraError`` when it is not installed,
        and what the package raises for a file that it does not load.
        """
        if self.load is None:
            raise RuntimeUnavailableError(
                f"{self.title} cannot be run from Python: {self.reason_not_here()}",
                hint="name a runtime that `whisq evaluate --help` lists under --runtime",
            )
        self._require_package()
        if device == "cpu":
            return self.load(path, threads, fallback)
        if self.load_on is None or device not in self.devices():
            raise RuntimeUnavailableError(
                f"{self.package} {self.installed_version()} runs models on {' '.join(self.devices())}, not on {device}",
                hint="leave out --device, or install a build of it for that device",
            )
        return self.load_on(path, threads, fallback, device)

    def next_tokens(self, path: Path, threads: int) -> NextTokens:
        """Return a model, loaded on the CPU, that tells what it would write next.

        Raises ``RuntimeUnavailableError`` for a runtime that gives no logits, and for a file that it does not load;
        ``MissingExtraError`` when the package is not installed.
        """
        if self.logits is None:
            raise RuntimeUnavailableError(
                f"{self.title} tells no logits", hint="leave out --runtime: whisq's own forward pass has them"
            )
        self._require_package()
        return self.logits(path, threads)

    def _require_package(self) -> None:
        if self.installed_version() is None:
            raise MissingExtraError(f"{self.name}: {self.reason_not_here()}", hint=f"pip install {self.package}")

    def _objections(self, container: str, tensors: Tensors) -> Iterator[Objection]:
        if container not in self.containers:
            read = " and ".join(CONTAINERS[name].title for name in self.containers)
            titles = {str(name): row.title.replace(".", "") for name, row in CONTAINERS.items()}
            found = titles.get(container, container)
            yield Objection(f"it reads {read} files, not {found}", CONTAINERS[self.containers[0]].to_write)
        unknown = sorted({kind.name for _, kind in tensors if kind not in self.types})
        if unknown:
            known = " ".join(name for name, kind in TYPES.items() if kind in self.types)
            yield Objection(f"it does not take {', '.join(unknown)}", f"use types among {known}")
        if not self.loads_mixes and len(_matrix_types(tensors)) > 1:
            yield Objection(
                f"it wants one type for all matrices, the token embedding included; {_mixture(tensors)}"
            )  # its hint is the plan's, not the file's
        yield from self.more_objections(container, tensors)


def types_named(names: str) -> frozenset[TensorType]:
    """Return the types of these names, which stand between spaces; raises ``KeyError`` for one that is not there."""
    return frozenset(TYPES[name] for name in names.split())


def _matrix_types(tensors: Tensors) -> set[TensorType]:
    return {kind for spec, kind in tensors if spec.is_matrix}


def _mixture(tensors: Tensors) -> str:
    embedding = next((kind for spec, kind in tensors if spec.role == "token_embedding"), None)
    others = {kind for spec, kind in tensors if spec.is_matrix and spec.role != "token_embedding"}
    if len(others) == 1 and embedding is not None:
        return f"the token embedding is {embedding}, the other matrices {next(iter(others))}"
    return f"this file has {', '.join(sorted(kind.name for kind in _matrix_types(tensors)))}"


def audio_positions(tensors: Tensors) -> int | None:
    """Return for how many 20 ms steps an encoder has positions, Whisper's 1500 for 30 s; None for no encoder."""
    return next((spec.shape[0] for spec, _ in tensors if spec.name == "encoder.positional_embedding"), None)


def vocabulary_size(tensors: Tensors) -> int | None:
    """Return the tokens of a file's vocabulary, None for one without an embedding."""
    return next((spec.shape[0] for spec, _ in tensors if spec.name == TOKEN_EMBEDDING), None)


def has_added_tokens(tensors: Tensors) -> bool:
    """Return whether a vocabulary is larger than any of Whisper's own.

    A ``.bin`` does not name its special tokens. Loaders count them off from the vocabulary's size, which tells them
    nothing here.
    """
    return (vocabulary_size(tensors) or 0) > VOCABULARIES[-1]
