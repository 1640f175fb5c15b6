"""What is measured on tiny.en."""

import numpy as np
import pytest

import whisq
from tests.support.transformers_whisper import load_transformers
from whisq.errors import PlanError
from whisq.network.stack import Observer
from whisq.search.measure import parse_how
from whisq.types import F16, TYPES

Q4 = TYPES["q4_0"]


def test_unknown_ways_of_measuring_are_refused() -> None:
    assert parse_how("auto") is None
    with pytest.raises(PlanError, match="most"):
        parse_how("most")


@pytest.fixture(scope="module")
def calibration(tiny_en_calibration):
    return tiny_en_calibration


@pytest.fixture(scope="module")
def meter(tiny_en_bin, calibration):
    from whisq.quantization.rounding import parse_method
    from whisq.search.bench import MixBench, picked_probes

    with whisq.open_model(tiny_en_bin) as model:
        probes = picked_probes(calibration.load_probes(), 1)
        yield MixBench(model, calibration, parse_method("ggml"), probes, "cpu", keep=True)


class TestOnTinyEn:
    """With real weights and the shipped sentence."""

    @pytest.mark.parametrize(
        "names",
        [
            ["encoder.blocks.2.mlp.0.weight"],
            ["decoder.blocks.1.cross_attn.value.weight"],
            ["decoder.blocks.3.mlp.2.weight", "decoder.blocks.1.attn.key.weight"],
            ["decoder.token_embedding.weight"],
            ["encoder.blocks.0.attn.out.weight", "decoder.blocks.2.cross_attn.query.weight"],
        ],
    )
    def test_a_divergence_is_transformers_own_to_the_last_digits(
        self, torch, meter, tiny_en_bin, calibration, names
    ) -> None:
        from whisq import kernels
        from whisq.whisper import name_in_dialect

        found = meter.divergence(dict.fromkeys(names, Q4))
        mel = torch.from_numpy(calibration.load_probes().mels).float()

        def log_probabilities(network):
            hidden = torch.nn.functional.gelu(network.model.encoder.conv1(mel))
            hidden = torch.nn.functional.gelu(network.model.encoder.conv2(hidden)).permute(0, 2, 1)
            hidden = hidden + network.model.encoder.embed_positions.weight[: hidden.shape[1]]
            for layer in network.model.encoder.layers:
                out = layer(hidden, None)
                hidden = out[0] if isinstance(out, tuple) else out
            encoded = network.model.encoder.layer_norm(hidden)
            logits = network(decoder_input_ids=torch.from_numpy(meter.prober.ids), encoder_outputs=(encoded,)).logits
            return torch.log_softmax(logits.double(), -1)[meter.prober.is_text]

        with whisq.open_model(tiny_en_bin) as model, torch.no_grad():
            network = load_transformers(model)
            truth = log_probabilities(network)
            parameters = dict(network.named_parameters())
            for name in names:
                weights = model.array(name)
                blocks = kernels.quantize(weights, Q4)
                decoded = kernels.dequantize(blocks.data, Q4, weights.shape)
                parameters[name_in_dialect(name, "huggingface")].data = torch.from_numpy(decoded)
            changed = log_probabilities(network)
        expected = float((truth.exp() * (truth - changed)).sum(-1).mean())
        assert found > 1e-6
        assert found == pytest.approx(expected, rel=1e-3)
        assert meter.divergence({}) == 0

    def test_every_output_matters(self, meter, tiny_en_bin) -> None:
        with whisq.open_model(tiny_en_bin) as model:
            shapes = {t.name: t.n_rows for t in model.tensors if t.spec.is_matrix}
        found = meter.prober.fisher(list(shapes), samples=1)
        assert {name: len(rows) for name, rows in found.items()} == shapes
        assert all(rows.sum() > 0 for rows in found.values())

    def test_the_gradient_says_what_a_small_error_costs(self, meter, tiny_en_bin) -> None:
        """White noise on one output, independent at every time: the divergence is half its variance times fisher."""

        class Disturbs(Observer):
            def output(self, layer, y):
                if f"{layer}.weight" != name:
                    return y
                return y + (size * random.standard_normal(y.shape)).astype(np.float32)

        names = ["decoder.blocks.1.mlp.2.weight", "encoder.blocks.1.mlp.2.weight"]
        # Few tokens: with fewer draws either side is off by half.
        fisher = meter.prober.fisher(names, samples=48)
        for name in names:
            random = np.random.default_rng(0)
            # Small: at a hundred times this, the encoder's divergence grows faster than the square.
            size = (2 * 0.0001 / fisher[name].sum()) ** 0.5
            with whisq.open_model(tiny_en_bin) as model:
                weights = {name: model.array(name)}
            found = np.mean([meter.prober.divergence(weights, Disturbs()) for _ in range(16)])
            assert 0.5 < found / 0.0001 < 2, name


def test_types_are_timed_in_the_real_runtime(transcribe_cpp, tiny_en_bin, speech_wav) -> None:
    from whisq.search.speed import seconds_by_type

    with whisq.open_model(tiny_en_bin) as opened:
        found = seconds_by_type(opened, [Q4, F16, TYPES["iq4_nl"]], speech_wav)
        assert found.keys() == {"q4_0", "f16"}
        assert all(seconds > 0 for seconds in found.values())
        with pytest.raises(PlanError, match="takes none"):
            seconds_by_type(opened, [TYPES["iq4_nl"]], speech_wav)
