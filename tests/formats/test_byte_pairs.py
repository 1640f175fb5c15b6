"""Tokens in GPT-2's printable spelling, and back."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisq.formats.byte_pairs import bytes_of, merges_of, printable, split

SHORT = st.text("abc", max_size=12).map(str.encode)


def test_every_byte_comes_back() -> None:
    everything = bytes(range(256))
    assert bytes_of(printable(everything)) == everything
    assert bytes_of(printable(everything), markers_as_text=True) == everything


@pytest.mark.parametrize(
    ("text", "spelled", "as_text"),
    [
        ("<|endoftext|>", b"<|endoftext|>", b"<|endoftext|>"),
        # A byte 0xE9 in a GGUF's vocabulary, an é in a marker of Hugging Face's.
        ("<|\xe9|>", b"<|\xe9|>", "<|é|>".encode()),
        ("<|\u0120", b"<| ", "<|Ġ".encode()),
        ("\xe9", b"\xe9", b"\xe9"),
        ("日本", "日本".encode(), "日本".encode()),
        ("<|日", "<|日".encode(), "<|日".encode()),
        ("", b"", b""),
    ],
)
def test_markers_are_spelled_in_a_gguf_and_as_they_are_in_a_folder(text: str, spelled: bytes, as_text: bytes) -> None:
    assert bytes_of(text) == spelled
    assert bytes_of(text, markers_as_text=True) == as_text


def test_a_byte_that_the_vocabulary_lacks_is_merged_with_nothing() -> None:
    # Joined by rank, the last one falls into four marks and one, which is no token.
    assert merges_of([b"!!", b"!!!!", b"!!!", b"!!!!!"]) == ("!! !!",)
    assert merges_of([b"!", b"!!"]) == ("! !",)


def joined_one_by_one(text: bytes, ranks: dict[bytes, int], below: int) -> list[bytes]:
    """Byte-pair encoding as it is defined: of all pairs side by side the one of lowest rank, the first of several."""
    parts = [bytes([value]) for value in text]
    while True:
        pairs = [(ranks.get(one + other, below), place) for place, (one, other) in enumerate(pairwise(parts))]
        rank, place = min(pairs, default=(below, 0))
        if rank >= below:
            return parts
        parts[place : place + 2] = [parts[place] + parts[place + 1]]


@given(
    tokens=st.lists(
        st.binary(min_size=1, max_size=6).map(lambda raw: bytes(97 + value % 3 for value in raw)), max_size=40
    ),
    text=SHORT,
    share=st.floats(0, 1.2),
)
def test_pairs_are_joined_in_the_order_of_their_ranks(tokens: list[bytes], text: bytes, share: float) -> None:
    ranks = {token: rank for rank, token in reversed(list(enumerate(tokens)))}
    below = round(share * len(tokens))
    assert split(text, ranks, below) == joined_one_by_one(text, ranks, below)
    assert split(text, ranks) == joined_one_by_one(text, ranks, len(ranks) + 1)
