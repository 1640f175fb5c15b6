"""CTranslate2 folders: the same weights as the .bin, and one test for each way to be wrong."""

import json
import struct
from dataclasses import replace

import numpy as np
import pytest

from tests.support.containers import (
    ctranslate2_bytes,
    ctranslate2_string,
    ctranslate2_variable,
    ctranslate2_variables,
    write_ctranslate2,
)
from tests.support.models import NARROW, named_weights, values_of
from whisq import open_model
from whisq.errors import FormatError

WEIGHTS = named_weights(NARROW, np.float16)


def refused(folder):
    with pytest.raises(FormatError) as caught:
        open_model(folder)
    assert caught.value.hint
    return str(caught.value)


def replaced(tmp_path, **changes):
    variables = ctranslate2_variables(WEIGHTS)
    for name, values in changes.items():
        key = name.replace("__", "/")
        if values is None:
            del variables[key]
        else:
            variables[key] = values
    folder = write_ctranslate2(tmp_path / "model", WEIGHTS)
    (folder / "model.bin").write_bytes(ctranslate2_bytes(variables))
    return folder


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_every_tensor_is_found_in_its_place(tmp_path, kind):
    folder = write_ctranslate2(tmp_path / "model", named_weights(NARROW, kind))
    with open_model(folder) as model:
        assert model.dims == NARROW
        assert model.tokenizer.tokens == (b"a", b"b", b"ab", b"<|endoftext|>")
        for tensor in model.tensors:
            wanted = values_of(tensor.spec).astype(kind).astype(np.float32)
            np.testing.assert_array_equal(model.array(tensor), wanted, strict=True)


def test_bf16(tmp_path):
    whole = named_weights(NARROW)
    halved = {name: (values.view(np.uint32) >> 16).astype(np.uint16) for name, values in whole.arrays.items()}
    with open_model(write_ctranslate2(tmp_path / "model", replace(whole, arrays=halved))) as model:
        tensor = model["encoder.blocks.1.attn.value.weight"]
        assert tensor.type.name == "bf16"
        wanted = (values_of(tensor.spec).view(np.uint32) >> 16 << 16).view(np.float32)
        np.testing.assert_array_equal(model.array(tensor), wanted)


def test_int8_is_dequantized_with_a_warning(tmp_path):
    variables = ctranslate2_variables(named_weights(NARROW))
    for name in [name for name in variables if name.endswith("weight") and "conv" not in name]:
        scale = 127 / np.abs(variables[name]).max(axis=1)
        variables[f"{name}_scale"] = scale.astype(np.float32)
        variables[name] = np.rint(variables[name] * scale[:, None]).astype(np.int8)
    folder = write_ctranslate2(tmp_path / "model", WEIGHTS)
    (folder / "model.bin").write_bytes(ctranslate2_bytes(variables))
    with open_model(folder) as model:
        assert "int8" in model.warnings[0]
        tensor = model["decoder.blocks.2.cross_attn.value.weight"]
        assert np.abs(model.array(tensor) - values_of(tensor.spec)).max() < 0.005
        whole = bytes(model.rows(tensor))
        assert bytes(model.rows(tensor, 3, 7)) == whole[3 * 256 : 7 * 256]


def test_int8_without_its_scale(tmp_path):
    values = np.zeros((64, 64), np.int8)
    folder = replaced(tmp_path, encoder__layer_0__self_attention__linear_1__weight=values)
    assert "weight_scale" in refused(folder)


def test_truncated_at_many_bytes(tmp_path):
    folder = write_ctranslate2(tmp_path / "model", WEIGHTS)
    content = (folder / "model.bin").read_bytes()
    for size in [*range(6, 200), *range(200, len(content), 4999), len(content) - 1]:
        (folder / "model.bin").write_bytes(content[:size])
        assert "truncated" in refused(folder)


def test_trailing_bytes(tmp_path):
    folder = write_ctranslate2(tmp_path / "model", WEIGHTS)
    with (folder / "model.bin").open("ab") as stream:
        stream.write(b"x")
    assert "follow the last variable" in refused(folder)


def test_missing_variable(tmp_path):
    assert "decoder/layer_norm/beta is missing" in refused(replaced(tmp_path, decoder__layer_norm__beta=None))


def test_wrong_shape(tmp_path):
    values = np.zeros((65,), np.float32)
    assert "decoder/layer_norm/beta has shape [65], expected [64]" in refused(
        replaced(tmp_path, decoder__layer_norm__beta=values)
    )


def test_a_layer_is_missing(tmp_path):
    variables = {name: v for name, v in ctranslate2_variables(WEIGHTS).items() if "encoder/layer_1/" not in name}
    folder = write_ctranslate2(tmp_path / "model", WEIGHTS)
    (folder / "model.bin").write_bytes(ctranslate2_bytes(variables))
    assert "layers [0, 2]" in refused(folder)


def test_another_model(tmp_path):
    folder = write_ctranslate2(tmp_path / "model", WEIGHTS)
    (folder / "model.bin").write_bytes(ctranslate2_bytes({}, spec="TransformerSpec"))
    assert "'TransformerSpec', expected 'WhisperSpec'" in refused(folder)


def test_unknown_version(tmp_path):
    folder = write_ctranslate2(tmp_path / "model", WEIGHTS)
    (folder / "model.bin").write_bytes(ctranslate2_bytes({}, version=77))
    assert "version 77" in refused(folder)


def test_unknown_type(tmp_path):
    folder = write_ctranslate2(tmp_path / "model", WEIGHTS)
    record = ctranslate2_string("a") + struct.pack("<BI", 1, 1) + struct.pack("<BI", 9, 4) + bytes(4)
    head = struct.pack("<I", 6) + ctranslate2_string("WhisperSpec") + struct.pack("<2I", 3, 1)
    (folder / "model.bin").write_bytes(head + record)
    assert "has type 9" in refused(folder)


def test_size_that_is_not_the_shapes(tmp_path):
    folder = write_ctranslate2(tmp_path / "model", WEIGHTS)
    record = ctranslate2_string("a") + struct.pack("<BI", 1, 2**31) + struct.pack("<BI", 0, 4) + bytes(4)
    head = struct.pack("<I", 6) + ctranslate2_string("WhisperSpec") + struct.pack("<2I", 3, 1)
    (folder / "model.bin").write_bytes(head + record)
    assert "claims 4 bytes" in refused(folder)


def test_more_dimensions_than_there_are(tmp_path):
    folder = write_ctranslate2(tmp_path / "model", WEIGHTS)
    record = (
        ctranslate2_string("a") + struct.pack("<B255I", 255, *[2**32 - 1] * 255) + struct.pack("<BI", 0, 4) + bytes(4)
    )
    head = struct.pack("<I", 6) + ctranslate2_string("WhisperSpec") + struct.pack("<2I", 3, 1)
    (folder / "model.bin").write_bytes(head + record)
    assert "variable a claims 255 dimensions" in refused(folder)


@pytest.mark.parametrize(("count", "said"), [(0, "is missing"), (1 << 14, "truncated"), (2**32 - 1, "claims 42949")])
def test_wrong_count_of_variables(tmp_path, count, said):
    folder = write_ctranslate2(tmp_path / "model", WEIGHTS)
    content = bytearray((folder / "model.bin").read_bytes())
    struct.pack_into("<I", content, 4 + len(ctranslate2_string("WhisperSpec")) + 4, count)
    if count == 0:
        del content[4 + len(ctranslate2_string("WhisperSpec")) + 8 :]
        content += bytes(4)
    (folder / "model.bin").write_bytes(content)
    assert said in refused(folder)


def test_wrong_count_of_aliases(tmp_path):
    folder = write_ctranslate2(tmp_path / "model", WEIGHTS)
    content = (folder / "model.bin").read_bytes()
    (folder / "model.bin").write_bytes(content[:-4] + struct.pack("<I", 2**32 - 1))
    assert "truncated in alias 0" in refused(folder)


@pytest.mark.parametrize("heads", [np.int16(0), np.int16(-3), np.int32(1 << 30)])
def test_heads_that_cannot_be(tmp_path, heads):
    assert "n_audio_head" in refused(replaced(tmp_path, encoder__num_heads=np.array(heads)))


@pytest.mark.parametrize("content", ["{", "\udcff"])
def test_config_that_is_no_json(tmp_path, content):
    folder = write_ctranslate2(tmp_path / "model", WEIGHTS)
    (folder / "config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    assert "config.json" in refused(folder)


def test_duplicate_variable(tmp_path):
    folder = write_ctranslate2(tmp_path / "model", WEIGHTS)
    record = ctranslate2_variable("a", np.zeros(2, np.float32))
    head = struct.pack("<I", 6) + ctranslate2_string("WhisperSpec") + struct.pack("<2I", 3, 2)
    (folder / "model.bin").write_bytes(head + record + record)
    assert "occurs twice" in refused(folder)


def test_no_tokenizer(tmp_path):
    folder = write_ctranslate2(tmp_path / "model", WEIGHTS)
    (folder / "tokenizer.json").unlink()
    assert "no tokenizer.json" in refused(folder)


def test_vocabulary_instead_of_tokenizer(tmp_path):
    folder = write_ctranslate2(tmp_path / "model", WEIGHTS)
    (folder / "tokenizer.json").unlink()
    (folder / "vocabulary.json").write_text(json.dumps(["a", "\u0120b", "", "<|endoftext|>", "<|en|>"]))
    with open_model(folder) as model:
        assert model.tokenizer.tokens == (b"a", b" b", b"", b"<|endoftext|>")


@pytest.mark.parametrize("content", ["{", "[]", '{"model": {}}', '{"model": {"vocab": {"a": 1}}}'])
def test_broken_tokenizer(tmp_path, content):
    folder = write_ctranslate2(tmp_path / "model", WEIGHTS)
    (folder / "tokenizer.json").write_text(content)
    assert "tokenizer.json" in refused(folder)


def test_real_weights(tiny_en_folder):
    with open_model(tiny_en_folder) as model:
        assert (model.dims.n_vocab, model.dims.n_audio_layer, model.dims.n_audio_state) == (51864, 4, 384)
        assert len(model.tokenizer.tokens) == 50257
        assert model.tokenizer.tokens[50256] == b"<|endoftext|>"
        assert len(model.tensors) == 167
