"""What is measured, what follows from it, and what becomes of it: made up, and on tiny.en."""

import re
from dataclasses import replace
from importlib import import_module
from itertools import product

import numpy as np
import pytest
from builders import WIDE, model_bytes, write_model
from calibration_builders import write as write_calibration
from support.transformers_whisper import load_transformers

import whisq
from whisq.calibration import read_calibration
from whisq.errors import PlanError
from whisq.provenance import provenance_of
from whisq.search import Choice, Goal, Mix, Sensitivity, Space, allocate, curve, read_sensitivity, search
from whisq.search.measure import _combined, _to_measure, correlation, parse_how, random_mixes
from whisq.types import F16, TYPES

Q4, Q5, Q8 = TYPES["q4_0"], TYPES["q5_0"], TYPES["q8_0"]
BLOCKS = {f"{stack}.blocks.{i}.mlp.0.weight": [Q4, Q5, Q8] for stack in ("encoder", "decoder") for i in range(8)}
ERRORS = {
    name: {"q4_0": 0.16 * (i + 1), "q5_0": 0.04 * (i + 1), "q8_0": 0.001 * (i + 1)} for i, name in enumerate(BLOCKS)
}


@pytest.fixture
def model(tmp_path):
    (tmp_path / "wide.bin").write_bytes(model_bytes(WIDE))
    with whisq.open_model(tmp_path / "wide.bin") as opened:
        yield opened


def sensitivity_of(space: Space, how: str = "one", seed: int = 0) -> Sensitivity:
    generator = np.random.default_rng(seed)
    harms = {}
    for tensor in space.tensors:
        matters = 10 ** generator.uniform(-4, -1)
        harms[tensor.name] = {k.name: matters * 4.0**-k.bits_per_weight for k in space.types[tensor.name] if k != F16}
        harms[tensor.name]["f16"] = 0.0
    measured = dict.fromkeys(harms, ("q4_0",))
    return Sensitivity(harms, 1.25, 0.98, ((0.1, 0.12),), {"how": how, "method": "feedback", "tokens": 9}, measured)


def test_one_measures_every_matrix_in_its_worst_type_and_some_pairs_more() -> None:
    wanted = _to_measure("one", ERRORS, BLOCKS, 0)
    assert {name for name, kind in wanted if kind is Q4} == set(BLOCKS)
    assert len(wanted) == len(set(wanted)) == len(BLOCKS) + 12
    assert len(_to_measure("all", ERRORS, BLOCKS, 0)) == 48
    few = _to_measure("few", ERRORS, BLOCKS, 0)
    assert len(few) == 12
    assert {name for name, _ in few} >= {"encoder.blocks.7.mlp.0.weight", "decoder.blocks.7.mlp.0.weight"}


def test_the_unmeasured_types_follow_by_the_ratio_of_the_errors() -> None:
    found = {name: {"q4_0": 3 * errors["q4_0"]} for name, errors in ERRORS.items()}
    other = "decoder.blocks.2.mlp.0.weight"
    found[other]["q5_0"] = 0.5
    harms, checks = _combined("one", ERRORS, found, BLOCKS)
    name = "encoder.blocks.1.mlp.0.weight"
    assert harms[name] == pytest.approx({"q4_0": 0.96, "q5_0": 0.24, "q8_0": 0.006, "f16": 0.0})
    assert harms[other]["q5_0"] == 0.5
    assert checks == [(pytest.approx(3 * ERRORS[other]["q5_0"]), 0.5)]


def test_with_few_measured_each_stack_has_its_own_scale() -> None:
    wanted = _to_measure("few", ERRORS, BLOCKS, 0)
    found = {name: {} for name in BLOCKS}
    for name, kind in wanted:
        found[name][kind.name] = (2 if name.startswith("encoder") else 5) * ERRORS[name][kind.name]
    harms, checks = _combined("few", ERRORS, found, BLOCKS)
    for name, factor in (("encoder.blocks.3.mlp.0.weight", 2), ("decoder.blocks.3.mlp.0.weight", 5)):
        assert harms[name]["q8_0"] == pytest.approx(factor * ERRORS[name]["q8_0"])
    assert len(checks) == 12


def test_random_mixes_differ_in_size_and_take_the_best_of_types_of_one_size() -> None:
    blocks = {f"m{i}": [TYPES["q4_K"], Q4, Q5, Q8] for i in range(40)}
    harms = {name: {"q4_K": 0.1, "q4_0": 0.2, "q5_0": 0.05, "q8_0": 0.01} for name in blocks}
    mixes = random_mixes(blocks, harms, 10, 1)
    assert {kind.name for mix in mixes for kind in mix.values()} == {"q4_K", "q5_0", "q8_0"}
    assert np.ptp([sum(kind.bits_per_weight for kind in mix.values()) for mix in mixes]) > 20
    assert random_mixes(blocks, harms, 10, 1) == mixes


def test_correlation_is_that_of_logarithms() -> None:
    assert correlation([(1, 2), (10, 20), (100, 200)]) == pytest.approx(1)
    assert correlation([(1, 4), (10, 2), (100, 1)]) < -0.9
    assert np.isnan(correlation([(1, 1)]))


def test_unknown_ways_of_measuring_are_refused() -> None:
    assert parse_how("auto") is None
    with pytest.raises(PlanError, match="most"):
        parse_how("most")


def searched(model, goal: Goal, space: Space, **more):
    # The calibration is not looked at when nothing is measured.
    return search(model, None, goal, space, reuse=sensitivity_of(space), **more)


def test_a_searched_file_is_within_its_size_and_half_a_percent_and_a_bigger_one_harms_less(model) -> None:
    space = Space.of(model, (), "transcribe.cpp", (), ())
    smallest, largest = (whisq.make_plan(model, whisq.Recipe(t)).size_bytes for t in (Q4, Q8))
    last = np.inf
    for size in np.linspace(smallest * 1.01, largest, 5).astype(int):
        found = searched(model, Goal(size_bytes=int(size)), space)
        plan = whisq.make_plan(model, found.recipe)
        assert 0.995 * size <= plan.size_bytes <= size
        assert plan.size_bytes == found.mix.size_bytes
        assert found.mix.predicted <= last
        last = found.mix.predicted


@pytest.mark.parametrize("names", [("q4_0", "q8_0"), ("q5_0", "q4_1", "q8_0")])
def test_it_is_the_best_of_all_mixes_of_a_few_matrices(model, names) -> None:
    space = Space.of(model, names, "transcribe.cpp", (r"encoder.*", r"decoder\.blocks\.\d\.attn.*"), ())
    some = Space(space.tensors[:5], {t.name: space.types[t.name] for t in space.tensors[:5]}, (), ())
    known = sensitivity_of(some)
    choices = {
        t.name: [
            Choice(k.name, t.n_rows * k.row_bytes(t.n_columns), known.harms[t.name][k.name]) for k in some.types[t.name]
        ]
        for t in some.tensors
    }
    all_mixes = list(product(*choices.values()))
    for budget in np.quantile([sum(c.size_bytes for c in mix) for mix in all_mixes], (0.1, 0.5, 0.9)):
        best = min(sum(c.harm for c in m) for m in all_mixes if sum(c.size_bytes for c in m) <= budget)
        assert sum(c.harm for c in allocate(choices, int(budget)).values()) == pytest.approx(best, rel=1e-5)


def test_protection_the_target_and_misfits_are_respected(model) -> None:
    embedding = "decoder.token_embedding.weight"
    plain = Space.of(model, (), "transcribe.cpp", (r".*cross_attn.*",), ())
    assert embedding not in plain.types
    assert not any("cross_attn" in name for name in plain.types)
    assert not {"q3_K", "iq4_nl"} & {kind.name for kinds in plain.types.values() for kind in kinds}
    whole = Space.of(model, (), "whisper.cpp-pr3605", (), (re.escape(embedding),))
    assert embedding in whole.types
    assert {"q3_K", "iq4_nl"} <= {kind.name for kinds in whole.types.values() for kind in kinds}
    for tensor in whole.tensors:
        assert all(kind.fits(tensor.n_columns) for kind in whole.types[tensor.name])
    with pytest.raises(PlanError, match="does not load q3_K"):
        Space.of(model, ("q3_K",), "transcribe.cpp", (), ())
    with pytest.raises(PlanError, match="loads mixes"):
        Space.of(model, (), "whisper.cpp", (), ())
    found = searched(model, Goal(bits=9.0), plain)
    plan = whisq.make_plan(model, found.recipe, target="transcribe.cpp")
    assert plan.bits_per_weight <= 9.0
    assert plan[embedding].type is F16
    assert all(plan[t.name].type is F16 for t in model.tensors if "cross_attn" in t.name and t.spec.is_matrix)


def test_a_divergence_is_a_goal_too(model) -> None:
    space = Space.of(model, (), "transcribe.cpp", (), ())
    known = sensitivity_of(space)
    limit = 2 * known.predicted({t.name: "q5_1" for t in space.tensors})
    found = searched(model, Goal(divergence=limit), space)
    assert found.mix.predicted <= limit
    tighter = searched(model, Goal(divergence=limit / 10), space)
    assert tighter.mix.size_bytes > found.mix.size_bytes


def test_preferring_speed_takes_the_faster_types_within_size_and_a_tenth(model) -> None:
    space = Space.of(model, ("q4_0", "q5_0", "q5_1", "q8_0"), "transcribe.cpp", (), ())
    size = whisq.make_plan(model, whisq.Recipe(TYPES["q5_1"])).size_bytes
    plain = searched(model, Goal(size_bytes=size), space)
    slow = {"q4_0": 1.0, "q5_0": 9.0, "q5_1": 9.0, "q8_0": 1.0, "f16": 2.0}
    fast = searched(model, Goal(size_bytes=size), space, prefer_fast=lambda: slow)
    assert fast.mix.size_bytes <= plain.mix.size_bytes
    assert fast.mix.predicted <= 1.1 * plain.mix.predicted * (1 + 1e-9)

    def seconds(found) -> float:
        plan = whisq.make_plan(model, found.recipe)
        return sum(slow[plan[t.name].type.name] * t.n_weights for t in space.tensors)

    assert seconds(fast) < seconds(plain)
    assert fast.sensitivity.seconds == slow


def test_preferring_speed_keeps_a_divergence_that_was_asked_for(model) -> None:
    space = Space.of(model, ("q4_0", "q5_0", "q5_1", "q8_0"), "transcribe.cpp", (), ())
    limit = sensitivity_of(space).predicted({t.name: "q5_1" for t in space.tensors})
    slow = {"q4_0": 1.0, "q5_0": 9.0, "q5_1": 9.0, "q8_0": 9.0, "f16": 9.0}
    assert searched(model, Goal(divergence=limit), space, prefer_fast=lambda: slow).mix.predicted <= limit


def test_types_that_the_runtime_cannot_time_take_no_part_where_speed_is_preferred(model) -> None:
    space = Space.of(model, (), "whisper.cpp-pr3605", (), ())
    slow = {"q4_0": 1.0, "q5_0": 2.0, "q8_0": 3.0, "f16": 9.0}
    size = whisq.make_plan(model, whisq.Recipe(Q5)).size_bytes
    found = searched(model, Goal(size_bytes=size), space, prefer_fast=lambda: slow)
    assert {rule.type.name for rule in found.recipe.rules} <= slow.keys()
    assert found.mix.size_bytes <= size


def test_a_size_is_that_of_the_container_that_was_asked_for(model, tmp_path) -> None:
    space = Space.of(model, ("q4_0", "q8_0"), "transcribe.cpp", (), ())
    write_calibration(tmp_path / "a.calib")
    heard = read_calibration(tmp_path / "a.calib")
    size = whisq.make_plan(model, whisq.Recipe(Q4)).size_bytes + 400_000
    found = search(model, heard, Goal(size_bytes=size), space, reuse=sensitivity_of(space), container="gguf")
    stated = provenance_of(model, found.recipe, "feedback", heard)
    plan = whisq.make_plan(model, found.recipe, container="gguf", provenance=stated, calibration=heard)
    assert 0.97 * size < plan.size_bytes == found.mix.size_bytes <= size


@pytest.mark.parametrize(
    "bound", [{"size_bytes": 0}, {"bits": float("nan")}, {"bits": float("inf")}, {"divergence": -1.0}]
)
def test_goals_that_are_none(bound) -> None:
    with pytest.raises(PlanError, match="is no goal"):
        Goal(**bound)


def test_what_was_not_measured_is_not_left_out_silently(model) -> None:
    known = sensitivity_of(Space.of(model, ("q4_0", "q8_0"), "transcribe.cpp", (), ()))
    space = Space.of(model, ("q4_0", "q5_0"), "transcribe.cpp", (), ())
    with pytest.raises(PlanError, match="q5_0 was not measured"):
        search(model, None, Goal(bits=12.0), space, reuse=known)


def test_what_was_measured_is_handed_out_before_it_is_solved(model, monkeypatch) -> None:
    module = import_module("whisq.search.run")
    space = Space.of(model, ("q4_0", "q8_0"), "transcribe.cpp", (), ())
    known, kept = sensitivity_of(space), []
    monkeypatch.setattr(module, "measure_space", lambda *_, **__: (known, None))
    monkeypatch.setattr(module, "recipe_of", None)  # the solving breaks
    with pytest.raises(TypeError):
        search(model, None, Goal(bits=12.0), space, on_measured=kept.append)
    assert kept[0] is known


def test_a_size_out_of_reach_is_refused_before_measuring(model) -> None:
    space = Space.of(model, ("q4_0", "q8_0"), "transcribe.cpp", (), ())
    size = whisq.make_plan(model, whisq.Recipe(Q4)).size_bytes
    # The calibration would be looked at to measure.
    for goal in (Goal(size_bytes=size - 1), Goal(bits=1.0)):
        with pytest.raises(PlanError, match="the matrices take at least"):
            search(model, None, goal, space)


def test_bits_are_those_of_the_result_not_of_an_f32_source(tmp_path) -> None:
    path = write_model(tmp_path / "f32.bin", WIDE, kind=0)
    with whisq.open_model(path) as model:
        found = searched(model, Goal(bits=9.0), Space.of(model, ("q4_0", "q8_0"), "transcribe.cpp", (), ()))
        assert 8.9 <= whisq.make_plan(model, found.recipe).bits_per_weight <= 9.0


def test_it_says_so_when_a_uniform_type_is_better(model) -> None:
    space = Space.of(model, (), "transcribe.cpp", (), ())
    found = searched(model, Goal(bits=10.0), space)
    assert found.better_than_all
    assert not replace(found, others=(replace(found.mix, name="q4_0", kind="uniform"),)).better_than_all
    rival = Mix("q4_0", "uniform", found.mix.size_bytes, found.mix.predicted / 2, None)
    assert not replace(found, others=(rival,)).better_than_all
    measured = replace(found.mix, measured=0.5)
    assert not replace(found, mix=measured, others=(replace(rival, measured=0.4),)).better_than_all


def test_the_curve_has_all_uniform_types_and_a_mix_of_each_size_that_is_no_worse(model) -> None:
    space = Space.of(model, (), "transcribe.cpp", (), ())
    found = curve(model, space, sensitivity_of(space))
    uniform = {mix.name: mix for mix in found if mix.kind == "uniform"}
    assert {"q4_0", "q5_1", "q8_0"} <= uniform.keys()
    mixes = [mix for mix in found if mix.kind == "searched"]
    assert len(mixes) == len({mix.size_bytes for mix in uniform.values()})
    for mix in mixes:
        rivals = [other for other in uniform.values() if other.size_bytes <= mix.size_bytes]
        assert all(mix.predicted <= other.predicted * (1 + 1e-6) for other in rivals)
    assert any(mix.kind == "preset" for mix in found)


@pytest.fixture(scope="module")
def calibration(tiny_en_bin, speech_wav, tmp_path_factory):
    pytest.importorskip("torch", reason="needs the extra 'calibrate'")
    from whisq.calibration.run import Settings, calibrate
    from whisq.demo import SENTENCE

    folder = tmp_path_factory.mktemp("clips")
    (folder / "one.wav").write_bytes(speech_wav.read_bytes())
    (folder / "one.txt").write_text(SENTENCE)
    return calibrate(tiny_en_bin, folder, folder / "tiny.calib", settings=Settings(cache=None))


@pytest.fixture(scope="module")
def bench(tiny_en_bin, calibration):
    from whisq.search.bench import Bench

    with whisq.open_model(tiny_en_bin) as model:
        yield Bench(model, calibration, "ggml", 1, "cpu", keep=True)


class TestOnTinyEn:
    """With real weights and the shipped sentence: needs torch."""

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
    def test_a_divergence_is_transformers_own_to_the_last_digits(self, bench, tiny_en_bin, calibration, names) -> None:
        import torch

        from whisq import kernels
        from whisq.whisper import name_in_dialect

        found = bench.divergence(dict.fromkeys(names, Q4))
        mel = torch.from_numpy(calibration.load_probes().mels).float()

        def log_probabilities(network):
            hidden = torch.nn.functional.gelu(network.model.encoder.conv1(mel))
            hidden = torch.nn.functional.gelu(network.model.encoder.conv2(hidden)).permute(0, 2, 1)
            hidden = hidden + network.model.encoder.embed_positions.weight[: hidden.shape[1]]
            for layer in network.model.encoder.layers:
                out = layer(hidden, None)
                hidden = out[0] if isinstance(out, tuple) else out
            encoded = network.model.encoder.layer_norm(hidden)
            logits = network(decoder_input_ids=torch.from_numpy(bench.prober.ids), encoder_outputs=(encoded,)).logits
            return torch.log_softmax(logits, -1)[bench.prober.is_text]

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
        assert bench.divergence({}) == 0

    def test_every_output_matters(self, bench, tiny_en_bin) -> None:
        with whisq.open_model(tiny_en_bin) as model:
            shapes = {t.name: t.n_rows for t in model.tensors if t.spec.is_matrix}
        found = bench.prober.fisher(list(shapes), samples=1)
        assert {name: len(rows) for name, rows in found.items()} == shapes
        assert all(rows.sum() > 0 for rows in found.values())

    def test_the_gradient_says_what_a_small_error_costs(self, bench, tiny_en_bin) -> None:
        """White noise on one output, independent at every time: the divergence is half its variance times fisher."""
        import torch

        from whisq.network.stack import Observer

        class Disturbs(Observer):
            def output(self, layer, y):
                return y + size * torch.randn(y.shape, generator=generator) if f"{layer}.weight" == name else y

        names = ["decoder.blocks.1.mlp.2.weight", "encoder.blocks.1.mlp.2.weight"]
        fisher = bench.prober.fisher(names, samples=16)
        for name in names:
            generator = torch.Generator().manual_seed(0)
            # Small: at ten times this, the encoder's divergence grows faster than the square.
            size = (2 * 0.001 / fisher[name].sum()) ** 0.5
            with whisq.open_model(tiny_en_bin) as model:
                weights = {name: model.array(name)}
            found = np.mean([bench.prober.divergence(weights, Disturbs()) for _ in range(6)])
            assert 0.5 < found / 0.001 < 2, name

    @pytest.mark.parametrize("how", ["one", "few"])
    def test_a_search_writes_what_it_measured_and_prints_how_it_agrees(
        self, tiny_en_bin, calibration, tmp_path, capsys, monkeypatch, how
    ) -> None:
        from whisq.cli import main

        monkeypatch.setattr(import_module("whisq.search.measure"), "N_MIXES", {"one": 3, "few": 3})
        file, recipe = tmp_path / "s.json", tmp_path / "mix.toml"
        common = [str(tiny_en_bin), "--calibration", str(calibration.path), "--protect", r"encoder\.blocks\.[012].*"]
        made = ["--types", "q4_0,q8_0", "--method", "ggml", "--size", "65MB", "--measure", how]
        assert main(["search", *common, *made, "-o", str(recipe), "--sensitivity", str(file)]) == 0
        said = capsys.readouterr().out
        assert re.search(r"predicted and measured totals correlate \d\.\d{3}", said)
        assert re.search(r"of 1?\d matrices, predicted and measured correlate -?\d\.\d{3}", said)
        known = read_sensitivity(file)
        n_matrices = len(known.harms)
        assert known.n_measured == (n_matrices + 12 if how == "one" else 12)
        assert known.correlation > 0.5
        with whisq.open_model(tiny_en_bin) as model:
            size = whisq.make_plan(model, whisq.load_recipe(str(recipe))).size_bytes
        assert 0.995 * (65 << 20) <= size <= 65 << 20
        again = ["--types", "q4_0,q8_0", "--size", "60MB", "--reuse", str(file), "-o", str(tmp_path / "b.toml")]
        assert main(["search", *common, *again]) == 0
        capsys.readouterr()
        assert main(["search", *common, *again, "--method", "feedback"]) == 1
        assert "was measured with --method ggml, not feedback" in capsys.readouterr().err


def test_types_are_timed_in_the_real_runtime(tiny_en_bin, speech_wav) -> None:
    pytest.importorskip("transcribe_cpp", reason="needs the extra 'evaluate'")
    from whisq.search.speed import seconds_by_type

    with whisq.open_model(tiny_en_bin) as opened:
        found = seconds_by_type(opened, [Q4, F16, TYPES["iq4_nl"]], speech_wav)
        assert found.keys() == {"q4_0", "f16"}
        assert all(seconds > 0 for seconds in found.values())
        with pytest.raises(PlanError, match="takes none"):
            seconds_by_type(opened, [TYPES["iq4_nl"]], speech_wav)
