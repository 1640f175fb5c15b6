"""The windows of 30 s that a model is given, and the tokens its decoder is shown for each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from whisq.clips.audio import SAMPLE_RATE, Samples
from whisq.clips.clip import Clip
from whisq.network.mel import FRAME_SAMPLES, windows
from whisq.network.tokens import LONGEST_TEXT, encode_text

if TYPE_CHECKING:
    from whisq.formats.special_tokens import SpecialTokens
    from whisq.model import Tokenizer
    from whisq.network.model import Decoder
    from whisq.network.operations import Array


@dataclass(slots=True)
class Window:
    """Up to 30 s of a clip. ``ids`` are the decoder's tokens, prompt and end included; empty until they are known."""

    clip: Clip
    number: int
    size: int
    language: str | None
    ids: list[int] = field(default_factory=list)

    @property
    def key(self) -> str:
        """Name of this window in the cache."""
        return f"{self.clip.sha256}:{self.number}:{self.language or ''}"

    @property
    def seconds(self) -> float:
        """Seconds of audio."""
        return self.size / SAMPLE_RATE

    @property
    def frames(self) -> int:
        """Rows of the encoder's output that come from audio; the rest is silence up to 30 s."""
        return max(1, -(-self.size // FRAME_SAMPLES))

    def samples(self) -> Samples:
        """Return the samples, decoded again."""
        return windows(self.clip.samples())[self.number]


def windows_of(clips: Iterable[Clip]) -> list[Window]:
    """Return all clips' windows in order, without tokens."""
    found = []
    for clip in clips:
        pieces = windows(clip.samples())
        found += [Window(clip, number, piece.size, clip.language) for number, piece in enumerate(pieces)]
    return found


def transcript_ids(tokenizer: Tokenizer, special: SpecialTokens, window: Window, n_windows: int) -> list[int]:
    """Return the tokens of a clip's transcript, or none where it has none or is cut into several windows."""
    if n_windows > 1 or not window.clip.text.strip():
        return []
    text = encode_text(" " + window.clip.text.strip(), tokenizer)
    return [*special.prompt(window.language), *text, special.required("end")][:LONGEST_TEXT]


def own_texts(
    decoder: Decoder,
    missing: Sequence[Window],
    encoded: Mapping[str, Array],
    progress: Callable[[str, float, float], None],
) -> dict[str, list[int]]:
    """Return what the model itself writes for windows, greedily, by the windows' keys."""
    texts = {}
    for number, window in enumerate(missing):
        texts[window.key] = decoder.write(encoded[window.key], decoder.special.prompt(window.language))
        progress("writing texts", number + 1, len(missing))
    return texts
