"""The mel filter bank that Whisper's containers carry."""

from __future__ import annotations

_SAMPLE_RATE_HZ = 16000
_N_FFT = 400
_LINEAR_HZ_PER_MEL = 200.0 / 3
_LOG_START_HZ = 1000.0
_LOG_START_MEL = _LOG_START_HZ / _LINEAR_HZ_PER_MEL


def mel_filters(n_mels: int) -> bytes:
    """Return ``n_mels × 201`` triangular filters as little-endian f32, row by row.

    Slaney's mel scale (linear to 1 kHz, logarithmic above) with area normalization, 0 to 8 kHz at 16 kHz and
    n_fft 400: what ``librosa.filters.mel`` gives with its defaults, and OpenAI ships as ``mel_filters.npz``.
    """
    import numpy as np

    log_step = np.log(6.4) / 27

    def to_mel(hz: float) -> float:
        if hz < _LOG_START_HZ:
            return hz / _LINEAR_HZ_PER_MEL
        return float(_LOG_START_MEL + np.log(hz / _LOG_START_HZ) / log_step)

    mels = np.linspace(to_mel(0.0), to_mel(_SAMPLE_RATE_HZ / 2), n_mels + 2)
    above = np.exp(log_step * (mels - _LOG_START_MEL)) * _LOG_START_HZ
    edges_hz = np.where(mels >= _LOG_START_MEL, above, mels * _LINEAR_HZ_PER_MEL)
    bins_hz = np.linspace(0, _SAMPLE_RATE_HZ / 2, _N_FFT // 2 + 1)
    widths = np.diff(edges_hz)
    slopes = edges_hz[:, None] - bins_hz[None, :]
    rising, falling = -slopes[:-2] / widths[:-1, None], slopes[2:] / widths[1:, None]
    triangles = np.maximum(0, np.minimum(rising, falling))
    triangles *= (2.0 / (edges_hz[2:] - edges_hz[:-2]))[:, None]
    return triangles.astype("<f4").tobytes()
