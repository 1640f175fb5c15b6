"""What an evaluation found: frozen, with counts per utterance, from which every rate is derived."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from whisq.clips.clip import Problem
from whisq.compare import decibels, relative_error
from whisq.errors import MissingExtraError
from whisq.evaluation.long_form import LongForm
from whisq.evaluation.scoring import Edits
from whisq.evaluation.speed import Speed, Timing, compare_speeds, median_pace, real_time_factor
from whisq.evaluation.statistics import Difference, Interval, paired_difference, rate
from whisq.evaluation.which_file import LOSS_NATS, MeasuredFile, WhichFile, which_file
from whisq.runtimes.registry import RUNTIMES

if TYPE_CHECKING:
    import pandas

FORWARD_PASS = "whisq's forward pass"
"""What results call the place where divergence is measured when it is no runtime."""


@dataclass(frozen=True, slots=True)
class ClipRecord:
    """An utterance as it was measured."""

    id: str
    text: str
    language: str | None
    duration_s: float
    sha256: str


@dataclass(frozen=True, slots=True)
class DataRecord:
    """The data: where it came from, the utterances measured, and what of it could not be used."""

    source: str
    kind: str
    sha256: str
    clips: tuple[ClipRecord, ...]
    problems: tuple[Problem, ...]

    @property
    def duration_s(self) -> float:
        """Seconds of audio together."""
        return sum(clip.duration_s for clip in self.clips)


@dataclass(frozen=True, slots=True)
class Utterance:
    """What a model wrote for one clip. ``remark`` is set where the runtime stopped early or failed.

    ``timing`` is None in results of whisq 0.1, and with ``seconds`` where others worked beside it on its machine.
    ``changes`` are the edits against what the reference wrote, right or wrong; None for itself and in older results.
    """

    text: str
    seconds: float | None
    edits: Edits
    remark: str = ""
    timing: Timing | None = None
    changes: Edits | None = None


@dataclass(frozen=True, slots=True)
class InsideUtterance:
    """Teacher-forced against the reference on one clip: a divergence in nats for each token.

    ``same_top`` counts tokens on which both would have written the same; ``encoder_error`` and
    ``encoder_power`` are sums of squares over the encoder's output where there is audio, 0 where it is not told.

    Where the reference writes timestamps too, which runtimes do by themselves, ``timestamp_divergences`` are those at
    its timestamps, and ``shifts_s`` how many seconds the candidate's likeliest timestamp is from each of them.
    ``heard`` is the language that the reference hears, empty for an English-only one and in older results.
    """

    clip: str
    divergences: tuple[float, ...]
    same_top: int
    encoder_error: float
    encoder_power: float
    timestamp_divergences: tuple[float, ...] = ()
    shifts_s: tuple[float, ...] = ()
    heard: str = ""


def inside_utterance(fields: dict[str, Any]) -> InsideUtterance:
    """Return an utterance of JSON's types; raises ``TypeError`` for fields that it does not have."""
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
    }
    return InsideUtterance(**values)


@dataclass(frozen=True, slots=True)
class TensorError:
    """One tensor of a candidate against the reference's, as ``whisq.compare`` finds it.

    ``signal`` and ``noise`` are sums of squares of the reference's weights and of the differences, without the
    ``n_not_finite`` places where only one of the two is a finite number.
    """

    name: str
    stack: str
    layer: int | None
    role: str
    type: str
    reference_type: str
    n_weights: int
    size_bytes: int
    signal: float
    noise: float
    n_not_finite: int = 0

    @property
    def relative_error(self) -> float:
        """Norm of the difference over the norm of the reference's."""
        return relative_error(self.signal, self.noise, self.n_not_finite)

    @property
    def snr_db(self) -> float:
        """Signal-to-noise ratio in dB."""
        return decibels(self.relative_error)


@dataclass(frozen=True, slots=True)
class ModelResult:
    """All that was measured of one model. ``failure`` says why there are no ``utterances``.

    ``inside`` is measured in one way for all models of an evaluation, which ``inside_in`` names: in a runtime, or in
    whisq's forward pass. ``beside`` is what a runtime says where it could not measure all of them, and ``beside_in``
    its name. ``inside_failure`` says why one of the two is missing. ``long_form`` is what it made of one recording of
    minutes.

    ``loads_in`` names the runtimes that load the file, by what they are known to load, and is None in older results.
    ``n_languages`` is how many it knows, 0 in older results.
    """

    label: str
    path: str
    container: str
    sha256: str
    size_bytes: int
    n_weights: int
    types: dict[str, int]
    runtime: str | None
    runtime_version: str | None
    failure: str
    load_s: float | None
    peak_bytes: int | None
    baseline_bytes: int | None
    utterances: tuple[Utterance, ...]
    inside: tuple[InsideUtterance, ...] = ()
    tensors: tuple[TensorError, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)
    inside_in: str = ""
    beside: tuple[InsideUtterance, ...] = ()
    beside_in: str = ""
    inside_failure: str = ""
    loads_in: tuple[str, ...] | None = None
    n_languages: int = 0
    long_form: LongForm | None = None

    @property
    def is_uniform(self) -> bool:
        """Whether all matrices have one type, the token embedding included."""
        return len(self.types) == 1

    @property
    def bits_per_weight(self) -> float:
        """Bits of the whole file per weight."""
        return 8 * self.size_bytes / self.n_weights

    def total(self, count: str) -> int:
        """Return the sum of one of the counts of ``Edits`` over all utterances."""
        return sum(int(getattr(utterance.edits, count)) for utterance in self.utterances)


@dataclass(frozen=True, slots=True)
class Summary:
    """The derived figures of one model: what the table and the report show.

    ``difference`` and ``character_difference`` are against the reference, None for itself. The rates of
    substitutions, deletions, insertions and runaway repetition add up to the word error rate. ``changed`` is the share
    of the words that the reference wrote, right or wrong, that this model writes otherwise. Divergences
    are in nats; ``same_top`` and ``encoder_error`` are fractions; all None where they were not measured. ``pace`` is
    the median of seconds of work for a second of audio; ``speed`` whether a candidate is faster than the reference.
    """

    label: str
    word_error_rate: Interval
    character_error_rate: Interval
    substitutions: float
    deletions: float
    insertions: float
    runaway: float
    exact_match: float
    difference: Difference | None
    character_difference: Difference | None
    real_time_factor: float
    divergence: Interval | None = None
    divergence_p99: float | None = None
    same_top: float | None = None
    encoder_error: float | None = None
    pace: Interval | None = None
    speed: Speed | None = None
    beside_divergence: Interval | None = None
    timestamp_divergence: Interval | None = None
    timestamp_shift_s: float | None = None
    changed: Interval | None = None


@dataclass(frozen=True)
class Evaluation:
    """A reference and candidates measured on the same clips; ``models[0]`` is the reference."""

    data: DataRecord
    models: tuple[ModelResult, ...]
    settings: dict[str, Any]
    provenance: dict[str, Any]

    @property
    def reference(self) -> ModelResult:
        """The model that the others are compared with."""
        return self.models[0]

    @property
    def candidates(self) -> tuple[ModelResult, ...]:
        """All models but the reference."""
        return self.models[1:]

    @property
    def seed(self) -> int:
        """The seed of the sample and of the bootstrap."""
        return int(self.settings.get("seed", 0))

    @property
    def made(self) -> str | None:
        """The label of the file that was made for this comparison, None where all were given."""
        found = self.settings.get("made")
        return str(found) if found is not None else None

    @property
    def loss_nats(self) -> float:
        """The divergence per token that was said to be good enough."""
        return float(self.settings.get("loss_nats", LOSS_NATS))

    def divergence_difference(self, index: int, other: int) -> Difference | None:
        """Return the divergence of one model less another's, in nats per token, over the clips measured inside both.

        What a model does counts, not how near its weights are: a smaller error of weights can diverge more.
        """
        mine, theirs = self.models[index].inside, self.models[other].inside
        if not mine or [one.clip for one in mine] != [one.clip for one in theirs]:
            return None
        first, second = ([sum(one.divergences) for one in inside] for inside in (mine, theirs))
        return paired_difference(first, second, [len(one.divergences) for one in mine], seed=self.seed)

    @cached_property
    def summaries(self) -> tuple[Summary | None, ...]:
        """One for each model in order; None for one that did not run."""
        return tuple(self._summary(model) if model.utterances else None for model in self.models)

    @cached_property
    def which_file(self) -> WhichFile:
        """The files in order of size and divergence, and the smallest that are good enough."""
        files = []
        for model, summary in zip(self.models, self.summaries, strict=True):
            files.append(
                MeasuredFile(
                    name=model.label,
                    size_bytes=model.size_bytes,
                    loads_in=None if model.loads_in is None else frozenset(model.loads_in),
                    sums=tuple(sum(one.divergences) for one in model.inside),
                    tokens=tuple(len(one.divergences) for one in model.inside),
                    words=summary.difference if summary else None,
                    changed=summary.changed if summary else None,
                    is_reference=model is self.reference,
                    is_uniform=model.is_uniform,
                    failure=model.failure,
                )
            )
        names = [runtime.name for runtime in RUNTIMES]
        return which_file(files, names, loss_nats=self.loss_nats, seed=self.seed)

    def _summary(self, model: ModelResult) -> Summary:
        words = [u.edits.words for u in model.utterances]
        characters = [u.edits.characters for u in model.utterances]
        word_edits = [u.edits.word_edits for u in model.utterances]
        character_edits = [u.edits.character_edits for u in model.utterances]
        difference = character_difference = None
        if model is not self.reference:
            theirs = [u.edits for u in self.reference.utterances]
            difference = paired_difference(word_edits, [e.word_edits for e in theirs], words, seed=self.seed)
            character_difference = paired_difference(
                character_edits, [e.character_edits for e in theirs], characters, seed=self.seed
            )
        pairs = zip(model.utterances, self.reference.utterances, strict=True)
        same = sum(mine.text == theirs.text for mine, theirs in pairs)
        n_words, durations_s = max(1, sum(words)), [clip.duration_s for clip in self.data.clips]
        timings, theirs_took = ([u.timing for u in one.utterances] for one in (model, self.reference))
        return Summary(
            label=model.label,
            word_error_rate=rate(word_edits, words, seed=self.seed),
            character_error_rate=rate(character_edits, characters, seed=self.seed),
            substitutions=model.total("substitutions") / n_words,
            deletions=model.total("deletions") / n_words,
            insertions=model.total("insertions") / n_words,
            runaway=model.total("runaway") / n_words,
            exact_match=same / len(model.utterances),
            difference=difference,
            character_difference=character_difference,
            real_time_factor=real_time_factor([u.seconds for u in model.utterances], durations_s),
            pace=median_pace(timings, durations_s, self.seed),
            speed=None if model is self.reference else compare_speeds(timings, theirs_took, self.seed),
            changed=_changed(model, self.seed),
            **_inside_figures(model, self.seed),
        )

    def to_dataframe(self) -> pandas.DataFrame:
        """Return one row for each model and utterance.

        Raises ``MissingExtraError`` without pandas, which whisq does not ask for.
        """
        try:
            import pandas
        except ImportError:
            raise MissingExtraError("to_dataframe needs pandas: not installed", hint="pip install pandas") from None
        rows = [
            {
                "model": model.label,
                "clip": clip.id,
                "language": clip.language,
                "duration_s": clip.duration_s,
                "said": clip.text,
                "written": utterance.text,
                "seconds": utterance.seconds,
                "remark": utterance.remark,
                "word_edits": utterance.edits.word_edits,
                **{name: getattr(utterance.edits, name) for name in Edits.__slots__},
            }
            for model in self.models
            for clip, utterance in zip(self.data.clips, model.utterances, strict=False)
        ]
        return pandas.DataFrame(rows)


def _changed(model: ModelResult, seed: int) -> Interval | None:
    found = [utterance.changes for utterance in model.utterances if utterance.changes is not None]
    if not found or len(found) < len(model.utterances):
        return None
    return rate([one.word_edits for one in found], [one.words for one in found], seed=seed)


def _inside_figures(model: ModelResult, seed: int) -> dict[str, Any]:
    if not model.inside:
        return {}
    import numpy as np

    inside = model.inside
    tokens = sum(len(one.divergences) for one in inside)
    pooled = np.concatenate([np.asarray(one.divergences, dtype=np.float64) for one in inside])
    power = sum(one.encoder_power for one in inside)
    # Timestamps are a runtime's to tell: of both ways, the one that has them.
    timed = [one for one in (*inside, *model.beside) if one.shifts_s]
    shifts = [shift for one in timed for shift in one.shifts_s]
    return {
        "divergence": _mean([one.divergences for one in inside], seed),
        "divergence_p99": float(np.percentile(pooled, 99)),
        "same_top": sum(one.same_top for one in inside) / tokens,
        "encoder_error": math.sqrt(sum(one.encoder_error for one in inside) / power) if power else None,
        "beside_divergence": _mean([one.divergences for one in model.beside], seed),
        "timestamp_divergence": _mean([one.timestamp_divergences for one in timed], seed),
        "timestamp_shift_s": sum(shifts) / len(shifts) if shifts else None,
    }


def _mean(per_clip: list[tuple[float, ...]], seed: int) -> Interval | None:
    """Return the mean of all values, resampled by clip; None without any."""
    if not per_clip:
        return None
    return rate([sum(values) for values in per_clip], [len(values) for values in per_clip], seed=seed)


def count_types(types: list[str]) -> dict[str, int]:
    """Return how many matrices there are of each type, the most frequent first."""
    return dict(Counter(types).most_common())
