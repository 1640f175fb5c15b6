"""A tokenizer of another Whisper than the weights is an error that names both ids; one that fits is read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import run
from tests.support.containers import copy_model, tokenizer_json, write_ctranslate2, write_huggingface
from tests.support.models import tiny_tokenizer, tiny_weights
from whisq.errors import FormatError
from whisq.formats import open_model
from whisq.formats.special_tokens import special_tokens
from whisq.model import Tokenizer

SPECIAL = tiny_tokenizer().special
START, END, NO_TIMES = (SPECIAL[f"<|{word}|>"] for word in ("startoftranscript", "endoftext", "notimestamps"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_huggingface(tmp_path / "hf", tiny_weights())


def add(path: Path, **keys: Any) -> None:
    document = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(document | keys))


def refused(path: Path) -> str:
    with pytest.raises(FormatError) as caught:
        open_model(path)
    assert "copy tokenizer.json from where the weights came from" in str(caught.value.hint)
    return str(caught.value)


@pytest.mark.parametrize(
    ("file", "stated", "text", "number"),
    [
        ("config.json", {"decoder_start_token_id": START + 1}, "<|startoftranscript|>", START + 1),
        ("config.json", {"eos_token_id": END - 1}, "<|endoftext|>", END - 1),
        ("generation_config.json", {"eos_token_id": [END + 3]}, "<|endoftext|>", END + 3),
        ("generation_config.json", {"no_timestamps_token_id": NO_TIMES - 1}, "<|notimestamps|>", NO_TIMES - 1),
        ("generation_config.json", {"lang_to_id": {"<|de|>": 1}}, "<|de|>", 1),
        ("generation_config.json", {"task_to_id": {"translate": 2}}, "<|translate|>", 2),
    ],
)
def test_ids_that_disagree_are_both_named(
    folder: Path, file: str, stated: dict[str, Any], text: str, number: int
) -> None:
    add(folder / file, **stated)
    known = SPECIAL[text]
    assert f"{text} is {known} in the tokenizer and {number} in {file}" in refused(folder)


def test_a_whole_vocabulary_moved_by_one_is_counted(folder: Path) -> None:
    languages = {text: number + 1 for text, number in SPECIAL.items() if len(text) == 6}
    add(folder / "generation_config.json", lang_to_id=languages, no_timestamps_token_id=NO_TIMES + 1)
    assert "(and 1 more)" in refused(folder)


def test_what_agrees_or_is_not_stated_is_read(folder: Path) -> None:
    add(folder / "config.json", decoder_start_token_id=START, eos_token_id=[END, 3], bos_token_id=7)
    add(folder / "generation_config.json", lang_to_id={"<|de|>": SPECIAL["<|de|>"], "<|xx|>": 5}, task_to_id=None)
    with open_model(folder) as model:
        assert special_tokens(model).start == START


def test_ids_beyond_the_embedding(folder: Path) -> None:
    tokenizer = tiny_tokenizer()
    moved = replace(tokenizer, special={**tokenizer.special, "<|30.00|>": 300})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json(moved)))
    assert "<|30.00|> is 300 in the tokenizer, and the embedding has 300 rows" in refused(folder)


def test_languages_of_ctranslate2_that_are_none(tmp_path: Path) -> None:
    folder = write_ctranslate2(tmp_path / "ct2", tiny_weights())
    add(folder / "config.json", lang_ids=[SPECIAL["<|en|>"], SPECIAL["<|de|>"], SPECIAL["<|fr|>"]])
    open_model(folder).close()
    add(folder / "config.json", lang_ids=[SPECIAL["<|de|>"], SPECIAL["<|translate|>"]])
    assert f"{SPECIAL['<|translate|>']} is a language in config.json and <|translate|> in the tokenizer" in refused(
        folder
    )


def test_text_behind_the_special_tokens_is_refused(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    words = [token for token in tokenizer.tokens if not token.startswith(b"<|")]
    order = [text.encode() for text in sorted(tokenizer.special, key=tokenizer.special.__getitem__)]
    first = Tokenizer((*order, *words), (), {text.decode(): number for number, text in enumerate(order)})
    with pytest.raises(FormatError, match=rf"{len(words)} tokens of text come after <\|endoftext\|>, which is 0"):
        open_model(write_huggingface(tmp_path / "hf", replace(tiny_weights(), tokenizer=first)))


def test_a_language_of_ones_own_is_in_the_list_of_the_gguf(tmp_path: Path) -> None:
    """By its form, or because the configuration lists it."""
    tokenizer = tiny_tokenizer()
    own = replace(tokenizer, special={**tokenizer.special, "<|ckb|>": 290, "<|klingon|>": 291, "<|robot|>": 292})
    folder = write_huggingface(tmp_path / "hf", replace(tiny_weights(), tokenizer=own))
    add(folder / "generation_config.json", lang_to_id={"<|klingon|>": 291}, is_multilingual=True)
    with open_model(folder) as model:
        path = copy_model(model, tmp_path / "a.gguf", "gguf")
    with open_model(path) as model:
        assert model.metadata["gguf"]["general.languages"] == ("en", "de", "fr", "ckb", "klingon")
        assert special_tokens(model).languages["klingon"] == 291


def test_quantize_warns_of_a_bin_whose_special_tokens_are_miscounted(capsys: Any, folder: Path, tmp_path: Path) -> None:
    code, _, err = run(capsys, "quantize", "--quiet", folder, tmp_path / "a.bin", "q8_0")
    assert code == 0
    assert "loaders of a .bin count the special tokens off" in err.replace("\n", " ")
    code, _, err = run(capsys, "quantize", "--quiet", "--strict", folder, tmp_path / "b.bin", "q8_0")
    assert code == 1
    assert "--strict makes errors of 1 warning" in err
    code, _, err = run(capsys, "quantize", "--quiet", "--strict", folder, tmp_path / "b.gguf", "q8_0")
    assert code == 0
