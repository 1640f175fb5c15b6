"""Calibrating a real model: the same sums as hooks in the whole network see, resumed and merged."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import whisq
from tests.support.containers import write_huggingface
from tests.support.models import TINY, tiny_weights
from tests.support.transformers_whisper import load_transformers
from whisq.calibration import Calibration, inputs_of, read_calibration
from whisq.calibration.run import CalibrationSettings, calibrate
from whisq.calibration.texts import lines_of, windows_of
from whisq.clips.datasets import load_clips
from whisq.demo import SENTENCE
from whisq.errors import CalibrationError, DataError
from whisq.formats.special_tokens import special_tokens
from whisq.network.mel import log_mel, windows
from whisq.network.tokens import encode_text

SPECIAL = ("startoftranscript", "de", "transcribe", "notimestamps", "endoftext")


def weights_of(path: Path, name: str) -> np.ndarray:
    with whisq.open_model(path) as model:
        return model.array(name)


@pytest.fixture
def data(sentence_folder: Path) -> Path:
    return sentence_folder


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of four layers that hears 30 s: what is calibrated in a moment."""
    dims = replace(TINY, n_audio_ctx=1500, n_text_ctx=128, n_text_layer=2)
    return write_huggingface(tmp_path_factory.mktemp("small") / "hf", tiny_weights(dims))


@pytest.fixture
def made(tiny_en_calibration: Calibration) -> Calibration:
    return tiny_en_calibration


def test_all_inputs_are_covered(made, tiny_en_bin: Path) -> None:
    with whisq.open_model(tiny_en_bin) as model:
        assert list(made.counts) == list(inputs_of(model.dims))
    assert made.audio["clips"] == 1
    assert made.audio["languages"].keys() == {"en"}
    assert len(made.load_probes()) == 1


def test_moments_are_what_the_whole_network_sees(torch, made, tiny_en_bin: Path, data: Path) -> None:
    with whisq.open_model(tiny_en_bin) as model, torch.inference_mode():
        network = load_transformers(model)
        seen = {}
        layer = network.model.decoder.layers[2]
        for module, name in ((layer.fc2, "mlp.2"), (layer.encoder_attn.out_proj, "cross_attn.out")):
            module.register_forward_pre_hook(lambda _, x, name=name: seen.__setitem__(name, x[0][0].double().numpy()))
        clip = load_clips(data).clips[0]
        mel = torch.from_numpy(log_mel(windows(clip.samples())[0], model))
        special = special_tokens(model)
        ids = [*special.prompt(), *encode_text(" " + SENTENCE, model.tokenizer), special.end]
        encoded = network.model.encoder(mel).last_hidden_state
        network.model.decoder(input_ids=torch.tensor([ids[:-1]]), encoder_hidden_states=encoded)
    for name, x in seen.items():
        found = made.moments(f"decoder.blocks.2.{name}")
        assert found.n_rows == len(x)
        np.testing.assert_allclose(found.second_moment, x.T @ x / len(x), rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(found.mean, x.mean(0), rtol=1e-3, atol=1e-4)


def test_several_languages_and_audio_in_windows(base_bin: Path, tmp_path: Path) -> None:
    """base hears an English clip, the same backwards said to be German, and one of 37 s without text."""
    import soundfile

    from whisq import demo

    sound = demo.speech()
    long = np.tile(np.concatenate([sound, np.zeros(16000, np.float32)]), 40)[: 37 * 16000]
    soundfile.write(tmp_path / "short.wav", sound, 16000)
    soundfile.write(tmp_path / "other.wav", sound[::-1], 16000)
    soundfile.write(tmp_path / "long.wav", long, 16000)
    rows = ["path,text,language", f"short.wav,{SENTENCE},en", f"other.wav,{SENTENCE},de", "long.wav,,en"]
    (tmp_path / "clips.csv").write_text("\n".join(rows) + "\n")
    found = calibrate(
        base_bin, tmp_path / "clips.csv", tmp_path / "base.calib", settings=CalibrationSettings(cache=None)
    )
    short = len(sound) / 16000
    assert found.audio["clips"] == 3
    assert found.audio["windows"] == 4
    assert found.audio["languages"] == pytest.approx({"en": short + 37, "de": short}, abs=0.02)
    assert set(found.load_probes().languages) == {"en", "de"}
    assert found.warnings == ()
    with whisq.open_model(base_bin) as model:
        assert list(found.counts) == list(inputs_of(model.dims))


def test_an_interrupted_run_goes_on_where_it_stopped(small: Path, data: Path, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop_in_the_decoder(label: str, done: float, total: float) -> None:
        if label == "calibrating" and done >= 3:
            raise Stop

    settings = CalibrationSettings(cache=tmp_path / "cache")
    with pytest.raises(Stop):
        calibrate(small, data, tmp_path / "a.calib", settings=settings, progress=stop_in_the_decoder)
    assert not (tmp_path / "a.calib").exists()
    reported = []
    calibrate(
        small,
        data,
        tmp_path / "a.calib",
        settings=settings,
        progress=lambda label, done, total: reported.append((label, done, total)),
    )
    # A layer that was finished is reported once, as a whole: the encoder's two are, of four.
    layers = [(done, total) for label, done, total in reported if label == "calibrating"][:2]
    assert layers == [(number * total / 4, total) for number, (_, total) in enumerate(layers, start=1)]
    resumed = read_calibration(tmp_path / "a.calib")
    made = calibrate(small, data, tmp_path / "b.calib", settings=CalibrationSettings(cache=None))
    for name in made.counts:
        assert np.array_equal(resumed.moments(name).second_moment, made.moments(name).second_moment), name
    assert not list((tmp_path / "cache").rglob("*.npz"))


@pytest.mark.slow
def test_the_models_own_text_is_used_where_there_is_no_transcript_to_use(tiny_en_bin, data, tmp_path: Path) -> None:
    own = calibrate(tiny_en_bin, data, tmp_path / "a.calib", settings=CalibrationSettings(cache=None, own_text=True))
    assert own.audio["own_text"]
    assert 8 < own.audio["tokens"] < 60


def test_a_quantized_model_is_refused(tiny_en_bin: Path, data: Path, tmp_path: Path) -> None:
    with whisq.open_model(tiny_en_bin) as model:
        plan = whisq.make_plan(model, whisq.Recipe(whisq.parse_type("q8_0")))
        whisq.quantize(plan, tmp_path / "q.bin")
    with pytest.raises(CalibrationError, match="is quantized"):
        calibrate(tmp_path / "q.bin", data, tmp_path / "a.calib", settings=CalibrationSettings(cache=None))


def test_another_language_is_refused_by_an_english_only_model(tiny_en_bin: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="English-only"):
        calibrate(tiny_en_bin, data, tmp_path / "a.calib", settings=CalibrationSettings(cache=None, language="de"))


def test_a_fine_tune_is_calibrated_with_the_tokens_that_its_tokenizer_names(data: Path, tmp_path: Path) -> None:
    """Counted from the vocabulary's size this one's tokens would lie outside of it, and it would know no German."""
    dims = replace(TINY, n_audio_ctx=1500, n_text_ctx=64)
    folder = write_huggingface(tmp_path / "hf", tiny_weights(dims))
    (tmp_path / "one.wav").write_bytes((data / "one.wav").read_bytes())
    (tmp_path / "clips.csv").write_text("path,text,language\none.wav,the tea,de\n")
    with whisq.open_model(folder) as model:
        special = {name: model.tokenizer.special[f"<|{name}|>"] for name in SPECIAL}
        text = encode_text(" the tea", model.tokenizer)
        windows = windows_of(load_clips(tmp_path / "clips.csv").clips)
        (line,) = lines_of(model, special_tokens(model), windows)
        ids = line.ids
        prompt = [special[name] for name in ("startoftranscript", "de", "transcribe", "notimestamps")]
        assert ids == [*prompt, *text, special["endoftext"]]
        found = calibrate(model, tmp_path / "clips.csv", tmp_path / "a.calib", settings=CalibrationSettings(cache=None))
        own = calibrate(
            model, tmp_path / "clips.csv", tmp_path / "b.calib", settings=CalibrationSettings(cache=None, own_text=True)
        )
    # The first decoder layer sees a token's embedding and its place, normed, whatever the audio is.
    first = found.moments("decoder.blocks.0.attn.query")
    assert first.n_rows == len(ids) - 1
    embedding, places = (weights_of(folder, f"decoder.{n}") for n in ("token_embedding.weight", "positional_embedding"))
    hidden = embedding[ids[:-1]] + places[: len(ids) - 1]
    scaled = (hidden - hidden.mean(-1, keepdims=True)) / np.sqrt(hidden.var(-1, keepdims=True) + 1e-5)
    weight, bias = (weights_of(folder, f"decoder.blocks.0.attn_ln.{part}") for part in ("weight", "bias"))
    np.testing.assert_allclose(first.mean, (scaled * weight + bias).mean(0), rtol=1e-4, atol=1e-5)
    assert 5 <= own.audio["tokens"] <= 64


def test_a_language_that_the_vocabulary_lacks_is_refused_before_the_work(data: Path, tmp_path: Path) -> None:
    folder = write_huggingface(tmp_path / "hf", tiny_weights(replace(TINY, n_audio_ctx=1500, n_text_ctx=64)))
    told = []
    with pytest.raises(DataError, match="no language 'it'"):
        calibrate(
            folder,
            data,
            tmp_path / "a.calib",
            settings=CalibrationSettings(cache=None, language="it"),
            progress=lambda label, done, total: told.append(label),
        )
    assert "calibrating" not in told


def test_any_number_of_threads_gives_the_same_moments(small: Path, data: Path, tmp_path: Path) -> None:
    found = []
    for threads in (1, 2, 5):
        settings = CalibrationSettings(cache=None, threads=threads)
        calibrate(small, data, tmp_path / f"{threads}.calib", settings=settings)
        found.append(read_calibration(tmp_path / f"{threads}.calib"))
    for name in found[0].counts:
        first = found[0].moments(name)
        for other in found[1:]:
            assert np.array_equal(other.moments(name).second_moment, first.second_moment), name
            assert np.array_equal(other.moments(name).mean, first.mean), name
