"""whisper.cpp, through the Python package pywhispercpp."""

from __future__ import annotations

from whisq.clips.audio import Samples


class WhisperCpp:
    """whisper.cpp through pywhispercpp on the CPU; its sampling has a fixed seed by itself."""

    def __init__(self, path: str, threads: int, fallback: bool) -> None:
        from pywhispercpp.model import Model

        self._model = Model(
            path,
            n_threads=threads,
            context_params={"use_gpu": False},
            print_progress=False,
            print_realtime=False,
            temperature_inc=0.2 if fallback else 0.0,
        )

    def transcribe(self, samples: Samples, language: str | None) -> tuple[str, str]:
        """Return the text of all segments; nothing is ever remarked."""
        segments = self._model.transcribe(samples, language=language or "auto")
        return " ".join(segment.text.strip() for segment in segments), ""
