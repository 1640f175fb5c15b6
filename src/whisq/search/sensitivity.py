"""What each matrix costs in each type, measured once and kept with its provenance."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from whisq.documents import Document, json_value
from whisq.errors import CalibrationError
from whisq.records import RecordError, record
from whisq.writing import write_text


@dataclass(frozen=True, slots=True)
class Mix:
    """A choice of types with its file's size, and its divergence in nats per token, expected and measured.

    ``kind`` is "searched", "uniform" or "preset".
    """

    name: str
    kind: str
    size_bytes: int
    predicted: float
    measured: float | None

    @property
    def harm(self) -> float:
        """The divergence: measured where it was, else expected."""
        return self.predicted if self.measured is None else self.measured


@dataclass(frozen=True)
class Sensitivity:
    """Divergence in nats per token by matrix and type, each with all other matrices as they were.

    ``measured`` names the types of each matrix for which it is that of a run; the others follow from these by the
    ratio of the Hessian-weighted output errors. ``checks`` are pairs (predicted, measured) of single matrices,
    ``mixes`` of whole mixes; ``scale`` is measured ÷ predicted for the mixes, ``correlation`` that of their logarithms.
    ``curve`` holds mixes of all sizes; ``seconds`` what the runtime takes for a clip with all matrices in a type.
    ``provenance`` says what was measured on.
    """

    harms: Mapping[str, Mapping[str, float]]
    scale: float
    correlation: float
    mixes: tuple[tuple[float, float], ...]
    provenance: Mapping[str, Any]
    measured: Mapping[str, tuple[str, ...]]
    checks: tuple[tuple[float, float], ...] = ()
    curve: tuple[Mix, ...] = ()
    seconds: Mapping[str, float] | None = None

    def predicted(self, types: Mapping[str, str]) -> float:
        """Return the divergence expected of a mix: the sum of its matrices' own, scaled."""
        return self.scale * sum(self.harms[name].get(kind, 0.0) for name, kind in types.items())

    @property
    def n_measured(self) -> int:
        """Number of matrices and types measured directly."""
        return sum(map(len, self.measured.values()))


def write_sensitivity(path: str | Path, sensitivity: Sensitivity) -> None:
    """Write a sensitivity as JSON; raises ``OutputError``."""
    document = {"whisq.sensitivity": 1, **asdict(sensitivity)}
    write_text(path, json.dumps(document, indent=1) + "\n")


_FILE = Document("a sensitivity file", CalibrationError, "give what `whisq search --sensitivity FILE` wrote", 1 << 26)


def read_sensitivity(path: str | Path) -> Sensitivity:
    """Return the sensitivity in a file; raises ``CalibrationError`` for one that is damaged or holds NaN."""
    text = _FILE.text(Path(path))
    try:
        document = json_value(text)
        if not isinstance(document, dict) or document.pop("whisq.sensitivity", None) != 1:
            raise RecordError("it does not say so, or is of another version")
        # Of mixes that do not differ there is none, and Python writes that as NaN.
        correlation = document.get("correlation")
        if isinstance(correlation, float) and math.isnan(correlation):
            return replace(record(Sensitivity, {**document, "correlation": 0.0}, "it"), correlation=correlation)
        return record(Sensitivity, document, "it")
    except ValueError as error:
        # What a parser says is of no use to whoever gave another kind of file.
        told = f": {error}" if isinstance(error, RecordError) else ""
        raise CalibrationError(f"{path}: is not a sensitivity file, or is damaged{told}", hint=_FILE.hint) from None
