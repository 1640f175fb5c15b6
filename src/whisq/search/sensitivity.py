"""What each matrix costs in each type, measured once and kept with its provenance."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whisq.errors import CalibrationError, OutputError


@dataclass(frozen=True)
class Sensitivity:
    """Divergence in nats a token by matrix and type, each measured with all other matrices as they were.

    ``scale`` is measured ÷ predicted for whole mixes, ``correlation`` that of their logarithms; ``mixes`` are the
    pairs (predicted, measured) behind them. ``provenance`` says what was measured on.
    """

    harms: Mapping[str, Mapping[str, float]]
    scale: float
    correlation: float
    mixes: tuple[tuple[float, float], ...]
    provenance: Mapping[str, Any]

    def predicted(self, types: Mapping[str, str]) -> float:
        """Return the divergence expected of a mix: the sum of its matrices' own, scaled."""
        return self.scale * sum(self.harms[name].get(kind, 0.0) for name, kind in types.items())


def write_sensitivity(path: str | Path, sensitivity: Sensitivity) -> None:
    """Write a sensitivity as JSON; raises ``OutputError``."""
    document = {
        "whisq.sensitivity": 1,
        "provenance": dict(sensitivity.provenance),
        "scale": sensitivity.scale,
        "correlation": sensitivity.correlation,
        "mixes": [list(pair) for pair in sensitivity.mixes],
        "harms": {name: dict(harms) for name, harms in sensitivity.harms.items()},
    }
    where = Path(path)
    partial = where.with_name(f".{where.name}.part")
    try:
        partial.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
        partial.replace(where)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OutputError(f"{path}: cannot be written: {error.strerror}", hint="choose another place") from None


def read_sensitivity(path: str | Path) -> Sensitivity:
    """Return the sensitivity in a file; raises ``CalibrationError``."""
    try:
        document = json.loads(Path(path).read_text("utf-8"))
        if document["whisq.sensitivity"] != 1:
            raise ValueError("another version")
        return Sensitivity(
            {name: {t: float(h) for t, h in harms.items()} for name, harms in document["harms"].items()},
            float(document["scale"]),
            float(document["correlation"]),
            tuple((float(a), float(b)) for a, b in document["mixes"]),
            document["provenance"],
        )
    except OSError as error:
        raise CalibrationError(f"{path}: cannot be read: {error.strerror}", hint="check the path") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CalibrationError(f"{path}: is no sensitivity: {error}", hint="measure again, without --reuse") from None
