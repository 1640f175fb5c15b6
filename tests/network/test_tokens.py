"""Texts as ids, and which ids are text."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import whisq
from tests.support.containers import write_bin, write_huggingface
from tests.support.models import TINY, tiny_tokenizer, tiny_weights
from whisq.errors import FormatError
from whisq.formats.special_tokens import special_tokens
from whisq.network.tokens import encode_text, text_ids


def test_text_is_cut_as_the_tokenizers_package_cuts_it(tiny_en_bin: Path, tiny_en_folder: Path) -> None:
    from tokenizers import Tokenizer

    theirs = Tokenizer.from_file(str(tiny_en_folder / "tokenizer.json"))
    with whisq.open_model(tiny_en_bin) as model:
        for text in (
            " And so, my 1995 friends'  don't\n",
            " Größe ¿cómo? 日本語 🤗",
            "produced the block books",
            "",
        ):
            expected = theirs.encode(text, add_special_tokens=False).ids
            assert encode_text(text, model.tokenizer) == expected


def test_bytes_that_the_vocabulary_lacks_are_an_error() -> None:
    whole = tiny_tokenizer()
    without = replace(whole, tokens=tuple(token for token in whole.tokens if token != b"z"))
    assert len(encode_text("zoo", whole)) == 3
    with pytest.raises(FormatError, match="no token for b'z'"):
        encode_text("zoo", without)


def test_of_equal_tokens_the_first_is_taken() -> None:
    whole = tiny_tokenizer()
    twice = replace(whole, tokens=(*whole.tokens, b"z"))
    assert encode_text("zoo", twice) == encode_text("zoo", whole)


def test_text_of_a_bin_is_all_before_the_end(tiny_en_bin: Path) -> None:
    with whisq.open_model(tiny_en_bin) as model:
        special = special_tokens(model)
        assert np.array_equal(text_ids(model, special), np.arange(51864) < special.end)


def test_text_of_a_fine_tune_goes_by_the_names_of_its_tokens(tmp_path: Path) -> None:
    """New words stand before the end token, and the other named tokens behind it."""
    weights = tiny_weights()
    words, end = weights.tokenizer.tokens[:-1], weights.tokenizer.tokens[-1]
    tokens = (*words, b" colour", b" grey", end)
    names = [name for name in weights.tokenizer.special if name != "<|endoftext|>"]
    special = {"<|endoftext|>": tokens.index(end)} | {name: len(tokens) + n for n, name in enumerate(names)}
    tokenizer = replace(weights.tokenizer, tokens=tokens, special=special)
    with whisq.open_model(write_huggingface(tmp_path / "hf", replace(weights, tokenizer=tokenizer))) as model:
        named = special_tokens(model)
        found = text_ids(model, named)
    assert named.end == len(words) + 2
    assert len(found) == TINY.n_vocab
    assert np.flatnonzero(found).tolist() == [*range(len(words) + 2)]


def test_a_model_that_lists_no_tokens_is_refused(tmp_path: Path) -> None:
    weights = tiny_weights()
    nameless = replace(weights, tokenizer=replace(weights.tokenizer, tokens=()))
    with whisq.open_model(write_bin(tmp_path / "model.bin", nameless)) as model:
        assert not model.tokenizer.tokens
        with pytest.raises(FormatError, match=r"model\.bin: lists no tokens") as caught:
            text_ids(model, special_tokens(model))
    assert "convert the model again" in caught.value.hint
