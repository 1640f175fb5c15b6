"""Publish: every file of a model, checked by transcribing with it, measured, and described in a card.

What is made on the way (the calibration, a reference, transcripts) is kept in a folder beside the output, with a key of
what made it, so that the same call again resumes. The output holds what people download and nothing else.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from whisq.calibration import read_calibration
from whisq.calibration.calibration import foreseen_calibration
from whisq.calibration.factors import check_factors
from whisq.calibration.kept import calibration_on
from whisq.calibration.run import CalibrationSettings
from whisq.clips.builtin import builtin_clips
from whisq.clips.datasets import load_clips
from whisq.errors import OutputError, RuntimeUnavailableError
from whisq.evaluation.gate import check_file
from whisq.evaluation.results_json import to_json
from whisq.evaluation.run import EvaluationSettings, evaluate
from whisq.extras import REPORTING, SCORING, require_packages
from whisq.formats import open_model
from whisq.formats.special_tokens import special_tokens
from whisq.hashing import file_sha256
from whisq.network.devices import check_device
from whisq.optimization.steps import Steps
from whisq.progress import Progress, no_progress
from whisq.publishing.card import CARD, Origin, card_of, origin_of
from whisq.publishing.editions import Edition, editions_of
from whisq.publishing.names import model_name
from whisq.quantization.plan import Plan, make_plan
from whisq.quantization.rounding import best_method, parse_method
from whisq.quantization.write import check_output, quantize
from whisq.recipe import Recipe, save_recipe
from whisq.report.page import write_report
from whisq.runtimes.registry import is_readable, runnable_runtimes
from whisq.types import F16
from whisq.units import megabytes
from whisq.version import __version__
from whisq.work import Executor
from whisq.writing import default_cache_folder, write_text

if TYPE_CHECKING:
    from whisq.calibration import Calibration
    from whisq.clips.clip import ClipSet
    from whisq.evaluation.results import Evaluation
    from whisq.formats.layout import ContainerName
    from whisq.model import Model
    from whisq.quantization.method import Method

SUMS, RECIPES, RESULTS, REPORT = "SHA256SUMS", "recipes", "results.json", "report.html"


@dataclass(frozen=True, slots=True)
class PublicationSettings:
    """What is published and how it is described.

    ``name`` is what files are called by, ``license``, ``base_model`` (an id on the hub) and ``languages`` what the card
    says; without them it is what the model and its own card say. ``calibration`` is a file; without it the built-in
    speech calibrates. ``method`` defaults to the best that a calibration allows. ``folder`` is for what is made on the
    way, by default the output's name with ``.publish``; ``executor`` is who works, None for this process.
    """

    containers: tuple[ContainerName, ...] = ("bin",)
    recipes: tuple[str, ...] = ()
    embedding: str | None = None
    method: str | None = None
    calibration: str | Path | None = None
    name: str | None = None
    license: str | None = None
    base_model: str | None = None
    languages: tuple[str, ...] = ()
    limit: int | None = None
    seed: int = 0
    language: str | None = None
    skip_bad: bool = False
    overwrite: bool = False
    threads: int | None = None
    device: str = "cpu"
    inside: int = 20
    cache: Path | None = field(default_factory=default_cache_folder)
    folder: Path | None = None
    executor: Executor | None = None


@dataclass(frozen=True)
class Publication:
    """What came of it; ``plans`` and ``editions`` are in one order.

    ``evaluation`` has the source first, then the editions in their order. ``is_synthetic`` is whether it was measured
    on the speech that comes with whisq, which tells nothing of words. ``reused`` names what an earlier run had made.
    """

    folder: Path
    name: str
    origin: Origin
    editions: tuple[Edition, ...]
    plans: tuple[Plan, ...]
    evaluation: Evaluation
    is_synthetic: bool
    calibration: Calibration | None
    reused: tuple[str, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        """Return the card, the models, and what proves them."""
        recipes = [f"{RECIPES}/{edition.recipe_name}" for edition in self.editions]
        models = [edition.file_name for edition in self.editions]
        return tuple(self.folder / name for name in (CARD, *models, SUMS, *recipes, RESULTS, REPORT))


def publish(
    model: str | Path,
    output: str | Path,
    types: Sequence[str],
    data: str | Path | None = None,
    *,
    settings: PublicationSettings | None = None,
    progress: Progress = no_progress,
    say: Callable[[str], None] = lambda line: None,
) -> Publication:
    """Write a folder with a file for each of ``types``, and what a reader of its page wants to know.

    ``types`` are names of types, and ``mix-NAME`` of presets. ``data`` judges, and calibrates nothing; without it the
    half of the built-in speech that calibrates nothing does. Everything that can be is checked first. Raises
    ``PlanError`` for names and types, ``OutputError``, ``DataError``, ``MissingExtraError``, and
    ``RuntimeUnavailableError`` for a file that a runtime should load and does not.
    """
    require_packages(*SCORING, *REPORTING, purpose="publishing")
    chosen, folder = settings or PublicationSettings(), Path(output)
    check_device(chosen.device)
    given, method = _calibration_and_method(chosen)
    with open_model(model) as opened, ExitStack() as stack:
        name = model_name(opened, chosen.name)
        origin = origin_of(opened, chosen.license, chosen.base_model, chosen.languages)
        editions = editions_of(
            opened, name, types, chosen.containers, recipes=chosen.recipes, embedding=chosen.embedding
        )
        needed = method.needs != "nothing" and given is None
        foreseen = foreseen_calibration(opened) if needed else given
        foreseen_plans = [edition.plan(opened, method, foreseen) for edition in editions]
        clips = _clips(opened, data, chosen, progress)
        steps = _check_outputs(folder, editions, foreseen_plans, chosen)
        calibration = given
        if needed:
            how = CalibrationSettings(
                device=chosen.device, threads=chosen.threads, cache=chosen.cache, executor=chosen.executor
            )
            calibration = stack.enter_context(calibration_on(opened, None, how, say=say, progress=progress))
        plans = [edition.plan(opened, method, calibration) for edition in editions]
        work = _Work(opened, folder, method, calibration, steps, chosen.executor, progress)
        for edition, plan in zip(editions, plans, strict=True):
            work.write(edition, plan)
        evaluation = work.evaluate(editions, clips, chosen)
        found = Publication(
            folder,
            name,
            origin,
            tuple(editions),
            tuple(plans),
            evaluation,
            data is None,
            calibration,
            reused=(),
        )
        work.describe(found)
    return replace(found, reused=tuple(steps.reused))


def _calibration_and_method(chosen: PublicationSettings) -> tuple[Calibration | None, Method]:
    asked = parse_method(chosen.method) if chosen.method else None
    given = None if chosen.calibration is None else check_factors(read_calibration(chosen.calibration))
    if asked is not None:
        return given, asked
    return given, best_method(given) if given is not None else parse_method("feedback")


def _check_outputs(
    folder: Path, editions: Sequence[Edition], plans: Sequence[Plan], chosen: PublicationSettings
) -> Steps:
    """Make the folders, and return the one for what is made on the way.

    Raises ``OutputError`` where they or the files cannot be, where the disk has not room for all, and for files there
    that an earlier run has not made, or that were changed since.
    """
    way = chosen.folder or folder.with_name(f"{folder.name}.publish")
    if not chosen.overwrite:
        _refuse_what_is_not_ours(folder, editions, Steps(way) if way.is_dir() else None)
    try:
        folder.mkdir(exist_ok=True)
        (folder / RECIPES).mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be used: {error.strerror}", hint="name another folder") from None
    for edition, plan in zip(editions, plans, strict=True):
        check_output(plan, folder / edition.file_name)
    models = [folder / edition.file_name for edition in editions]
    missing = [plan.size_bytes for path, plan in zip(models, plans, strict=True) if not path.exists()]
    free = shutil.disk_usage(folder).free
    if free < sum(missing):
        raise OutputError(
            f"{folder}: the disk has {megabytes(free):.0f} MB free, the files need {megabytes(sum(missing)):.0f} MB",
            hint="free some space, or publish fewer types",
        )
    return Steps(way)


def _refuse_what_is_not_ours(folder: Path, editions: Sequence[Edition], steps: Steps | None) -> None:
    models = [folder / edition.file_name for edition in editions]
    beside = [folder / RECIPES / edition.recipe_name for edition in editions]
    beside += [folder / name for name in (CARD, SUMS, RESULTS, REPORT)]
    lost = [path for path in models if path.exists() and not _is_a_model(path)]
    lost += [path for path in beside if path.exists() and not (steps and steps.made(path))]
    if lost:
        names = ", ".join(path.relative_to(folder).as_posix() for path in lost)
        raise OutputError(
            f"{folder}: {names}: not made by `whisq publish`, or changed since, and would be replaced",
            hint="name another folder, or add --overwrite",
        )


def _is_a_model(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(4) in (b"lmgg", b"GGUF")
    except OSError:
        return False


def _clips(model: Model, data: str | Path | None, chosen: PublicationSettings, progress: Progress) -> ClipSet:
    if data is None:
        return builtin_clips("judge", special_tokens(model))
    return load_clips(
        data,
        limit=chosen.limit,
        seed=chosen.seed,
        language=chosen.language,
        skip_bad=chosen.skip_bad,
        on_clip=lambda done, total: progress("checking clips", done, total),
    )


@dataclass(frozen=True, slots=True)
class _Work:
    model: Model
    folder: Path
    method: Method
    calibration: Calibration | None
    steps: Steps
    executor: Executor | None
    progress: Progress

    def write(self, edition: Edition, plan: Plan) -> None:
        """Write a file and its recipe, unless they are there as they would be; raises ``BrokenFileError``."""
        recipe = save_recipe(plan.recipe)
        made_from = {
            "model": self.model.sha256,
            "recipe": recipe,
            "method": plan.method.provenance(plan.calibration),
            "container": edition.container,
        }
        target = self.folder / edition.file_name
        check = partial(check_file, plan, progress=self.progress)
        self.steps.make(target, made_from, lambda: self._write(target, plan, check))
        path = self.folder / RECIPES / edition.recipe_name
        self.steps.make(path, {"recipe": recipe}, lambda: write_text(path, recipe))

    def _write(self, path: Path, plan: Plan, check: Callable[[Path], object] | None = None) -> None:
        done = 0

        def advance(weights: int) -> None:
            nonlocal done
            done += weights
            self.progress(f"writing {path.name}", done, self.model.n_weights)

        quantize(plan, path, progress=advance, check=check, executor=self.executor)

    def evaluate(self, editions: Sequence[Edition], clips: ClipSet, chosen: PublicationSettings) -> Evaluation:
        """Return what every file transcribes; raises ``RuntimeUnavailableError`` for one that does not load."""
        settings = EvaluationSettings(
            seed=chosen.seed,
            threads=chosen.threads,
            device=chosen.device,
            inside=chosen.inside,
            cache=self.steps.folder / "cache",
            executor=chosen.executor,
        )
        files = [self.folder / edition.file_name for edition in editions]
        evaluation = evaluate(self._reference(), files, clips, settings=settings, progress=self.progress)
        failed = [model for model in evaluation.candidates if model.failure]
        if failed:
            named = "; ".join(f"{Path(model.path).name}: {model.failure}" for model in failed)
            loads = ", ".join(runtime.name for runtime in runnable_runtimes())
            raise RuntimeUnavailableError(
                f"not published, since it could not be tried: {named}",
                hint=f"leave its type out of --types, or install what loads it ({loads})",
            )
        return evaluation

    def _reference(self) -> Model | Path:
        """Return the source as a model that a runtime reads."""
        if is_readable(self.model.format):
            return self.model
        path = self.steps.folder / "reference-f16.bin"
        plan = make_plan(self.model, Recipe(F16))
        self.steps.make(path, {"model": self.model.sha256}, partial(self._write, path, plan))
        return path

    def describe(self, found: Publication) -> None:
        """Write what stands beside the files: results, report, hashes, and last the card that names them."""
        evaluation = found.evaluation
        # What says the same is not written, or uploaded, again: times and memory differ with every run.
        heard = [
            (
                model.sha256,
                model.runtime,
                [one.text for one in model.utterances],
                [one.divergences for one in model.inside],
            )
            for model in evaluation.models
        ]
        measured = repr((heard, evaluation.data, evaluation.settings, __version__))
        made_from = {"measured": hashlib.sha256(measured.encode()).hexdigest()}
        results, report = self.folder / RESULTS, self.folder / REPORT
        self.steps.make(results, made_from, lambda: write_text(results, to_json(evaluation)))
        self.steps.make(report, made_from, lambda: write_report(evaluation, report))
        names = [edition.file_name for edition in found.editions]
        sums = "".join(f"{file_sha256(self.folder / name)}  {name}\n" for name in names)
        for name, text in ((SUMS, sums), (CARD, card_of(found))):
            path = self.folder / name
            self.steps.make(path, {"text": text}, partial(write_text, path, text))
