"""The way back through a small network: against torch's own gradients, and against small steps forward."""

from dataclasses import replace

import numpy as np
import pytest

import whisq
from tests.support.containers import write_bin
from tests.support.models import TINY, named_weights
from whisq.network import stack
from whisq.network.gradients import Forward
from whisq.network.model import Network, load_network
from whisq.network.numpy_operations import NumpyOperations
from whisq.network.operations import Operations
from whisq.network.stack import Observer
from whisq.whisper import expected_tensors

DIMS = replace(TINY, n_audio_ctx=40, n_audio_layer=2, n_text_ctx=60, n_text_layer=2)
BOUND = 2e-5
"""Of the largest gradient at an output: float32, summed in another order."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    """A random model that attends to some places much more than to others."""
    weights = named_weights(DIMS)
    arrays = {name: values * np.float32(4) for name, values in weights.arrays.items()}
    path = write_bin(tmp_path_factory.mktemp("model") / "small.bin", replace(weights, arrays=arrays))
    with whisq.open_model(path) as opened:
        yield opened


def states(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


AUDIO, TEXT = states(1, 37, DIMS.n_audio_state), states(1, 9, DIMS.n_text_state)
CHOSEN = np.arange(9)[None] > 4
DIRECTION = states(4, DIMS.n_vocab)


def gradients(network: Network, operations: Operations) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    forward = Forward(network, operations.array(AUDIO), operations.array(TEXT), CHOSEN)
    forward.back(
        operations.array(DIRECTION[None]), lambda name, gradient: found.update({name: operations.numpy(gradient)})
    )
    return found


def test_every_linear_layer_is_passed_once(model) -> None:
    names: list[str] = []
    operations = NumpyOperations()
    forward = Forward(load_network(model, operations), AUDIO, TEXT, CHOSEN)
    forward.back(DIRECTION[None], lambda name, gradient: names.append(f"{name}.weight"))
    assert sorted(names) == sorted(spec.name for spec in expected_tensors(DIMS).values() if spec.is_matrix)


def test_gradients_that_go_back_together_are_what_each_is_alone(model) -> None:
    operations = NumpyOperations()
    network, directions = load_network(model, operations), np.stack([DIRECTION, DIRECTION[::-1], -2 * DIRECTION])

    def back(given: np.ndarray) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}
        Forward(network, AUDIO, TEXT, CHOSEN).back(given, lambda name, gradient: found.update({name: gradient}))
        return found

    together, alone = back(directions), [back(one[None]) for one in directions]
    for name, found in together.items():
        expected = np.concatenate([one[name] for one in alone])
        assert np.abs(found - expected).max() <= BOUND * np.abs(expected).max(), name


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_gradients_are_those_that_torch_finds_itself(torch, model, backend: str) -> None:
    from whisq.network.torch_operations import TorchOperations

    class Outputs(Observer):
        def output(self, name, y):
            kept[name] = y
            return y

    kept: dict = {}
    operations = TorchOperations()
    network = load_network(model, operations)
    audio, text = (operations.array(x).requires_grad_() for x in (AUDIO, TEXT))
    encoded = network.encoder.run(audio, observer=Outputs())
    hidden = network.decoder.run(text, network.decoder.cross(encoded, Outputs()), observer=Outputs())
    logits = stack.logits(network.decoder.outside, hidden[CHOSEN], Outputs())
    theirs = dict(zip(kept, torch.autograd.grad(logits, list(kept.values()), torch.from_numpy(DIRECTION)), strict=True))
    chosen = NumpyOperations() if backend == "numpy" else operations
    mine = gradients(load_network(model, chosen), chosen)
    assert mine.keys() == theirs.keys()
    for name, expected in theirs.items():
        scale = float(expected.abs().max())
        assert scale > 0, name
        assert np.abs(mine[name] - expected.numpy()).max() <= BOUND * scale, name


@pytest.mark.parametrize(
    "layer",
    [
        "encoder.blocks.0.attn.query",
        "encoder.blocks.0.attn.value",
        "encoder.blocks.1.mlp.0",
        "decoder.blocks.0.attn.key",
        "decoder.blocks.0.cross_attn.key",
        "decoder.blocks.1.cross_attn.out",
        "decoder.blocks.1.mlp.2",
        "decoder.token_embedding",
    ],
)
def test_a_small_step_at_an_output_changes_the_logits_as_the_gradient_says(model, layer: str) -> None:
    """The bound, a hundredth of what a step could do, is what the difference of two float32 sums leaves."""
    operations = NumpyOperations()
    network = load_network(model, operations)
    gradient = gradients(network, operations)[layer].astype(np.float64)
    step = states(*gradient.shape).astype(np.float64)

    class Steps(Observer):
        def __init__(self, size: float) -> None:
            self._size = size

        def output(self, name, y):
            return y + (self._size * step).astype(np.float32).reshape(y.shape) if name == layer else y

    def along(size: float) -> float:
        steps = Steps(size)
        encoded = network.encoder.run(AUDIO, observer=steps)
        hidden = network.decoder.run(TEXT, network.decoder.cross(encoded, steps), observer=steps)
        logits = stack.logits(network.decoder.outside, hidden[CHOSEN], steps)
        return float((logits.astype(np.float64) * DIRECTION).sum())

    size = 0.01
    found = (along(size) - along(-size)) / (2 * size)
    expected = float((gradient * step).sum())
    largest = float(np.sqrt(np.square(gradient).sum() * np.square(step).sum() / gradient.size))
    assert largest > 0
    assert found == pytest.approx(expected, abs=0.01 * largest)
