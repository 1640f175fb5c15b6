"""Judging plans on clips: the weights of the file that would be written, on the text that the source writes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import soundfile

import whisq
from tests.support.containers import write_huggingface
from tests.support.models import TINY, tiny_weights
from whisq.clips.clip import Clip, Sentence
from whisq.network.divergence import divergences
from whisq.network.mel import log_mel
from whisq.network.model import load_network
from whisq.network.numpy_operations import NumpyOperations
from whisq.search.judging import Divergences, Judge
from whisq.types import F16, TYPES

DIMS = replace(TINY, n_audio_ctx=60, n_text_ctx=40)
EMBEDDED = {"q4_0": TYPES["q4_0"], "q8_0": TYPES["q8_0"]}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    weights = tiny_weights(DIMS)
    arrays = {
        name: values if name.endswith("ln.weight") else (values * 0.3).astype(np.float16).astype(values.dtype)
        for name, values in weights.arrays.items()
    }
    folder = write_huggingface(tmp_path_factory.mktemp("model") / "hf", replace(weights, arrays=arrays))
    with whisq.open_model(folder) as opened:
        yield opened


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[Clip]:
    folder = tmp_path_factory.mktemp("clips")
    generator = np.random.default_rng(1)
    found = []
    for number, seconds in enumerate((0.4, 0.7)):
        path = folder / f"{number}.wav"
        soundfile.write(path, generator.uniform(-0.5, 0.5, round(16_000 * seconds)), 16_000)
        found.append(Clip(str(number), path, "said", language=("en", "de")[number]))
    return found


@pytest.fixture(scope="module")
def judge(model, clips) -> Judge:
    return Judge(model, clips, NumpyOperations())


def plan_of(model, name):
    return whisq.make_plan(model, whisq.Recipe(TYPES[name], embedding=TYPES[name]))


@pytest.mark.parametrize("name", EMBEDDED)
def test_it_is_the_divergence_of_the_file_that_the_plan_writes(model, clips, judge, tmp_path, name) -> None:
    plan = plan_of(model, name)
    found = judge.divergences(plan)
    whisq.quantize(plan, tmp_path / "out.bin")
    operations = NumpyOperations()
    truth = load_network(model, operations)
    with whisq.open_model(tmp_path / "out.bin") as written:
        other = replace(load_network(written, operations))
    for clip, total, tokens in zip(clips, found.sums, found.tokens, strict=True):
        mel = log_mel(clip.samples(), model)[:, :, : 2 * DIMS.n_audio_ctx]
        prompt = truth.decoder.special.prompt(clip.language)
        heard, changed = truth.encoder.encode(mel), other.encoder.encode(mel)
        ids = truth.decoder.write(heard, prompt, 8)[:-1]
        start = len(prompt) - 1
        expected = truth.decoder.logits(heard, ids)[start:]
        each = divergences(expected, other.decoder.logits(changed, ids)[start:], operations)
        assert tokens == len(each) > 0
        assert total == pytest.approx(each.sum(), rel=1e-4)
    assert found.mean == sum(found.sums) / sum(found.tokens) > 0


def test_fewer_bits_diverge_more_and_none_at_all_not(model, judge) -> None:
    means = [judge.divergences(plan_of(model, name)).mean for name in ("q8_0", "q5_0", "q4_0")]
    assert means == sorted(means)
    assert means[0] > 0
    nothing = judge.divergences(whisq.make_plan(model, whisq.Recipe(F16)))
    assert nothing == Divergences((0.0, 0.0), nothing.tokens)


def test_the_language_that_the_source_hears_follows_the_start_token(model, clips, judge) -> None:
    network = load_network(model, NumpyOperations())
    decoder, encoder = network.decoder, network.encoder
    for clip, (taken, heard) in zip(clips, judge.languages, strict=True):
        assert taken == clip.language
        mel = log_mel(clip.samples(), model)[:, :, : 2 * DIMS.n_audio_ctx]
        scores = decoder.logits(encoder.encode(mel), [decoder.special.required("start")])[0]
        assert heard == max(decoder.special.languages, key=lambda code: scores[decoder.special.languages[code]])


def test_a_clip_with_sentences_is_judged_by_each_in_its_language(model, clips) -> None:
    said = (Sentence(0.1, 0.3, "en", "one"), Sentence(0.4, 0.6, "de", "zwei"))
    whole = replace(clips[1], language=None, sentences=said)
    judge = Judge(model, [whole], NumpyOperations())
    assert len(judge.divergences(plan_of(model, "q4_0")).sums) == 2
    # From 0.2 s before to 0.2 s after each: 0 to 0.5 s, 0.2 s to the end at 0.7 s.
    assert judge.duration_s == pytest.approx(1.0, abs=1e-4)
    prompts = {language: judge_prompt(model, language) for language in ("en", "de")}
    assert [heard.ids[: len(prompts["en"])] for heard in judge._heard] == [prompts["en"], prompts["de"]]


def judge_prompt(model, language):
    return tuple(load_network(model, NumpyOperations()).decoder.special.prompt(language))
