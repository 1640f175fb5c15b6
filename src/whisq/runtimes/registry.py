"""Which runtime loads which file: facts about loaders, each seen with the version named.

The same table answers for a plan (before the file exists) and for a file (``whisq inspect``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from whisq.types import BF16, F16, F32, TYPES, TensorType
from whisq.whisper import TensorSpec

TRANSCRIBE_CPP_TYPES = frozenset(
    TYPES[name] for name in ["f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q4_K", "q5_K", "q6_K"]
)
"""Types that transcribe.cpp (PyPI: transcribe-cpp 0.4) takes, mixed freely, in ``.bin`` and GGUF."""

RUNTIMES = ("whisper.cpp", "whisper.cpp-pr3605", "transcribe.cpp")
_ALIASES = {"pywhispercpp": "whisper.cpp", "transcribe-cpp": "transcribe.cpp", "whisper.cpp+pr3605": RUNTIMES[1]}
_TITLES = {
    "whisper.cpp": "whisper.cpp (stock, up to 1.9.3; pywhispercpp)",
    "whisper.cpp-pr3605": "whisper.cpp with pull request 3605",
    "transcribe.cpp": "transcribe.cpp (transcribe-cpp 0.4)",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether one runtime loads a file, and if not, why not. ``reasons`` is empty when it does."""

    runtime: str
    reasons: tuple[str, ...]

    @property
    def loads(self) -> bool:
        """True when the runtime loads the file."""
        return not self.reasons

    @property
    def title(self) -> str:
        """The runtime's name and version for people."""
        return _TITLES[self.runtime]


def parse_runtime(text: str) -> str | None:
    """Return the name in ``RUNTIMES`` that a user means, or None."""
    key = text.strip().lower()
    return key if key in RUNTIMES else _ALIASES.get(key)


def verdicts(container: str, tensors: Iterable[tuple[TensorSpec, TensorType]]) -> tuple[Verdict, ...]:
    """Return every runtime's verdict on a file of these tensors."""
    listed = list(tensors)
    return tuple(Verdict(runtime, tuple(_REASONS[runtime](container, listed))) for runtime in RUNTIMES)


_Tensors = Sequence[tuple[TensorSpec, TensorType]]


def _only_bin(container: str) -> list[str]:
    return [] if container == "bin" else [f"it reads .bin files, not {container}"]


def _conv_reasons(tensors: _Tensors, header_is_f32: bool) -> list[str]:
    if header_is_f32:
        return []
    wide = [spec.name for spec, kind in tensors if spec.role == "conv" and kind is F32]
    return [f"it reserves f16 for the conv kernels and {wide[0]} is f32"] if wide else []


def _stock_reasons(container: str, tensors: _Tensors) -> list[str]:
    reasons = _only_bin(container)
    kinds = {kind for spec, kind in tensors if spec.is_matrix}
    if len(kinds) > 1:
        embedding = next((kind for spec, kind in tensors if spec.role == "token_embedding"), None)
        others = {kind for spec, kind in tensors if spec.is_matrix and spec.role != "token_embedding"}
        if len(others) == 1 and embedding is not None:
            detail = f"the token embedding is {embedding}, the other matrices {next(iter(others))}"
        else:
            detail = f"this file has {', '.join(sorted(kind.name for kind in kinds))}"
        reasons.append(f"it wants one type for all matrices, the token embedding included; {detail}")
    return reasons + _conv_reasons(tensors, kinds == {F32})


def _pr3605_reasons(container: str, tensors: _Tensors) -> list[str]:
    reasons = _only_bin(container)
    kinds = {kind for spec, kind in tensors if spec.is_matrix}
    wide = [spec.name for spec, kind in tensors if spec.is_matrix and kind is F32]
    if wide and len(kinds) > 1:
        reasons.append(f"it reserves f16 for every matrix and {wide[0]} is f32")
    return reasons + _conv_reasons(tensors, kinds == {F32})


def _transcribe_reasons(container: str, tensors: _Tensors) -> list[str]:
    del container
    unknown = sorted({kind.name for _, kind in tensors if kind not in TRANSCRIBE_CPP_TYPES})
    reasons = [f"it does not take {', '.join(unknown)}"] if unknown else []
    convs = sorted({kind.name for spec, kind in tensors if spec.role == "conv" and kind not in (F16, F32)})
    if convs:
        reasons.append(f"it takes conv kernels as f16 or f32, not {', '.join(convs)}")
    return reasons


_REASONS = {
    "whisper.cpp": _stock_reasons,
    "whisper.cpp-pr3605": _pr3605_reasons,
    "transcribe.cpp": _transcribe_reasons,
}


def types_of_target(runtime: str) -> frozenset[TensorType]:
    """Return the types that a matrix may have for this runtime, mixes aside."""
    if runtime == "transcribe.cpp":
        return TRANSCRIBE_CPP_TYPES
    return frozenset(TYPES.values()) - ({BF16} if runtime == "whisper.cpp" else set())


RuntimeName = Literal["transcribe.cpp", "whisper.cpp"]


RUNTIME_PACKAGES: dict[RuntimeName, str] = {"transcribe.cpp": "transcribe-cpp", "whisper.cpp": "pywhispercpp"}
"""The Python package that carries each runtime, the preferred one first: it takes the most files."""


def installed_runtimes() -> dict[RuntimeName, str]:
    """Return the version of every runtime whose package is installed."""
    found: dict[RuntimeName, str] = {}
    for name, package in RUNTIME_PACKAGES.items():
        try:
            found[name] = version(package)
        except PackageNotFoundError:
            continue
    return found
