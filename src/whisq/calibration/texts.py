"""The windows of 30 s that a model hears, and the tokens its decoder is shown for each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from whisq.clips.audio import Samples
from whisq.clips.clip import Clip
from whisq.network.mel import FRAME_SAMPLES, SAMPLE_RATE, windows
from whisq.network.model import Network, load_torch_whisper
from whisq.network.tokens import encode_text, prompt_tokens, special_tokens

if TYPE_CHECKING:
    import torch

    from whisq.model import Model

LONGEST_IDS = 224
"""Tokens shown for one window at most: half the text context, as OpenAI's own decoding has it."""


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


def transcript_ids(model: Model, window: Window, n_windows: int) -> list[int]:
    """Return the tokens of a clip's transcript, or none where it has none or is cut into several windows."""
    if n_windows > 1 or not window.clip.text.strip():
        return []
    special = special_tokens(model.dims)
    prompt = prompt_tokens(model.dims, window.language)
    text = encode_text(" " + window.clip.text.strip(), model.tokenizer)
    return [*prompt, *text, special["endoftext"]][:LONGEST_IDS]


def own_texts(
    model: Model,
    missing: Sequence[Window],
    encoded: Mapping[str, torch.Tensor],
    device: str,
    progress: Callable[[str, float, float], None],
) -> dict[str, list[int]]:
    """Return what the model itself writes for windows, greedily, by the windows' keys."""
    network = Network(model, load_torch_whisper(model, device=device))
    texts = {}
    for number, window in enumerate(missing):
        prompt = prompt_tokens(model.dims, window.language)
        texts[window.key] = network.write(encoded[window.key], prompt)
        progress("writing texts", number + 1, len(missing))
    return texts
