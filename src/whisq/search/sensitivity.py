"""What each matrix costs in each type, measured once and kept with its provenance."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from whisq.errors import CalibrationError
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


def read_sensitivity(path: str | Path) -> Sensitivity:
    """Return the sensitivity in a file; raises ``CalibrationError``."""
    try:
        document = json.loads(Path(path).read_text("utf-8"))
        if document["whisq.sensitivity"] != 1:
            raise ValueError("another version")
        seconds, provenance = document["seconds"], document["provenance"]
        if not isinstance(provenance, dict):
            raise TypeError("its provenance is not an object")
        return Sensitivity(
            {name: {t: float(h) for t, h in harms.items()} for name, harms in document["harms"].items()},
            float(document["scale"]),
            float(document["correlation"]),
            tuple((float(a), float(b)) for a, b in document["mixes"]),
            provenance,
            {name: tuple(types) for name, types in document["measured"].items()},
            tuple((float(a), float(b)) for a, b in document["checks"]),
            tuple(Mix(**mix) for mix in document["curve"]),
            None if seconds is None else {name: float(value) for name, value in seconds.items()},
        )
    except OSError as error:
        raise CalibrationError(f"{path}: cannot be read: {error.strerror}", hint="check the path") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CalibrationError(
            f"{path}: is not a sensitivity file, or is damaged"
            + ("" if isinstance(error, ValueError) else f": {error}"),
            hint="give what `whisq search --sensitivity FILE` wrote",
        ) from None
