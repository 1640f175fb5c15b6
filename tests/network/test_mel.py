"""Log-mel spectra against torch's own transform, and audio in windows."""

from pathlib import Path

import numpy as np
import pytest

import whisq
from whisq.errors import DataError
from whisq.network.mel import log_mel, windows


def test_windows_cover_the_audio_and_drop_a_crumb() -> None:
    sizes = [piece.size for piece in windows(np.zeros(16_000 * 65, np.float32))]
    assert sizes == [480_000, 480_000, 80_000]
    assert [piece.size for piece in windows(np.zeros(480_100, np.float32))] == [480_000]
    assert [piece.size for piece in windows(np.zeros(100, np.float32))] == [100]


@pytest.mark.parametrize("repeats", [1, 20])
def test_spectra_are_openais(torch, tiny_en_bin: Path, speech: np.ndarray, repeats: int) -> None:
    """As in ``whisper/audio.py``, by torch.stft in float32: on a sentence, and on a full window."""
    samples = np.tile(speech, repeats)[:480_000]
    audio = torch.zeros(480_000)
    audio[: samples.size] = torch.from_numpy(samples)
    spectrum = torch.stft(audio, 400, 160, window=torch.hann_window(400), return_complex=True)
    with whisq.open_model(tiny_en_bin) as model:
        filters = torch.from_numpy(np.frombuffer(model.mel_filters, "<f4").reshape(80, 201).copy())
        found = log_mel(samples, model)
    decades = (filters @ spectrum[:, :-1].abs() ** 2).clamp(min=1e-10).log10()
    expected = (torch.maximum(decades, decades.max() - 8.0) + 4.0) / 4.0
    assert found.shape == (1, 80, 3000)
    assert found.dtype == np.float32
    # Near the floor, 80 dB under the loudest, torch's float32 is off by 0.001.
    np.testing.assert_allclose(found[0], expected.numpy(), atol=1e-3)
    assert np.abs(found[0] - expected.numpy()).mean() < 1e-6


def test_a_frame_knows_only_its_own_400_samples(tiny_en_bin: Path) -> None:
    """A click at 1000 is in the frames centred at 800 to 1199 and nowhere else."""
    click = np.zeros(1001, np.float32)
    click[1000] = 1
    with whisq.open_model(tiny_en_bin) as model:
        found = log_mel(click, model)[0]
    loud = np.flatnonzero((found > found.min() + 1e-6).any(0))
    assert loud.tolist() == [6, 7]


def test_more_than_a_window_is_refused(tiny_en_bin: Path) -> None:
    with whisq.open_model(tiny_en_bin) as model, pytest.raises(DataError, match="480000 samples"):
        log_mel(np.zeros(480_001, np.float32), model)
