"""Moments of the linear layers' inputs, as values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whisq import kernels
from whisq.calibration.inputs import inputs_of
from whisq.calibration.outputs import OutputMoment
from whisq.calibration.probes import Probes
from whisq.errors import CalibrationError
from whisq.hashing import file_sha256
from whisq.whisper import Dimensions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from whisq.model import Model

TOTALS = ("seconds", "tokens", "windows", "clips")
"""Figures of a calibration that add up when several are merged."""
AGAIN = "make it again with `whisq calibrate`"


@dataclass(frozen=True, slots=True)
class Moments:
    """Of one input, over ``n_rows`` vectors x: the mean of x xᵀ ``float32[n, n]``, and of x ``float32[n]``.

    An importance file of another tool has the diagonal only: then ``second_moment`` is None. ``damping`` is what
    feedback adds to the diagonal, as a share of its mean, where windows held out have chosen it; None: by the number
    of vectors alone.
    """

    n_rows: int
    squares: NDArray[np.float32]
    mean: NDArray[np.float32] | None = None
    second_moment: NDArray[np.float32] | None = None
    damping: float | None = None

    @property
    def n_inactive(self) -> int:
        """Columns that were zero in every vector."""
        return int((self.squares == 0).sum())


@dataclass(frozen=True)
class Calibration:
    """What is known of a model's inputs. ``load`` gives an input's moments, from disk when asked for.

    ``audio`` says what was calibrated on: seconds, tokens, languages, the source model's SHA-256, and more.
    ``counts`` holds the number of vectors by input; an input that is not in it is not covered. ``singular`` says of
    which inputs the second moments give feedback nothing to work with, and why; it is None in a file of whisq 0.1,
    which did not look: ``factors.check_factors`` does. ``outputs`` are the layers whose outputs were weighed, and
    ``load_output`` gives the moment of one. With ``takes_other_model`` it may be used for other weights of
    the same shape, and what is made with it says so.
    """

    path: Path
    audio: Mapping[str, Any]
    counts: Mapping[str, int]
    load: Callable[[str], Moments] = field(repr=False)
    load_probes: Callable[[], Probes | None] = field(repr=False, default=lambda: None)
    outputs: frozenset[str] = frozenset()
    load_output: Callable[[str], OutputMoment | None] = field(repr=False, default=lambda name: None)
    has_second_moments: bool = True
    singular: Mapping[str, str] | None = None
    takes_other_model: bool = False

    @property
    def sha256(self) -> str:
        """SHA-256 of the file in hex, which is read for it; empty where there is none."""
        return file_sha256(self.path) if self.path.is_file() else ""

    @property
    def model_name(self) -> str:
        """Name of the model's file that this was measured on, as far as it says."""
        return str(self.audio.get("model", "of no name"))

    @property
    def idle(self) -> frozenset[str]:
        """Inputs that were zero throughout: their moments are singular."""
        return frozenset(self.audio.get("idle", ()))

    @property
    def warnings(self) -> tuple[tuple[str, str], ...]:
        """What a user should know before relying on it, each with what to do."""
        languages = self.audio.get("languages", {})
        if len(languages) != 1 or not _is_multilingual(self.audio):
            return ()
        (language,) = languages
        return (
            (
                f"{self.path.name}: all audio is in one language ({language}), but the model is multilingual: what is"
                " made with this can be worse in others",
                "add clips of the languages that matter, or leave this if only this language is needed",
            ),
        )

    def moments(self, name: str) -> Moments:
        """Return the moments of an input; raises ``CalibrationError`` when it is not covered."""
        if name not in self.counts:
            raise CalibrationError(f"{self.path}: does not cover {name}", hint=AGAIN)
        return self.load(name)

    def check_fits(self, model: Model) -> None:
        """Raise ``CalibrationError`` when this was measured on a model of another shape."""
        widths = inputs_of(model.dims)
        strange = [name for name in self.counts if name not in widths]
        if strange:
            raise CalibrationError(
                f"{self.path}: covers {strange[0]}, which {model.path} does not have: it belongs to another model",
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
        named = self.audio.get("dims")
        if named is not None and list(named) != list(dims_of(model)):
            raise CalibrationError(
                f"{self.path}: was made with a model of other dimensions than {model.path}",
                hint="calibrate this model itself",
            )

    def is_of(self, model: Model) -> bool | None:
        """Return whether this was measured on a model's weights, None where the file does not say.

        The same weights in another container, sharding or type are the same. A few megabytes of the model are read, of
        a file of whisq 0.1, which names a model's file only, all of it.
        """
        fingerprint = self.audio.get("model_fingerprint")
        if fingerprint is not None:
            return bool(fingerprint == model.fingerprint)
        # Another file can have the same weights.
        named = self.audio.get("model_sha256")
        return True if named is not None and named == model.sha256 else None

    def check_weights(self, model: Model) -> None:
        """Raise ``CalibrationError`` when this was measured on other weights, unless those are to be taken."""
        if not self.takes_other_model and self.is_of(model) is False:
            raise CalibrationError(
                f"{self.path}: was made with other weights ({self.model_name}) than those of {model.path}",
                hint="calibrate this model itself, or take it all the same: --other-model",
            )


FORESEEN = Path("calibration")
"""The path of one that is not made yet."""


def foreseen_calibration(model: Model) -> Calibration:
    """Return what a calibration of a model will be like, to plan with before it is made.

    It covers every matrix and holds nothing: ``load`` raises ``CalibrationError``.
    """

    def load(name: str) -> Moments:
        raise CalibrationError(f"{name}: is not calibrated yet", hint=AGAIN)

    return Calibration(
        FORESEEN, {"dims": list(dims_of(model))}, dict.fromkeys(inputs_of(model.dims), 1), load, singular={}
    )


def dims_of(model: Model) -> tuple[int, ...]:
    """Return a model's dimensions as plain numbers."""
    return tuple(astuple(model.dims))


def _is_multilingual(audio: Mapping[str, Any]) -> bool:
    return "dims" in audio and Dimensions(*audio["dims"]).is_multilingual


def triangle_size(n: int) -> int:
    """Return the number of values in the upper triangle of an n × n matrix, its diagonal included."""
    return n * (n + 1) // 2


def triangle_width(size: int) -> int | None:
    """Return n of the n × n matrix whose upper triangle has so many values, None where there is none."""
    n = math.isqrt(2 * size)
    return n if n and triangle_size(n) == size else None


def pack_triangle(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the upper triangle of a symmetric matrix, row by row, as one vector."""
    import numpy as np

    return np.concatenate([matrix[row, row:] for row in range(len(matrix))])


def unpack_triangle(packed: NDArray[np.float32], n: int) -> NDArray[np.float32]:
    """Return the symmetric matrix of an upper triangle."""
    import numpy as np

    matrix = np.empty((n, n), np.float32)
    kernels.unpack_triangle(np.ascontiguousarray(packed, np.float32), matrix)
    return matrix
