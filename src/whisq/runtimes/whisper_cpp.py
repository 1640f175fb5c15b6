"""whisper.cpp: as released, through the Python package pywhispercpp, and with a change that waits there.

Sources: ``whisper_model_load`` in whisper.cpp's ``src/whisper.cpp``, and files of every type below but f32 that are
loaded and run by pywhispercpp 1.5.1, which carries whisper.cpp 1.8.5 (tests/runtimes/test_loads_in.py). Norms and
biases are f32 in all of them. The change of pull request 3605 was read, not run.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whisq.runtimes.runtime import Heard, NextTokens, Objection, Runtime, Tensors, has_added_tokens, types_named
from whisq.types import F32

if TYPE_CHECKING:
    from whisq.clips.audio import Samples

_TYPES = types_named("f32 f16 bf16 q4_0 q4_1 q5_0 q5_1 q8_0 q2_K q3_K q4_K q5_K q6_K iq4_nl iq4_xs mxfp4")


class WhisperCpp:
    """whisper.cpp through pywhispercpp on the CPU; its sampling has a fixed seed by itself."""

    def __init__(self, path: Path, threads: int, fallback: bool) -> None:
        from pywhispercpp.model import Model

        some_threads: dict[str, Any] = {"n_threads": threads} if threads else {}
        self._model = Model(
            str(path),
            context_params={"use_gpu": False},
            print_progress=False,
            print_realtime=False,
            temperature_inc=0.2 if fallback else 0.0,
            **some_threads,
        )

    def transcribe(self, samples: Samples, language: str | None) -> Heard:
        """Return the text of all segments; nothing is ever remarked, and no time told apart."""
        segments = self._model.transcribe(samples, language=language or "auto")
        text = " ".join(segment.text.strip() for segment in segments)
        # Its times are in hundredths of a second.
        return Heard(text, spans=tuple((segment.t0 / 100, segment.t1 / 100) for segment in segments))


def next_tokens(path: Path, threads: int) -> NextTokens:
    """Return a model in whisper.cpp that tells logits."""
    from whisq.runtimes.libwhisper import WhisperCppLogits

    return WhisperCppLogits(path, threads)


def _added_tokens(container: str, tensors: Tensors) -> Iterator[Objection]:
    if container == "bin" and has_added_tokens(tensors):
        # Seen in whisper.cpp 1.8.5: it takes the added tokens for languages, and ends the process at the first unknown.
        yield Objection(
            "it aborts on a vocabulary larger than Whisper's own", "write a .gguf file for transcribe.cpp instead"
        )


def _more(container: str, tensors: Tensors) -> Iterator[Objection]:
    yield from _added_tokens(container, tensors)
    yield from _f32_convs(tensors)


def _more_of_pr3605(container: str, tensors: Tensors) -> Iterator[Objection]:
    yield from _added_tokens(container, tensors)
    yield from _f32_anywhere(tensors)


def _f32_convs(tensors: Tensors) -> Iterator[Objection]:
    if {kind for spec, kind in tensors if spec.is_matrix} == {F32}:
        # Seen in whisper.cpp 1.8.5: the file loads, and the first audio ends in ggml's GGML_ASSERT(src0->type == F16).
        yield Objection("it reserves f32 for the conv kernels of an f32 file and cannot run those", "use f16")
        return
    wide = [spec.name for spec, kind in tensors if spec.role == "conv" and kind is F32]
    if wide:
        yield Objection(f"it reserves f16 for the conv kernels and {wide[0]} is f32", "leave out --keep-f32")


def _f32_anywhere(tensors: Tensors) -> Iterator[Objection]:
    convs = list(_f32_convs(tensors))
    kinds = {kind for spec, kind in tensors if spec.is_matrix}
    wide = [spec.name for spec, kind in tensors if spec.is_matrix and kind is F32]
    if wide and len(kinds) > 1:
        # Under --keep-f32 the conv kernels are f32 too, and leaving it out is what helps both.
        hint = "" if convs else f"use f16 instead of f32 for {wide[0]}"
        yield Objection(f"it reserves f16 for every matrix and {wide[0]} is f32", hint)
    yield from convs


def core_ml_encoder(model: Path) -> Path:
    """Return the compiled Core ML encoder that whisper.cpp looks for beside a model.

    After ``whisper_get_coreml_path_encoder`` in ``src/whisper.cpp``: the suffix goes, and then an ending of five
    characters like ``-q5_1`` or ``-q4_K``. An ending of another length, such as ``-iq4_nl``, stays.
    """
    stem = model.stem
    rest, dash, ending = stem.rpartition("-")
    if dash and len(ending) == 4 and ending[0] == "q" and ending[2] == "_":
        stem = rest
    return model.with_name(f"{stem}-encoder.mlmodelc")


WHISPER_CPP = Runtime(
    name="whisper.cpp",
    title="whisper.cpp (stock; tested: 1.8.5, in pywhispercpp 1.5.1)",
    types=_TYPES,
    loads_mixes=False,
    containers=("bin",),
    aliases=("pywhispercpp",),
    package="pywhispercpp",
    load=WhisperCpp,
    logits=next_tokens,
    more_objections=_more,
    companion=core_ml_encoder,
    in_tables="stock whisper.cpp",
)

WHISPER_CPP_PR3605 = Runtime(
    name="whisper.cpp-pr3605",
    title="whisper.cpp with pull request 3605 (by its loader's source, not run)",
    types=_TYPES,
    loads_mixes=True,
    containers=("bin",),
    aliases=("whisper.cpp+pr3605",),
    more_objections=_more_of_pr3605,
    companion=core_ml_encoder,
    in_tables="PR 3605",
)
