"""Byte-pair encoding with a vocabulary in rank order, as much of it as a container needs.

In GPT-2's and Whisper's vocabularies a token's id is its rank: single bytes first, then each merge in the order
it was learned. So the ids alone say how a text is split and, backwards, which two tokens each one was merged
from. A ``.bin`` holds only the tokens; a GGUF wants the merges.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, lru_cache

_LONGEST_MERGED = 256
"""Bytes; splitting is quadratic, and Whisper's longest token has 128."""


@cache
def _byte_of_character() -> dict[str, int]:
    """Return GPT-2's table from the printable characters of a vocabulary to the bytes they stand for.

    Printable Latin-1 stands for itself; the other 68 byte values take the characters from U+0100 on, in order.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(value): value for value in printable}
    others = [value for value in range(256) if value not in set(printable)]
    table.update({chr(0x100 + number): value for number, value in enumerate(others)})
    return table


@cache
def _character_of_byte() -> dict[int, str]:
    return {value: character for character, value in _byte_of_character().items()}


def printable(token: bytes) -> str:
    """Return a token in GPT-2's printable spelling, one character per byte."""
    return token.decode("latin-1").translate(_character_of_byte())


def is_printable(text: str) -> bool:
    """Return whether a token is in GPT-2's printable spelling."""
    return _byte_of_character().keys() >= set(text)


def bytes_of(text: str, *, markers_as_text: bool = False) -> bytes:
    """Return the bytes of a token in printable spelling; text with other characters is taken as it is, in UTF-8.

    With ``markers_as_text`` a text that begins like a marker (``<|…|>``) is UTF-8 too: Hugging Face's vocabularies
    write markers as they are, a GGUF written here spells every token of the vocabulary the printable way.
    """
    if markers_as_text and text.startswith("<|"):
        return text.encode("utf-8", "surrogatepass")
    table = _byte_of_character()
    try:
        return bytes([table[character] for character in text])
    except KeyError:
        return text.encode("utf-8", "surrogatepass")


def split(text: bytes, ranks: Mapping[bytes, int], below: int | None = None) -> list[bytes]:
    """Return the tokens that byte-pair encoding makes of ``text``, joining the pair of lowest rank first.

    With ``below``, only pairs whose joint token ranks lower are joined. Bytes that are not a token stay single.
    """
    limit, rank_of = len(ranks) + 1 if below is None else below, ranks.get
    parts = [text[i : i + 1] for i in range(len(text))]
    pairs = [rank_of(text[i : i + 2], limit) for i in range(len(text) - 1)]
    while pairs and (best := min(pairs)) < limit:
        where = pairs.index(best)
        parts[where : where + 2] = [parts[where] + parts[where + 1]]
        # The joint token takes the pair's place; the pairs on both sides of it are others now.
        del pairs[where]
        if where > 0:
            pairs[where - 1] = rank_of(parts[where - 1] + parts[where], limit)
        if where < len(pairs):
            pairs[where] = rank_of(parts[where] + parts[where + 1], limit)
    return parts


def merges_of(tokens: Sequence[bytes]) -> tuple[str, ...]:
    """Return the merges that built a vocabulary, in order, as ``left right`` in printable spelling.

    Each token must fall into exactly two when only lower ranks may join; one that does not (a special token in
    its midst, or one that no merge reaches) has no merge.
    """
    return _merges_of(tuple(tokens))


@lru_cache(maxsize=1)
def _merges_of(tokens: tuple[bytes, ...]) -> tuple[str, ...]:
    """Return the same; a search plans a dozen files of one model."""
    ranks: dict[bytes, int] = {}
    for rank, token in enumerate(tokens):
        ranks.setdefault(token, rank)
    spelled = {token: printable(token) for token in ranks}
    merges = []
    for rank, token in enumerate(tokens):
        if len(token) < 2 or len(token) > _LONGEST_MERGED:
            continue
        parts = _two_parts(token, ranks, rank)
        # A byte that the vocabulary lacks is split off all the same: nothing can be merged with it.
        if parts is not None and ranks[token] == rank and ranks.keys() >= set(parts):
            merges.append(f"{spelled[parts[0]]} {spelled[parts[1]]}")
    return tuple(merges)


def _two_parts(token: bytes, ranks: Mapping[bytes, int], rank: int) -> tuple[bytes, bytes] | None:
    parts = split(token, ranks, rank)
    if len(parts) != 2:
        return None
    # A byte that is not split off by a merge may rank higher than the token: then some other cut has to be one.
    places = (len(parts[0]), *range(1, len(token)))
    cut = any(ranks.get(token[:i], rank) < rank and ranks.get(token[i:], rank) < rank for i in places)
    return (parts[0], parts[1]) if cut else None
