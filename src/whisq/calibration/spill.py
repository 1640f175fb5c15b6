"""What an unfinished calibration has so far: in memory, or in a folder that outlives an interrupted run."""

from __future__ import annotations

import json
import os
import shutil
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from whisq.calibration import Moments
from whisq.calibration.calibration import pack_triangle, unpack_triangle
from whisq.documents import json_value
from whisq.errors import OutputError
from whisq.system import RENAMES_OPEN_FILES, process_holds
from whisq.writing import whole, write_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from whisq.network.operations import Array, Operations


class HiddenStates:
    """All windows' hidden states after a layer, and the attention that their frames received, in files of a folder.

    Without a folder only the attention is kept, in memory.
    """

    def __init__(self, folder: Path | None, operations: Operations) -> None:
        self._folder = folder
        self._operations = operations
        self._attention: dict[int, Sequence[Array]] = {}

    def put(self, stage: int, hidden: Sequence[Array]) -> None:
        """Keep the states after a stage."""
        if self._folder is not None:
            self._save(self._folder / f"hidden-{stage}.npz", hidden)

    def load(self, stage: int) -> list[Array]:
        """Return the states after a stage; they must have been kept in a folder."""
        if self._folder is None:
            raise ValueError("nothing was kept")
        return self._load(self._folder / f"hidden-{stage}.npz")

    def forget(self, stage: int) -> None:
        """Delete the states after a stage: they will not be needed again."""
        if self._folder is not None:
            (self._folder / f"hidden-{stage}.npz").unlink(missing_ok=True)

    def put_attention(self, layer: int, received: Sequence[Array]) -> None:
        """Keep the attention that each window's frames received in one decoder layer."""
        if self._folder is None:
            self._attention[layer] = received
        else:
            self._save(self._folder / f"attention-{layer}.npz", received)

    def attention(self, n_layers: int) -> list[Array]:
        """Return the attention that each window's frames received in all decoder layers together."""
        total: list[Array] = []
        for layer in range(n_layers):
            if self._folder is None:
                received = list(self._attention[layer])
            else:
                received = self._load(self._folder / f"attention-{layer}.npz")
            total = [a + b for a, b in zip(total, received, strict=True)] if total else received
        return total

    def _save(self, path: Path, arrays: Sequence[Array]) -> None:
        save_arrays(path, **{f"arr_{number}": self._operations.numpy(array) for number, array in enumerate(arrays)})

    def _load(self, path: Path) -> list[Array]:
        with np.load(path) as file:
            return [self._operations.array(file[name]) for name in file.files]


class Checkpoint:
    """How far a calibration is: moments by input, texts by window, and ``stage``, the number of finished layers.

    A layer is finished when its moments and states are on disk: ``stage`` is written last. ``states`` are beside it.
    The same calibration in another process at the same time has a folder of its own.
    Raises ``OutputError`` for a cache that cannot be used.
    """

    def __init__(self, cache: Path | None, key: str, operations: Operations) -> None:
        self._folder: Path | None = None
        self._memory: dict[str, Moments] = {}
        self._texts: dict[str, list[int]] = {}
        self.stage = 0
        self.states = HiddenStates(None, operations)
        if cache is None:
            return
        self._folder = cache / "calibrate" / key
        try:
            self._folder, lock = _claimed(self._folder)
            self._let_go = weakref.finalize(self, os.close, lock)
            self.states = HiddenStates(self._folder, operations)
            state = self._folder / "state.json"
            if state.exists():
                self.stage = int(json_value(state.read_text())["stage"])
            texts = self._folder / "texts.json"
            if texts.exists():
                self._texts = dict(json_value(texts.read_text()))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OutputError(
                f"{self._folder}: the cache cannot be used: {error}",
                hint="name another folder with --cache, or none with --no-cache",
            ) from None

    @property
    def folder(self) -> Path | None:
        """Where it is kept, None where that is in memory."""
        return self._folder

    def finish(self, stage: int, hidden: Sequence[Array]) -> None:
        """Keep the states after a layer whose moments were put, and say that it is finished."""
        self.states.put(stage, hidden)
        self.stage = stage
        if self._folder is not None:
            write_text(self._folder / "state.json", json.dumps({"stage": stage}))

    def put(self, name: str, moments: Moments) -> None:
        """Keep the moments of one input."""
        if self._folder is None:
            self._memory[name] = moments
            return
        if moments.second_moment is None or moments.mean is None:
            raise ValueError(f"{name}: moments without second moments")
        triangle = pack_triangle(moments.second_moment)
        known = {} if moments.damping is None else {"damping": np.array(moments.damping)}
        save_arrays(
            self._folder / f"{name}.npz", n=np.array(moments.n_rows), mean=moments.mean, triangle=triangle, **known
        )

    def load(self, name: str) -> Moments:
        """Return the moments of one input."""
        if self._folder is None:
            return self._memory[name]
        with np.load(self._folder / f"{name}.npz") as file:
            mean = file["mean"]
            second = unpack_triangle(file["triangle"], len(mean))
            damping = float(file["damping"]) if "damping" in file.files else None
            return Moments(int(file["n"]), np.diag(second).copy(), mean, second, damping)

    def counts(self, names: Iterable[str]) -> dict[str, int]:
        """Return the number of vectors of each input that is there, in the order of ``names``."""
        if self._folder is None:
            return {name: self._memory[name].n_rows for name in names if name in self._memory}
        found = {}
        for name in names:
            path = self._folder / f"{name}.npz"
            if path.exists():
                with np.load(path) as file:
                    found[name] = int(file["n"])
        return found

    def text(self, key: str) -> list[int]:
        """Return the tokens that the model wrote for a window, empty when it has not yet."""
        return self._texts.get(key, [])

    def put_texts(self, texts: Mapping[str, list[int]]) -> None:
        """Keep the tokens of windows."""
        self._texts.update(texts)
        if self._folder is not None:
            write_text(self._folder / "texts.json", json.dumps(self._texts))

    def remove(self) -> None:
        """Delete what was kept: the calibration is whole."""
        if self._folder is not None:
            if not RENAMES_OPEN_FILES:
                self._let_go()
            shutil.rmtree(self._folder, ignore_errors=True)


def save_arrays(path: Path, **arrays: NDArray[Any]) -> None:
    """Write arrays as numpy's ``.npz``, the whole file or none."""
    with whole(path) as part, part.path.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]  # numpy's stub takes every keyword for allow_pickle


def _claimed(folder: Path) -> tuple[Path, int]:
    """Return a folder that no other process uses, this one or one named after it, and the descriptor that holds it.

    The folder is held until its process ends or the descriptor is closed; raises ``OSError``.
    """
    number = 1
    place = folder
    while True:
        place.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(place / "lock", os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        except FileNotFoundError:
            continue  # whoever had it was done with it just now
        # Of the process, not of the descriptor: one that begins again after an error is not in its own way.
        if process_holds(descriptor) is False:
            number += 1
            place = folder.with_name(f"{folder.name}-{number}")
        elif os.fstat(descriptor).st_nlink:
            return place, descriptor
        os.close(descriptor)
