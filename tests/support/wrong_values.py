"""What a JSON or TOML document may hold in the place of what is expected, and every place there is."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

WRONG_VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1 << 31,
    10**30,
    10**5000,
    0.5,
    -1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "a\0b",
    "\ud800",
    "x" * 300,
    "../x",
    [],
    [[]],
    [None, "x"],
    {},
    {"a": 1},
)
"""``10**5000`` cannot be printed by Python: see ``spelled``."""


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value in a document; of long lists the first and the last."""
    if path:
        yield path
    if isinstance(document, dict):
        for key in document:
            yield from places(document[key], (*path, key))
    elif isinstance(document, list):
        for index in sorted({0, len(document) - 1} if document else set()):
            yield from places(document[index], (*path, index))


def changed(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Return a copy with another value in one place."""
    document = copy.deepcopy(document)
    inside = document
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value
    return document


def without(document: Any, path: tuple[Any, ...]) -> Any:
    """Return a copy in which one place is not there."""
    document = copy.deepcopy(document)
    inside = document
    for key in path[:-1]:
        inside = inside[key]
    del inside[path[-1]]
    return document


def documents(document: Any, seed: int, count: int) -> Iterator[Any]:
    """Yield ``count`` documents with one wrong value, or one absent, in each."""
    random_, where = random.Random(seed), sorted(places(document), key=repr)
    for _ in range(count):
        path = random_.choice(where)
        if random_.random() < 0.1:
            yield without(document, path)
        else:
            yield changed(document, path, random_.choice(WRONG_VALUES))


def spelled(document: Any) -> str:
    """Return a document as JSON, integers of any length included."""
    import json

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(one) for key, one in value.items()}
        if isinstance(value, list):
            return [plain(one) for one in value]
        return "LONG" if isinstance(value, int) and value > 10**4000 else value

    return json.dumps(plain(document)).replace('"LONG"', "1" * 5001)
