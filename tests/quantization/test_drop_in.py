"""The whole drop-in file, byte for byte: what whisper.cpp's own quantizer writes, made here with ggml's library.

whisper.cpp's ``quantize`` copies header, filters and vocabulary, sets the header's type, and has ggml quantize every
matrix. The program itself, built from whisper.cpp 1.8.5, gave the same files (``cmp``) for tiny.en and base in all
types that it writes and their rows fit; its library is what a test can install.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from tests.support import oracle
from tests.support.containers import write_model
from tests.support.models import REAL_MODELS, WIDE
from whisq import Recipe, make_plan, open_model, quantize
from whisq.types import TYPES, TensorType

FTYPES = {
    "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "q2_K": 10, "q3_K": 11, "q4_K": 12, "q5_K": 13, "q6_K": 14,
}  # fmt: skip
"""The header's numbers for what whisper.cpp's quantizer writes (``ggml_ftype``)."""
_QUANTIZATION_VERSION = 2
_FTYPE_OFFSET = 4 * 11


def expected_bytes(source: bytes, kind: TensorType) -> bytes:
    """Return an f16 file with all matrices in one type, as whisper.cpp's quantizer makes it."""
    place = 4 + 4 * 11
    n_mel, n_fft = struct.unpack_from("<2i", source, place)
    place += 8 + 4 * n_mel * n_fft
    (n_tokens,) = struct.unpack_from("<i", source, place)
    place += 4
    for _ in range(n_tokens):
        (length,) = struct.unpack_from("<I", source, place)
        place += 4 + length
    head = bytearray(source[:place])
    struct.pack_into("<i", head, _FTYPE_OFFSET, 1000 * _QUANTIZATION_VERSION + FTYPES[kind.name])
    parts = [bytes(head)]
    while place < len(source):
        n_dims, length, number = struct.unpack_from("<3i", source, place)
        shape = struct.unpack_from(f"<{n_dims}i", source, place + 12)
        start = place + 12 + 4 * n_dims + length
        name = source[start - length : start]
        count = int(np.prod(shape))
        stop = start + count * (2 if number == 1 else 4)
        if n_dims == 2 and number == 1:
            weights = np.frombuffer(source[start:stop], np.float16).astype(np.float32).reshape(shape[::-1])
            parts.append(struct.pack(f"<3i{n_dims}i", n_dims, length, kind.ggml_type, *shape) + name)
            parts.append(oracle.quantize(weights, kind).tobytes())
        else:
            parts.append(source[place:stop])
        place = stop
    return b"".join(parts)


def drop_in_file(source: Path, kind: TensorType, path: Path) -> bytes:
    with open_model(source) as model:
        quantize(make_plan(model, Recipe(kind), target="whisper.cpp"), path, threads=1)
    return path.read_bytes()


@pytest.mark.parametrize("name", FTYPES)
def test_the_whole_file_is_that_of_whisper_cpps_quantizer(tmp_path: Path, name: str) -> None:
    source = write_model(tmp_path / "f16.bin", WIDE)
    kind = TYPES[name]
    assert drop_in_file(source, kind, tmp_path / "out.bin") == expected_bytes(source.read_bytes(), kind)


@pytest.mark.slow
@pytest.mark.parametrize("size", REAL_MODELS)
def test_so_are_real_models(request: pytest.FixtureRequest, tmp_path: Path, size: str) -> None:
    source = request.getfixturevalue(f"{size}_bin")
    original = source.read_bytes()
    with open_model(source) as model:
        columns = {tensor.n_columns for tensor in model.tensors if tensor.spec.is_matrix}
    fitting = [name for name in FTYPES if all(TYPES[name].fits(count) for count in columns)]
    assert len(fitting) == (5 if size == "tiny_en" else 10)
    for name in fitting:
        oracle._known.clear()  # every answer is asked for once, and base's are large
        kind = TYPES[name]
        assert drop_in_file(source, kind, tmp_path / "out.bin") == expected_bytes(original, kind), name
