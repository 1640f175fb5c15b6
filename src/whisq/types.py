"""The tensor types that whisq reads and writes.

Names, ids, block sizes and bytes are ggml's (``ggml.h``: ``enum ggml_type``, ``enum ggml_ftype``). The
numbers stand here, and a test holds them against the ``gguf`` package: importing that package costs as
much time as quantizing a small model.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from whisq.errors import TypeNameError

QUANTIZATION_VERSION = 2
"""ggml's version of the quantized layouts; a quantized ``.bin`` header holds 1000 × this + ftype."""


class Fallback(Enum):
    """In place of which types a type may be chosen, where their blocks do not fit a row."""

    FOR_ALL = "all"
    FOR_ITS_FAMILY = "family"
    """Those of its own family only: fewer runtimes load it than the other types of its size."""
    FOR_NONE = "none"


@dataclass(frozen=True, slots=True)
class TensorType:
    """One storage type.

    ``block_size`` is in weights, ``block_bytes`` in bytes; a row holds a whole number of blocks.
    ``precision_db`` orders the types by how closely they keep a weight: the signal-to-noise ratio in dB of ggml's
    own quantization, measured on the matrices of blocks 1 and 4 of Whisper base. It is used to choose a fallback.
    ``family`` are the types that share a way of rounding; ``fallback`` says for whom this one may stand in.
    ``llama_ftype`` is what a GGUF says of a file that is mostly this type (llama.cpp's ``enum llama_ftype``; where that
    has variants S and M, S is for one type throughout and M for a mix); of mxfp4 it knows mixtures of experts only.
    ``uses_importance`` is whether ggml rounds otherwise when it is given an importance matrix.
    """

    name: str
    ggml_type: int
    ggml_ftype: int
    block_size: int
    block_bytes: int
    precision_db: float
    family: str
    fallback: Fallback
    llama_ftype: int
    llama_ftype_of_a_mix: int
    uses_importance: bool

    @property
    def is_quantized(self) -> bool:
        """True for the block formats, false for f32, f16 and bf16."""
        return self.block_size > 1

    @property
    def bits_per_weight(self) -> float:
        """Stored bits per weight, scales included."""
        return 8 * self.block_bytes / self.block_size

    def fits(self, n_columns: int) -> bool:
        """True when a row of ``n_columns`` weights is a whole number of blocks."""
        return n_columns % self.block_size == 0

    def row_bytes(self, n_columns: int) -> int:
        """Bytes of a row of ``n_columns`` weights; the caller has checked that it fits."""
        return n_columns // self.block_size * self.block_bytes

    def may_stand_in_for(self, asked: TensorType) -> bool:
        """True when rows that do not fit ``asked`` may be stored in this type."""
        if self.fallback is Fallback.FOR_ITS_FAMILY:
            return self.family == asked.family
        return self.fallback is Fallback.FOR_ALL

    def __str__(self) -> str:
        return self.name


def _table() -> dict[str, TensorType]:
    anyone, family, no_one = Fallback.FOR_ALL, Fallback.FOR_ITS_FAMILY, Fallback.FOR_NONE
    rows = [
        # name, ggml_type, ggml_ftype, block, bytes, precision, family, fallback, llama_ftype, mix, importance
        ("f32", 0, 0, 1, 4, 150.0, "dense", no_one, 0, 0, False),
        ("f16", 1, 1, 1, 2, 75.0, "dense", anyone, 1, 1, False),
        ("bf16", 30, 24, 1, 2, 55.0, "dense", no_one, 32, 32, False),
        ("q4_0", 2, 2, 32, 18, 20.7, "legacy", anyone, 2, 2, True),
        ("q4_1", 3, 3, 32, 20, 21.7, "legacy", anyone, 3, 3, True),
        ("q5_0", 6, 8, 32, 22, 26.7, "legacy", anyone, 8, 8, True),
        ("q5_1", 7, 9, 32, 24, 28.0, "legacy", anyone, 9, 9, True),
        ("q8_0", 8, 7, 32, 34, 44.7, "legacy", anyone, 7, 7, False),
        ("q2_K", 10, 10, 256, 84, 10.2, "K", anyone, 10, 10, True),
        ("q3_K", 11, 11, 256, 110, 16.0, "K", anyone, 11, 12, True),
        ("q4_K", 12, 12, 256, 144, 22.5, "K", anyone, 14, 15, True),
        ("q5_K", 13, 13, 256, 176, 28.4, "K", anyone, 16, 17, True),
        ("q6_K", 14, 14, 256, 210, 34.5, "K", anyone, 18, 18, True),
        ("iq4_nl", 20, 19, 32, 18, 21.97, "IQ4", family, 25, 25, True),
        ("iq4_xs", 23, 22, 256, 136, 21.9, "IQ4", family, 30, 30, True),
        ("mxfp4", 39, 25, 32, 17, 18.5, "MX", family, 38, 38, False),
    ]
    return {row[0]: TensorType(*row) for row in rows}


TYPES: dict[str, TensorType] = _table()
"""All types by their ggml name."""

F32, F16, BF16 = TYPES["f32"], TYPES["f16"], TYPES["bf16"]

_PEERS_NAMES = {
    "fp16": "f16", "float16": "f16", "half": "f16", "fp32": "f32", "float32": "f32", "float": "f32", "bfloat16": "bf16",
    "q4": "q4_0", "q5": "q5_0", "q6": "q6_K", "q8": "q8_0", "int4": "q4_0", "int5": "q5_0", "int8": "q8_0",
    "4bit": "q4_0", "5bit": "q5_0", "8bit": "q8_0", "q2": "q2_K", "q3": "q3_K", "nf4": "iq4_nl", "fp4": "mxfp4",
}  # fmt: skip
"""What other projects call a type of about that kind → a type here."""
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
    raise TypeNameError(f"unknown tensor type {text!r}", hint=_type_hint(key))


def type_meant(text: str) -> TensorType | None:
    """Return the type that a name is or that another project means by it, None for what is no name of a type."""
    key = text.strip().lower()
    if key[-2:] in ("_s", "_m", "_l") and key[:-2] in _BY_LOWER_NAME:
        key = key[:-2]
    return _BY_LOWER_NAME.get(_PEERS_NAMES.get(key, key).lower())


def _type_hint(key: str) -> str:
    import difflib

    listed = f"use one of: {' '.join(TYPES)}"
    meant = type_meant(key)
    if meant is not None and key[-2:] in ("_s", "_m", "_l"):
        return f"a mix of types is a recipe here (--recipe balanced); for one type: {meant.name}"
    near = [meant.name] if meant else difflib.get_close_matches(key, _BY_LOWER_NAME, n=1, cutoff=0.5)
    return listed + (f" (did you mean {_BY_LOWER_NAME[near[0].lower()].name}?)" if near else "")


def type_from_ggml(ggml_type: int) -> TensorType | None:
    """Return the type with this ``enum ggml_type`` number, or None when whisq does not know it."""
    return _BY_GGML_TYPE.get(ggml_type)


def fallback_for(asked: TensorType, n_columns: int) -> TensorType:
    """Return the smallest type that fits rows of ``n_columns`` and is at least as precise as ``asked``.

    Only types that may stand in for ``asked`` are offered: see ``Fallback``. Where there is none it is f16.
    """
    candidates = [
        t
        for t in TYPES.values()
        if t.fits(n_columns) and t.precision_db >= asked.precision_db and t.may_stand_in_for(asked)
    ]
    return min(candidates, key=lambda t: (t.bits_per_weight, t.precision_db), default=F16)
