"""Whether the core works here: the bytes of every type by every method against stored hashes.

``python -m whisq.kernels.self_test`` asks every instruction set that this CPU has; it needs nothing but the core. The
program that ``cmake -DWHISQ_SELF_TEST=ON`` builds does the same without Python. ``--write`` stores what the core gives
now, where a kernel is meant to give other bytes; ggml's are held by ``tests/kernels/test_bytes.py``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from whisq.kernels import _core, available_isas

STORED = Path(__file__).with_suffix(".txt")
"""A line for each type and method: ``q4_0 plain 0123456789abcdef``."""


def hashes(isa: str) -> dict[tuple[str, str], str]:
    """Return the hash of what an instruction set writes, by type and method.

    Methods are ``plain`` (from f32, f16 and bf16), ``importance``, ``feedback`` and ``fit`` (parts of blocks),
    ``decode`` (back to weights) and ``factor`` (what feedback rounds with).
    """
    return {(type, method): digits for type, method, digits in _core.self_test(isa)}


def stored_hashes() -> dict[tuple[str, str], str]:
    """Return the hashes that every machine has to give."""
    lines = STORED.read_text("ascii").split("\n")
    return {(type, method): digits for type, method, digits in (line.split() for line in lines if line)}


def differing(isa: str) -> list[tuple[str, str]]:
    """Return the types and methods whose bytes are others than they should be, or that one of the two lacks."""
    found, stored = hashes(isa), stored_hashes()
    return sorted(key for key in found.keys() | stored.keys() if found.get(key) != stored.get(key))


def main(arguments: Sequence[str]) -> int:
    """Print one line for each instruction set; returns 1 where one differs."""
    if list(arguments) == ["--write"]:
        found = hashes(available_isas()[-1])
        lines = [f"{type} {method} {digits}\n" for (type, method), digits in found.items()]
        STORED.write_bytes("".join(lines).encode("ascii"))
    wrong = 0
    for isa in available_isas():
        different, total = differing(isa), len(stored_hashes())
        wrong += len(different)
        print(f"{isa}: {total - len(different)} of {total} hashes equal")
        for type, method in different:
            print(f"  {type} {method} differs")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
