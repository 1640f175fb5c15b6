"""candle's GGUF: what other readers make of it, what stands beside it, and that neither is there without the other."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.containers import write_bin, write_huggingface
from tests.support.models import TINY, tiny_weights
from whisq.cli import main
from whisq.errors import DataError, FormatError, OutputError
from whisq.formats import open_model
from whisq.model import Model
from whisq.quantization.convert import make_conversion
from whisq.quantization.plan import make_plan
from whisq.quantization.write import quantize
from whisq.recipe import Recipe
from whisq.types import TYPES
from whisq.whisper import name_in_dialect

BESIDE = ("config.json", "tokenizer.json")


@pytest.fixture
def source(tmp_path: Path) -> Model:
    return open_model(write_bin(tmp_path / "tiny.bin", tiny_weights()))


@pytest.fixture
def named(tmp_path: Path) -> Model:
    """Return a model whose special tokens have names: a ``.bin`` of so few rows has none."""
    return open_model(write_huggingface(tmp_path / "hf", tiny_weights()))


def converted(model: Model, folder: Path, name: str = "model.gguf") -> Path:
    folder.mkdir(exist_ok=True)
    return quantize(make_conversion(model, "candle"), folder / name).path


def test_ggufs_own_reader_sees_transformers_names_and_the_same_numbers(tiny_en_bin: Path, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    with open_model(tiny_en_bin) as model:
        plan = make_plan(model, Recipe(TYPES["q5_0"], embedding=TYPES["q8_0"]), container="candle", target="candle")
        reader = gguf.GGUFReader(quantize(plan, tmp_path / "a.gguf").path)
        bin_plan = make_plan(model, Recipe(TYPES["q5_0"], embedding=TYPES["q8_0"]))
        same = open_model(quantize(bin_plan, tmp_path / "a.bin").path)
    found = {tensor.name: tensor for tensor in reader.tensors}
    assert set(found) == {name_in_dialect(tensor.name, "huggingface") for tensor in same.tensors}
    assert "model.decoder.layers.3.encoder_attn.k_proj.weight" in found
    for tensor in same.tensors:
        theirs = found[name_in_dialect(tensor.name, "huggingface")]
        assert tuple(theirs.shape) == tuple(reversed(tensor.shape))
        numbers = gguf.quants.dequantize(theirs.data, theirs.tensor_type)
        assert np.array_equal(numbers.reshape(tensor.shape), same.array(tensor))


def test_config_has_what_candle_reads(tiny_en_bin: Path, tmp_path: Path) -> None:
    with open_model(tiny_en_bin) as model:
        converted(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    # The fields of ``Config`` in candle-transformers' models/whisper/mod.rs.
    sizes = {
        "num_mel_bins": 80, "max_source_positions": 1500, "d_model": 384, "encoder_attention_heads": 6,
        "encoder_layers": 4, "vocab_size": 51864, "max_target_positions": 448, "decoder_attention_heads": 6,
        "decoder_layers": 4,
    }  # fmt: skip
    assert {key: config[key] for key in sizes} == sizes
    assert config["suppress_tokens"][:3] == [1, 2, 7]


def test_the_tokenizer_reads_and_writes_as_whispers_own(
    tiny_en_folder: Path, tiny_en_bin: Path, tmp_path: Path
) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.Tokenizer.from_file(str(tiny_en_folder / "tokenizer.json"))
    # A .bin has neither merges nor names: both are worked out.
    with open_model(tiny_en_bin) as model:
        converted(model, tmp_path)
    ours = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = " Ask not what your country can do for you, naïve café — 12,345 日本語!"
    assert ours.encode(text, add_special_tokens=False).ids == theirs.encode(text, add_special_tokens=False).ids
    assert ours.decode(ours.encode(text, add_special_tokens=False).ids) == text
    # candle's example looks these up by name.
    for name in ("startoftranscript", "transcribe", "translate", "notimestamps", "endoftext"):
        assert ours.token_to_id(f"<|{name}|>") == theirs.token_to_id(f"<|{name}|>") is not None
    spoken = [50257, 50362, *theirs.encode(" Hello.", add_special_tokens=False).ids, 50256]
    assert ours.decode(spoken, skip_special_tokens=True) == " Hello."


def test_a_file_is_read_again(named: Model, tmp_path: Path) -> None:
    with open_model(converted(named, tmp_path / "out")) as model:
        assert model.format == model.container == "candle"
        assert model.dims == named.dims
        assert model.tokenizer.tokens == named.tokenizer.tokens
        assert model.tokenizer.special.items() >= named.tokenizer.special.items()
        for tensor in named.tensors:
            assert bytes(model.rows(model[tensor.name])) == bytes(named.rows(tensor))
        again = converted(model, tmp_path / "again")
    for name in ("model.gguf", *BESIDE):
        if name != "model.gguf":  # which states its source
            assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    with open_model(again) as model:
        assert model.fingerprint == named.fingerprint


def test_files_are_found_as_candles_example_names_them(named: Model, tmp_path: Path) -> None:
    path = converted(named, tmp_path / "out")
    renamed = path.rename(path.with_name("model-tiny-en-q80.gguf"))
    for name in BESIDE:
        (path.with_name(name)).rename(path.with_name(name.replace(".", "-tiny-en.")))
    with open_model(renamed) as model:
        assert model.dims == named.dims
    renamed.rename(path.with_name("other.gguf"))
    with pytest.raises(FormatError, match=r"states no sizes and no tokens, and there is no config\.json beside it"):
        open_model(path.with_name("other.gguf"))


def without_sizes(folder: Path) -> None:
    (folder / "config.json").write_text("{}")


def of_another_model(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "d_model": 64}))


def with_fewer_layers(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "encoder_layers": 1}))


def with_more_layers(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "encoder_layers": 3}))


def without_a_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def truncated(folder: Path) -> None:
    whole = (folder / "model.gguf").read_bytes()
    (folder / "model.gguf").write_bytes(whole[:-200])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without_sizes, r"config\.json: vocab_size is missing"),
        (of_another_model, r"sizes \[.*\], expected \["),
        (with_fewer_layers, r"'model\.encoder\.layers\.1\..*': unknown tensor"),
        (with_more_layers, r"15 tensors are missing, the first is model\.encoder\.layers\.2\."),
        (without_a_tokenizer, r"there is no tokenizer\.json beside it"),
        (truncated, "truncated in the data of tensor"),
    ],
)
def test_what_does_not_fit_is_refused(
    spoil: Callable[[Path], None], message: str, named: Model, tmp_path: Path
) -> None:
    path = converted(named, tmp_path / "out")
    spoil(path.parent)
    with pytest.raises(FormatError, match=message) as caught:
        open_model(path)
    assert caught.value.hint


def test_an_output_matrix_is_passed_over_as_candle_does(named: Model, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    path = converted(named, tmp_path / "out")
    writer = gguf.GGUFWriter(path.with_name("more.gguf"), "whisper")
    for tensor in gguf.GGUFReader(path).tensors:
        writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
    writer.add_tensor("proj_out.weight", np.zeros((TINY.n_vocab, TINY.n_text_state), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with open_model(path.with_name("more.gguf")) as model:
        assert model.fingerprint == named.fingerprint


def test_a_model_that_names_no_tokens_cannot_be_candles(source: Model, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the vocabulary has no token <\|startoftranscript\|>"):
        make_conversion(source, "candle")
    assert not list(tmp_path.glob("*.json"))


def test_what_is_there_and_says_the_same_stays(named: Model, tmp_path: Path) -> None:
    # A folder of transformers' has both: they are its own, and as good.
    before = {name: (named.path / name).read_bytes() for name in BESIDE}
    converted(named, named.path, "model-f16.gguf")
    assert {name: (named.path / name).read_bytes() for name in BESIDE} == before
    with open_model(named.path / "model-f16.gguf") as model:
        assert model.fingerprint == named.fingerprint


@pytest.mark.parametrize("name", BESIDE)
@pytest.mark.parametrize("content", ["{}", '{"d_model": 32}', "not JSON"])
def test_another_models_files_are_not_overwritten(name: str, content: str, named: Model, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / name).write_text(content)
    with pytest.raises(OutputError, match=f"{name}: is there already, and is not this model's") as caught:
        converted(named, folder)
    assert caught.value.hint == "write the model into a folder of its own"
    assert [entry.name for entry in folder.iterdir()] == [name]
    assert (folder / name).read_text() == content


def test_a_model_of_another_tokenizer_is_another(named: Model, tmp_path: Path) -> None:
    converted(named, tmp_path / "out")
    tokens = (*named.tokenizer.tokens[:-1], b"<|endoftext|>")
    other = write_huggingface(
        tmp_path / "other",
        replace(
            tiny_weights(), tokenizer=replace(named.tokenizer, tokens=(tokens[1], tokens[0], *tokens[2:]), merges=())
        ),
    )
    with open_model(other) as model, pytest.raises(OutputError, match=r"tokenizer\.json: is there already"):
        converted(model, tmp_path / "out", "other.gguf")


def test_nothing_stays_where_the_model_fails(named: Model, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()

    def refuse(path: Path) -> None:
        # The check has all that a reader needs.
        assert open_model(path).dims == named.dims
        raise FormatError("it does not speak", hint="")

    with pytest.raises(FormatError, match="does not speak"):
        quantize(make_conversion(named, "candle"), folder / "model.gguf", check=refuse)
    assert not list(folder.iterdir())
    with pytest.raises(OutputError, match=r"config\.json: must hold what goes with the model"):
        quantize(make_conversion(named, "candle"), folder / "config.json")
    assert not list(folder.iterdir())


def test_the_command_line_knows_it_by_target_and_by_format(
    named: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert main(["quantize", "--target", "candle", str(named.path), str(out / "a.gguf"), "q4_0"]) == 0
    assert main(["convert", "--format", "candle", str(named.path), str(out / "b.gguf")]) == 0
    capsys.readouterr()
    for name in ("a.gguf", "b.gguf"):
        assert main(["inspect", str(out / name)]) == 0
        shown = capsys.readouterr().out
        assert "  yes  candle (" in shown
        assert "it reads .bin and .gguf files, not candle's gguf" in shown
    assert main(["quantize", "--target", "candle", str(named.path), str(out / "c.bin"), "q4_0"]) == 1
    assert "hint: write a .gguf file with --format candle" in capsys.readouterr().err
    assert main(["quantize", "--target", "candle", str(named.path), str(out / "c.gguf"), "iq4_nl"]) == 1
    assert "it does not take iq4_nl" in capsys.readouterr().err
    assert main(["quantize", str(named.path), str(out / "plain.gguf"), "q4_0"]) == 0
    # Who does not ask for candle is not told of it.
    assert "candle" not in capsys.readouterr().err
