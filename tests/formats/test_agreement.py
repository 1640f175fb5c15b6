"""A tokenizer of another Whisper than the weights is an error that names both ids; one that fits is read."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import run
from tests.support.containers import copy_model, tokenizer_json, write_ctranslate2, write_huggingface, write_torch
from tests.support.models import NARROW, tiny_tokenizer, tiny_weights
from whisq.errors import FormatError
from whisq.formats import open_model
from whisq.formats.special_tokens import LANGUAGES, special_tokens
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


def of_rows(folder: Path, n_vocab: int, *, english: bool = False, yue: bool = False, **more: Any) -> Path:
    """Write a trainer's checkpoint with so many rows, a tokenizer beside it, and configurations if there are any."""
    weights = tiny_weights(replace(NARROW, n_vocab=n_vocab))
    end = 50256 if english else 50257
    text = list(tiny_tokenizer().tokens[:-1])
    text += [b" word-%d" % number for number in range(len(text), end)]
    names = ["<|endoftext|>", "<|startoftranscript|>", *(f"<|{code}|>" for code in LANGUAGES[: 100 if yue else 99])]
    names += ["<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
    tokenizer = Tokenizer(tuple(text), (), {name: end + i for i, name in enumerate(names)})
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json(tokenizer)))
    for file, document in more.items():
        add(folder / f"{file}.json", **document)
    return write_torch(folder / "last.pt", {"dims": asdict(weights.dims), "state_dict": dict(weights.arrays)})


@pytest.mark.parametrize(
    ("n_vocab", "tokenizer", "told"),
    [
        (51866, {}, "<|notimestamps|> is 50363 in the tokenizer and 50364 in a Whisper of 51866 rows"),
        (51865, {"yue": True}, "<|notimestamps|> is 50364 in the tokenizer and 50363 in a Whisper of 51865 rows"),
        (51865, {"english": True}, "<|endoftext|> is 50256 in the tokenizer and 50257 in a Whisper of 51865 rows"),
    ],
)
def test_where_nothing_states_ids_whispers_own_count(
    tmp_path: Path, n_vocab: int, tokenizer: dict[str, Any], told: str
) -> None:
    """The tokenizer of large-v2 beside weights of large-v3, say."""
    assert told in refused(of_rows(tmp_path / "a", n_vocab, **tokenizer))
    for fits in ({"n_vocab": 51865}, {"n_vocab": 51866, "yue": True}, {"n_vocab": 51864, "english": True}):
        open_model(of_rows(tmp_path / str(fits["n_vocab"]), **fits)).close()


def test_a_fine_tune_with_a_token_of_its_own_states_its_ids(tmp_path: Path) -> None:
    """tiny.en with one token more has as many rows as tiny."""
    stated = {"generation_config": {"eos_token_id": 50256, "no_timestamps_token_id": 50362}}
    path = of_rows(tmp_path / "own", 51865, english=True, **stated)
    with open_model(path) as model:
        assert special_tokens(model).no_timestamps == 50362


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
