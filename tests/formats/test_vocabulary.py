"""A vocabulary that lost something is refused, in every file that holds one, before anything is written."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.containers import (
    tokenizer_json,
    write_bin,
    write_ctranslate2,
    write_huggingface,
    write_openai,
)
from tests.support.models import TINY, tiny_tokenizer, tiny_weights, whole_tokenizer
from whisq.errors import FormatError
from whisq.formats import open_model
from whisq.quantization.convert import make_conversion

Document = dict[str, Any]


def dropped(number: int) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        vocabulary = document["model"]["vocab"]
        del vocabulary[next(text for text, found in vocabulary.items() if found == number)]
        document["model"]["merges"] = []

    return change


def given(value: Any) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        document["model"]["vocab"]["A"] = value

    return change


def cut(count: int) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        document["model"]["vocab"] = dict(list(document["model"]["vocab"].items())[:count])
        document["model"]["merges"] = []

    return change


def updated(section: str, **changes: Any) -> Callable[[Document], None]:
    return lambda document: (document if section == "" else document[section]).update(changes)


CASES: list[tuple[Callable[[Document], None], str]] = [
    (dropped(0), "1 ids have no token: 0"),
    (dropped(100), "1 ids have no token: 100"),
    (dropped(262), "1 ids have no token: 262"),
    (given(5), "two tokens have id 5"),
    (given(-1), "is -1, expected a whole number"),
    (given(1.0), "is 1.0, expected a whole number"),
    (given("32"), "is '32', expected a whole number"),
    (given(None), "is None, expected a whole number"),
    (given(True), "is True, expected a whole number"),
    (given([32]), "is [32], expected a whole number"),
    (given(10**12), "is 1000000000000, expected a whole number"),
    (cut(100), "163 ids have no token: 100, 101, 102, 103, 104, …"),
    (cut(0), "263 ids have no token: 0"),
    (updated("model", type="WordPiece"), "a tokenizer of type 'WordPiece', Whisper's is byte-level BPE"),
    (updated("model", type="Unigram", vocab=[["<unk>", 0.0]]), "of type 'Unigram'"),
    (updated("model", byte_fallback=True), "of SentencePiece's kind"),
    (updated("model", vocab=[]), "is not a mapping from token to id"),
    (updated("model", merges=["a b c"]), "is not of two tokens"),
    (updated("model", merges=["a b"]), "makes no token of the vocabulary"),
    (updated("model", merges=[["a"]]), "is not of two tokens"),
    (updated("model", merges="a b"), "merges are not a list"),
    (updated("", model=3), "it has no model"),
    (updated("", added_tokens=[{"content": "<|x|>", "id": 7}]), "two tokens have id 7"),
    (updated("", added_tokens=[{"content": "<|x|>", "id": "7"}]), "is '7', expected a whole number"),
    (updated("", added_tokens=[{"content": "<|x|>", "id": 270}, {"content": "<|x|>", "id": 271}]), "or a second id"),
    (updated("", added_tokens=[{"content": "A", "id": 270}]), "has two ids"),
    (updated("", added_tokens=[{"content": "<|notimestamps|>", "id": 274}]), "10 ids have no token: 264"),
    (updated("", added_tokens=[{"id": 3}]), "has no text"),
]


@pytest.mark.parametrize(("change", "told"), CASES, ids=range(len(CASES)))
def test_tokenizer_json(change: Callable[[Document], None], told: str, tmp_path: Path) -> None:
    document = tokenizer_json(tiny_tokenizer())
    change(document)
    folders = [write_huggingface(tmp_path / "hf", tiny_weights()), write_ctranslate2(tmp_path / "ct2", tiny_weights())]
    (tmp_path / "pt").mkdir()
    for path in (*folders, write_openai(tmp_path / "pt" / "a.pt", tiny_weights())):
        (path if path.is_dir() else path.parent).joinpath("tokenizer.json").write_text(json.dumps(document))
        with pytest.raises(FormatError) as caught:
            open_model(path)
        assert told in str(caught.value)
        assert "tokenizer.json" in str(caught.value)


def test_end_of_text_is_missing(tmp_path: Path) -> None:
    document = tokenizer_json(tiny_tokenizer())
    del document["model"]["vocab"]["<|endoftext|>"], document["added_tokens"][0]
    folder = write_huggingface(tmp_path / "hf", tiny_weights())
    (folder / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(FormatError, match="it was cut, or is not Whisper's"):
        open_model(folder)


def test_sentencepiece_without_saying_so(tmp_path: Path) -> None:
    document = tokenizer_json(tiny_tokenizer())
    document["model"]["vocab"] = {text.replace("t", "▁"): number for text, number in document["model"]["vocab"].items()}
    document["model"]["vocab"]["<|endoftext|>"] = document["model"]["vocab"].pop("<|endof▁ex▁|>")
    document["model"]["merges"] = []
    folder = write_huggingface(tmp_path / "hf", tiny_weights())
    (folder / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(FormatError, match="is not in byte-level spelling"):
        open_model(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "vocab.json", "merges.txt"])
def test_a_page_instead_of_a_file(name: str, tmp_path: Path) -> None:
    folder = write_huggingface(tmp_path / "hf", tiny_weights())
    document = json.loads((folder / "tokenizer.json").read_text())
    if name in ("vocab.json", "merges.txt"):
        (folder / "tokenizer.json").unlink()
        (folder / "vocab.json").write_text(json.dumps(document["model"]["vocab"]))
        open_model(folder).close()
    (folder / name).write_text("<!DOCTYPE html>\n<html><head><title>404 not found</title></head></html>\n")
    with pytest.raises(FormatError, match=r"is a web page|not valid JSON|is not of two tokens|makes no token"):
        open_model(folder)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["a", "b"], "it was cut"),
        (["a", "b", "a", "<|endoftext|>"], "'a' occurs twice"),
        (["a", 3, "<|endoftext|>"], "is not a list of tokens"),
        (["a", None, "<|endoftext|>"], "is not a list of tokens"),
        (["<html>", "▁the", "<|endoftext|>"], "is not in byte-level spelling"),
        ({"a": 0}, "is not a list of tokens"),
    ],
)
@pytest.mark.parametrize("suffix", ["json", "txt"])
def test_lists_of_ctranslate2(words: Any, told: str, suffix: str, tmp_path: Path) -> None:
    folder = write_ctranslate2(tmp_path / "ct2", tiny_weights())
    (folder / "tokenizer.json").unlink()
    if suffix == "txt" and not (isinstance(words, list) and all(isinstance(word, str) for word in words)):
        return
    content = json.dumps(words) if suffix == "json" else "\n".join(words) + "\n"
    (folder / f"vocabulary.{suffix}").write_text(content, encoding="utf-8")
    with pytest.raises(FormatError) as caught:
        open_model(folder)
    assert told in str(caught.value)


def test_ranks_that_occur_twice(tmp_path: Path) -> None:
    path = write_openai(tmp_path / "a.pt", tiny_weights())
    for file in tmp_path.glob("tokenizer.json"):
        file.unlink()
    (tmp_path / "gpt2.tiktoken").write_text("YQ== 0\nYg== 1\nYw== 1\n")
    with pytest.raises(FormatError, match="line 3 is not a token and a rank: rank 1 occurs twice"):
        open_model(path)


@pytest.mark.parametrize(("n_vocab", "least"), [(51864, 50256), (51865, 50257), (51866, 50257), (51870, 50257)])
def test_too_few_tokens_for_the_rows_are_not_written(n_vocab: int, least: int, tmp_path: Path) -> None:
    weights = tiny_weights(replace(TINY, n_vocab=n_vocab))
    whole = whole_tokenizer(least)
    for count, is_whole in ((least, True), (least - 1, False), (100, False), (0, False)):
        tokens = replace(whole, tokens=whole.tokens[:count])
        with open_model(write_bin(tmp_path / "a.bin", replace(weights, tokenizer=tokens))) as model:
            for container in ("bin", "gguf"):
                if is_whole:
                    make_conversion(model, container)
                    continue
                with pytest.raises(FormatError, match=f"has {count} tokens of text, a Whisper with {n_vocab} rows"):
                    make_conversion(model, container)


def test_words_behind_timestamps_without_names_are_no_hole(tmp_path: Path) -> None:
    weights = tiny_weights(replace(TINY, n_vocab=400))
    special = {**tiny_tokenizer().special, "zebra crossing": 390}
    weights = replace(weights, tokenizer=replace(tiny_tokenizer(), special=special))
    with open_model(write_huggingface(tmp_path, weights)) as model:
        assert model.tokenizer.special["zebra crossing"] == 390
