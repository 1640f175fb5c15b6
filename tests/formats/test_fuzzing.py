"""Every reader against damaged files: a clear error or a whole model, never anything else, and little memory.

A fixed number of cases for each kind, each made from its number alone. A failure names it; ``run_case(KIND, NUMBER,
folder)`` makes it again.
"""

from __future__ import annotations

import json
import random
import struct
import tracemalloc
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest

from tests.support.containers import (
    copy_model,
    write_bin,
    write_ctranslate2,
    write_huggingface,
    write_openai,
    write_torch,
)
from tests.support.models import TINY, tiny_weights
from tests.support.mutations import damaged, odd_json, structure_of
from whisq.calibration.calibration import Moments
from whisq.calibration.file import read_calibration, write_calibration
from whisq.calibration.imatrix import write_imatrix
from whisq.calibration.inputs import inputs_of
from whisq.errors import WhisqError
from whisq.formats import open_model
from whisq.quantization.convert import make_conversion
from whisq.whisper import name_in_dialect

N_CASES = 120
MOST_BYTES = 24 << 20
"""Of Python's and numpy's memory in one case: a header may claim 256 layers, whose names alone take some MB."""


def _gguf(folder: Path) -> Path:
    with open_model(write_bin(folder / "source.bin", tiny_weights())) as source:
        return copy_model(source, folder / "model.gguf", "gguf", {"source": {"sha256": "00"}})


def _torch_folder(folder: Path) -> Path:
    weights = tiny_weights()
    write_huggingface(folder, weights)
    (folder / "model.safetensors").unlink()
    state = {name_in_dialect(name, "huggingface"): array for name, array in weights.arrays.items()}
    write_torch(folder / "pytorch_model.bin", state)
    return folder


def _calibration(folder: Path) -> Path:
    widths = inputs_of(TINY)

    def load(name: str) -> Moments:
        inputs = np.random.default_rng(len(name)).standard_normal((8, widths[name])).astype(np.float32)
        return Moments(8, (inputs**2).mean(0), inputs.mean(0), inputs.T @ inputs / 8)

    heard = {"dims": list(astuple(TINY)), "seconds": 3.5, "tokens": 9, "languages": {"en": 3.5}, "data": ["clips"]}
    moments = [(name, width, 8) for name, width in widths.items()]
    write_calibration(folder / "model.calib", heard, moments, load, None)
    return folder / "model.calib"


def _imatrix(folder: Path) -> Path:
    write_imatrix(folder / "imatrix.gguf", read_calibration(_calibration(folder)), TINY)
    return folder / "imatrix.gguf"


# kind: (what writes it and returns what is opened, the files of the folder that are damaged)
KINDS: dict[str, tuple[Callable[[Path], Path], tuple[str, ...]]] = {
    "bin": (lambda folder: write_bin(folder / "model.bin", tiny_weights()), ("model.bin",)),
    "gguf": (_gguf, ("model.gguf",)),
    "huggingface": (
        lambda folder: write_huggingface(folder, tiny_weights()),
        ("model.safetensors", "model.safetensors", "config.json", "tokenizer.json", "preprocessor_config.json"),
    ),
    "sharded": (
        lambda folder: write_huggingface(folder, tiny_weights(), shards=2),
        ("model-00001-of-00002.safetensors", "model.safetensors.index.json"),
    ),
    "torch": (_torch_folder, ("pytorch_model.bin",)),
    "openai": (
        lambda folder: write_openai(folder / "model.pt", tiny_weights()),
        ("model.pt", "model.pt", "tokenizer.json"),
    ),
    "ctranslate2": (
        lambda folder: write_ctranslate2(folder, tiny_weights()),
        ("model.bin", "model.bin", "tokenizer.json"),
    ),
    "calibration": (_calibration, ("model.calib",)),
    "imatrix": (_imatrix, ("imatrix.gguf",)),
}


class Whole:
    """An undamaged model on disk, and the bytes of the files that cases damage."""

    def __init__(self, kind: str, folder: Path) -> None:
        write, names = KINDS[kind]
        self.kind, self.folder, self.names = kind, folder, names
        self.opened = write(folder)
        self.contents = {name: (folder / name).read_bytes() for name in names}
        self.places = {name: structure_of(content) for name, content in self.contents.items()}

    def damage(self, number: int) -> str:
        """Put a damaged file in its place; returns its name."""
        random_ = random.Random(f"{self.kind} {number}")
        name = random_.choice(self.names)
        content = self.contents[name]
        if name.endswith(".json") and random_.random() < 0.8:
            content = odd_json(content.decode(), random_).encode()
        elif name.endswith((".safetensors", ".calib")) and random_.random() < 0.7:
            content = _odd_header(content, random_)
        else:
            content = damaged(content, self.places[name], random_)
        (self.folder / name).write_bytes(content)
        return name


def _odd_header(content: bytes, random_: random.Random) -> bytes:
    """Return a safetensors file whose header is still JSON."""
    (size,) = struct.unpack_from("<Q", content)
    text = content[8 : 8 + size].decode()
    stated = json.loads(text).get("__metadata__")
    if stated:
        (key,) = stated
        document = odd_json(stated[key], random_)
        header = json.dumps({**json.loads(text), "__metadata__": {key: document}}).encode()
    else:
        header = odd_json(text, random_).encode()
    header += b" " * max(0, size - len(header))
    return struct.pack("<Q", len(header)) + header + content[8 + size :]


def use(kind: str, path: Path) -> None:
    """Open a file and read all that whisq would of it."""
    if kind in ("calibration", "imatrix"):
        calibration = read_calibration(path)
        for name in calibration.counts:
            calibration.moments(name)
        assert isinstance(calibration.idle, frozenset)
        calibration.load_probes()
        with open_model(path.parent / "whole.bin") as model:
            calibration.check_fits(model)
        return
    with open_model(path) as model:
        for tensor in model.tensors:
            assert len(model.rows(tensor)) == tensor.n_rows * tensor.type.row_bytes(tensor.n_columns)
        for container in ("bin", "gguf"):
            make_conversion(model, container)  # type: ignore[arg-type]


def run_case(whole: Whole, number: int) -> str | None:
    """Run one case; returns what is wrong with its outcome."""
    name = whole.damage(number)
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    try:
        use(whole.kind, whole.opened)
    except WhisqError as error:
        if not str(error) or not error.hint:
            return f"an error without a message or a hint: {error!r}"
        f"{error}".encode("utf-8", "backslashreplace")
    except Exception as error:  # any other is what is looked for
        return f"{type(error).__name__}: {error}"
    finally:
        (whole.folder / name).write_bytes(whole.contents[name])
    peak = tracemalloc.get_traced_memory()[1] - before
    return f"{peak} bytes of memory" if peak > MOST_BYTES else None


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_end_in_an_error_or_a_model(kind: str, tmp_path: Path) -> None:
    whole = Whole(kind, tmp_path)
    write_bin(tmp_path / "whole.bin", tiny_weights())
    use(kind, whole.opened)
    tracemalloc.start()
    try:
        wrong = {number: said for number in range(N_CASES) if (said := run_case(whole, number)) is not None}
    finally:
        tracemalloc.stop()
    listed = "\n".join(f"Whole({kind!r}, folder).damage({number}): {said[:300]}" for number, said in wrong.items())
    assert not wrong, listed


def test_a_case_is_made_from_its_number(tmp_path: Path) -> None:
    contents = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        whole = Whole("gguf", folder)
        contents.append([(folder / whole.damage(number)).read_bytes() for number in (3, 7, 3)])
    assert contents[0] == contents[1]
    assert contents[0][0] == contents[0][2] != contents[0][1]
