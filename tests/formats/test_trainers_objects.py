"""Checkpoints of trainers: what they keep beside the weights is passed over, and nothing of it is run."""

from __future__ import annotations

import argparse
import collections
import datetime
import enum
import pickle
import shlex
import zipfile
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest

from tests.support.containers import Pickle, write_openai, write_torch
from tests.support.models import TINY, tiny_weights
from whisq.errors import FormatError
from whisq.formats import open_model


class OfATrainer(dict[str, Any]):
    """A dictionary of a class of its own, as Lightning's AttributeDict is."""


class Colour(enum.Enum):
    RED = 1


def opcodes(value: Any, protocol: int = 2) -> bytes:
    """Return what builds a value, for ``Pickle`` to put between what it writes itself."""
    return pickle.dumps(value, protocol).removeprefix(b"\x80\x02")[:-1]


TRAINERS = {
    "hyper_parameters": argparse.Namespace(lr=1e-3, root=PurePosixPath("/data"), when=datetime.date(2024, 1, 1)),
    "attributes": OfATrainer(seed=1, colour=Colour.RED, pair=(1, 2), of={"a", "b"}, always=frozenset("c")),
    "keys": {("step", 1): 2, None: 3, 2.5: 4, True: 5},
    "counted": collections.Counter("abc"),
    "listed": collections.defaultdict(list, {"a": [1.5, complex(1, 2), b"bytes", None, -(1 << 70)]}),
}
"""What trainers keep beside the weights."""


def test_objects_beside_the_weights_are_passed_over(tmp_path: Path) -> None:
    weights = tiny_weights()
    beside = {name: opcodes(value) for name, value in TRAINERS.items()}
    path = write_torch(tmp_path / "last.ckpt", {"dims": asdict(TINY), "state_dict": dict(weights.arrays), **beside})
    write_openai(tmp_path / "plain.pt", weights)
    with open_model(path) as model, open_model(tmp_path / "plain.pt") as plain:
        for tensor in model.tensors:
            assert bytes(model.rows(tensor)) == weights.arrays[tensor.name].tobytes()
        assert model.warnings == ()
        (note,) = [note for note in model.notes if "beside the weights" in note]
        assert "objects of argparse, pathlib, datetime and others beside the weights are not read" in note
        assert not any("beside the weights" in note for note in plain.notes)


def test_weights_in_a_dictionary_of_a_class_of_its_own(tmp_path: Path) -> None:
    weights = tiny_weights()
    write_openai(tmp_path / "plain.pt", weights)
    state = Pickle()
    items = state.value(dict(weights.arrays)).removeprefix(b"}")
    document = {"dims": asdict(TINY), "model_state_dict": opcodes(OfATrainer()) + items}
    with zipfile.ZipFile(tmp_path / "own.pt", "w") as archive:
        archive.writestr("archive/data.pkl", Pickle().whole(document))
        for number, array in enumerate(state.storages):
            archive.writestr(f"archive/data/{number}", array.tobytes())
    with open_model(tmp_path / "own.pt") as model:
        for tensor in model.tensors:
            assert bytes(model.rows(tensor)) == weights.arrays[tensor.name].tobytes()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("place", ["", "model"])
def test_a_whole_model_instead_of_its_weights(tmp_path: Path, protocol: int, place: str) -> None:
    model = argparse.Namespace(weight=1)
    program = pickle.dumps({"epoch": 1, place: model} if place else model, protocol)
    path = tmp_path / "whole.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program)
    with pytest.raises(FormatError, match=r"holds objects of argparse\.Namespace and no state dictionary") as caught:
        open_model(path)
    code = shlex.split(str(caught.value.hint).partition("python -c ")[2])[0]
    compile(code, "hint", "exec")
    assert ("['model'].state_dict()" if place else "weights_only=False).state_dict()") in code
    assert repr(str(tmp_path / "whole-weights.pt")) in code


def test_a_tensor_with_an_attribute_is_a_tensor(tmp_path: Path) -> None:
    """As torch saves one: the function that makes it, its class, that function's arguments, its attributes."""
    weights = tiny_weights()
    name = "encoder.conv1.bias"
    arguments = (
        Pickle().value(weights.arrays[name]).removeprefix(b"ctorch._utils\n_rebuild_tensor_v2\n").removesuffix(b"R")
    )
    call = b"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._utils\n_rebuild_tensor_v2\nctorch\nTensor\n"
    call += arguments + opcodes({"tag": "mine"}) + b"tR"
    first = {name: weights.arrays[name]}  # storage 0, which the opcodes above say too
    rest = {key: array for key, array in weights.arrays.items() if key != name}
    path = write_torch(
        tmp_path / "a.pt", {"kept": first, "dims": asdict(TINY), "model_state_dict": {name: call, **rest}}
    )
    write_openai(tmp_path / "plain.pt", weights)
    with open_model(path) as model:
        assert (model.array(name) == weights.arrays[name].astype(np.float32)).all()


@pytest.mark.parametrize(
    ("call", "shown"),
    [
        (b"ctorch._utils\n_rebuild_qtensor\n)R", "torch._utils._rebuild_qtensor"),
        (b"ctorch._utils\n_rebuild_wrapper_subclass\n(ctorchao.dtypes\nAffine\ntR", "torchao.dtypes.Affine"),
        (b"ctorch._utils\n_rebuild_tensor_v3\n(K\0ctorch\nfloat8_e4m3fn\ntR", "torch.float8_e4m3fn"),
    ],
)
def test_a_weight_that_is_no_plain_tensor(tmp_path: Path, call: bytes, shown: str) -> None:
    state = dict(tiny_weights().arrays) | {"encoder.conv1.weight": call}
    path = write_torch(tmp_path / "a.pt", {"state_dict": state})
    with pytest.raises(FormatError, match=f"encoder.conv1.weight is no plain tensor but {shown}: it was quantized"):
        open_model(path)
