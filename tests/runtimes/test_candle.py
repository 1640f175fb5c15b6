"""candle's own reader and products, from the Python package candle-nn, on files that whisq writes for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.containers import write_huggingface
from tests.support.models import WIDE, tiny_weights
from whisq.clips.clip import samples_at
from whisq.demo import SENTENCE
from whisq.evaluation.normalizing import normalize
from whisq.formats import open_model
from whisq.network.mel import FRAME_SAMPLES, log_mel
from whisq.network.model import load_network
from whisq.network.numpy_operations import Floats, NumpyOperations
from whisq.quantization.plan import make_plan
from whisq.quantization.write import quantize
from whisq.recipe import Recipe
from whisq.runtimes.candle import CANDLE
from whisq.types import BF16, TYPES
from whisq.whisper import name_in_dialect

SPEAKING = replace(WIDE, n_vocab=300)
# bf16 came to candle's quantized files after the version that the package carries: it is by the source alone.
READ = sorted(kind.name for kind in CANDLE.types if kind is not BF16)


@pytest.mark.parametrize("name", READ)
def test_candle_reads_the_same_numbers(name: str, tmp_path: Path) -> None:
    candle = pytest.importorskip("candle")
    utils = pytest.importorskip("candle.utils")
    kind = TYPES[name]
    with open_model(write_huggingface(tmp_path / "hf", tiny_weights(SPEAKING))) as model:
        plan = make_plan(model, Recipe(kind, embedding=kind), container="candle", target="candle")
        path = quantize(plan, tmp_path / "a.gguf").path
    tensors, metadata = utils.load_gguf(str(path))
    assert metadata["general.architecture"] == "whisper"
    inputs = np.random.default_rng(0).standard_normal((2, WIDE.n_audio_state)).astype(np.float32)
    with open_model(path) as written:
        assert set(tensors) == {name_in_dialect(tensor.name, "huggingface") for tensor in written.tensors}
        for tensor in written.tensors:
            theirs = tensors[name_in_dialect(tensor.name, "huggingface")]
            assert tuple(theirs.shape) == tensor.shape
            numbers = np.array(theirs.dequantize().values(), np.float32)
            assert np.array_equal(numbers, written.array(tensor)), tensor.name
        matrix = written.array("encoder.blocks.0.attn.query.weight")
        theirs = tensors["model.encoder.layers.0.self_attn.q_proj.weight"]
        if kind.is_quantized:
            # It rounds activations to eight bits, as ggml does.
            product = np.array(theirs.matmul_t(candle.Tensor(inputs.tolist())).values())
            assert np.abs(product - inputs @ matrix.T).max() < 0.02 * np.abs(product).max()


def test_candle_refuses_what_is_said_to_be_refused(tmp_path: Path) -> None:
    utils = pytest.importorskip("candle.utils")
    refused = [kind for kind in TYPES.values() if kind not in CANDLE.types]
    assert {kind.name for kind in refused} == {"iq4_nl", "iq4_xs", "mxfp4"}
    with open_model(write_huggingface(tmp_path / "hf", tiny_weights(SPEAKING))) as model:
        for kind in refused:
            path = quantize(make_plan(model, Recipe(kind), container="candle"), tmp_path / "a.gguf").path
            with pytest.raises(Exception, match="unknown dtype"):
                utils.load_gguf(str(path))


class InCandle(NumpyOperations):
    """The forward pass with candle's products: every matrix as its reader holds it, activations rounded as there."""

    def __init__(self) -> None:
        super().__init__(1)
        self.theirs: dict[int, Any] = {}
        self.used: set[int] = set()

    def linear(self, x: Floats, weight: Floats, bias: Floats | None) -> Floats:
        """Return x Wᵀ + b."""
        if id(weight) not in self.theirs:
            return super().linear(x, weight, bias)
        candle = pytest.importorskip("candle")
        self.used.add(id(weight))
        rows = candle.Tensor(x.reshape(-1, x.shape[-1]).tolist())
        found = np.array(self.theirs[id(weight)].matmul_t(rows).values(), np.float32)
        return (found if bias is None else found + bias).reshape(*x.shape[:-1], len(weight))


@pytest.mark.slow
def test_a_sentence_is_heard_through_candles_products(tiny_en_bin: Path, speech_wav: Path, tmp_path: Path) -> None:
    """Candle's Whisper itself is Rust only; its Python package has the reader and the products of matrices."""
    utils = pytest.importorskip("candle.utils")
    with open_model(tiny_en_bin) as model:
        plan = make_plan(model, Recipe(TYPES["q5_0"]), container="candle", target="candle")
        path = quantize(plan, tmp_path / "a.gguf").path
    tensors, _ = utils.load_gguf(str(path))
    operations = InCandle()
    with open_model(path) as written:
        network = load_network(written, operations)
        for layer in (*network.encoder.blocks, network.decoder.outside, *network.decoder.blocks):
            for part, array in layer.arrays.items():
                if array.ndim == 2 and "positional" not in part:
                    operations.theirs[id(array)] = tensors[name_in_dialect(f"{layer.name}.{part}", "huggingface")]
        samples = samples_at(str(speech_wav), None, None)
        frames = len(samples) // FRAME_SAMPLES + 50  # so short a window is heard over and over: the first time counts
        encoded = network.encoder.encode(log_mel(samples, written)[:, :, : 2 * frames])
        ids = network.decoder.write(encoded, network.decoder.special.prompt(), 24)
        text = b"".join(written.tokenizer.tokens[number] for number in ids if network.decoder.is_text[number])
    assert normalize(text.decode(), "en").startswith(normalize(SENTENCE, "en"))
    assert operations.used == set(operations.theirs)
    assert len(operations.used) == 65
