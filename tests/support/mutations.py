"""Damage for fuzzing: every change follows from its seed, so that a failing case can be made again."""

from __future__ import annotations

import json
import random
import re
import struct
from collections.abc import Callable, Sequence
from typing import Any

_NUMBERS = (0, 1, 2, 3, 255, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 40, 1 << 62, (1 << 63) - 1)
_ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1,
    3,
    1 << 31,
    1 << 70,
    0.5,
    1e308,
    "",
    "x",
    "\ud800",
    "<|en|>",
    [],
    [0],
    [[]],
    {},
    {"a": 1},
    [None, "x"],
    "../x",
    "F16",
    "F64",
    [1 << 40, 1 << 40],
)
_STRUCTURE = re.compile(rb"(en|de)coder|(enc|dec)\.|general\.|stt\.|tokenizer\.|torch|PK[\x01\x03\x05]", re.DOTALL)


def structure_of(content: bytes) -> list[int]:
    """Return the offsets of a weight file that are not weights: its ends, and what is near names."""
    places = {*range(min(500, len(content))), *range(max(0, len(content) - 60), len(content))}
    for match in _STRUCTURE.finditer(content):
        places.update(range(max(0, match.start() - 16), min(match.end() + 80, len(content))))
    return sorted(places)


def damaged(content: bytes, places: Sequence[int], random_: random.Random) -> bytes:
    """Return a file with one to three changes, most of them at the given offsets."""
    data = bytearray(content)
    for _ in range(random_.choice((1, 1, 1, 2, 3))):
        at = random_.choice(places) if random_.random() < 0.9 else random_.randrange(len(content))
        if at + 8 < len(data):
            random_.choice(_CHANGES)(data, at, random_)
    return bytes(data)


def _flip(data: bytearray, at: int, random_: random.Random) -> None:
    for offset in range(random_.randint(1, 4)):
        data[at + offset] = random_.randrange(256)


def _number(data: bytearray, at: int, random_: random.Random) -> None:
    width, code = random_.choice(((2, "<H"), (4, "<I"), (8, "<Q")))
    struct.pack_into(code, data, at, random_.choice(_NUMBERS) & ((1 << 8 * width) - 1))


def _truncate(data: bytearray, at: int, random_: random.Random) -> None:
    del data[at:]


def _cut(data: bytearray, at: int, random_: random.Random) -> None:
    del data[at : at + random_.randint(1, 64)]


def _splice(data: bytearray, at: int, random_: random.Random) -> None:
    start = random_.randrange(len(data))
    piece = bytes(data[start : start + random_.randint(1, 200)])
    data[at : at + random_.choice((0, len(piece)))] = piece


_CHANGES: tuple[Callable[[bytearray, int, random.Random], None], ...] = (
    _flip,
    _flip,
    _number,
    _number,
    _truncate,
    _cut,
    _splice,
)


def odd_json(text: str, random_: random.Random) -> str:
    """Return a JSON document in which one or two values were replaced, removed, or exchanged."""
    document = json.loads(text)
    for _ in range(random_.choice((1, 1, 2))):
        _change_within(document, random_)
    return json.dumps(document)


def _change_within(node: Any, random_: random.Random) -> None:
    while node:
        key: Any = random_.choice(list(node)) if isinstance(node, dict) else random_.randrange(len(node))
        if isinstance(node[key], dict | list) and node[key] and random_.random() < 0.7:
            node = node[key]
            continue
        action = random_.random()
        if action < 0.2:
            del node[key]
        elif action < 0.35 and isinstance(node, dict):
            other = random_.choice(list(node))
            node[key], node[other] = node[other], node[key]
        else:
            node[key] = random_.choice(_ODD_VALUES)
        return
