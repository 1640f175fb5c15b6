"""One calibration from several of the same model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from whisq.calibration.calibration import AGAIN, TOTALS, Calibration, Moments
from whisq.calibration.file import write_calibration
from whisq.calibration.outputs import OutputMoment
from whisq.calibration.probes import MOST_PROBES, Probes
from whisq.errors import CalibrationError


def merge(path: Path, parts: Sequence[Calibration]) -> None:
    """Write one calibration from several of the same model: means weighted by the number of vectors of each.

    Raises ``CalibrationError`` when they are of different models or one has no second moments.
    """
    import numpy as np

    from whisq.kernels.feedback import damping_for

    first = parts[0]
    for part in parts:
        if not part.has_second_moments:
            raise CalibrationError(f"{part.path}: holds importance only, which cannot be merged", hint=AGAIN)
        by = "model_fingerprint" if all("model_fingerprint" in one.audio for one in (part, first)) else "model_sha256"
        if part.audio.get(by) != first.audio.get(by):
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
        # What the parts chose, for as many vectors as there are now.
        chosen = [m.damping * m.n_rows / total for m in loaded if m.damping is not None]
        damping = max(sum(chosen) / len(chosen), damping_for(len(matrix), total)) if chosen else None
        return Moments(total, np.diag(matrix).copy(), np.asarray(mean, np.float32), matrix, damping)

    listed = [(name, len(first.moments(name).squares), sum(p.counts[name] for p in parts)) for name in names]
    write_calibration(path, _audio_together(parts), listed, load, _probes_together(parts), _outputs_together(parts))


def _outputs_together(parts: Sequence[Calibration]) -> dict[str, OutputMoment]:
    """Return the outputs that were weighed in all parts, by their windows, with the larger of the dampings."""
    import numpy as np

    shares = [max(1, part.audio.get("windows", 1)) for part in parts]
    found = {}
    for name in sorted(frozenset.intersection(*(part.outputs for part in parts))):
        loaded = [moment for part in parts if (moment := part.load_output(name)) is not None]
        pairs = list(zip(shares, loaded, strict=True))
        total = sum(np.float64(share / sum(shares)) * moment.second_moment for share, moment in pairs)
        found[name] = OutputMoment(np.asarray(total, np.float32), max(moment.damping for moment in loaded))
    return found


def _audio_together(parts: Sequence[Calibration]) -> dict[str, Any]:
    audio = dict(parts[0].audio)
    languages: dict[str, float] = {}
    for part in parts:
        for language, seconds in part.audio.get("languages", {}).items():
            languages[language] = languages.get(language, 0.0) + seconds
    audio["languages"] = languages
    for key in TOTALS:
        audio[key] = sum(part.audio.get(key, 0) for part in parts)
    audio["data"] = [source for part in parts for source in part.audio.get("data", ())]
    return audio


def _probes_together(parts: Sequence[Calibration]) -> Probes | None:
    import numpy as np

    found = [probes for part in parts if (probes := part.load_probes()) is not None]
    if not found:
        return None
    mels = np.concatenate([probes.mels for probes in found])
    languages = tuple(language for probes in found for language in probes.languages)
    chosen = np.unique(np.linspace(0, len(languages) - 1, min(MOST_PROBES, len(languages))).round().astype(int))
    return Probes(mels[chosen], tuple(languages[index] for index in chosen))
