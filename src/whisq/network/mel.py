"""Audio to the encoder's input: log-mel spectra of windows of 30 s."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from whisq.clips.audio import SAMPLE_RATE, Samples
from whisq.errors import DataError
from whisq.model import Model
from whisq.whisper import N_FFT_BINS

WINDOW_SAMPLES = 30 * SAMPLE_RATE
"""Samples that one run of the encoder sees."""

HOP_SAMPLES = 160
_FFT_SAMPLES = 400

FRAME_SAMPLES = 2 * HOP_SAMPLES
"""Samples behind one row of the encoder's output: the second convolution halves the frames."""


@lru_cache(maxsize=8)
def _mel_filters(raw: bytes, n_mels: int) -> NDArray[np.float64]:
    return np.frombuffer(raw, dtype="<f4").reshape(n_mels, N_FFT_BINS).astype(np.float64)


def log_mel(samples: Samples, model: Model) -> NDArray[np.float32]:
    """Return the encoder's input, float32 ``[1, n_mels, 3000]``, for up to 30 s of 16 kHz mono samples.

    The frontend of OpenAI's Whisper: 25 ms periodic Hann windows every 10 ms, power spectrum, the model's own
    mel filters, log10 cut 8 below its maximum, shifted and scaled. Shorter audio is padded with silence.
    Computed in float64: whatever runs the model afterwards, its input is the same. Raises ``DataError`` for more than
    30 s, or more than one channel.
    """
    if samples.ndim != 1 or samples.size > WINDOW_SAMPLES:
        raise DataError(
            f"log_mel takes up to {WINDOW_SAMPLES} samples in one dimension, got shape {samples.shape}",
            hint="cut the audio with `windows` first",
        )
    audio = np.zeros(WINDOW_SAMPLES)
    audio[: samples.size] = samples
    # A frame is centred on its time: half of the first is a reflection of what follows.
    reflected = np.pad(audio, _FFT_SAMPLES // 2, mode="reflect")
    frames = sliding_window_view(reflected, _FFT_SAMPLES)[:-1:HOP_SAMPLES]
    audible = min(len(frames), -(-(samples.size + _FFT_SAMPLES // 2) // HOP_SAMPLES))
    periodic_hann = np.hanning(_FFT_SAMPLES + 1)[:-1]
    spectrum = np.fft.rfft(frames[:audible] * periodic_hann)
    power = np.square(spectrum.real) + np.square(spectrum.imag)
    mel = np.zeros((model.dims.n_mels, len(frames)))
    mel[:, :audible] = _mel_filters(bytes(model.mel_filters), model.dims.n_mels) @ power.T
    decades = np.log10(np.maximum(mel, 1e-10))
    decades = np.maximum(decades, decades.max() - 8.0)
    found: NDArray[np.float32] = ((decades + 4.0) / 4.0).astype(np.float32)[None]
    return found


def windows(samples: Samples) -> list[Samples]:
    """Return the samples cut into consecutive windows of 30 s; a tail under one second is left out.

    Audio shorter than a second is one window all the same.
    """
    starts = range(0, max(1, samples.size), WINDOW_SAMPLES)
    pieces = [samples[start : start + WINDOW_SAMPLES] for start in starts]
    return [piece for index, piece in enumerate(pieces) if index == 0 or piece.size >= SAMPLE_RATE]
