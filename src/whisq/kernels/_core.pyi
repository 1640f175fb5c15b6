from mmap import mmap
from typing import Any

from numpy.typing import NDArray

Buffer = bytes | bytearray | memoryview | mmap | NDArray[Any]

def instruction_sets() -> list[str]: ...
def types() -> list[tuple[int, str, int, int, int, bool]]: ...
def self_test(isa: str) -> list[tuple[str, str, str]]: ...
def quantize(
    isa: str,
    source: Buffer,
    source_type: int,
    destination: Buffer,
    type: int,
    n_columns: int,
    importance: Buffer | None,
) -> tuple[int, int, int]: ...
def dequantize(isa: str, source: Buffer, type: int, destination: Buffer) -> None: ...
def factor(
    isa: str,
    undamped: Buffer,
    n_columns: int,
    damping: float,
    triangle: Buffer | None,
    inside: Buffer | None,
    gain: Buffer | None,
    moment: Buffer | None,
) -> bool: ...
def feedback(
    isa: str,
    weights: Buffer,
    triangle: Buffer,
    inside: Buffer,
    gain: Buffer,
    moment: Buffer,
    type: int,
    n_columns: int,
    n_sweeps: int,
    levels: Buffer,
    units: Buffer,
    minimum_units: Buffer,
    scale_integers: Buffer,
    minimum_integers: Buffer,
) -> None: ...
def fit(
    isa: str,
    weights: Buffer,
    importance: Buffer,
    plain: Buffer,
    type: int,
    n_columns: int,
    levels: Buffer,
    units: Buffer,
    minimum_units: Buffer,
    scale_integers: Buffer,
    minimum_integers: Buffer,
    is_better: Buffer,
) -> None: ...
def invert(isa: str, triangle: Buffer, n_columns: int, upper: Buffer) -> None: ...
def unpack_triangle(packed: Buffer, n: int, matrix: Buffer) -> None: ...
