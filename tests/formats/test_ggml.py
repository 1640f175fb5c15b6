"""The .bin reader: what it accepts, and one test for each way in which a file can be wrong."""

import random
import struct
from dataclasses import replace

import numpy as np
import pytest

from tests.support.containers import bin_head, model_bytes, tensor_record, write_model
from tests.support.models import NARROW, values_of
from whisq import Recipe, WhisqError, make_plan, open_model
from whisq.errors import FormatError
from whisq.types import F16
from whisq.whisper import expected_tensors

SPECS = expected_tensors(NARROW)


def opened(tmp_path, content):
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    return open_model(path)


def refused(tmp_path, content):
    with pytest.raises(FormatError) as caught:
        opened(tmp_path, content)
    assert "model.bin" in str(caught.value)
    assert caught.value.hint
    return str(caught.value)


def with_record(name, record):
    parts = [record if spec.name == name else tensor_record(spec, values_of(spec)) for spec in SPECS.values()]
    return bin_head(NARROW) + b"".join(parts)


def test_reads_what_was_written(tmp_path):
    model = opened(tmp_path, model_bytes())
    assert model.dims == NARROW
    assert model.tokenizer.tokens == (b"a", b"", b"\xff\xfe")
    assert [tensor.name for tensor in model.tensors] == list(SPECS)
    for tensor in model.tensors:
        wanted = values_of(tensor.spec)
        if tensor.type.name == "f16":
            wanted = wanted.astype(np.float16)
        np.testing.assert_array_equal(model.array(tensor), wanted.astype(np.float32), strict=True)


def test_keeps_the_files_order(tmp_path):
    records = [tensor_record(spec, values_of(spec)) for spec in SPECS.values()]
    order = list(range(len(records)))
    random.Random(3).shuffle(order)
    model = opened(tmp_path, bin_head(NARROW) + b"".join(records[i] for i in order))
    assert [tensor.name for tensor in model.tensors] == [list(SPECS)[i] for i in order]


def test_accepts_conv_biases_in_one_dimension(tmp_path):
    spec = SPECS["encoder.conv1.bias"]
    name = spec.name.encode()
    record = struct.pack("<4i", 1, len(name), 0, spec.shape[0]) + name + values_of(spec).tobytes()
    assert opened(tmp_path, with_record(spec.name, record))[spec.name].shape == spec.shape


def test_empty_file(tmp_path):
    with pytest.raises(FormatError, match="empty"):
        opened(tmp_path, b"")


def test_other_magic(tmp_path):
    assert "begins with the bytes 41 42 43 44" in refused(tmp_path, b"ABCD" + model_bytes()[4:])


def test_gguf_named_as_such(tmp_path):
    assert "GGUF version 0, expected 2 or 3" in refused(tmp_path, b"GGUF" + bytes(100))


def test_truncated_at_every_byte(tmp_path):
    content = bin_head(NARROW, tokens=[b"ab"]) + tensor_record(
        SPECS["encoder.conv1.bias"], values_of(SPECS["encoder.conv1.bias"])
    )
    filters = 4 * NARROW.n_mels * 201
    for size in [*range(1, 70), *range(60 + filters - 9, len(content))]:
        path = tmp_path / f"{size}.bin"
        path.write_bytes(content[:size])
        with pytest.raises(FormatError):
            open_model(path)


def test_truncated_in_the_last_tensor(tmp_path):
    message = refused(tmp_path, model_bytes()[:-1])
    assert "truncated in the data of tensor" in message


@pytest.mark.parametrize("field", range(10))
@pytest.mark.parametrize("value", [0, -1, 2**31 - 1])
def test_absurd_dimensions(tmp_path, field, value):
    content = bytearray(model_bytes())
    struct.pack_into("<i", content, 4 + 4 * field, value)
    assert "impossible dimensions" in refused(tmp_path, bytes(content))


def test_mel_filters_of_another_size(tmp_path):
    content = bytearray(model_bytes())
    struct.pack_into("<i", content, 52, 400)
    assert "mel filters are 4 × 400, expected 4 × 201" in refused(tmp_path, bytes(content))


@pytest.mark.parametrize("count", [-1, 17, 2**31 - 1])
def test_absurd_vocabulary(tmp_path, count):
    content = bytearray(model_bytes())
    struct.pack_into("<i", content, 56 + 4 * NARROW.n_mels * 201, count)
    assert "the vocabulary counts" in refused(tmp_path, bytes(content))


@pytest.mark.parametrize("length", [5000, 2**32 - 1])
def test_absurd_token_length(tmp_path, length):
    content = bytearray(model_bytes())
    struct.pack_into("<I", content, 60 + 4 * NARROW.n_mels * 201, length)
    assert "token 0 claims a length" in refused(tmp_path, bytes(content))


@pytest.mark.parametrize(("n_dims", "length"), [(0, 5), (5, 5), (2**30, 5), (1, 0), (1, 2**31 - 1), (-1, 5)])
def test_absurd_tensor_header(tmp_path, n_dims, length):
    content = bin_head(NARROW) + struct.pack("<3i", n_dims, length, 0) + bytes(64)
    assert "the header of tensor 1" in refused(tmp_path, content)


def test_unknown_tensor(tmp_path):
    record = struct.pack("<4i", 1, 3, 0, 2) + b"foo" + bytes(8)
    assert "unknown tensor 'foo'" in refused(tmp_path, bin_head(NARROW) + record)


def test_name_that_is_not_utf8(tmp_path):
    record = struct.pack("<4i", 1, 3, 0, 2) + b"\xff\xfe\xfd" + bytes(8)
    assert "unknown tensor" in refused(tmp_path, bin_head(NARROW) + record)


def test_duplicate_tensor(tmp_path):
    records = [tensor_record(spec, values_of(spec)) for spec in SPECS.values()]
    assert "occurs twice" in refused(tmp_path, bin_head(NARROW) + b"".join([records[0], *records[:-1]]))


def test_missing_tensor(tmp_path):
    records = [tensor_record(spec, values_of(spec)) for spec in SPECS.values()]
    message = refused(tmp_path, bin_head(NARROW) + b"".join(records[1:]))
    assert "1 of" in message
    assert next(iter(SPECS)) in message


def test_wrong_shape(tmp_path):
    spec = SPECS["encoder.blocks.0.mlp.0.weight"]
    turned = type(spec)(spec.name, spec.stack, spec.layer, spec.role, spec.shape[::-1])
    message = refused(tmp_path, with_record(spec.name, tensor_record(turned, values_of(turned))))
    assert "has shape [64, 256], expected [256, 64]" in message


def test_unknown_type(tmp_path):
    spec = SPECS["encoder.blocks.0.mlp.0.weight"]
    record = bytearray(tensor_record(spec, values_of(spec)))
    struct.pack_into("<i", record, 8, 99)
    assert "ggml type 99" in refused(tmp_path, with_record(spec.name, bytes(record)))


def test_blocks_that_do_not_fit_the_rows(tmp_path):
    # whisper.cpp's own tool writes such files for tiny without a word, and nothing loads them.
    spec = SPECS["encoder.blocks.0.mlp.0.weight"]
    record = bytearray(tensor_record(spec, values_of(spec)))
    struct.pack_into("<i", record, 8, 12)
    assert "its rows have 64" in refused(tmp_path, with_record(spec.name, bytes(record)))


def test_trailing_bytes(tmp_path):
    assert "follow the last" in refused(tmp_path, model_bytes() + b"\0")


def test_missing_file(tmp_path):
    with pytest.raises(FormatError, match="no such file"):
        open_model(tmp_path / "absent.bin")


def test_directory(tmp_path):
    with pytest.raises(FormatError, match="not a model that whisq knows"):
        open_model(tmp_path)


def test_random_damage_ends_in_an_error_or_a_model(tmp_path):
    content = model_bytes()
    generator = random.Random(20240)
    for number in range(400):
        damaged = bytearray(content)
        for _ in range(generator.randint(1, 8)):
            at = generator.randrange(len(damaged) if number % 2 else 4000)
            damaged[at] = generator.randrange(256)
        if number % 3 == 0:
            del damaged[generator.randrange(len(damaged)) :]
        path = tmp_path / f"{number}.bin"
        path.write_bytes(damaged)
        try:
            open_model(path).close()
        except WhisqError as error:
            assert error.hint


def test_a_model_is_read_lazily(tmp_path):
    with open_model(write_model(tmp_path / "m.bin")) as model:
        tensor = model["decoder.token_embedding.weight"]
        view = model.rows(tensor, 2, 5)
        assert view.nbytes == 3 * 64 * 2
        assert view.readonly


def test_a_token_that_no_bin_takes_is_refused_before_anything_is_written(tmp_path):
    with opened(tmp_path, model_bytes()) as model:
        model.tokenizer = replace(model.tokenizer, tokens=(b"a", b"x" * 4097))
        with pytest.raises(FormatError, match="token 1 has 4097 bytes"):
            make_plan(model, Recipe(F16))
