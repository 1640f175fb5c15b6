"""Audio to the encoder's input: log-mel spectra of windows of 30 s."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from whisq.errors import DataError
from whisq.extras import require_torch
from whisq.model import Model
from whisq.whisper import N_FFT_BINS

if TYPE_CHECKING:
    import torch


SAMPLE_RATE = 16_000


WINDOW_SAMPLES = 30 * SAMPLE_RATE
"""Samples that one run of the encoder sees."""


HOP_SAMPLES = 160


FRAME_SAMPLES = 2 * HOP_SAMPLES
"""Samples behind one row of the encoder's output: the second convolution halves the frames."""


@lru_cache(maxsize=8)
def _mel_filters(raw: bytes, n_mels: int) -> npt.NDArray[np.float32]:
    return np.frombuffer(raw, dtype="<f4").reshape(n_mels, N_FFT_BINS).astype(np.float32)


def log_mel(samples: npt.NDArray[np.float32], model: Model, *, device: str = "cpu") -> torch.Tensor:
    """Return the encoder's input, float32 ``[1, n_mels, 3000]``, for up to 30 s of 16 kHz mono samples.

    The frontend of OpenAI's Whisper: 25 ms periodic Hann windows every 10 ms, power spectrum, the model's own
    mel filters, log10 cut 8 below its maximum, shifted and scaled. Shorter audio is padded with silence.
    """
    require_torch()
    import torch

    if samples.ndim != 1 or samples.size > WINDOW_SAMPLES:
        raise DataError(
            f"log_mel takes up to {WINDOW_SAMPLES} samples in one dimension, got shape {samples.shape}",
            hint="cut the audio with `windows` first",
        )
    filters = torch.from_numpy(_mel_filters(bytes(model.mel_filters), model.dims.n_mels).copy()).to(device)
    audio = torch.zeros(WINDOW_SAMPLES, dtype=torch.float32, device=device)
    audio[: samples.size] = torch.from_numpy(np.ascontiguousarray(samples, dtype=np.float32)).to(device)
    spectrum = torch.stft(
        audio,
        n_fft=400,
        hop_length=HOP_SAMPLES,
        window=torch.hann_window(400, device=device),
        return_complex=True,
    )
    power = spectrum[:, :-1].abs() ** 2
    decades = (filters @ power).clamp(min=1e-10).log10()
    decades = torch.maximum(decades, decades.max() - 8.0)
    return ((decades + 4.0) / 4.0).unsqueeze(0)


def windows(samples: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
    """Return the samples cut into consecutive windows of 30 s; a tail under one second is left out.

    Audio shorter than a second is one window all the same.
    """
    starts = range(0, max(1, samples.size), WINDOW_SAMPLES)
    pieces = [samples[start : start + WINDOW_SAMPLES] for start in starts]
    return [piece for index, piece in enumerate(pieces) if index == 0 or piece.size >= SAMPLE_RATE]
