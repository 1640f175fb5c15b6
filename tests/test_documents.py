"""One checked way of reading what people bring: whatever stands in it, an error of ours or a value."""

import contextlib
import json
import math
import os
import random
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.containers import hf_config, tokenizer_json, write_huggingface
from tests.support.evaluations import made_evaluation
from tests.support.models import NARROW, TINY, tiny_tokenizer, tiny_weights
from tests.support.wrong_values import documents, spelled
from whisq import load_recipe, make_plan, open_model
from whisq.clips.datasets import load_clips
from whisq.documents import Document, json_value, toml_value
from whisq.errors import DataError, RecipeError, WhisqError
from whisq.evaluation.results_json import from_json, to_json
from whisq.report.texts import markdown_text
from whisq.screen import shown
from whisq.search import Mix, Sensitivity, read_sensitivity, write_sensitivity
from whisq.whisper import expected_tensors

KIND = Document("a list", DataError, "write a list", 1000)
ROUNDS = 150


def refused(call: Any, *arguments: Any) -> bool:
    """Return whether one of our errors was raised, which can be printed; any other is this test's failure."""
    try:
        call(*arguments)
    except WhisqError as error:
        shown(str(error)).encode()
        return True
    return False


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("1" * 25, "an integer of 25 digits"),
        ("[" + "7" * 5000 + "]", "an integer of 5000 digits"),
        ("1e999", "beyond what a number can be"),
        ("-1e999", "beyond what a number can be"),
        ("[" * 100_000 + "]" * 100_000, "lists and objects"),
        ("[" * 5_000 + "]" * 5_000, "nested too deeply"),
        ('{"a":' * 5_000 + "1" + "}" * 5_000, "nested too deeply"),
        (r'"a\u0000b"', "NUL"),
        ("{", "Expecting"),
        ("<!DOCTYPE html><html></html>", "Expecting value"),
        ("[" + ",".join(["[]"] * 200_000) + "]", "200001 lists and objects in 600001 characters"),
    ],
)
def test_json_that_nothing_can_use(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        json_value(text)


def test_json_that_is_fine() -> None:
    for value in ([1, -(2**63), 0.5, None, True, "é😀", "\ud800"], {"a": {"b": [[]]}}, [[1]] * 1000, "�"):
        assert json_value(json.dumps(value)) == value
    assert math.isnan(json_value("NaN"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = " + "1" * 5000, "thousands of digits"),
        ("x = 0x" + "f" * 5000, "beyond 64 bits"),
        ("x = 18446744073709551616", "beyond 64 bits"),
        ("x = " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        ("a." * 1500 + "a = 1", "more than 1000 parts"),
        ("x = {" + "a ." * 1500 + "a = 1}", "more than 1000 parts"),
        (r'x = "a\u0000"', "NUL"),
        ("x = 1\nx = 2", "Cannot overwrite"),
        ("x", "Expected '='"),
    ],
)
def test_toml_that_nothing_can_use(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        toml_value(text)


def test_dots_in_a_pattern_are_not_parts_of_a_key() -> None:
    assert toml_value(f"x = '{'a.' * 3000}'") == {"x": "a." * 3000}


def test_sizes_are_bounded_and_devices_are_no_documents(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("[" + " " * 998 + "]")
    assert KIND.json(path) == []
    path.write_text("[" + " " * 999 + "]")
    with pytest.raises(DataError, match="1001 bytes, a list has at most 1000"):
        KIND.json(path)
    with path.open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(DataError, match="1099511627776 bytes"):
        KIND.json(path)
    with pytest.raises(DataError, match="it is a device, expected a list"):
        KIND.json(Path("/dev/zero"))
    with pytest.raises(DataError, match="it is a directory"):
        KIND.json(tmp_path)
    for name in ("gone.json", "a\0b", "x" * 5000):
        with pytest.raises(DataError):
            KIND.json(tmp_path / name)


def test_pipes_are_read_and_waited_for_so_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_text("[1, 2]"))
    writer.start()
    assert KIND.json(path) == [1, 2]
    writer.join()
    monkeypatch.setattr("whisq.documents._PIPE_WAIT_S", 0.05)
    with pytest.raises(DataError, match="a pipe into which nothing is written"):
        KIND.json(path)


def test_a_mark_of_byte_order_is_no_content(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("\ufeff[]", encoding="utf-8")
    assert KIND.json(tmp_path / "x") == []
    (tmp_path / "x").write_bytes(b"\xff\xfe[\0]\0")
    with pytest.raises(DataError, match="is UTF-16 text, expected UTF-8"):
        KIND.json(tmp_path / "x")


def test_wrong_values_in_results(tmp_path: Path) -> None:
    whole = made_evaluation()
    models = [replace(m, utterances=m.utterances[:3], inside=m.inside[:3], tensors=m.tensors[:3]) for m in whole.models]
    small = replace(whole, data=replace(whole.data, clips=whole.data.clips[:3]), models=tuple(models))
    document = json.loads(to_json(small))
    assert from_json(to_json(small)) == small
    found = [refused(lambda one: markdown_text(from_json(spelled(one))), one) for one in documents(document, 1, ROUNDS)]
    assert ROUNDS / 3 < sum(found) < ROUNDS


def test_wrong_values_in_a_sensitivity(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    curve = (Mix("q4_0", "uniform", 5, 0.1, None), Mix("x", "searched", 5, 0.1, 0.2))
    harms, measured = {"a": {"q4_0": 0.1, "f16": 0.0}}, {"a": ("q4_0",)}
    made = Sensitivity(harms, 1.25, 0.98, ((0.1, 0.12),), {"how": "one"}, measured, ((0.1, 0.2),), curve, {"q4_0": 2.0})
    write_sensitivity(path, made)
    assert read_sensitivity(path) == made
    document = json.loads(path.read_text())
    found = []
    for one in documents(document, 2, ROUNDS):
        path.write_text(spelled(one))
        found.append(refused(read_sensitivity, path))
    assert ROUNDS / 3 < sum(found) < ROUNDS
    for nan in ("NaN", "Infinity", "-Infinity", "null", '"0"', "true"):
        path.write_text(json.dumps(document).replace('"q4_0": 0.1', f'"q4_0": {nan}'))
        assert refused(read_sensitivity, path)


def test_a_sensitivity_whose_mixes_do_not_differ_has_no_correlation(tmp_path: Path) -> None:
    write_sensitivity(tmp_path / "s.json", Sensitivity({}, 1.0, math.nan, (), {}, {}))
    assert math.isnan(read_sensitivity(tmp_path / "s.json").correlation)


def as_toml(value: Any) -> str:
    """Return a value as TOML has it inline."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {as_toml(v)}" for k, v in value.items() if v is not None) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(as_toml(one) for one in value if one is not None) + "]"
    if isinstance(value, int) and value > 10**4000:
        return "1" * 5001
    return str(value) if isinstance(value, float) else json.dumps(value)


def test_wrong_values_in_a_recipe(tmp_path: Path) -> None:
    rules = [
        {"pattern": ".*mlp.*", "type": "q8_0", "reason": "why"},
        {"roles": ["attention"], "stack": "encoder", "depth": [0, 0.5], "type": 2},
    ]
    head = {"name": "x", "description": "y", "default": "q5_0", "embedding": "q8_0", "protect": ["a.*"]}
    head |= {"unprotect": ["decoder.*"], "on_misfit": "fallback", "provenance": {"a": "b"}}
    document = {"recipe": head, "rules": rules}
    path, specs, found = tmp_path / "r.toml", expected_tensors(NARROW).values(), []

    def used() -> None:
        recipe = load_recipe(path)
        for spec in list(specs)[::9]:
            recipe.first_rule(spec, NARROW), recipe.protects(spec)

    for one in documents(document, 3, ROUNDS):
        content = "\n".join(f"{json.dumps(key)} = {as_toml(value)}" for key, value in one.items() if value is not None)
        path.write_text(content)
        found.append(refused(used))
    assert ROUNDS / 3 < sum(found) < ROUNDS
    with pytest.raises(RecipeError, match="no recipe or file"):
        load_recipe("a\0b")


def test_wrong_values_in_a_manifest(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    row = {"path": "gone.wav", "text": "hello", "language": "en", "speaker": "s"}
    for one in documents(row, 4, ROUNDS):
        path.write_text(spelled(one))
        assert refused(load_clips, path)


def test_wrong_values_in_the_files_of_a_folder(tmp_path: Path) -> None:
    folder = write_huggingface(tmp_path / "m", tiny_weights())
    (folder / "preprocessor_config.json").write_text(json.dumps({"mel_filters": [[0.0] * 201] * TINY.n_mels}))
    (folder / "generation_config.json").write_text(
        json.dumps({"suppress_tokens": [1, 2], "begin_suppress_tokens": [3]})
    )

    def used() -> None:
        with open_model(folder) as model:
            for container in ("bin", "gguf"):
                make_plan(model, load_recipe("balanced"), container=container)

    for seed, (name, document) in enumerate(
        {
            "config.json": hf_config(TINY),
            "tokenizer.json": tokenizer_json(tiny_tokenizer()),
            "preprocessor_config.json": json.loads((folder / "preprocessor_config.json").read_text()),
            "generation_config.json": json.loads((folder / "generation_config.json").read_text()),
        }.items()
    ):
        whole = (folder / name).read_text()
        found = []
        for one in documents(document, seed, 60):
            (folder / name).write_text(spelled(one))
            found.append(refused(used))
        (folder / name).write_text(whole)
        assert not refused(used)
        assert sum(found) > 10 or name == "generation_config.json"


def test_text_at_random_is_an_error_of_ours(tmp_path: Path) -> None:
    random_ = random.Random(5)
    pieces = [
        "[",
        "]",
        "{",
        "}",
        '"',
        ",",
        ":",
        "1",
        "e",
        "-",
        "\\u",
        "d800",
        "0000",
        "null",
        "NaN",
        " ",
        "'",
        "=",
        "\n",
    ]
    for _ in range(500):
        text = "".join(random_.choices(pieces, k=random_.randint(0, 12)))
        for read in (json_value, toml_value):
            with contextlib.suppress(ValueError):
                read(text)
