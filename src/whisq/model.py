"""An opened model: dimensions, vocabulary, and references to tensors whose bytes stay on disk."""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from whisq.errors import FormatError
from whisq.types import TensorType
from whisq.whisper import Dimensions, Role, Stack, TensorSpec


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
    """A Whisper model in some container, opened lazily through memory maps.

    Use as a context manager, or call ``close``. ``tensors`` is in file order; ``mel_filters`` holds
    ``n_mels × 201`` little-endian f32 values, row by row; ``metadata`` is whatever else the container said
    and a writer may want; ``warnings`` are sentences a user should see.
    """

    def __init__(
        self,
        *,
        path: Path,
        format: str,  # noqa: A002 - the field's own word for it
        dims: Dimensions,
        tokenizer: Tokenizer,
        mel_filters: bytes,
        tensors: tuple[TensorRef, ...],
        files: tuple[MappedFile, ...],
        metadata: Mapping[str, Any] | None = None,
        warnings: tuple[str, ...] = (),
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
        self._by_name = {tensor.name: tensor for tensor in tensors}

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

    def rows(self, tensor: TensorRef, start: int = 0, stop: int | None = None) -> memoryview:
        """Return the bytes of rows ``start:stop`` in ``tensor.type``, without a copy where the file has them.

        The view is flat bytes, ``(stop - start) × row bytes`` long, and keeps the map alive.
        """
        stop = tensor.n_rows if stop is None else stop
        if tensor.decode is not None:
            return tensor.decode(start, stop)
        row = tensor.type.row_bytes(tensor.n_columns)
        begin = tensor.location.offset + start * row
        return self.files[tensor.location.file].view[begin : begin + (stop - start) * row]

    def array(self, tensor: TensorRef | str) -> Any:
        """Return a tensor dequantized to a float32 ``numpy.ndarray`` of the tensor's shape (a copy)."""
        from whisq import kernels

        ref = self[tensor] if isinstance(tensor, str) else tensor
        return kernels.dequantize(self.rows(ref), ref.type, ref.shape)

    def release(self, tensor: TensorRef, start: int = 0, stop: int | None = None) -> None:
        """Tell the system that these rows will not be read again, so that their pages can go."""
        stop = tensor.n_rows if stop is None else stop
        row = tensor.size_bytes // max(1, tensor.n_rows)
        begin = tensor.location.offset + start * row
        self.files[tensor.location.file].release(begin, begin + (stop - start) * row)

    def close(self) -> None:
        """Close the files. Views handed out earlier stay valid until they are dropped."""
        for file in self.files:
            file.close()


class MappedFile:
    """A file mapped read-only."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as stream:
                self.size_bytes = os.fstat(stream.fileno()).st_size
                if self.size_bytes == 0:
                    raise FormatError(f"{path}: the file is empty", hint="was the download interrupted?")
                self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError:
            raise FormatError(f"{path}: no such file", hint="check the path") from None
        except IsADirectoryError:
            raise FormatError(f"{path}: is a directory, expected a file", hint="name the model file itself") from None
        except PermissionError:
            raise FormatError(f"{path}: no permission to read it", hint="check the file's owner and mode") from None
        except OSError as error:
            raise FormatError(f"{path}: cannot be read: {error.strerror or error}") from error
        self.view = memoryview(self._map)

    def release(self, start: int, stop: int) -> None:
        """Drop these bytes' pages from this process, the last one only when it is used up.

        The first page may hold the end of what came before: that was released when it was still in use.
        """
        page = mmap.PAGESIZE
        first = start // page * page
        length = stop // page * page - first
        if length > 0 and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED, first, length)

    def close(self) -> None:
        """Unmap, unless views of it are still in use; then the last of them unmaps."""
        with contextlib.suppress(BufferError):
            self.view.release()
            self._map.close()
