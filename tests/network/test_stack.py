"""The forward pass, held against transformers' own, and against itself when taken apart."""

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import whisq
from tests.support.containers import write_bin
from tests.support.models import named_weights
from tests.support.transformers_whisper import load_transformers
from whisq.errors import FormatError, MissingExtraError
from whisq.model import Model, Tokenizer
from whisq.network import stack
from whisq.network.mel import log_mel
from whisq.network.model import Network, load_network
from whisq.network.numpy_operations import NumpyOperations
from whisq.network.operations import Operations
from whisq.network.stack import Cache, Observer, read_embedding, read_layer
from whisq.network.torch_operations import TorchOperations
from whisq.whisper import Dimensions, expected_tensors

pytestmark = pytest.mark.usefixtures("torch")

BOUND = 1e-5
"""Of the largest value: what float32 leaves when the same sums are done in another order."""

MULTILINGUAL = Dimensions(51865, 1500, 64, 2, 2, 448, 64, 4, 3, 80)
"""base's vocabulary and contexts; narrow, and heads and layers differ between encoder and decoder."""


@pytest.fixture(scope="module")
def random_bin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random weights, its text tokens made up."""
    weights = named_weights(MULTILINGUAL)
    arrays = {name: values * np.float32(2) for name, values in weights.arrays.items()}
    tokens = tuple(str(number).encode() for number in range(50257))
    path = tmp_path_factory.mktemp("random") / "random.bin"
    return write_bin(path, replace(weights, arrays=arrays, tokenizer=Tokenizer(tokens)))


@pytest.fixture(scope="module", params=["tiny_en_bin", "random_bin"])
def case(torch, request: pytest.FixtureRequest, speech: np.ndarray) -> Iterator[SimpleNamespace]:
    """A model, our network of it in torch, transformers', a mel, and a prompt."""
    operations = TorchOperations()
    with whisq.open_model(request.getfixturevalue(request.param)) as model, torch.no_grad():
        network = load_network(model, operations)
        yield SimpleNamespace(
            model=model,
            operations=operations,
            network=network,
            oracle=load_transformers(model),
            mel=operations.array(log_mel(speech, model)),
            prompt=network.decoder.special.prompt(),
        )


def assert_close(mine, theirs, bound: float = BOUND) -> None:
    assert mine.shape == theirs.shape
    assert float(abs(mine - theirs).max()) <= bound * float(abs(theirs).max())


def test_encoder_output_is_transformers(case) -> None:
    assert_close(case.network.encoder.encode(case.mel), case.oracle.model.encoder(case.mel).last_hidden_state)


def test_logits_are_transformers(torch, case) -> None:
    ids = [*case.prompt, 11, 407, 616, 5891]
    encoded = case.oracle.model.encoder(case.mel).last_hidden_state
    theirs = case.oracle(encoder_outputs=(encoded,), decoder_input_ids=torch.tensor([ids])).logits[0]
    assert_close(case.network.decoder.logits(encoded, ids), theirs)


def test_greedy_text_is_transformers(torch, case) -> None:
    """Ours is written with a cache and only text and the end; theirs is run as a whole for every token."""
    encoded = case.oracle.model.encoder(case.mel).last_hidden_state
    end, ids = case.network.decoder.special.end, list(case.prompt)
    while ids[-1] != end and len(ids) < len(case.prompt) + 30:
        logits = case.oracle(encoder_outputs=(encoded,), decoder_input_ids=torch.tensor([ids])).logits
        ids.append(int(logits[0, -1, : end + 1].argmax()))
    assert case.network.decoder.write(encoded, case.prompt, 30) == ids
    assert len(set(ids)) > 5


def test_no_more_is_written_than_asked_for_or_than_the_context_holds(case) -> None:
    encoded = case.network.encoder.encode(case.mel)
    assert len(case.network.decoder.write(encoded, case.prompt, 3)) == len(case.prompt) + 3
    full = [*case.prompt, *[11] * (446 - len(case.prompt))]
    assert 446 < len(case.network.decoder.write(encoded, full, 30)) <= 448


def test_numpy_gives_the_same_within_a_bound(case) -> None:
    operations = NumpyOperations()
    network = load_network(case.model, operations)
    encoded = network.encoder.encode(case.mel.numpy())
    assert encoded.dtype == np.float32
    assert_close(encoded, case.network.encoder.encode(case.mel).numpy())
    ids = network.decoder.write(encoded, case.prompt, 20)
    assert ids == case.network.decoder.write(case.operations.array(encoded), case.prompt, 20)
    assert_close(
        network.decoder.logits(encoded, ids), case.network.decoder.logits(case.operations.array(encoded), ids).numpy()
    )


def test_one_layer_at_a_time_is_the_whole_network(torch, case) -> None:
    model, ids = case.model, np.array([[*case.prompt, 11, 407, 11]])
    hidden = stack.stem(read_layer(model, "encoder", None, case.operations), case.mel)
    for number in range(model.dims.n_audio_layer):
        hidden = stack.encoder_block(read_layer(model, "encoder", number, case.operations), hidden)
    norms = ("ln_post.weight", "ln_post.bias")
    encoded = stack.encoder_end(read_layer(model, "encoder", None, case.operations, norms), hidden)
    assert torch.equal(encoded, case.network.encoder.encode(case.mel))
    hidden = stack.embed(read_embedding(model, case.operations), ids)
    for number in range(model.dims.n_text_layer):
        block = read_layer(model, "decoder", number, case.operations)
        hidden = stack.decoder_block(block, hidden, stack.keys_values(block, "cross_attn", encoded))
    logits = stack.logits(read_layer(model, "decoder", None, case.operations), hidden[0])
    assert torch.equal(logits, case.network.decoder.logits(encoded, ids[0].tolist()))


def test_a_run_from_a_later_block_ends_the_same(torch, case) -> None:
    encoder, decoder = case.network.encoder, case.network.decoder
    seen: list = []
    encoded = encoder.run(stack.stem(encoder.outside, case.mel), seen=seen)
    assert len(seen) == len(encoder.blocks)
    for start, states in enumerate(seen):
        assert torch.equal(encoder.run(states, start), encoded)
    seen, cross = [], decoder.cross(encoded)
    last = decoder.run(stack.embed(decoder.outside, np.array([case.prompt])), cross, seen=seen)
    assert len(seen) == len(decoder.blocks) + 1
    for start, states in enumerate(seen):
        assert torch.equal(decoder.run(states, cross, start), last)


def test_token_by_token_with_a_cache_is_as_all_at_once(case) -> None:
    decoder, ids = case.network.decoder, np.array([[*case.prompt, 11, 407, 616]])
    cross, cache = decoder.cross(case.network.encoder.encode(case.mel)), Cache()
    whole = decoder.run(stack.embed(decoder.outside, ids), cross)
    bounds = [0, len(case.prompt), *range(len(case.prompt) + 1, ids.shape[1] + 1)]
    for start, stop in pairwise(bounds):
        step = decoder.run(stack.embed(decoder.outside, ids[:, start:stop], start), cross, cache=cache)
        assert_close(step, whole[:, start:stop])


def test_exchanged_weights_are_as_if_the_file_had_them(torch, case, tmp_path: Path) -> None:
    names = ["encoder.conv1.bias", "encoder.blocks.1.mlp.0.weight", "decoder.blocks.0.attn.out.bias", "decoder.ln.bias"]
    changed = {name: case.model.array(name) + np.float32(0.25) for name in names}
    ids = [*case.prompt, 11]

    def logits(network: Network):
        return network.decoder.logits(network.encoder.encode(case.mel), ids)

    before = logits(case.network)
    patched = logits(case.network.with_tensors(changed))
    oracle = load_transformers(case.model)
    parameters = dict(oracle.named_parameters())
    for name, values in changed.items():
        parameters[whisq.whisper.name_in_dialect(name, "huggingface")].data = torch.from_numpy(values)
    assert_close(patched, oracle(input_features=case.mel, decoder_input_ids=torch.tensor([ids])).logits[0])
    assert float((patched - before).abs().max()) > 1e-3
    assert torch.equal(logits(case.network), before)


WATCHED = {
    "encoder.blocks.1.attn.query": "encoder.layers.1.self_attn.q_proj",
    "encoder.blocks.1.attn.out": "encoder.layers.1.self_attn.out_proj",
    "encoder.blocks.0.mlp.0": "encoder.layers.0.fc1",
    "encoder.blocks.0.mlp.2": "encoder.layers.0.fc2",
    "decoder.blocks.1.attn.value": "decoder.layers.1.self_attn.v_proj",
    "decoder.blocks.1.attn.out": "decoder.layers.1.self_attn.out_proj",
    "decoder.blocks.1.cross_attn.query": "decoder.layers.1.encoder_attn.q_proj",
    "decoder.blocks.0.cross_attn.key": "decoder.layers.0.encoder_attn.k_proj",
    "decoder.blocks.1.cross_attn.out": "decoder.layers.1.encoder_attn.out_proj",
    "decoder.blocks.1.mlp.0": "decoder.layers.1.fc1",
    "decoder.blocks.1.mlp.2": "decoder.layers.1.fc2",
}


class Sees(Observer):
    def __init__(self, operations: Operations) -> None:
        self.operations = operations
        self.inputs: dict = {}
        self.outputs: dict = {}
        self.received: dict = {}

    def input(self, name, x) -> None:
        self.inputs[name] = x

    def output(self, name, y):
        self.outputs[name] = y
        return y

    def attention(self, name, queries, keys) -> None:
        if "cross" in name:
            self.received[name] = self.operations.attention_weights(queries, keys)[0].mean(0).sum(0)


def test_an_observer_sees_what_hooks_in_transformers_see(torch, case) -> None:
    theirs, handles = {}, []
    for name, module in WATCHED.items():
        handles.append(
            case.oracle.model.get_submodule(module).register_forward_hook(
                lambda _, inputs, output, name=name: theirs.__setitem__(name, (inputs[0], output))
            )
        )
    ids = [*case.prompt, 11, 407]
    case.oracle(input_features=case.mel, decoder_input_ids=torch.tensor([ids]))
    for handle in handles:
        handle.remove()
    sees, network = Sees(case.operations), case.network
    encoded = network.encoder.run(stack.stem(network.encoder.outside, case.mel), observer=sees)
    cross = network.decoder.cross(encoded, sees)
    hidden = network.decoder.run(stack.embed(network.decoder.outside, np.array([ids])), cross, observer=sees)
    stack.logits(network.decoder.outside, hidden, sees)
    for name in WATCHED:
        assert_close(sees.inputs[name], theirs[name][0])
        assert_close(sees.outputs[name], theirs[name][1])
    matrices = {spec.name for spec in expected_tensors(case.model.dims).values() if spec.is_matrix}
    assert {f"{name}.weight" for name in sees.inputs} == matrices


def test_the_attention_that_frames_receive_is_transformers(torch, case) -> None:
    ids = [*case.prompt, 11, 407]
    encoded = case.network.encoder.encode(case.mel)
    case.oracle.set_attn_implementation("eager")
    theirs = case.oracle.model.decoder(
        input_ids=torch.tensor([ids]), encoder_hidden_states=encoded, output_attentions=True
    ).cross_attentions
    case.oracle.set_attn_implementation("sdpa")
    sees, decoder = Sees(case.operations), case.network.decoder
    decoder.run(stack.embed(decoder.outside, np.array([ids])), decoder.cross(encoded), observer=sees)
    for number, weights in enumerate(theirs):
        assert_close(sees.received[f"decoder.blocks.{number}.cross_attn"], weights[0].mean(0).sum(0))


def test_what_an_observer_returns_takes_the_outputs_place(torch, case) -> None:
    class Silences(Observer):
        def output(self, name, y):
            return y * 0 if name.endswith((".out", ".mlp.2")) else y

    encoder = case.network.encoder
    start = stack.stem(encoder.outside, case.mel)
    assert torch.equal(encoder.run(start, observer=Silences()), stack.encoder_end(encoder.outside, start))


def test_a_model_that_lacks_tensors_is_refused(tiny_en_bin: Path) -> None:
    with whisq.open_model(tiny_en_bin) as model:
        lost = ("encoder.blocks.1.mlp.0.bias", "encoder.blocks.1.attn.out.weight")
        rest = tuple(tensor for tensor in model.tensors if tensor.name not in lost)
        torso = Model(
            path=model.path,
            format=model.format,
            dims=model.dims,
            tokenizer=model.tokenizer,
            mel_filters=model.mel_filters,
            tensors=rest,
            files=model.files,
        )
        with pytest.raises(FormatError, match=r"1\.attn\.out\.weight, encoder\.blocks\.1\.mlp\.0\.bias"):
            load_network(torso, TorchOperations())


def test_torch_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from whisq import extras

    monkeypatch.setattr(extras, "is_installed", lambda package: package != "torch")
    with pytest.raises(MissingExtraError, match="needs torch: not installed") as caught:
        TorchOperations("cuda")
    # Installed, packages are named, so that nothing is compiled again; in a checkout the extra is.
    assert re.search(r"torch>=|\[gpu\]", str(caught.value.hint))
    assert "transformers" not in str(caught.value)
