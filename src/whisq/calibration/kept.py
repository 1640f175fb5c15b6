"""Calibrations that are made when they are needed, and kept: of the built-in speech, or of clips.

A file of the cache's folder ``calibrations`` has one model's calibration, under the model's fingerprint, what was
listened to, and the settings. One that another version of whisq made, or that is damaged, is made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from whisq.calibration.file import read_calibration
from whisq.calibration.run import CalibrationSettings, calibrate, clips_for, settings_for
from whisq.clips.builtin import SOURCE
from whisq.errors import CalibrationError, OutputError
from whisq.progress import Progress, no_progress
from whisq.units import megabytes
from whisq.version import __version__

if TYPE_CHECKING:
    from whisq.calibration import Calibration
    from whisq.clips.clip import ClipSet
    from whisq.model import Model

FOLDER = "calibrations"
_HOLDS = "inputs and outputs"
"""Changes with what a calibration holds, so that an earlier one of the same version is not taken for it."""


@contextlib.contextmanager
def calibration_on(
    model: Model,
    data: str | Path | ClipSet | None,
    settings: CalibrationSettings,
    *,
    say: Callable[[str], None],
    progress: Progress = no_progress,
) -> Iterator[Calibration]:
    """Give a model's calibration on clips, on the built-in speech where ``data`` is None, made now unless it is kept.

    ``say`` is told in a line what was listened to, and before longer work what that needs. Without a cache the file
    is gone after the block. Raises what ``calibrate`` raises.
    """
    clips = clips_for(model, data, settings, progress)
    settings = settings_for(clips, settings)
    if settings.cache is None:
        with tempfile.TemporaryDirectory(prefix="whisq-") as folder:
            path = Path(folder) / "built-in.calib"
            made = calibrate(model, clips, path, settings=settings, progress=progress, say=say)
            say(_line(made, "not kept"))
            yield made
        return
    key = _key(model, clips, settings)
    path = settings.cache / FOLDER / f"{key}.calib"
    kept = _kept(path, say)
    if kept is None:
        _make_folder(path.parent)
        kept = calibrate(model, clips, path, settings=settings, progress=progress, say=say)
        _remove_outdated(path)
        size_mb = megabytes(path.stat().st_size)
        say(_line(kept, f"kept for the next time: {path} ({size_mb:.0f} MB)"))
    else:
        say(_line(kept, f"kept in {path}"))
    yield kept


def _key(model: Model, clips: ClipSet, settings: CalibrationSettings) -> str:
    heard = {"data": clips.sha256, "own_text": settings.own_text, "text_tokens": settings.text_tokens}
    heard["weigh_outputs"] = settings.weigh_outputs
    made_by = {"whisq": __version__, "seed": settings.seed, "device": settings.device, "holds": _HOLDS}
    digest = hashlib.sha256(json.dumps({**heard, **made_by}, sort_keys=True).encode()).hexdigest()
    what = "built-in" if clips.source == SOURCE else clips.sha256[:16]
    return f"{model.fingerprint[:32]}-{what}-{digest[:16]}"


def _kept(path: Path, say: Callable[[str], None]) -> Calibration | None:
    if not path.exists():
        return None
    try:
        found = read_calibration(path)
    except CalibrationError as error:
        say(f"made again: {error}")
        return None
    return found if found.audio.get("whisq") == __version__ else None


def _remove_outdated(path: Path) -> None:
    """Delete calibrations of the same model on the same speech that other versions or settings made."""
    model_and_speech, _, _ = path.name.rpartition("-")
    for other in path.parent.glob(f"{model_and_speech}-*.calib"):
        if other != path:
            with contextlib.suppress(OSError):
                other.unlink()


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{folder}: the cache cannot be used: {error.strerror or error}",
            hint="name another folder with --cache, or none with --no-cache",
        ) from None


def _line(calibration: Calibration, where: str) -> str:
    audio = calibration.audio
    speech = audio.get("speech")
    heard = f"the {SOURCE} (version {speech})" if speech else ", ".join(map(str, audio.get("data", ())))
    languages = audio.get("languages", {})
    spoken = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in languages.items())
    if len(languages) > 3:
        spoken = f"{audio.get('seconds', 0):.0f} s in {len(languages)} languages"
    return f"calibrated on {heard}: {spoken}; {where}"
