"""transcribe.cpp, through the Python package transcribe-cpp."""

from __future__ import annotations

from whisq.clips.audio import Samples
from whisq.runtimes.runtime import SEED


class TranscribeCpp:
    """transcribe.cpp on the CPU: greedy; with ``fallback``, its own retries at higher temperatures."""

    def __init__(self, path: str, threads: int, fallback: bool) -> None:
        import transcribe_cpp

        self._truncated = transcribe_cpp.OutputTruncated
        increment = {} if fallback else {"temperature_inc": 0.0}
        self._options = transcribe_cpp.WhisperRunOptions(temperature=0.0, seed=SEED, **increment)
        self._model = transcribe_cpp.Model(path, backend="cpu")
        self._session = self._model.session(n_threads=threads)

    def transcribe(self, samples: Samples, language: str | None) -> tuple[str, str]:
        """Return the text, and a remark when the runtime stopped at repetition or at its token limit."""
        try:
            return self._session.run(samples, language=language, family=self._options).text, ""
        except self._truncated as error:
            partial = getattr(error, "partial_result", None)
            return (partial.text if partial else ""), type(error).__name__
