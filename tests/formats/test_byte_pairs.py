"""Tokens in GPT-2's printable spelling, and back."""

from __future__ import annotations

import pytest

from whisq.formats.byte_pairs import bytes_of, merges_of, printable


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
