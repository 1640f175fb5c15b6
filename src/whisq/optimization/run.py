"""All of it in one go: calibrate, search, judge, quantize, evaluate, report.

The data is split: what is judged by was not calibrated on. A searched mix is judged beside every file of one type that
the goal allows, and is the answer only where none of them is as good. What each step makes is kept in a folder with a
key of what made it, so that the same call again resumes where it stopped, and another size measures little again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from whisq.calibration import Calibration, read_calibration
from whisq.calibration.factors import check_factors
from whisq.calibration.run import CalibrationSettings, calibrate, clips_for
from whisq.clips.builtin import builtin_clips
from whisq.clips.clip import ClipSet
from whisq.clips.datasets import load_clips, parse_language
from whisq.clips.split import split_clips
from whisq.errors import RuntimeUnavailableError
from whisq.evaluation.coverage import lines_of_clips
from whisq.evaluation.gate import Checked, check_file
from whisq.evaluation.model_files import choose_runtimes, describe
from whisq.evaluation.results import Evaluation
from whisq.evaluation.results_json import to_json
from whisq.evaluation.run import EvaluationSettings, evaluate
from whisq.evaluation.which_file import LOSS_NATS, WhichFile
from whisq.extras import REPORTING, SCORING, install_hint, missing_packages
from whisq.formats import open_model
from whisq.formats.layout import CONTAINERS, ContainerName
from whisq.formats.special_tokens import special_tokens
from whisq.model import Model
from whisq.network.devices import check_device
from whisq.optimization.choices import Choices, ladder_for
from whisq.optimization.outline import stages_of
from whisq.optimization.steps import Steps
from whisq.progress import Expect, Progress, expect_nothing, no_progress
from whisq.provenance import provenance_of
from whisq.quantization.method import GGML, Method
from whisq.quantization.plan import Plan, make_plan
from whisq.quantization.rounding import FEEDBACK
from whisq.quantization.write import check_output, quantize
from whisq.recipe import Recipe, load_recipe, save_recipe
from whisq.report.page import write_report
from whisq.runtimes.registry import installed_runtimes, is_readable, parse_runtime
from whisq.search.goal import Goal
from whisq.search.measure import SearchSettings
from whisq.search.reach import refuse_out_of_reach
from whisq.search.run import measure_space, solve
from whisq.search.sensitivity import read_sensitivity, write_sensitivity
from whisq.search.uniform import Candidate, Ladder, which_file_of
from whisq.types import F16, TensorType
from whisq.work import Executor
from whisq.writing import write_text


@dataclass(frozen=True, slots=True)
class OptimizationSettings:
    """What the file may consist of, and how it is measured.

    ``embedding`` is the token embedding's one type; without it it may be q8_0 in a mix, and has that of all others in a
    file of one type. ``inside`` is the number of clips that files are judged by; ``folder`` is where what is made on
    the way is kept, by default ``best.optimize`` for ``best.bin``; ``executor`` is who calibrates,
    searches, rounds and evaluates, None for this process.
    """

    types: tuple[str, ...] = ()
    target: str = "transcribe.cpp"
    protect: tuple[str, ...] = ()
    unprotect: tuple[str, ...] = ()
    embedding: str | None = None
    probes: int = 8
    limit: int | None = None
    seed: int = 0
    language: str | None = None
    skip_bad: bool = False
    inside: int = 20
    device: str = "cpu"
    folder: Path | None = None
    executor: Executor | None = None

    def choices(self, model: Model, container: ContainerName) -> Choices:
        """Return what these settings let a model become; raises ``PlanError``, ``TypeNameError``."""
        return Choices.of(
            model,
            container,
            target=self.target,
            types=self.types,
            protect=self.protect,
            unprotect=self.unprotect,
            embedding=self.embedding,
        )


@dataclass(frozen=True)
class Optimized:
    """What came of it: the file, all that was judged, and with what.

    ``plan`` is what was written. ``evaluation`` has the source first, then the result, then ggml's files of one type
    beside it; it is None where ``left_out`` says why. ``judged`` are the clips that calibrated nothing, and ``audio``
    says what these tell nothing about: other languages, long recordings. ``reused``
    names the files that an earlier run had made already; ``checked`` says what the result does in a runtime, None where
    an earlier run has made and checked it.
    """

    output: Path
    folder: Path
    calibration: Calibration
    plan: Plan
    ladder: Ladder
    judged: ClipSet
    audio: tuple[str, ...]
    evaluation: Evaluation | None
    left_out: str
    checked: Checked | None
    reused: tuple[str, ...]

    @property
    def which_file(self) -> WhichFile:
        """All that was judged, in order of size and divergence; no words were compared there."""
        return which_file_of(self.ladder)

    @property
    def recipe(self) -> Recipe:
        """The recipe of what was written."""
        return self.plan.recipe


def optimize(
    model: str | Path,
    output: str | Path,
    data: str | Path | None = None,
    *,
    size_bytes: int | None = None,
    bits: float | None = None,
    divergence: float | None = None,
    settings: OptimizationSettings | None = None,
    progress: Progress = no_progress,
    expect: Expect = expect_nothing,
) -> Optimized:
    """Write the best file for a size, for bits per weight, or for a divergence, judged on held-out clips.

    Without ``data`` the built-in speech is calibrated on, and its other half judges. For a target that loads no mixes
    it is the best file of one type; else a searched mix, unless a file of one type is as good. Everything that can be
    is checked first. ``expect`` is told the stages to come. Raises ``PlanError`` for a goal that no file reaches,
    ``OutputError``, ``DataError``, ``MissingExtraError``.
    """
    chosen = settings or OptimizationSettings()
    target = Path(output)
    container = parse_runtime(chosen.target).container_for(target)
    goal = Goal(size_bytes, bits, divergence, container)
    check_device(chosen.device)
    asked = parse_language(chosen.language) if chosen.language else None
    with open_model(model) as opened:
        choices = chosen.choices(opened, goal.container)
        refuse_out_of_reach(goal, choices.sizes(), opened)
        check_output(choices.smallest(), target)
        folder = chosen.folder or target.with_name(f"{target.stem}.optimize")
        learnt, judged = _clips(opened, data, chosen, progress)
        left_out = _why_no_transcripts(opened, data)
        expect(stages_of(choices, judged.clips, chosen.inside, target.name, evaluates=not left_out))
        steps = Steps(folder)
        work = _Work(opened, target, goal, choices, chosen, steps, progress)
        calibration = work.calibrate(learnt)
        mixes = [work.search(calibration)] if choices.space is not None else []
        ladder = ladder_for(
            choices,
            goal,
            calibration,
            judged,
            mixes=mixes,
            most_clips=chosen.inside,
            device=chosen.device,
            seed=chosen.seed,
            cache=folder / "cache",
            progress=progress,
        )
        plan = ladder.chosen.candidate.plan
        checked = work.write(plan)
        evaluation = None if left_out else work.evaluate(plan, judged)
        n_languages = len(special_tokens(opened).languages) or 1
        audio = lines_of_clips(judged, n_languages, asked=asked, heard=ladder.languages)
    reused = tuple(steps.reused)
    return Optimized(
        target, folder, calibration, plan, ladder, judged, tuple(audio), evaluation, left_out, checked, reused
    )


def _clips(
    model: Model, data: str | Path | None, chosen: OptimizationSettings, progress: Progress
) -> tuple[ClipSet, ClipSet]:
    """Return the clips to calibrate on, and those to judge by."""
    if data is None:
        learnt = clips_for(model, None, CalibrationSettings(), progress)
        return learnt, builtin_clips("judge", special_tokens(model))
    clips = load_clips(
        data,
        limit=chosen.limit,
        seed=chosen.seed,
        language=chosen.language,
        skip_bad=chosen.skip_bad,
        on_clip=lambda done, total: progress("checking clips", done, total),
    )
    return split_clips(clips, seed=chosen.seed)


def _why_no_transcripts(model: Model, data: str | Path | None) -> str:
    """Return why the files' words are not compared, empty where they can be."""
    if data is None:
        return "synthetic speech gives no verdict on them"
    missing = missing_packages(*SCORING, *REPORTING)
    if missing:
        return f"transcripts and report need {', '.join(missing)}: not installed ({install_hint('evaluate')})"
    if is_readable(model.format):
        try:
            choose_runtimes([describe(model, model.path.name)])
        except RuntimeUnavailableError as error:
            return f"transcripts and report: {error}"
    elif not installed_runtimes():
        return f"transcripts and report need a runtime: none is installed ({install_hint('evaluate')})"
    return ""


@dataclass(frozen=True, slots=True)
class _Work:
    model: Model
    target: Path
    goal: Goal
    choices: Choices
    settings: OptimizationSettings
    steps: Steps
    progress: Progress

    def _file(self, name: str) -> Path:
        return self.steps.folder / name

    def calibrate(self, clips: ClipSet) -> Calibration:
        path = self._file("model.calib")
        settings = CalibrationSettings(
            seed=self.settings.seed,
            device=self.settings.device,
            cache=self._file("cache"),
            executor=self.settings.executor,
        )
        self.steps.make(
            path,
            {"model": self.model.sha256, "clips": clips.sha256, "seed": settings.seed, "device": settings.device},
            lambda: calibrate(self.model, clips, path, settings=settings, progress=self.progress),
        )
        return check_factors(read_calibration(path))

    def search(self, calibration: Calibration) -> Candidate:
        """Return the searched mix; it is kept as mix.toml."""
        path, measured, space = self._file("mix.toml"), self._file("sensitivity.json"), self.choices.space
        if space is None:
            raise ValueError("there are no mixes to search")
        settings = SearchSettings(
            FEEDBACK,
            self.settings.probes,
            self.settings.seed,
            self.settings.device,
            cache=self._file("cache"),
            executor=self.settings.executor,
        )

        def measure() -> None:
            found, _ = measure_space(self.model, calibration, space, settings=settings, progress=self.progress)
            write_sensitivity(measured, found)

        def save() -> None:
            found = solve(self.model, calibration, self.goal, space, read_sensitivity(measured))
            write_text(path, save_recipe(found.recipe))

        types = {name: [kind.name for kind in kinds] for name, kinds in space.types.items()}
        how = {"probes": settings.probes, "seed": settings.seed, "device": settings.device}
        self.steps.make(measured, {"calibration": self.steps.key("model.calib"), "types": types, **how}, measure)
        wanted = [self.goal.size_bytes, self.goal.bits, self.goal.divergence]
        made_from = {"measured": self.steps.key("sensitivity.json"), "goal": wanted, "as": self.goal.container}
        self.steps.make(path, made_from, save)
        plan = self._plan(self.target, load_recipe(str(path)), FEEDBACK, calibration)
        return Candidate("searched mix", plan, is_uniform=False)

    def write(self, plan: Plan) -> Checked | None:
        """Write the file of a plan, and its recipe; returns how it was checked, None where it was there already."""
        recipe = save_recipe(plan.recipe)
        self.steps.make(
            self._file("recipe.toml"), {"recipe": recipe}, lambda: write_text(self._file("recipe.toml"), recipe)
        )
        rounding = {"method": plan.method.name, "calibration": self.steps.key("model.calib")}
        made_from = {"model": self.model.sha256, "recipe": recipe, **({} if plan.method.is_plain else rounding)}
        found: list[Checked] = []

        def check(path: Path) -> None:
            found.append(check_file(plan, path, target=self.settings.target, progress=self.progress))

        self.steps.make(self.target, made_from, lambda: self._write(self.target, plan, check))
        return found[0] if found else None

    def _plan(self, path: Path, recipe: Recipe, method: Method, calibration: Calibration | None) -> Plan:
        container = parse_runtime(self.settings.target).container_for(path)
        has_room = CONTAINERS[container].has_provenance
        provenance = provenance_of(self.model, recipe, method, calibration) if has_room else None
        return make_plan(
            self.model, recipe, container=container, provenance=provenance, calibration=calibration, method=method
        )

    def _write(self, path: Path, plan: Plan, check: Callable[[Path], object] | None = None) -> None:
        done = 0

        def advance(weights: int) -> None:
            nonlocal done
            done += weights
            self.progress(f"writing {path.name}", done, self.model.n_weights)

        quantize(plan, path, progress=advance, check=check, executor=self.settings.executor)

    def evaluate(self, made: Plan, clips: ClipSet) -> Evaluation:
        """Return the transcripts of the source, the file made, and files of one type beside it, with a report."""
        candidates = [self.target]
        for kind, plan in self._beside(made):
            path = self._file(f"uniform-{kind}{self.target.suffix}")
            made_from = {"model": self.model.sha256, "recipe": save_recipe(plan.recipe)}
            self.steps.make(path, made_from, partial(self._write, path, plan))
            candidates.append(path)
        settings = EvaluationSettings(
            seed=self.settings.seed,
            language=self.settings.language,
            inside=self.settings.inside,
            device=self.settings.device,
            cache=self._file("cache"),
            loss_nats=self.goal.divergence or LOSS_NATS,
            executor=self.settings.executor,
        )
        evaluation = evaluate(self._reference(), candidates, clips, settings=settings, progress=self.progress)
        # The first candidate is what all this was for.
        stated = {**evaluation.settings, "made": evaluation.models[1].label}
        evaluation = replace(evaluation, settings=stated)
        write_text(self._file("results.json"), to_json(evaluation))
        curve = () if self.choices.space is None else read_sensitivity(self._file("sensitivity.json")).curve
        write_report(evaluation, self._file("report.html"), curve)
        return evaluation

    def _reference(self) -> Model | Path:
        """Return the source as a model that a runtime reads."""
        if is_readable(self.model.format):
            return self.model
        path = self._file("reference-f16.bin")
        plan = self._plan(path, Recipe(F16), GGML, None)
        self.steps.make(path, {"model": self.model.sha256}, partial(self._write, path, plan))
        return path

    def _beside(self, made: Plan) -> list[tuple[TensorType, Plan]]:
        """Return ggml's files of one type that are the next smaller and the next larger than what was made."""
        plans = {c.plan.recipe.default: c.plan for c in self.choices.candidates(None)}
        others = {
            kind: plan for kind, plan in plans.items() if plan.outputs != made.outputs or not made.method.is_plain
        }
        order = sorted(others.items(), key=lambda pair: pair[1].size_bytes)
        smaller = [pair for pair in order if pair[1].size_bytes <= made.size_bytes]
        larger = [pair for pair in order if pair[1].size_bytes > made.size_bytes]
        return [*smaller[-1:], *larger[:1]]
