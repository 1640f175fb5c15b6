"""transcribe.cpp, through the Python package transcribe-cpp: 0.4.1 is what tests/runtimes/test_loads_in.py runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whisq.extras import is_installed
from whisq.runtimes.runtime import (
    SEED,
    VOCABULARIES,
    Heard,
    Objection,
    Runtime,
    Tensors,
    audio_positions,
    types_named,
    vocabulary_size,
)
from whisq.types import F16, F32

if TYPE_CHECKING:
    from whisq.clips.audio import Samples

_POSITIONS = 1500
"""Of 30 s of audio, as every released Whisper has; a GGUF states its own."""
_WARNING, _ERROR = 2, 3  # TRANSCRIBE_LOG_LEVEL_* of transcribe.h


class TranscribeCpp:
    """transcribe.cpp on a device: greedy; with ``fallback``, its own retries at higher temperatures."""

    def __init__(self, path: Path, threads: int, fallback: bool, device: str = "cpu") -> None:
        import transcribe_cpp

        transcribe_cpp.set_log_callback(_log)
        self._truncated = transcribe_cpp.OutputTruncated
        increment = {} if fallback else {"temperature_inc": 0.0}
        self._options = transcribe_cpp.WhisperRunOptions(temperature=0.0, seed=SEED, **increment)
        self._model = transcribe_cpp.Model(str(path), **_where(device))
        self._session = self._model.session(n_threads=threads)

    def transcribe(self, samples: Samples, language: str | None) -> Heard:
        """Return what was heard, with a remark when the runtime stopped at repetition or at its token limit."""
        try:
            return _heard(self._session.run(samples, language=language, family=self._options))
        except self._truncated as error:
            partial = getattr(error, "partial_result", None)
            remark = type(error).__name__
            return _heard(partial, remark) if partial else Heard("", remark)


_BACKENDS = {"cuda": "cuda", "metal": "mps"}
"""What transcribe-cpp calls its kinds of device, and what torch does."""


def _devices() -> dict[str, Any]:
    """Return what the installed wheel's backends have found, by torch's names."""
    import transcribe_cpp

    found: dict[str, Any] = {}
    for device in transcribe_cpp.backends():
        name = _BACKENDS.get(device.kind)
        if name is not None:
            number = sum(other.partition(":")[0] == name for other in found if ":" in other)
            found |= {f"{name}:{number}": device}
            found.setdefault(name, device)
    return found


def device_names() -> tuple[str, ...]:
    """Return on what transcribe-cpp runs models here: the CPU first, where it is not installed that alone."""
    if not is_installed("transcribe_cpp"):
        return ("cpu",)
    return ("cpu", *_devices())


def _where(device: str) -> dict[str, Any]:
    return {"backend": "cpu"} if device == "cpu" else {"device": _devices()[device]}


def _heard(result: Any, remark: str = "") -> Heard:
    return Heard(
        result.text,
        remark,
        tuple((segment.t0_ms / 1000, segment.t1_ms / 1000) for segment in result.segments),
        result.timings.encode_ms / 1000,
        result.timings.decode_ms / 1000,
    )


def _log(level: int, message: str) -> None:
    # What it reports of every model that it loads would hide why one fails.
    if level in (_WARNING, _ERROR):
        print(message.rstrip("\n"), file=sys.stderr)


def _more(container: str, tensors: Tensors) -> Iterator[Objection]:
    size = vocabulary_size(tensors)
    if container == "bin" and size is not None and size not in VOCABULARIES:
        known = ", ".join(map(str, VOCABULARIES))
        yield Objection(
            f"it takes a .bin with Whisper's own vocabulary only ({known} tokens), and this one has {size}",
            "write a .gguf file",
        )
    positions = audio_positions(tensors)
    if container == "bin" and positions is not None and positions < _POSITIONS:
        yield Objection(
            f"of a .bin it encodes {_POSITIONS} positions whatever the model has, and this one has {positions}",
            "write a .gguf file",
        )
    others = sorted({kind.name for spec, kind in tensors if spec.role == "conv" and kind not in (F16, F32)})
    if others:
        yield Objection(f"it takes conv kernels as f16 or f32, not {', '.join(others)}")


TRANSCRIBE_CPP = Runtime(
    name="transcribe.cpp",
    title="transcribe.cpp (tested: transcribe-cpp 0.4.1)",
    types=types_named("f32 f16 bf16 q4_0 q4_1 q5_0 q5_1 q8_0 q4_K q5_K q6_K"),
    loads_mixes=True,
    containers=("bin", "gguf"),
    aliases=("transcribe-cpp",),
    package="transcribe-cpp",
    load=TranscribeCpp,
    devices=device_names,
    load_on=TranscribeCpp,
    more_objections=_more,
)
