"""Moments of the linear layers' inputs, and the file that holds them.

The file is in the safetensors format (https://github.com/huggingface/safetensors). For every input it holds
``NAME.second_moment`` (the upper triangle of the mean of x xᵀ, row by row, f32), ``NAME.mean`` (f32), and
``probes`` (f16); its metadata says, as JSON under ``whisq.calibration``, what was heard.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whisq.calibration.probes import MOST_PROBES, Probes
from whisq.calibration.storage import Entry, write_safetensors
from whisq.errors import CalibrationError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from whisq.model import Model

_KEY = "whisq.calibration"
_TOTALS = ("seconds", "tokens", "windows", "clips")
_LISTS = ("idle", "dims", "data", "probe_languages")
_AGAIN = "make it again with `whisq calibrate`"


@dataclass(frozen=True, slots=True)
class Moments:
    """Of one input, over ``n_rows`` vectors x: the mean of x xᵀ ``float32[n, n]``, and of x ``float32[n]``.

    An importance file of another tool has the diagonal only: then ``second_moment`` is None.
    """

    n_rows: int
    squares: NDArray[np.float32]
    mean: NDArray[np.float32] | None = None
    second_moment: NDArray[np.float32] | None = None

    @property
    def n_inactive(self) -> int:
        """Columns that were zero in every vector."""
        return int((self.squares == 0).sum())


@dataclass(frozen=True)
class Calibration:
    """What is known of a model's inputs. ``load`` gives an input's moments, from disk when asked for.

    ``heard`` says what was calibrated on: seconds, tokens, languages, the source model's SHA-256, and more.
    ``counts`` holds the number of vectors by input; an input that is not in it is not covered.
    """

    path: Path
    heard: Mapping[str, Any]
    counts: Mapping[str, int]
    load: Callable[[str], Moments] = field(repr=False)
    load_probes: Callable[[], Probes | None] = field(repr=False, default=lambda: None)
    has_second_moments: bool = True
    unusable: dict[str, str] = field(repr=False, compare=False, default_factory=dict)
    """Inputs whose second moments were looked at, and what is wrong with them; empty where nothing is."""

    @property
    def idle(self) -> frozenset[str]:
        """Inputs that were zero throughout: their moments are singular."""
        return frozenset(self.heard.get("idle", ()))

    @property
    def warnings(self) -> tuple[tuple[str, str], ...]:
        """What a user should know before relying on it, each with what to do."""
        languages = self.heard.get("languages", {})
        if len(languages) != 1 or not _is_multilingual(self.heard):
            return ()
        (language,) = languages
        return (
            (
                f"{self.path.name}: all audio is in one language ({language}), but the model is multilingual: what is"
                " made with this can be worse in others",
                "add clips of the languages that matter, or leave this if the model will hear no other",
            ),
        )

    def moments(self, name: str) -> Moments:
        """Return the moments of an input; raises ``CalibrationError`` when it is not covered."""
        if name not in self.counts:
            raise CalibrationError(f"{self.path}: does not cover {name}", hint=_AGAIN)
        return self.load(name)

    def check_fits(self, model: Model) -> None:
        """Raise ``CalibrationError`` when this was measured on a model of another shape."""
        from whisq.calibration.inputs import inputs_of

        widths = inputs_of(model.dims)
        strange = [name for name in self.counts if name not in widths]
        if strange:
            raise CalibrationError(
                f"{self.path}: covers {strange[0]}, which {model.path} does not have: it is of another model",
                hint="calibrate this model itself",
            )
        # An imatrix is in memory as a whole and says nothing of the model's sizes.
        other = [] if self.has_second_moments else [n for n in self.counts if len(self.load(n).squares) != widths[n]]
        if other:
            raise CalibrationError(
                f"{self.path}: {other[0]} has {len(self.load(other[0]).squares)} columns, in {model.path} it has"
                f" {widths[other[0]]}",
                hint="use an imatrix of this very model",
            )
        named = self.heard.get("dims")
        if named is not None and list(named) != list(dims_of(model)):
            raise CalibrationError(
                f"{self.path}: was made with a model of other dimensions than {model.path}",
                hint="calibrate this model itself",
            )


def dims_of(model: Model) -> tuple[int, ...]:
    """Return a model's dimensions as plain numbers."""
    from dataclasses import astuple

    return tuple(astuple(model.dims))


def _is_multilingual(heard: Mapping[str, Any]) -> bool:
    from whisq.whisper import Dimensions

    return "dims" in heard and Dimensions(*heard["dims"]).is_multilingual


def triangle_size(n: int) -> int:
    """Return the number of values in the upper triangle of an n × n matrix, its diagonal included."""
    return n * (n + 1) // 2


def pack_triangle(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the upper triangle of a symmetric matrix, row by row, as one vector."""
    import numpy as np

    return np.concatenate([matrix[row, row:] for row in range(len(matrix))])


def unpack_triangle(packed: NDArray[np.float32], n: int) -> NDArray[np.float32]:
    """Return the symmetric matrix of an upper triangle."""
    import numpy as np

    matrix = np.zeros((n, n), np.float32)
    start = 0
    for row in range(n):
        matrix[row, row:] = packed[start : start + n - row]
        start += n - row
    matrix += np.triu(matrix, 1).T
    return matrix


def write_calibration(
    path: Path, heard: Mapping[str, Any], moments: Sequence[tuple[str, int, int]],
    load: Callable[[str], Moments], probes: Probes | None,
) -> None:  # fmt: skip
    """Write a calibration; ``moments`` lists name, width and count of each input, ``load`` is called one by one.

    The file is whole or absent. Raises ``OutputError``.
    """
    import numpy as np

    inactive = {name: load(name).n_inactive for name, _, _ in moments}
    document = {
        **heard,
        "counts": {name: count for name, _, count in moments},
        "inactive": {name: count for name, count in inactive.items() if count},
        "idle": [name for name, width, _ in moments if inactive[name] == width],
    }
    entries: list[Entry] = []
    for name, width, _ in moments:

        def triangle(name: str = name) -> NDArray[Any]:
            second = load(name).second_moment
            return pack_triangle(second) if second is not None else np.zeros(0, np.float32)

        def mean(name: str = name, width: int = width) -> NDArray[Any]:
            found = load(name).mean
            return np.asarray(found if found is not None else np.zeros(width), np.float32)

        entries.append(Entry(f"{name}.second_moment", "F32", (triangle_size(width),), triangle))
        entries.append(Entry(f"{name}.mean", "F32", (width,), mean))
    if probes is not None:
        document["probe_languages"] = list(probes.languages)
        entries.append(Entry("probes", "F16", probes.mels.shape, lambda: probes.mels))
    write_safetensors(path, {_KEY: json.dumps(document, ensure_ascii=False)}, entries)


def read_calibration(path: str | Path) -> Calibration:
    """Return the calibration in a file of ours, or the importance in an imatrix GGUF.

    Raises ``CalibrationError`` for a file that is neither, or damaged.
    """
    where = Path(path)
    try:
        with where.open("rb") as stream:
            magic = stream.read(4)
    except OSError as error:
        raise CalibrationError(f"{where}: cannot be read: {error.strerror or error}", hint="check the path") from None
    if magic == b"GGUF":
        from whisq.calibration.imatrix import read_imatrix

        return read_imatrix(where)
    with _opened(where) as file:
        document = _document(where, file.metadata() or {})
        names = set(file.keys())
        widths = {}
        for name in document["counts"]:
            if not {f"{name}.second_moment", f"{name}.mean"} <= names:
                raise CalibrationError(f"{where}: lacks the moments of {name}", hint=_AGAIN)
            widths[name] = file.get_slice(f"{name}.mean").get_shape()[0]
            found = file.get_slice(f"{name}.second_moment").get_shape()
            if found != [triangle_size(widths[name])]:
                raise CalibrationError(
                    f"{where}: {name}.second_moment has shape {found}, expected [{triangle_size(widths[name])}]",
                    hint=_AGAIN,
                )
    return Calibration(
        where,
        document,
        document["counts"],
        _Loader(where, widths, document["counts"]),
        lambda: _probes(where, document),
    )


@dataclass(frozen=True, slots=True)
class _Loader:
    path: Path
    widths: Mapping[str, int]
    counts: Mapping[str, int]

    def __call__(self, name: str) -> Moments:
        import numpy as np

        with _opened(self.path) as file:
            second = unpack_triangle(file.get_tensor(f"{name}.second_moment"), self.widths[name])
            mean = file.get_tensor(f"{name}.mean")
        if not (np.isfinite(second).all() and np.isfinite(mean).all()):
            raise CalibrationError(f"{self.path}: the moments of {name} are not finite", hint=_AGAIN)
        return Moments(self.counts[name], np.diag(second).copy(), mean, second)


def _probes(path: Path, document: Mapping[str, Any]) -> Probes | None:
    with _opened(path) as file:
        if "probes" not in set(file.keys()):
            return None
        return Probes(file.get_tensor("probes"), tuple(document.get("probe_languages", ())))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise CalibrationError(f"{path}: is no calibration, or damaged: {error}", hint=_AGAIN) from None


def _document(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        document = json.loads(metadata[_KEY])
        counts = document["counts"]
        whole = isinstance(counts, dict) and all(isinstance(n, int) and 0 <= n < 1 << 63 for n in counts.values())
        whole = whole and all(isinstance(document.get(key, ()), list | tuple) for key in _LISTS)
        for key in ("languages", "inactive"):
            whole = whole and _are_numbers(document.get(key, {}).values())
        whole = whole and _are_numbers(document.get(key, 0) for key in _TOTALS)
    except (KeyError, TypeError, ValueError, RecursionError, AttributeError):
        whole = False
    if not whole:
        raise CalibrationError(f"{path}: is a safetensors file but no calibration", hint=_AGAIN)
    return dict(document)


def _are_numbers(values: Iterable[Any]) -> bool:
    return all(isinstance(value, int | float) for value in values)


def merge(path: Path, parts: Sequence[Calibration]) -> None:
    """Write one calibration from several of the same model: means weighted by what each has heard.

    Raises ``CalibrationError`` when they are of different models or one has no second moments.
    """
    import numpy as np

    first = parts[0]
    for part in parts:
        if not part.has_second_moments:
            raise CalibrationError(f"{part.path}: holds importance only, which cannot be merged", hint=_AGAIN)
        if part.heard.get("model_sha256") != first.heard.get("model_sha256"):
            raise CalibrationError(
                f"{part.path} and {first.path} were made with different models", hint="calibrate one model on all audio"
            )
    names = [name for name in first.counts if all(name in part.counts for part in parts)]

    def load(name: str) -> Moments:
        loaded = [part.moments(name) for part in parts]
        total = sum(moments.n_rows for moments in loaded)
        second = sum(np.float64(m.n_rows / total) * m.second_moment for m in loaded if m.second_moment is not None)
        mean = sum(np.float64(m.n_rows / total) * m.mean for m in loaded if m.mean is not None)
        matrix = np.asarray(second, np.float32)
        return Moments(total, np.diag(matrix).copy(), np.asarray(mean, np.float32), matrix)

    listed = [(name, len(first.moments(name).squares), sum(p.counts[name] for p in parts)) for name in names]
    write_calibration(path, _heard_together(parts), listed, load, _probes_together(parts))


def _heard_together(parts: Sequence[Calibration]) -> dict[str, Any]:
    heard = dict(parts[0].heard)
    languages: dict[str, float] = {}
    for part in parts:
        for language, seconds in part.heard.get("languages", {}).items():
            languages[language] = languages.get(language, 0.0) + seconds
    heard["languages"] = languages
    for key in _TOTALS:
        heard[key] = sum(part.heard.get(key, 0) for part in parts)
    heard["data"] = [source for part in parts for source in part.heard.get("data", ())]
    return heard


def _probes_together(parts: Sequence[Calibration]) -> Probes | None:
    import numpy as np

    found = [probes for part in parts if (probes := part.load_probes()) is not None]
    if not found:
        return None
    mels = np.concatenate([probes.mels for probes in found])
    languages = tuple(language for probes in found for language in probes.languages)
    chosen = np.unique(np.linspace(0, len(languages) - 1, min(MOST_PROBES, len(languages))).round().astype(int))
    return Probes(mels[chosen], tuple(languages[index] for index in chosen))
