"""The tensor types that whisq reads and writes, and which runtime loads which.

Names, ids, block sizes and bytes are ggml's (``ggml.h``: ``enum ggml_type``, ``enum ggml_ftype``). The
numbers stand here, and a test holds them against the ``gguf`` package: importing that package costs as
much time as quantizing a small model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from whisq.errors import TypeNameError

QUANTIZATION_VERSION = 2
"""ggml's version of the quantized layouts; a quantized ``.bin`` header holds 1000 × this + ftype."""

RuntimeName = Literal["whisper.cpp", "whisper.cpp-pr3605", "transcribe.cpp"]


@dataclass(frozen=True, slots=True)
class TensorType:
    """One storage type.

    ``block_size`` is in weights, ``block_bytes`` in bytes; a row holds a whole number of blocks.
    ``precision`` orders the types by how closely they keep a weight (larger is closer); it is bits per
    weight with ties settled by the usual perplexity order, and is used to choose a fallback.
    """

    name: str
    ggml_type: int
    ggml_ftype: int
    block_size: int
    block_bytes: int
    precision: float

    @property
    def is_quantized(self) -> bool:
        """True for the block formats, false for f32, f16 and bf16."""
        return self.block_size > 1

    @property
    def bits_per_weight(self) -> float:
        """Stored bits for one weight, scales included."""
        return 8 * self.block_bytes / self.block_size

    def fits(self, n_columns: int) -> bool:
        """True when a row of ``n_columns`` weights is a whole number of blocks."""
        return n_columns % self.block_size == 0

    def row_bytes(self, n_columns: int) -> int:
        """Bytes of a row of ``n_columns`` weights; the caller has checked that it fits."""
        return n_columns // self.block_size * self.block_bytes

    def __str__(self) -> str:
        return self.name


def _table() -> dict[str, TensorType]:
    rows = [
        # name, ggml_type, ggml_ftype, block size, block bytes, precision
        ("f32", 0, 0, 1, 4, 32.0),
        ("f16", 1, 1, 1, 2, 16.0),
        ("bf16", 30, 24, 1, 2, 15.0),
        ("q4_0", 2, 2, 32, 18, 4.50),
        ("q4_1", 3, 3, 32, 20, 4.80),
        ("q5_0", 6, 8, 32, 22, 5.50),
        ("q5_1", 7, 9, 32, 24, 5.80),
        ("q8_0", 8, 7, 32, 34, 8.50),
        ("q2_K", 10, 10, 256, 84, 2.625),
        ("q3_K", 11, 11, 256, 110, 3.4375),
        ("q4_K", 12, 12, 256, 144, 4.70),
        ("q5_K", 13, 13, 256, 176, 5.70),
        ("q6_K", 14, 14, 256, 210, 6.5625),
        ("iq4_nl", 20, 19, 32, 18, 4.60),
        ("iq4_xs", 23, 22, 256, 136, 4.55),
    ]
    return {row[0]: TensorType(*row) for row in rows}


TYPES: dict[str, TensorType] = _table()
"""All types by their ggml name."""

F32, F16, BF16 = TYPES["f32"], TYPES["f16"], TYPES["bf16"]

_BY_LOWER_NAME = {name.lower(): t for name, t in TYPES.items()}
_BY_FTYPE = {t.ggml_ftype: t for t in TYPES.values()}
_BY_GGML_TYPE = {t.ggml_type: t for t in TYPES.values()}


def parse_type(text: str | int | TensorType) -> TensorType:
    """Return the type that a user wrote: a name in any case, or an integer ggml_ftype (2 = q4_0).

    Raises ``TypeNameError`` with the known names when there is no such type.
    """
    if isinstance(text, TensorType):
        return text
    key = str(text).strip().lower()
    found = _BY_FTYPE.get(int(key)) if key.isdecimal() else _BY_LOWER_NAME.get(key)
    if found is not None:
        return found
    if key.isdecimal():
        numbers = ", ".join(f"{t.ggml_ftype} = {t.name}" for t in TYPES.values())
        raise TypeNameError(f"{text} is not a ggml_ftype that whisq writes", hint=f"use one of: {numbers}")
    raise TypeNameError(f"unknown tensor type {text!r}", hint=f"use one of: {' '.join(TYPES)}" + _nearest(key))


def _nearest(key: str) -> str:
    import difflib

    near = difflib.get_close_matches(key, _BY_LOWER_NAME, n=1, cutoff=0.5)
    return f" (did you mean {_BY_LOWER_NAME[near[0]].name}?)" if near else ""


def type_from_ggml(ggml_type: int) -> TensorType | None:
    """Return the type with this ``enum ggml_type`` number, or None when whisq does not know it."""
    return _BY_GGML_TYPE.get(ggml_type)


TRANSCRIBE_CPP_TYPES = frozenset(
    TYPES[name] for name in "f32 f16 bf16 q4_0 q4_1 q5_0 q5_1 q8_0 q4_K q5_K q6_K".split()
)
"""Types that transcribe.cpp (PyPI: transcribe-cpp 0.4) takes, mixed freely, in ``.bin`` and GGUF."""
