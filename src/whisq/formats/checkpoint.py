"""Which of the dictionaries that ``torch.save`` was given is the model: trainers save more beside it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whisq.errors import FormatError
from whisq.formats.pickle_machine import Called
from whisq.formats.state_names import is_whispers
from whisq.formats.stored import StoredArray
from whisq.formats.torch_zip import Saved

_PLACES = ("model_state_dict", "state_dict", "model", "module")


@dataclass(frozen=True, slots=True)
class State:
    """Arrays by name, the key under which they were saved, empty for none, and the keys of models not taken.

    ``classes`` are the names of what is saved beside the weights and not read.
    """

    arrays: dict[str, StoredArray]
    place: str = ""
    other_places: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()

    def notes(self, path: Path) -> list[str]:
        """Return what to say of objects that were passed over."""
        if not self.classes:
            return []
        modules = list(dict.fromkeys(name.partition(".")[0] for name in self.classes))
        return [f"{path}: objects of {_listed(modules)} beside the weights are not read, and nothing of them is run"]

    def warnings(self, path: Path) -> list[str]:
        """Return what to say of models that were not taken."""
        if not self.other_places:
            return []
        others = ", ".join(self.other_places)
        return [f"{path}: the weights under {self.place or 'no key'!r} are taken, those under {others} are left out"]


def state_of(path: Path, checkpoint: Saved) -> State:
    """Return the model's arrays in what was saved: those with Whisper's names, under a trainer's usual key first.

    Raises ``FormatError`` where nothing that was saved has arrays.
    """
    saved, classes = checkpoint.value, checkpoint.classes
    found = [(place, arrays) for place, arrays in _dictionaries(saved, "") if arrays]
    named = [(place, arrays) for place, arrays in found if any(is_whispers(name) for name in arrays)]
    if named:
        named.sort(key=lambda item: _rank(item[0]))
        (place, arrays), *others = named
        return State(arrays, place, tuple(place or "no key" for place, _ in others), classes)
    if not found and classes:
        model = f"torch.load({str(path)!r}, map_location='cpu', weights_only=False){_place_of_object(saved)}"
        code = f"import torch; torch.save({model}.state_dict(), {_beside(path)!r})"
        raise FormatError(
            f"{path}: holds objects of {_listed(classes)} and no state dictionary: a whole model was saved, not its"
            " weights",
            hint=f"if you trust it, which runs what is in it: python -c {shlex.quote(code)}",
        )
    if not found:
        keys = ", ".join(str(key)[:40] for key in list(saved)[:4]) if isinstance(saved, dict) else "no dictionary"
        raise FormatError(
            f"{path}: holds no state dictionary: expected dims and model_state_dict, or names and tensors, found"
            f" {keys or 'an empty dictionary'}",
            hint="write it with torch.save(model.state_dict(), path)",
        )
    return State(max(found, key=lambda item: len(item[1]))[1], classes=classes)


def _place_of_object(saved: Any) -> str:
    """Return how Python gets at the object that is the model, as ``['model']``, empty where it is all there is."""
    objects = [key for key, item in saved.items() if isinstance(item, Called)] if isinstance(saved, dict) else []
    return f"[{min(objects, key=lambda key: _rank(str(key)))!r}]" if objects else ""


def _beside(path: Path) -> str:
    return str(path.with_name(f"{path.stem}-weights.pt"))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(name[:60] for name in names[:3]) + (" and others" if len(names) > 3 else "")


def _rank(place: str) -> int:
    last = place.rsplit(".", 1)[-1]
    return _PLACES.index(last) if last in _PLACES else len(_PLACES)


def _dictionaries(value: Any, place: str) -> Iterator[tuple[str, dict[str, StoredArray]]]:
    if not isinstance(value, Mapping):
        return
    yield place, {name: item for name, item in value.items() if isinstance(name, str) and isinstance(item, StoredArray)}
    for key, item in value.items():
        if isinstance(key, str):
            yield from _dictionaries(item, f"{place}.{key}" if place else key)
