"""What outputs are worth to the words: drawn as the model expects them, and kept where halves of the lines agree."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.containers import write_huggingface
from tests.support.models import TINY, released, tiny_weights
from whisq.calibration.outputs import OUTPUT_DAMPINGS, moment_of_halves, weighed_outputs
from whisq.calibration.run import CalibrationSettings, calibrate
from whisq.calibration.weighing import PASSES, _drawn, _likely
from whisq.demo import SENTENCE, speech
from whisq.errors import CalibrationError


def moment(width: int, n_vectors: int, seed: int, mixing: np.ndarray) -> np.ndarray:
    g = np.random.default_rng(seed).normal(size=(n_vectors, width)) @ mixing
    return (g.T @ g).astype(np.float32)


def test_gradients_of_words_drawn_have_the_fisher_information_as_their_second_moment() -> None:
    logits = np.array([[2.0, 1.0, 0.0, -3.0]], np.float32)
    likely = _likely(logits.repeat(40_000, 0))
    gradient = _drawn(likely, np.random.default_rng(0))
    p = np.exp(logits[0]) / np.exp(logits[0]).sum()
    assert np.allclose(likely[0], p)
    assert np.allclose(gradient.sum(1), 0, atol=1e-6)
    assert np.allclose(gradient.mean(0), 0, atol=0.01)
    assert np.allclose(gradient.T @ gradient / len(gradient), np.diag(p) - np.outer(p, p), atol=0.01)


def test_what_halves_agree_on_is_kept_whatever_their_sizes() -> None:
    mixing = np.random.default_rng(9).normal(size=(48, 48))
    halves = [moment(48, 4000, seed, mixing) * np.float32(scale) for seed, scale in ((1, 1), (2, 1e-12))]
    found = moment_of_halves(halves)
    assert found is not None
    assert found.damping == OUTPUT_DAMPINGS[0]
    assert np.trace(found.second_moment) == pytest.approx(48, rel=1e-5)
    few = moment_of_halves([moment(48, 60, seed, mixing) for seed in (1, 2)])
    assert few is not None
    assert few.damping > found.damping


def test_noise_and_outputs_that_nothing_depends_on_are_not_kept() -> None:
    assert moment_of_halves([moment(48, 60, seed, np.eye(48)) for seed in (1, 2)]) is None
    assert moment_of_halves([np.zeros((8, 8), np.float32), np.eye(8, dtype=np.float32)]) is None


def test_large_models_are_not_weighed_and_no_decoder_state_is() -> None:
    names = weighed_outputs(released("base"))
    assert names["encoder.blocks.5.mlp.2"] == names["decoder.blocks.0.cross_attn.key"] == 512
    assert len(names) == 6 * 5 + 6 * 2
    assert weighed_outputs(released("small"))
    assert weighed_outputs(released("large-v3-turbo")) == {}


def test_a_calibration_of_several_lines_has_them_with_any_number_of_threads(tmp_path: Path, monkeypatch) -> None:
    import soundfile

    for name, sound in (("a", speech()), ("b", speech()[::-1])):
        soundfile.write(tmp_path / f"{name}.wav", sound, 16000)
    (tmp_path / "clips.csv").write_text(f"path,text,language\na.wav,{SENTENCE},en\nb.wav,{SENTENCE},en\n")
    dims = replace(TINY, n_audio_ctx=1500, n_text_ctx=128, n_text_layer=2)
    model = write_huggingface(tmp_path / "hf", tiny_weights(dims))
    # A random model is the same on both clips by chance only: here all is kept.
    monkeypatch.setattr("whisq.calibration.outputs.WORTHWHILE", 9.0)
    steps: list[tuple[float, float]] = []

    def note(label: str, done: float, total: float) -> None:
        if label == "weighing outputs":
            steps.append((done, total))

    one, two = (
        calibrate(
            model,
            tmp_path / "clips.csv",
            tmp_path / f"{threads}.calib",
            settings=CalibrationSettings(cache=None, threads=threads, weigh_outputs=True),
            progress=note,
        )
        for threads in (1, 2)
    )
    assert steps[:2] == [(PASSES / 2, PASSES), (PASSES, PASSES)]
    assert one.outputs == two.outputs == set(weighed_outputs(dims))
    for name, width in weighed_outputs(dims).items():
        found, other = one.load_output(name), two.load_output(name)
        assert found is not None
        assert other is not None
        assert np.array_equal(found.second_moment, other.second_moment), name
        assert found.damping == other.damping
        assert found.second_moment.shape == (width, width)
    assert one.load_output("encoder.blocks.0.mlp.0") is None


def test_outputs_are_weighed_where_that_is_asked_for_and_the_model_is_narrow_enough(tmp_path: Path) -> None:
    import soundfile

    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", speech(), 16000)
    (tmp_path / "clips.csv").write_text(f"path,text,language\na.wav,{SENTENCE},en\nb.wav,{SENTENCE},en\n")
    dims = replace(TINY, n_audio_ctx=1500, n_text_ctx=128)
    model = write_huggingface(tmp_path / "hf", tiny_weights(dims))
    settings = CalibrationSettings(cache=None)
    assert not calibrate(model, tmp_path / "clips.csv", tmp_path / "a.calib", settings=settings).outputs
    wide = replace(TINY, n_audio_state=832, n_text_state=832, n_audio_head=13, n_text_head=13)
    model = write_huggingface(tmp_path / "wide", tiny_weights(wide))
    with pytest.raises(CalibrationError, match="832 values per frame, at most 768"):
        calibrate(model, None, tmp_path / "b.calib", settings=CalibrationSettings(cache=None, weigh_outputs=True))
