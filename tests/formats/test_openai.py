"""OpenAI's ``.pt``: nothing in a pickle runs, and every way to be wrong is said."""

from __future__ import annotations

import base64
import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.containers import Pickle, tokenizer_json, write_openai, write_torch
from tests.support.models import TINY, tiny_tokenizer, tiny_weights
from whisq.errors import FormatError
from whisq.formats import open_model
from whisq.quantization.plan import make_plan
from whisq.quantization.write import quantize
from whisq.recipe import Recipe
from whisq.types import parse_type
from whisq.whisper import Dimensions


def refused(path: Path) -> str:
    with pytest.raises(FormatError) as caught:
        open_model(path)
    assert caught.value.hint
    return str(caught.value)


def with_pickle(path: Path, program: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program)
    return path


class Runs:
    """Pickles as a call of a function, which an ordinary unpickler would make."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("place", ["whole", "dims", "state", "tensor"])
def test_a_pickle_that_runs_a_command(tmp_path: Path, protocol: int, place: str) -> None:
    witness = tmp_path / "witness"
    bad = Runs(os.system, f"touch {witness}")
    document = {
        "whole": bad,
        "dims": {"dims": bad},
        "state": {"dims": asdict(TINY), "model_state_dict": bad},
        "tensor": {"dims": asdict(TINY), "model_state_dict": {"encoder.conv1.bias": bad}},
    }[place]
    path = with_pickle(tmp_path / "bad.pt", pickle.dumps(document, protocol))
    assert "system" in refused(path) or "the pickle in it uses" in refused(path)
    assert not witness.exists()
    pickle.loads(pickle.dumps(document, protocol))
    assert witness.exists(), "the test's own pickle does nothing"


@pytest.mark.parametrize("function", [eval, exec, __import__, open, getattr, bytearray, compile])
def test_builtins(tmp_path: Path, function: Callable[..., Any]) -> None:
    path = with_pickle(tmp_path / "bad.pt", pickle.dumps(Runs(function, "1 + 1"), 2))
    assert "the pickle in it asks for" in refused(path)


# Programs that use names which a checkpoint may use, for what it may not.
_PROGRAMS = {
    "name from a submodule": b"\x80\x02ctorch._utils\nos.system\n(U\x02lstR.",
    "storage class called": b"\x80\x02ctorch\nFloatStorage\n(U\x02lstR.",
    "ordered dictionary made of something": b"\x80\x02ccollections\nOrderedDict\n(U\x02lstR.",
    "attribute of an allowed name": b"\x80\x02ccollections\nOrderedDict.__class__\n)R.",
    "state set on a class": b"\x80\x02ctorch\nFloatStorage\n}U\x01aU\x01bsb.",
    "instance opcode": b"(ios\nsystem\n(U\x02lstR.",
    "object opcode": b"(cos\nsystem\nU\x02lso.",
    "new object": b"\x80\x02ccollections\nOrderedDict\n)\x81.",
    "extension registry": b"\x80\x02\x82\x01.",
    "persistent id as text": b"Pstorage\n.",
    "stack global": b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
    "stack global of numbers": b"\x80\x04K\x01K\x02\x93.",
    "stack global unhashable": b"\x80\x04]]\x93.",
    "call of a number": b"\x80\x02K\x01)R.",
    "call of what is not there": b"\x80\x02R.",
    "list as a key": b"\x80\x02}]K\x01s.",
    "memo that was never set": b"\x80\x02h\x07.",
    "no end": b"\x80\x02}",
    "text longer than the file": b"\x80\x02X\xff\xff\xff\x7fab.",
    "number longer than the file": b"\x80\x02\x8b\xff\xff\xff\x7fab.",
    "protocol of the future": b"\x80\x63N.",
    "opcode of no protocol": b"\x80\x02\xfe.",
    "empty": b"",
}


@pytest.mark.parametrize("name", _PROGRAMS)
def test_programs_that_no_checkpoint_is(tmp_path: Path, name: str) -> None:
    assert "bad.pt" in refused(with_pickle(tmp_path / "bad.pt", _PROGRAMS[name]))


def test_more_steps_than_any_checkpoint_takes(tmp_path: Path) -> None:
    most = 1 << 20
    within = b"\x80\x02" + b"N0" * (most // 2 - 2) + b"N."
    assert "holds no state dictionary" in refused(with_pickle(tmp_path / "good.pt", within))
    beyond = b"\x80\x02" + b"N0" * (most // 2) + b"N."
    assert f"takes more than {most} steps" in refused(with_pickle(tmp_path / "bad.pt", beyond))


def damaged(tmp_path: Path, name: str) -> Path:
    """Return a checkpoint of which one byte of an entry is another, whose CRC-32 tells it."""
    path = write_openai(tmp_path / "a.pt", tiny_weights())
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo(name)
    content[entry.header_offset + 30 + len(name) + entry.file_size // 2] ^= 1
    path.write_bytes(content)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() == name
    return path


def test_a_damaged_entry_is_told_by_its_checksum_when_a_tensor_of_it_is_read(tmp_path: Path) -> None:
    with open_model(damaged(tmp_path, "archive/data/0")) as model:
        bad = min(model.tensors, key=lambda tensor: tensor.location.offset)
        for tensor in model.tensors:
            if tensor is not bad:
                model.rows(tensor)
        # Whichever of its rows are asked for.
        for span in ((0, 1), (0, None)):
            with pytest.raises(FormatError, match=r"a\.pt: entry archive/data/0 is damaged: its CRC-32 is"):
                model.rows(bad, *span)
        with pytest.raises(FormatError, match="is damaged"):
            quantize(make_plan(model, Recipe(parse_type("q8_0"))), tmp_path / "out.bin")
    assert not (tmp_path / "out.bin").exists()


def test_a_damaged_pickle_is_told_by_its_checksum(tmp_path: Path) -> None:
    assert "entry archive/data.pkl is damaged: its CRC-32 is" in refused(damaged(tmp_path, "archive/data.pkl"))


def test_a_list_that_contains_itself(tmp_path: Path) -> None:
    program = b"\x80\x02}q\x00X\x04\x00\x00\x00dimsh\x00s."
    assert "bad.pt" in refused(with_pickle(tmp_path / "bad.pt", program))


def test_nesting_as_deep_as_the_file_allows(tmp_path: Path) -> None:
    for program in (b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".", b"\x80\x02N" + b"\x85" * 200_000 + b"."):
        assert "bad.pt" in refused(with_pickle(tmp_path / "bad.pt", program))


def test_sizes_of_thousands_of_digits(tmp_path: Path) -> None:
    digits = b"\x8b" + struct.pack("<I", 5000) + b"\x7f" * 5000
    path = write_torch(tmp_path / "bad.pt", {"dims": {**asdict(TINY), "n_mels": digits}, "model_state_dict": {}})
    assert "impossible dimensions: n_mels is 0x7f7f" in refused(path)


def test_keys_and_shapes_of_millions_of_digits(tmp_path: Path) -> None:
    """Multiplying such numbers takes hours, printing them is an error of Python's."""
    number = b"\x8b" + struct.pack("<I", 1 << 20) + b"\x7f" * (1 << 20)
    document = {"dims": asdict(TINY), "model_state_dict": {}}
    program = Pickle().whole(document)[:-1] + number + b"K\x01s."
    assert "a key that is neither text nor number" in refused(with_pickle(tmp_path / "bad.pt", program))
    shape = b"\x8b" + struct.pack("<I", 1 << 20) + b"\x7f" * (1 << 20) + b"q\x01" + b"h\x01" * 1000
    array = Pickle().value(np.zeros(4, np.float32)).replace(b"(J\x04\x00\x00\x00t", b"(" + shape + b"t")
    assert shape in array
    document["model_state_dict"] = {"encoder.conv1.bias": array}
    assert "sizes that are not numbers" in refused(write_torch(tmp_path / "bad.pt", document))


@pytest.mark.parametrize(
    ("dims", "said"),
    [
        ({"n_mels": 0}, "n_mels is 0"),
        ({"n_vocab": -5}, "n_vocab is -5"),
        ({"n_audio_layer": 1 << 20}, "n_audio_layer is 1048576"),
        ({"n_text_ctx": "448"}, "n_text_ctx is '448'"),
    ],
)
def test_dimensions_that_cannot_be(tmp_path: Path, dims: dict[str, Any], said: str) -> None:
    document = {"dims": asdict(TINY) | dims, "model_state_dict": {}}
    assert f"impossible dimensions: {said}" in refused(write_torch(tmp_path / "a.pt", document))


@pytest.mark.parametrize("document", [{}, {"epoch": 1}, {"dims": 3}, (1, 2), "text"])
def test_another_projects_checkpoint(tmp_path: Path, document: Any) -> None:
    assert "holds no state dictionary" in refused(write_torch(tmp_path / "a.pt", document))


def changed(tmp_path: Path, **arrays: np.ndarray | None) -> Path:
    weights = tiny_weights()
    state = {**weights.arrays, **{name.replace("__", "."): array for name, array in arrays.items()}}
    state = {name: array for name, array in state.items() if array is not None}
    (tmp_path / "tokenizer.json").write_text("{}")
    return write_torch(tmp_path / "a.pt", {"dims": asdict(TINY), "model_state_dict": state})


def test_missing_tensor(tmp_path: Path) -> None:
    assert "decoder.ln.bias is missing" in refused(changed(tmp_path, decoder__ln__bias=None))


def test_wrong_shape(tmp_path: Path) -> None:
    path = changed(tmp_path, decoder__ln__bias=np.zeros(31, np.float32))
    assert "decoder.ln.bias has shape [31], expected [32]" in refused(path)


def test_truncated_at_many_bytes(tmp_path: Path) -> None:
    path = write_openai(tmp_path / "a.pt", tiny_weights())
    content = path.read_bytes()
    for size in [*range(4, 100), *range(100, len(content), 4999), *range(len(content) - 40, len(content))]:
        path.write_bytes(content[:size])
        assert "not a whole zip file" in refused(path)


def rewritten(path: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    """The same zip with some entries changed or left out."""
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            kept = change(name, data)
            if kept is not None:
                archive.writestr(name, kept)
    return path


def test_storage_that_is_missing(tmp_path: Path) -> None:
    path = write_openai(tmp_path / "a.pt", tiny_weights())
    rewritten(path, lambda name, data: None if name.endswith("data/3") else data)
    assert "(data/3) are missing" in refused(path)


def test_storage_that_is_too_short(tmp_path: Path) -> None:
    path = write_openai(tmp_path / "a.pt", tiny_weights())
    rewritten(path, lambda name, data: data[:-2] if name.endswith("data/3") else data)
    assert "data/3 has" in refused(path)


def test_two_pickles(tmp_path: Path) -> None:
    path = write_openai(tmp_path / "a.pt", tiny_weights())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("other/data.pkl", b"N.")
    assert "has 2 entries named data.pkl" in refused(path)


def test_big_endian(tmp_path: Path) -> None:
    path = write_openai(tmp_path / "a.pt", tiny_weights())
    rewritten(path, lambda name, data: b"big" if name.endswith("byteorder") else data)
    assert "big-endian" in refused(path)


def test_compressed_entries(tmp_path: Path) -> None:
    document = {"dims": asdict(TINY), "model_state_dict": dict(tiny_weights().arrays)}
    path = write_torch(tmp_path / "a.pt", document, compression=zipfile.ZIP_DEFLATED)
    assert "is compressed or encrypted" in refused(path)


def test_bare_pickle_of_old_torch(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(pickle.dumps({"a": 1}, 2))
    assert "a bare pickle, as torch before 1.6 wrote" in refused(tmp_path / "a.pt")


def test_vocabulary_of_a_tiktoken_file(tmp_path: Path) -> None:
    path = write_openai(tmp_path / "a.pt", tiny_weights())
    (tmp_path / "tokenizer.json").unlink()
    tokens = tiny_tokenizer().tokens
    lines = [base64.b64encode(token) + f" {rank}".encode() for rank, token in enumerate(tokens)]
    (tmp_path / "gpt2.tiktoken").write_bytes(b"\n".join(lines) + b"\n")
    with open_model(path) as model:
        assert model.tokenizer.tokens == tokens
    for bad in (lines[1:], [*lines, b"!!! 9999"], [*lines, b"one two three"], []):
        (tmp_path / "gpt2.tiktoken").write_bytes(b"\n".join(bad))
        assert "gpt2.tiktoken" in refused(path)


def test_no_vocabulary_and_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    path = write_openai(tmp_path / "a.pt", tiny_weights())
    (tmp_path / "tokenizer.json").unlink()
    assert "no vocabulary, and none was found" in refused(path)


def test_tokenizer_of_a_larger_model(tmp_path: Path) -> None:
    path = write_openai(tmp_path / "a.pt", tiny_weights())
    document = tokenizer_json(tiny_tokenizer())
    document["model"]["vocab"] |= {f"w{number}": 274 + number for number in range(100)}
    document["model"]["vocab"] |= {entry["content"]: entry["id"] for entry in document["added_tokens"]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    assert "tokens, the model 300" in refused(path)


def test_dimensions_are_named_as_openai_names_them() -> None:
    assert next(iter(asdict(TINY))) == "n_vocab"
    assert Dimensions(**asdict(TINY)) == TINY
