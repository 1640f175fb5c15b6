"""An opened model: dimensions, vocabulary, and references to tensors whose bytes stay on disk."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, get_args

from whisq import kernels
from whisq.source_file import FileState, SourceFile
from whisq.types import TensorType
from whisq.whisper import Dimensions, Role, Stack, TensorSpec

ContainerName = Literal["bin", "gguf", "candle"]
"""The containers that runtimes of ggml's types read: the only ones that are written; each a row of ``CONTAINERS``."""

FormatName = Literal["bin", "gguf", "candle", "huggingface", "openai", "ctranslate2"]
"""The containers that are read."""

_HASHED_BYTES = 1 << 22
_PIECE_WEIGHTS = 1 << 20
"""Weights read at once to dequantize a whole tensor, so that its stored bytes are not in memory beside it."""
_FINGERPRINT = b"whisq model fingerprint 1\n"
_SAMPLED_ROWS = 4
_MOST_WHOLE_WEIGHTS = 1 << 16
"""Every norm and bias of a released Whisper is smaller, everything else, from tiny on, larger."""


@dataclass(frozen=True, slots=True)
class Location:
    """Where a tensor's bytes are: ``file`` indexes the model's files, ``offset`` is in bytes."""

    file: int
    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class TensorRef:
    """One tensor of an opened model. Holds no weights.

    ``name`` is canonical, ``source_name`` what the file calls it; ``shape`` is numpy's order, as the model
    needs it (a conv bias is ``(n,)`` however the file stores it); ``type`` is how ``Model.rows`` gives its
    bytes. ``decode`` is set where the stored bytes are not in a ggml type (CTranslate2's int8): it gets the
    first and last row and returns them as ``type``.
    """

    spec: TensorSpec
    source_name: str
    type: TensorType
    location: Location
    decode: Callable[[int, int], memoryview] | None = field(default=None, compare=False, repr=False)

    @property
    def name(self) -> str:
        """Canonical name."""
        return self.spec.name

    @property
    def stack(self) -> Stack:
        """The half of the model it belongs to."""
        return self.spec.stack

    @property
    def layer(self) -> int | None:
        """Block number within the stack, None outside the blocks."""
        return self.spec.layer

    @property
    def role(self) -> Role:
        """What the tensor does in its block."""
        return self.spec.role

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes, slowest first."""
        return self.spec.shape

    @property
    def n_columns(self) -> int:
        """Weights in a row: ggml's ne[0]."""
        return self.spec.n_columns

    @property
    def n_rows(self) -> int:
        """Rows of ``n_columns`` weights, all other sizes multiplied."""
        return self.spec.n_rows

    @property
    def n_weights(self) -> int:
        """Weights in the tensor."""
        return self.spec.n_weights

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensor in the source file."""
        return self.location.size_bytes


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """What a ``.bin`` and a GGUF need to know of a byte-level BPE tokenizer.

    ``tokens`` are raw bytes in id order and may be fewer than the model's ``n_vocab`` (whisper.cpp fills in
    special tokens by itself). ``merges`` are pairs in GPT-2's printable spelling, empty where the source has
    none (``.bin``). ``special`` maps the text of added tokens (``<|en|>``) to ids.
    """

    tokens: tuple[bytes, ...]
    merges: tuple[str, ...] = ()
    special: Mapping[str, int] = field(default_factory=dict)


class Model:
    """A Whisper model in some container, whose weights are read when they are asked for.

    Use as a context manager, or call ``close``. ``tensors`` is in file order; ``mel_filters`` holds
    ``n_mels × 201`` little-endian f32 values, row by row; ``metadata`` is whatever else the container said
    and a writer may want. ``warnings`` are sentences a user should see of what is lost, ``notes`` of how the model
    was read.
    """

    def __init__(
        self,
        *,
        path: Path,
        format: FormatName,
        dims: Dimensions,
        tokenizer: Tokenizer,
        mel_filters: bytes,
        tensors: tuple[TensorRef, ...],
        files: tuple[SourceFile, ...],
        metadata: Mapping[str, Any] | None = None,
        warnings: tuple[str, ...] = (),
        notes: tuple[str, ...] = (),
    ) -> None:
        self.path = path
        self.format = format
        self.dims = dims
        self.tokenizer = tokenizer
        self.mel_filters = mel_filters
        self.tensors = tensors
        self.files = files
        self.metadata = dict(metadata or {})
        self.warnings = warnings
        self.notes = notes
        self._by_name = {tensor.name: tensor for tensor in tensors}
        self._hashing = threading.Lock()
        self._sha256: str | None = None
        self._fingerprint: str | None = None

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getitem__(self, name: str) -> TensorRef:
        """Return the tensor with a canonical name; raises ``KeyError``."""
        return self._by_name[name]

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def __repr__(self) -> str:
        return f"<Model {self.path} ({self.format}): {len(self.tensors)} tensors, {self.n_weights} weights>"

    @property
    def n_weights(self) -> int:
        """Weights of all tensors together."""
        return sum(tensor.n_weights for tensor in self.tensors)

    @property
    def size_bytes(self) -> int:
        """Bytes of the files on disk that hold weights."""
        return sum(file.size_bytes for file in self.files)

    @property
    def states(self) -> tuple[FileState, ...]:
        """What the files with weights were when the model was opened."""
        return tuple(file.state for file in self.files)

    @property
    def container(self) -> ContainerName | None:
        """The container that runtimes of ggml's types know this file as; None for one that none of them reads."""
        return next((name for name in get_args(ContainerName) if name == self.format), None)

    @property
    def sha256(self) -> str:
        """SHA-256 of the weight file in hex; of several, that of their contents one after the other.

        The first use, which must come before ``close``, reads the files from end to end; later ones, and those of
        other threads meanwhile, get the same value.
        """
        with self._hashing:
            self._sha256 = self._sha256 or _sha256_of(self.files)
            return self._sha256

    @property
    def fingerprint(self) -> str:
        """SHA-256 in hex of what the weights are, wherever they are stored: the key for what is measured of a model.

        Equal for every container, sharding, order of tensors, and for f32, f16 and bf16 as long as the values are the
        same once rounded to f16; else for another model, a fine-tune of it, and a quantized one, it differs. It is of
        these bytes, one after the other:

        - ``whisq model fingerprint 1`` and a line feed;
        - for each tensor, sorted by canonical name, name and sizes (``decoder.ln.bias 384``,
          ``encoder.conv1.weight 384x80x3``: numpy's order) and a line feed, all ASCII, then values as little-endian
          f16, in the order of the sizes, the last fastest. A tensor of at most 65536 weights gives all of them, a
          larger one those at the indices ``i * (n - 1) // 3`` (i = 0, 1, 2, 3) of its first axis, of size n;
        - values are dequantized to f32 where they are stored as anything else and rounded to the nearest f16, ties to
          even; beyond ±65504 they are infinite, and every NaN is 0x7e00.

        So what only another row tells apart has the same fingerprint: ``sha256`` is for files, this is for models.
        Nor is the tokenizer part of it. A few megabytes are read, once, which must come before ``close``.
        """
        with self._hashing:
            self._fingerprint = self._fingerprint or self._computed_fingerprint()
            return self._fingerprint

    def _computed_fingerprint(self) -> str:
        digest = hashlib.sha256(_FINGERPRINT)
        for name in sorted(self._by_name):
            tensor = self._by_name[name]
            digest.update(f"{name} {'x'.join(map(str, tensor.shape))}\n".encode())
            for start, stop in _sampled_rows(tensor.spec):
                digest.update(self._as_f16(tensor, start, stop))
        return digest.hexdigest()

    def _as_f16(self, tensor: TensorRef, start: int, stop: int) -> bytes:
        import numpy as np

        values = kernels.dequantize(self.rows(tensor, start, stop), tensor.type, (stop - start, tensor.n_columns))
        with np.errstate(over="ignore"):
            halves = values.astype("<f2")
        halves[np.isnan(halves)] = np.nan
        return halves.tobytes()

    @property
    def bits_per_weight(self) -> float:
        """Bits per weight of the files that hold the weights, all they hold included.

        One definition, of files, plans and results alike: 8 × bytes of the file ÷ weights of all tensors.
        """
        return 8 * self.size_bytes / self.n_weights

    def rows(self, tensor: TensorRef, start: int = 0, stop: int | None = None) -> memoryview:
        """Return the bytes of rows ``start:stop`` in ``tensor.type``: flat, ``(stop - start) × row bytes`` long.

        Raises ``FormatError`` where the file has become shorter, and where a zip's entry has not the CRC-32 it states,
        which is looked at when the first of its rows are read.
        """
        self.files[tensor.location.file].check(tensor.location.offset)
        stop = tensor.n_rows if stop is None else stop
        if tensor.decode is not None:
            return tensor.decode(start, stop)
        row = tensor.type.row_bytes(tensor.n_columns)
        begin = tensor.location.offset + start * row
        return self.files[tensor.location.file].read(begin, begin + (stop - start) * row)

    def array(self, tensor: TensorRef | str) -> Any:
        """Return a tensor dequantized to a float32 ``numpy.ndarray`` of the tensor's shape (a copy)."""
        import numpy as np

        ref = self[tensor] if isinstance(tensor, str) else tensor
        values = np.empty((ref.n_rows, ref.n_columns), np.float32)
        step = max(1, _PIECE_WEIGHTS // ref.n_columns)
        for start in range(0, ref.n_rows, step):
            stop = min(start + step, ref.n_rows)
            rows = self.rows(ref, start, stop)
            values[start:stop] = kernels.dequantize(rows, ref.type, (stop - start, ref.n_columns))
        return values.reshape(ref.shape)

    def check_unchanged(self) -> None:
        """Raise ``FormatError`` where a file is not what it was when the model was opened.

        Whoever writes what was made of a model calls it before that takes its name.
        """
        for state in self.states:
            state.check()

    def close(self) -> None:
        """Close the files. What was read from them stays valid."""
        for file in self.files:
            file.close()


def _sha256_of(files: tuple[SourceFile, ...]) -> str:
    digest = hashlib.sha256()
    for file in files:
        for start in range(0, file.size_bytes, _HASHED_BYTES):
            stop = min(start + _HASHED_BYTES, file.size_bytes)
            digest.update(file.read(start, stop))
    return digest.hexdigest()


def _sampled_rows(spec: TensorSpec) -> Iterator[tuple[int, int]]:
    """Return the spans of rows that a fingerprint looks at."""
    if spec.n_weights <= _MOST_WHOLE_WEIGHTS:
        yield 0, spec.n_rows
        return
    n = spec.shape[0]
    rows = spec.n_rows // n
    for index in sorted({i * (n - 1) // (_SAMPLED_ROWS - 1) for i in range(_SAMPLED_ROWS)}):
        yield index * rows, (index + 1) * rows
