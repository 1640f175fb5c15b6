"""A calibration on disk.

The file is in the safetensors format (https://github.com/huggingface/safetensors). For every input it holds
``NAME.second_moment`` (the upper triangle of the mean of x xᵀ, row by row, f32), ``NAME.mean`` (f32), of layers whose
outputs were weighed ``NAME.output_moment`` (the upper triangle of the mean of g gᵀ, f32), and ``probes`` (f16); its
metadata says, as JSON under ``whisq.calibration``, what was measured on, of which inputs the second moments cannot be
factored (``singular``), and the damping that windows held out have chosen for the others (``damping``) and for the
outputs (``output_damping``). A file of an earlier version has neither: the damping is then taken by the number of
vectors, and no output is weighed.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from whisq.calibration.calibration import (
    AGAIN,
    TOTALS,
    Calibration,
    Moments,
    pack_triangle,
    triangle_size,
    triangle_width,
    unpack_triangle,
)
from whisq.calibration.imatrix import is_older_imatrix, read_imatrix
from whisq.calibration.outputs import OutputMoment
from whisq.calibration.probes import Probes
from whisq.calibration.storage import Entry, write_safetensors
from whisq.documents import json_value
from whisq.errors import CalibrationError, FormatError
from whisq.formats.safetensors import read_arrays, read_metadata
from whisq.source_file import FileState, SourceFile
from whisq.types import F16, F32

if TYPE_CHECKING:
    from numpy.typing import NDArray

_KEY = "whisq.calibration"
_LISTS = ("idle", "dims", "data", "probe_languages")
_ROUNDING, _SMALLEST = 1.001, 1e-30
"""What sums in f32 over a window, and squares that f32 cannot hold, may put between a mean and its mean of squares."""
_NAMES = ("model", "model_sha256", "model_fingerprint")


def write_calibration(
    path: Path,
    audio: Mapping[str, Any],
    moments: Sequence[tuple[str, int, int]],
    load: Callable[[str], Moments],
    probes: Probes | None,
    outputs: Mapping[str, OutputMoment] = MappingProxyType({}),
) -> None:
    """Write a calibration; ``moments`` lists name, width and count of each input, ``load`` is called one by one.

    Whether feedback can use an input's moments is found out here, once, so that a plan need only look it up.
    The file is whole or absent. Raises ``OutputError``.
    """
    import numpy as np

    document = {**audio, "counts": {name: count for name, _, count in moments}, **_findings(moments, load)}
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
    document["output_damping"] = {name: output.damping for name, output in outputs.items()}
    for name, output in outputs.items():
        size = triangle_size(len(output.second_moment))
        entries.append(Entry(f"{name}.output_moment", "F32", (size,), partial(pack_triangle, output.second_moment)))
    if probes is not None:
        document["probe_languages"] = list(probes.languages)
        entries.append(Entry("probes", "F16", probes.mels.shape, lambda: probes.mels))
    write_safetensors(path, {_KEY: json.dumps(document, ensure_ascii=False)}, entries)


def _findings(moments: Sequence[tuple[str, int, int]], load: Callable[[str], Moments]) -> dict[str, Any]:
    """Return what an input's moments say of it: columns that were never active, and what feedback cannot use."""
    from whisq.calibration.factors import reason_against

    inactive, idle, singular, damping = {}, [], {}, {}
    for name, width, count in moments:
        found = replace(load(name), n_rows=count)
        if found.damping is not None and math.isfinite(found.damping):
            damping[name] = found.damping
        if found.n_inactive:
            inactive[name] = found.n_inactive
        if found.n_inactive == width:
            idle.append(name)
        elif count and (reason := reason_against(name, found)):
            singular[name] = reason
    return {"inactive": inactive, "idle": idle, "singular": singular, "damping": damping}


def read_calibration(path: str | Path) -> Calibration:
    """Return the calibration in a whisq calibration file, or the importance in an imatrix GGUF.

    Raises ``CalibrationError`` for a file that is neither, or damaged.
    """
    where = Path(path)
    if where.is_fifo():
        raise CalibrationError(f"{where}: is a pipe, expected a file", hint="write it to a file first")
    try:
        with where.open("rb") as stream:
            magic = stream.read(4)
    except OSError as error:
        raise CalibrationError(f"{where}: cannot be read: {error.strerror or error}", hint="check the path") from None
    if magic == b"GGUF":
        return read_imatrix(where)
    if is_older_imatrix(where):
        raise CalibrationError(
            f"{where}: is an imatrix as llama.cpp wrote until July 2025 (.dat), which whisq does not read",
            hint="let llama.cpp turn it into a GGUF: "
            + shlex.join(["llama-imatrix", "--in-file", str(where), "-o", str(where.with_suffix(".gguf"))]),
        )
    with _opened(where) as file:
        document = _document(where, file.metadata())
        names = set(file.keys())
        widths = {}
        for name in document["counts"]:
            if not {f"{name}.second_moment", f"{name}.mean"} <= names:
                raise CalibrationError(f"{where}: lacks the moments of {name}", hint=AGAIN)
            widths[name] = file.shape(f"{name}.mean")[0]
            found = file.shape(f"{name}.second_moment")
            if found != [triangle_size(widths[name])]:
                raise CalibrationError(
                    f"{where}: {name}.second_moment has shape {found}, expected [{triangle_size(widths[name])}]",
                    hint=AGAIN,
                )
        for name in document.get("output_damping", {}):
            key = f"{name}.output_moment"
            if key not in names or len(file.shape(key)) != 1 or triangle_width(*file.shape(key)) is None:
                raise CalibrationError(f"{where}: lacks the output moment of {name}", hint=AGAIN)
    return Calibration(
        where,
        document,
        document["counts"],
        _Loader(where, widths, document["counts"], document.get("damping", {}), file.state),
        lambda: _probes(where, document),
        outputs=frozenset(document.get("output_damping", {})),
        load_output=_OutputLoader(where, document.get("output_damping", {}), file.state),
        singular=document.get("singular"),
    )


@dataclass(frozen=True, slots=True)
class _OutputLoader:
    path: Path
    damping: Mapping[str, float]
    state: FileState

    def __call__(self, name: str) -> OutputMoment | None:
        import numpy as np

        if name not in self.damping:
            return None
        with _opened(self.path) as file:
            if file.state != self.state:
                raise CalibrationError(f"{self.path}: changed while it was read", hint="try again when it is whole")
            packed = file.array(f"{name}.output_moment")
        if not np.isfinite(packed).all():
            raise CalibrationError(f"{self.path}: the output moment of {name} is not finite", hint=AGAIN)
        return OutputMoment(unpack_triangle(packed, triangle_width(len(packed)) or 0), self.damping[name])


@dataclass(frozen=True, slots=True)
class _Loader:
    path: Path
    widths: Mapping[str, int]
    counts: Mapping[str, int]
    damping: Mapping[str, float]
    state: FileState

    def __call__(self, name: str) -> Moments:
        import numpy as np

        with _opened(self.path) as file:
            if file.state != self.state:
                raise CalibrationError(f"{self.path}: changed while it was read", hint="try again when it is whole")
            second = unpack_triangle(file.array(f"{name}.second_moment"), self.widths[name])
            mean = file.array(f"{name}.mean")
        if not (np.isfinite(second).all() and np.isfinite(mean).all()):
            raise CalibrationError(f"{self.path}: the moments of {name} are not finite", hint=AGAIN)
        squares = np.diag(second).copy()
        if (np.square(mean, dtype=np.float64) > squares * _ROUNDING + _SMALLEST).any():
            raise CalibrationError(
                f"{self.path}: the moments of {name} are damaged: a mean is larger than its mean of squares allows",
                hint=AGAIN,
            )
        return Moments(self.counts[name], squares, mean, second, self.damping.get(name))


def _probes(path: Path, document: Mapping[str, Any]) -> Probes | None:
    with _opened(path) as file:
        if "probes" not in set(file.keys()):
            return None
        return Probes(file.array("probes"), tuple(document.get("probe_languages", ())))


class _Arrays:
    """A safetensors file of f32 and f16, read array by array. Raises ``FormatError``."""

    def __init__(self, file: SourceFile) -> None:
        self._file = file
        self._arrays = read_arrays(file, 0)

    def metadata(self) -> dict[str, Any]:
        """Return what the header says beside the arrays."""
        return read_metadata(self._file)

    def keys(self) -> Iterable[str]:
        """Return the arrays' names."""
        return self._arrays.keys()

    def shape(self, name: str) -> list[int]:
        """Return an array's sizes."""
        return list(self._arrays[name].shape)

    @property
    def state(self) -> FileState:
        """Return what the file is now."""
        return self._file.state

    def array(self, name: str) -> NDArray[Any]:
        """Return an array."""
        import numpy as np

        stored = self._arrays[name]
        kind = {F32: "<f4", F16: "<f2"}.get(stored.type)  # type: ignore[arg-type]  # None is no key
        if kind is None:
            raise FormatError(f"{self._file.path}: {name} is {stored.element}, expected f32 or f16")
        begin, size = stored.location.offset, stored.location.size_bytes
        return np.frombuffer(self._file.read(begin, begin + size), kind).reshape(stored.shape)


@contextmanager
def _opened(path: Path) -> Iterator[_Arrays]:
    try:
        file = SourceFile(path)
        try:
            yield _arrays_of(path, file)
        finally:
            file.close()
    except FormatError as error:
        raise CalibrationError(str(error), hint=error.hint) from None


def _arrays_of(path: Path, file: SourceFile) -> _Arrays:
    try:
        return _Arrays(file)
    except FormatError:
        # What the reader says ("header too large") tells nothing to whoever gave another kind of file.
        raise CalibrationError(
            f"{path}: is not a calibration (a file of `whisq calibrate`, or an imatrix GGUF), or is damaged", hint=AGAIN
        ) from None


def _document(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        document = json_value(metadata[_KEY])
        counts = document["counts"]
        whole = isinstance(counts, dict) and all(isinstance(n, int) and 0 <= n < 1 << 63 for n in counts.values())
        whole = whole and all(isinstance(document.get(key, ()), list | tuple) for key in _LISTS)
        whole = whole and all(isinstance(document.get(key, ""), str) for key in _NAMES)
        for key in ("languages", "inactive", "damping", "output_damping"):
            whole = whole and _are_numbers(document.get(key, {}).values())
        for key in ("damping", "output_damping"):
            whole = whole and all(0 <= share < 1e6 for share in document.get(key, {}).values())
        whole = whole and all(isinstance(reason, str) for reason in document.get("singular", {}).values())
        whole = whole and _are_numbers(document.get(key, 0) for key in TOTALS)
    except (KeyError, TypeError, ValueError, RecursionError, AttributeError):
        whole = False
    if not whole:
        raise CalibrationError(f"{path}: is a safetensors file but not a calibration", hint=AGAIN)
    return dict(document)


def _are_numbers(values: Iterable[Any]) -> bool:
    return all(isinstance(value, int | float) for value in values)
