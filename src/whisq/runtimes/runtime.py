"""What a runtime is, to those who load models in it."""

from __future__ import annotations

from typing import Protocol

from whisq.clips.audio import Samples


class Transcriber(Protocol):
    """A loaded model in some runtime."""

    def transcribe(self, samples: Samples, language: str | None) -> tuple[str, str]:
        """Return the text, and a remark when the runtime stopped early."""


SEED = 1
"""For the runtimes' sampling when their temperature fallback is on: by itself it differs from run to run."""
