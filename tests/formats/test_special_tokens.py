"""Special tokens by name, by count, and the prompt made of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.containers import copy_model, write_bin, write_huggingface
from tests.support.models import TINY, Weights, tiny_weights, whole_tokenizer
from whisq.errors import DataError
from whisq.formats import open_model
from whisq.formats.special_tokens import LANGUAGES, SpecialTokens, mistaken_by_counting, special_tokens
from whisq.whisper import expected_tensors

_TASKS = ["translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps"]


def weights_with(n_vocab: int, special: dict[str, int], n_mels: int = 2) -> Weights:
    """Return a tiny model with a vocabulary of any size whose special tokens are named."""
    dims = replace(TINY, n_vocab=n_vocab, n_mels=n_mels)
    arrays: dict[str, Any] = {
        name: np.zeros(spec.shape, np.float16 if spec.is_matrix else np.float32)
        for name, spec in expected_tensors(dims).items()
    }
    end = special.get("<|endoftext|>", 263 if n_vocab < 51864 else 50256 + (n_vocab > 51864))
    return replace(tiny_weights(dims), arrays=arrays, tokenizer=replace(whole_tokenizer(end), special=special))


def named(end: int, languages: list[str]) -> dict[str, int]:
    """Return Whisper's special tokens in their order, with these languages."""
    return {f"<|{text}|>": end + i for i, text in enumerate(["endoftext", "startoftranscript", *languages, *_TASKS])}


def special_of(path: Path) -> SpecialTokens:
    with open_model(path) as model:
        return special_tokens(model)


@pytest.mark.parametrize(
    ("n_vocab", "german", "english"),
    [
        (51864, None, [50257, 50362]),
        (51865, [50258, 50261, 50359, 50363], [50258, 50259, 50359, 50363]),
        (51866, [50258, 50261, 50360, 50364], [50258, 50259, 50360, 50364]),
    ],
)
def test_whispers_own_vocabularies_are_counted(
    n_vocab: int, german: list[int] | None, english: list[int], tmp_path: Path
) -> None:
    special = special_of(write_bin(tmp_path / "a.bin", weights_with(n_vocab, {})))
    assert special.end == english[0] - 1
    assert special.timestamps_begin == english[-1] + 1 == n_vocab - 1501
    assert special.prompt() == special.prompt("en") == english
    assert special.prompt(timestamps=True) == english[:-1]
    if german is None:
        with pytest.raises(DataError, match=r"a\.bin: an English-only model has no language 'de'"):
            special.prompt("de")
        with pytest.raises(DataError, match="an English-only model has no translation"):
            special.prompt(task="translate")
    else:
        assert special.prompt("de") == german
        assert special.prompt("de", task="translate") == [*german[:2], german[2] - 1, german[3]]


def test_names_are_trusted_where_loaders_count_otherwise(tmp_path: Path) -> None:
    """A fine-tune with two tokens of its own at the end: a loader of a ``.bin`` takes them for two languages more."""
    special = {**named(50257, list(LANGUAGES[:99])), "<|mine|>": 51865, "<|yours|>": 51866}
    with open_model(write_huggingface(tmp_path / "hf", weights_with(51867, special))) as model:
        found = special_tokens(model)
        assert mistaken_by_counting(model)
        gguf = copy_model(model, tmp_path / "a.gguf", "gguf")
    assert found.prompt("de") == [50258, 50261, 50359, 50363]
    assert (found.end, found.timestamps_begin) == (50257, 50364)
    assert special_of(gguf) == found


def test_names_are_trusted_where_our_own_count_is_another(tmp_path: Path) -> None:
    """A fine-tune with two languages of its own between Whisper's and the tasks: all behind them move by two."""
    special = named(50257, [*LANGUAGES[:99], "gsw", "nds"])
    with open_model(write_huggingface(tmp_path / "hf", weights_with(51867, special))) as model:
        found = special_tokens(model)
        gguf = copy_model(model, tmp_path / "a.gguf", "gguf")
        unnamed = copy_model(model, tmp_path / "a.bin", "bin")
    assert found.prompt("de") == [50258, 50261, 50361, 50365]
    assert (found.end, found.timestamps_begin) == (50257, 50366)
    assert special_of(gguf) == found
    # A .bin names none of them.
    assert special_of(unnamed).prompt("de") == [50258, 50261, 50359, 50363]


def test_an_english_model_with_a_token_of_its_own_stays_english(tmp_path: Path) -> None:
    """51865 tokens are a multilingual vocabulary only when it ends its text where that does."""
    special = {**named(50256, list(LANGUAGES[:99])), "<|mine|>": 51864}
    with open_model(write_huggingface(tmp_path / "hf", weights_with(51865, special))) as model:
        found = special_tokens(model)
        gguf = copy_model(model, tmp_path / "a.gguf", "gguf")
    assert found.languages == {}
    assert found.prompt() == [50257, 50362]
    assert special_of(gguf) == found


def test_a_timestamp_that_is_named_is_where_its_name_says(tmp_path: Path) -> None:
    special = {**named(50257, list(LANGUAGES[:99])), "<|0.00|>": 51860}
    found = special_of(write_huggingface(tmp_path / "hf", weights_with(51865, special)))
    assert found.timestamps_begin == 51860
    assert found.texts[50365] == "<|0.02|>"


def test_what_is_not_emitted_is_openais_list_where_the_container_states_none(
    tiny_en_folder: Path, tiny_en_bin: Path
) -> None:
    config = json.loads((tiny_en_folder / "config.json").read_text())
    for path in (tiny_en_folder, tiny_en_bin):
        found = special_of(path)
        assert found.suppress == tuple(config["suppress_ids"])
        assert found.begin_suppress == tuple(config["suppress_ids_begin"])


def test_what_a_container_states_is_not_emitted(tmp_path: Path) -> None:
    folder = write_huggingface(tmp_path / "hf", weights_with(300, {"<|startoftranscript|>": 264, "<|nospeech|>": 299}))
    own = special_of(folder).suppress
    assert {264, 299} < set(own)
    stated = {"suppress_tokens": [7, 300, 5], "begin_suppress_tokens": [3]}
    for tokens, expected in (([7, 300, 5], (7, 5)), ([], ()), ([-1], own), (None, own)):
        (folder / "generation_config.json").write_text(json.dumps({**stated, "suppress_tokens": tokens}))
        assert special_of(folder).suppress == expected
        assert special_of(folder).begin_suppress == (3,)


def test_tokens_anywhere(tmp_path: Path) -> None:
    special = {"<|startoftranscript|>": 264, "<|de|>": 281, "<|en|>": 299, "<|transcribe|>": 270, "<|endoftext|>": 263}
    found = special_of(write_huggingface(tmp_path / "hf", weights_with(300, special)))
    assert list(found.languages.items()) == [("de", 281), ("en", 299)]
    assert found.prompt("de", timestamps=True) == [264, 281, 270]
    assert found.required("end") == 263
    with pytest.raises(DataError, match=r"hf: the vocabulary has no token <\|notimestamps\|>"):
        found.prompt("de")
    with pytest.raises(DataError, match=r"hf: the vocabulary has no token <\|translate\|>"):
        found.prompt("de", task="translate")


def test_a_language_that_the_vocabulary_lacks(tmp_path: Path) -> None:
    special = special_of(write_bin(tmp_path / "a.bin", weights_with(51865, {})))
    for code in ("yue", "xx"):
        with pytest.raises(DataError, match=f"'{code}'") as caught:
            special.prompt(code)
        assert caught.value.hint is not None
        assert caught.value.hint.startswith("use one of: en zh de")
    assert special_of(write_bin(tmp_path / "b.bin", weights_with(51866, {}))).prompt("yue")[1] == 50358


def test_a_made_up_vocabulary_has_none(tmp_path: Path) -> None:
    found = special_of(write_bin(tmp_path / "a.bin", tiny_weights()))
    for name in ("end", "start", "translate", "transcribe", "previous", "no_timestamps", "timestamps_begin"):
        assert getattr(found, name) is None
        with pytest.raises(DataError, match=r"a\.bin: the vocabulary has no token <\|") as caught:
            found.required(name)  # type: ignore[arg-type]
        assert caught.value.hint
    assert found.languages == {}
    with pytest.raises(DataError, match=r"has no token <\|startoftranscript\|>"):
        found.prompt()


def test_languages_are_those_that_transformers_lists() -> None:
    whisper = pytest.importorskip("transformers.models.whisper.tokenization_whisper")
    assert tuple(whisper.LANGUAGES) == LANGUAGES
