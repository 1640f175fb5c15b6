"""CTranslate2 folders, which faster-whisper uses: ``model.bin`` beside ``config.json`` and ``tokenizer.json``.

Layout (little-endian; source: CTranslate2, ``python/ctranslate2/specs/model_spec.py``): u32 version · spec name
· u32 revision · u32 count · variables (name, u8 rank, u32 sizes, u8 type, u32 bytes, data) · aliases. Strings are
u16 length with the final NUL, then bytes. Query, key and value of self-attention are one matrix, rows in that
order; key and value of cross-attention likewise.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from whisq.errors import FormatError
from whisq.formats.agreement import check_agreement
from whisq.formats.cursor import DAMAGED, Cursor, first_bytes
from whisq.formats.mel import mel_filters
from whisq.formats.tokenizer_json import read_json, read_text, read_tokenizer
from whisq.formats.vocabulary import END_OF_TEXT, check_rows, tokenizer_of
from whisq.model import Location, Model, TensorRef, Tokenizer
from whisq.source_file import SourceFile
from whisq.types import BF16, F16, F32
from whisq.whisper import LARGEST_SIZES, Dimensions, TensorSpec, expected_tensors

_FLOATS = {0: F32, 4: F16, 5: BF16}
_INT8, _INT16, _INT32 = 1, 2, 3
_TYPE_BYTES = {0: 4, _INT8: 1, _INT16: 2, _INT32: 4, 4: 2, 5: 2}
_NAME_OF_SPEC = "WhisperSpec"
_START = struct.Struct("<IH")
"""Version, and length of the spec's name."""
_INCOMPLETE = "the file is not a complete Whisper model: download or convert it again"
_MOST_VARIABLES = 1 << 14
_MOST_DIMENSIONS = 4
_MOST_DIGITS = 5


def detect(path: Path) -> bool:
    """Return whether this is a folder with a ``model.bin`` that begins like CTranslate2's, or such a file itself."""
    if not path.is_dir():
        head = first_bytes(path, _START.size + len(_NAME_OF_SPEC)) or b""
        return head[_START.size :] == _NAME_OF_SPEC.encode()
    start = first_bytes(path / "model.bin", 6)
    if start is None:
        return False
    return len(start) < 6 or 0 < struct.unpack("<I", start[:4])[0] < 256


@dataclass(frozen=True, slots=True)
class _Variable:
    name: str
    shape: tuple[int, ...]
    type: int
    offset: int
    size_bytes: int


def open(path: Path) -> Model:
    """Open a CTranslate2 Whisper folder, or the file with weights in one.

    int8 matrices are given as f32, with a warning. Raises ``FormatError`` for a damaged folder or one that is not
    Whisper's.
    """
    path, weights = (path, path / "model.bin") if path.is_dir() else (path.parent, path)
    file = SourceFile(weights)
    try:
        variables = _variables(file)
        dims = _dimensions(file, variables)
        tensors, warnings = _tensors(file, variables, dims)
        tokenizer = _tokenizer(path, dims)
        config = read_json(path / "config.json") if (path / "config.json").is_file() else {}
        check_agreement(path, tokenizer, dims, {"config.json": config if isinstance(config, dict) else {}})
    except BaseException:
        file.close()
        raise
    return Model(
        path=path,
        format="ctranslate2",
        dims=dims,
        tokenizer=tokenizer,
        mel_filters=mel_filters(dims.n_mels),
        tensors=tensors,
        files=(file,),
        metadata={"config": config},
        warnings=warnings,
    )


def _string(cursor: Cursor, what: str) -> str:
    raw = bytes(cursor.take(cursor.integer("H", what), what))
    return raw.removesuffix(b"\0").decode("utf-8", "backslashreplace")


def _variables(file: SourceFile) -> dict[str, _Variable]:
    cursor = Cursor(file)
    version = cursor.integer("I", "the version")
    if not 2 <= version <= 6:
        raise FormatError(
            f"{file.path}: CTranslate2 binary version {version}, expected 2 to 6",
            hint="convert the model again with ct2-transformers-converter",
        )
    spec = _string(cursor, "the spec name")
    if spec != _NAME_OF_SPEC:
        raise FormatError(
            f"{file.path}: holds a {spec!r}, expected {_NAME_OF_SPEC!r}",
            hint="name a Whisper model: whisq quantizes no others",
        )
    cursor.integer("I", "the spec revision")
    count = cursor.integer("I", "the number of variables")
    if count > _MOST_VARIABLES:
        raise FormatError(f"{file.path}: claims {count} variables", hint=DAMAGED)
    variables: dict[str, _Variable] = {}
    for number in range(count):
        variable = _variable(cursor, number)
        if variable.name in variables:
            raise FormatError(f"{file.path}: variable {variable.name} occurs twice", hint=DAMAGED)
        variables[variable.name] = variable
    for number in range(cursor.integer("I", "the aliases") if version >= 3 else 0):
        alias, name = _string(cursor, f"alias {number}"), _string(cursor, f"alias {number}")
        if name in variables:
            variables.setdefault(alias, replace(variables[name], name=alias))
    if cursor.left:
        raise FormatError(
            f"{file.path}: {cursor.left} bytes follow the last variable",
            hint="the file has trailing data: download or convert it again",
        )
    return variables


def _variable(cursor: Cursor, number: int) -> _Variable:
    what = f"variable {number}"
    name = _string(cursor, what)
    what = f"variable {name or number}"
    rank = cursor.integer("B", what)
    if rank > _MOST_DIMENSIONS:
        raise FormatError(f"{cursor.path}: {what} claims {rank} dimensions", hint=DAMAGED)
    shape = cursor.unpack(f"{rank}I", what)
    type_number = cursor.integer("B", what)
    size_bytes = cursor.integer("I", what)
    elements = 1
    for size in shape:
        elements *= size
    if type_number not in _TYPE_BYTES:
        raise FormatError(
            f"{cursor.path}: {what} has type {type_number}, expected 0 (f32), 1 (int8), 2 (int16), 3 (int32), 4 (f16)"
            " or 5 (bf16)",
            hint="convert the model again with ct2-transformers-converter",
        )
    if size_bytes != elements * _TYPE_BYTES[type_number]:
        raise FormatError(
            f"{cursor.path}: {what} of shape {list(shape)} claims {size_bytes} bytes, expected"
            f" {elements * _TYPE_BYTES[type_number]}",
            hint=DAMAGED,
        )
    offset = cursor.offset
    cursor.skip(size_bytes, f"the data of {what}")
    return _Variable(name, shape, type_number, offset, size_bytes)


def _dimensions(file: SourceFile, variables: dict[str, _Variable]) -> Dimensions:
    def shape(name: str, rank: int) -> tuple[int, ...]:
        variable = variables.get(name)
        if variable is None or len(variable.shape) != rank:
            found = "is missing" if variable is None else f"has shape {list(variable.shape)}"
            raise FormatError(
                f"{file.path}: variable {name} {found}, expected {rank} dimensions",
                hint=_INCOMPLETE,
            )
        return variable.shape

    def n_layers(side: str) -> int:
        layers = {int(part) for name in variables if (part := _layer_of(name, side)) is not None}
        if layers != set(range(len(layers))) or not layers:
            raise FormatError(
                f"{file.path}: the {side} has layers {sorted(layers)}, expected 0, 1, 2 … without a gap",
                hint=_INCOMPLETE,
            )
        return len(layers)

    def n_heads(side: str, width: int) -> int:
        variable = variables.get(f"{side}/num_heads")
        if variable is not None and variable.type in (_INT8, _INT16, _INT32) and variable.size_bytes <= 4:
            raw = file.view[variable.offset : variable.offset + variable.size_bytes]
            return int.from_bytes(raw, "little", signed=True)
        return width // 64  # every released Whisper has heads of 64

    n_vocab, text_state = shape("decoder/embeddings/weight", 2)
    audio_ctx, audio_state = shape("encoder/position_encodings/encodings", 2)
    text_ctx, _ = shape("decoder/position_encodings/encodings", 2)
    _, n_mels, _ = shape("encoder/conv1/weight", 3)
    dims = Dimensions(
        n_vocab,
        audio_ctx,
        audio_state,
        n_heads("encoder", audio_state),
        n_layers("encoder"),
        text_ctx,
        text_state,
        n_heads("decoder", text_state),
        n_layers("decoder"),
        n_mels,
    )
    wrong = [f"{name} = {size}" for name, size in asdict(dims).items() if not 0 < size <= LARGEST_SIZES[name]]
    if wrong:
        raise FormatError(f"{file.path}: impossible dimensions: {', '.join(wrong)}", hint=DAMAGED)
    return dims


def _layer_of(name: str, side: str) -> str | None:
    parts = name.split("/")
    number = parts[1].removeprefix("layer_") if len(parts) > 2 and parts[0] == side else ""
    return number if number.isdecimal() and len(number) <= _MOST_DIGITS else None


@dataclass(frozen=True, slots=True)
class _Slice:
    """A canonical tensor inside a variable: ``part`` of ``of`` equal parts of the rows."""

    variable: str
    part: int = 0
    of: int = 1


_NORM_PARTS = {"weight": "gamma", "bias": "beta"}
_TOP = {
    "encoder.positional_embedding": "encoder/position_encodings/encodings",
    "decoder.positional_embedding": "decoder/position_encodings/encodings",
    "decoder.token_embedding.weight": "decoder/embeddings/weight",
    **{f"encoder.conv{n}.{p}": f"encoder/conv{n}/{p}" for n in (1, 2) for p in ("weight", "bias")},
    **{f"encoder.ln_post.{p}": f"encoder/layer_norm/{c}" for p, c in _NORM_PARTS.items()},
    **{f"decoder.ln.{p}": f"decoder/layer_norm/{c}" for p, c in _NORM_PARTS.items()},
}
_BLOCK_NORMS = {
    "attn_ln": "self_attention/layer_norm",
    "cross_attn_ln": "attention/layer_norm",
    "mlp_ln": "ffn/layer_norm",
}
_BLOCK_LINEARS = {
    "attn.query": ("self_attention/linear_0", 0, 3),
    "attn.key": ("self_attention/linear_0", 1, 3),
    "attn.value": ("self_attention/linear_0", 2, 3),
    "attn.out": ("self_attention/linear_1", 0, 1),
    "cross_attn.query": ("attention/linear_0", 0, 1),
    "cross_attn.key": ("attention/linear_1", 0, 2),
    "cross_attn.value": ("attention/linear_1", 1, 2),
    "cross_attn.out": ("attention/linear_2", 0, 1),
    "mlp.0": ("ffn/linear_0", 0, 1),
    "mlp.2": ("ffn/linear_1", 0, 1),
}


def _slice_of(spec: TensorSpec) -> _Slice:
    if spec.name in _TOP:
        return _Slice(_TOP[spec.name])
    _, _, layer, rest = spec.name.split(".", 3)
    part, ending = rest.rsplit(".", 1)
    prefix = f"{spec.stack}/layer_{layer}"
    if part in _BLOCK_NORMS:
        return _Slice(f"{prefix}/{_BLOCK_NORMS[part]}/{_NORM_PARTS[ending]}")
    linear, number, of = _BLOCK_LINEARS[part]
    return _Slice(f"{prefix}/{linear}/{ending}", number, of)


def _tensors(
    file: SourceFile, variables: dict[str, _Variable], dims: Dimensions
) -> tuple[tuple[TensorRef, ...], tuple[str, ...]]:
    tensors, problems, n_int8 = [], [], 0
    for spec in expected_tensors(dims).values():
        where = _slice_of(spec)
        variable = variables.get(where.variable)
        if variable is None:
            problems.append(f"{where.variable} is missing")
            continue
        expected = (spec.shape[0] * where.of, *spec.shape[1:])
        if variable.shape != expected:
            problems.append(f"{where.variable} has shape {list(variable.shape)}, expected {list(expected)}")
            continue
        size = variable.size_bytes // where.of
        location = Location(0, variable.offset + where.part * size, size)
        if variable.type in _FLOATS:
            tensors.append(TensorRef(spec, where.variable, _FLOATS[variable.type], location))
            continue
        decode = _integer_decoder(file, variables, variable, spec, where, problems)
        n_int8 += 1
        tensors.append(TensorRef(spec, where.variable, F32, location, decode))
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise FormatError(f"{file.path}: {'; '.join(problems[:3])}{more}", hint=_INCOMPLETE)
    if not n_int8:
        return tuple(tensors), ()
    warning = (
        f"{n_int8} matrices are int8 in {file.path}: they are dequantized first, so the loss of two steps adds up;"
        " start from the f16 model where you can"
    )
    return tuple(tensors), (warning,)


def _integer_decoder(
    file: SourceFile,
    variables: dict[str, _Variable],
    variable: _Variable,
    spec: TensorSpec,
    where: _Slice,
    problems: list[str],
) -> Callable[[int, int], memoryview]:
    """Return what turns rows of an int8 or int16 matrix into f32: CTranslate2 stores weight × scale."""
    scale = variables.get(f"{variable.name}_scale")
    n_rows = spec.shape[0] * where.of
    if variable.type not in (_INT8, _INT16) or scale is None or scale.type != 0 or len(spec.shape) != 2:
        problems.append(f"{variable.name} is an integer variable without an f32 {variable.name}_scale")
    elif scale.size_bytes not in (4, 4 * n_rows):
        problems.append(f"{scale.name} has shape {list(scale.shape)}, expected one value or one for each row")

    def decode(start: int, stop: int) -> memoryview:
        import numpy as np

        assert scale is not None
        first = where.part * spec.shape[0] + start
        kind = np.int8 if variable.type == _INT8 else np.dtype("<i2")
        columns, rows = spec.shape[1], stop - start
        row_bytes = columns * np.dtype(kind).itemsize
        offset = variable.offset + first * row_bytes
        integers = np.frombuffer(file.read(offset, offset + rows * row_bytes), kind).reshape(rows, columns)
        per_row = scale.size_bytes > 4
        begin = scale.offset + (4 * first if per_row else 0)
        scales = np.frombuffer(file.read(begin, begin + 4 * (rows if per_row else 1)), "<f4")
        return np.ascontiguousarray(integers.astype(np.float32) / scales[:, None]).data.cast("B")

    return decode


def _tokenizer(path: Path, dims: Dimensions) -> Tokenizer:
    if (path / "tokenizer.json").is_file():
        tokenizer = read_tokenizer(path / "tokenizer.json")
        check_rows(path, tokenizer, dims)
        return tokenizer
    for name in ("vocabulary.json", "vocabulary.txt"):
        listing = path / name
        if listing.is_file():
            words = read_json(listing) if name.endswith("json") else _lines(listing)
            return _listed_tokenizer(listing, words, dims)
    raise FormatError(
        f"{path}: no tokenizer.json and no vocabulary.txt beside model.bin",
        hint="copy tokenizer.json from where the model came from",
    )


def _lines(path: Path) -> list[str]:
    return read_text(path).replace("\r\n", "\n").removesuffix("\n").split("\n")


def _listed_tokenizer(path: Path, words: object, dims: Dimensions) -> Tokenizer:
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise FormatError(f"{path}: is not a list of tokens", hint=DAMAGED)
    # Special tokens come after the text tokens; the loader of a .bin fills them in by itself.
    texts = words[: words.index(END_OF_TEXT) + 1] if END_OF_TEXT in words else words
    if len(set(texts)) != len(texts):
        doubled = next(text for number, text in enumerate(texts) if text in texts[:number])
        raise FormatError(f"{path}: {ascii(doubled)[:40]} occurs twice", hint=DAMAGED)
    tokenizer = tokenizer_of(path, {text: number for number, text in enumerate(texts)}, {}, ())
    check_rows(path, tokenizer, dims)
    return tokenizer
