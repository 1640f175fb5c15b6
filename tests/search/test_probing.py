"""A changed model's divergence from the first block that the change reaches, against a run of the whole."""

from dataclasses import replace

import numpy as np
import pytest

import whisq
from tests.support.containers import write_huggingface
from tests.support.models import TINY, tiny_weights
from whisq.calibration import Probes
from whisq.network.divergence import divergences
from whisq.network.model import load_network
from whisq.network.numpy_operations import NumpyOperations
from whisq.search.probing import PatchedWhisper

DIMS = replace(TINY, n_audio_ctx=40, n_audio_layer=3, n_text_ctx=60, n_text_layer=3)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    """A small random model whose tokens are named, and stand where counting would not find them."""
    weights = tiny_weights(DIMS)
    arrays = {
        name: values if name.endswith("ln.weight") else (values * 0.3).astype(values.dtype)
        for name, values in weights.arrays.items()
    }
    folder = write_huggingface(tmp_path_factory.mktemp("model") / "hf", replace(weights, arrays=arrays))
    with whisq.open_model(folder) as opened:
        yield opened


@pytest.fixture(scope="module")
def probes() -> Probes:
    mels = np.random.default_rng(5).standard_normal((2, DIMS.n_mels, 60)).astype(np.float16)
    return Probes(mels, ("de", ""))


@pytest.fixture(scope="module")
def patched(model, probes) -> PatchedWhisper:
    return PatchedWhisper(model, probes, NumpyOperations())


def test_prompts_go_by_the_names_of_the_tokenizer(model, patched) -> None:
    special = model.tokenizer.special
    start, german, english = (special[f"<|{name}|>"] for name in ("startoftranscript", "de", "en"))
    rest = [special["<|transcribe|>"], special["<|notimestamps|>"]]
    assert patched.ids[:, :4].tolist() == [[start, german, *rest], [start, english, *rest]]
    assert patched.is_text[:, :3].sum() == 0
    assert patched.n_tokens == patched.is_text.sum() > 10
    written = patched.ids[:, 1:][patched.is_text[:, :-1] & patched.is_text[:, 1:]]
    assert not set(written.tolist()) & (set(special.values()) - {special["<|endoftext|>"]})


@pytest.mark.parametrize(
    "names",
    [
        ["encoder.conv1.bias"],
        ["encoder.positional_embedding"],
        ["encoder.blocks.0.attn.key.weight"],
        ["encoder.blocks.2.mlp.2.bias"],
        ["encoder.ln_post.weight"],
        ["decoder.positional_embedding"],
        ["decoder.blocks.0.attn.query.weight"],
        ["decoder.blocks.1.cross_attn.value.weight"],
        ["decoder.blocks.2.cross_attn.key.weight", "decoder.blocks.1.mlp.0.bias"],
        ["decoder.ln.bias"],
        ["decoder.token_embedding.weight"],
        ["encoder.blocks.1.attn.out.weight", "decoder.blocks.2.attn.out.weight", "decoder.blocks.0.mlp.2.weight"],
    ],
)
def test_a_change_anywhere_is_as_in_a_run_of_the_whole(model, probes, patched, names) -> None:
    operations = NumpyOperations()
    random = np.random.default_rng(3)
    changed = {
        name: (values := model.array(name)) + (random.standard_normal(values.shape) * 0.05).astype(np.float32)
        for name in names
    }

    def logits(network):
        found = []
        for row, mel in enumerate(operations.array(probes.mels)):
            each = network.decoder.logits(network.encoder.encode(mel[None]), patched.ids[row].tolist())
            found.append(each[patched.is_text[row]])
        return operations.concatenate(found, 0)

    reference = load_network(model, operations)
    whole = divergences(logits(reference), logits(reference.with_tensors(changed)), operations)
    assert patched.divergence(changed) == pytest.approx(whole.mean(), rel=1e-3)
    assert whole.mean() > 1e-7


def test_no_change_is_no_divergence(patched) -> None:
    assert patched.divergence({}) == 0


def test_a_measurement_leaves_nothing_behind(model, patched) -> None:
    name = "decoder.blocks.1.mlp.0.weight"
    half = {name: model.array(name) * np.float32(0.5)}
    first = patched.divergence(half)
    patched.divergence({"encoder.blocks.0.mlp.0.weight": model.array("encoder.blocks.0.mlp.0.weight") * 0})
    assert patched.divergence(half) == first > 0


def test_a_probe_draws_what_it_would_after_those_before_it(patched) -> None:
    names = ["encoder.blocks.0.mlp.0.weight", "decoder.blocks.0.attn.out.weight"]
    passes = [one for probe in range(len(patched.ids)) for one in patched.squares(names, probe, 2, 5)]
    backwards = [patched.squares(names, probe, 2, 5) for probe in reversed(range(len(patched.ids)))]
    for one, other in zip(passes, [each for found in reversed(backwards) for each in found], strict=True):
        for name in names:
            np.testing.assert_array_equal(one[name], other[name])
    fisher = patched.fisher(names, 2, 5)
    for name in names:
        np.testing.assert_array_equal(fisher[name], sum(one[name] for one in passes) / (2 * patched.n_tokens))
    drawn = np.random.default_rng(5)
    for high in (0.3, 1.0, 0.9):
        drawn.uniform(0, high)
    ahead = np.random.default_rng(5)
    ahead.bit_generator.advance(3)
    assert drawn.uniform(0, 0.7) == ahead.uniform(0, 0.7)
