"""All of it in one go: calibrate, search, quantize, evaluate, report.

The data is split: what is judged by was not calibrated on. What each step makes is kept in a folder with a key of what
made it, so that the same call again resumes where it stopped, and another size measures nothing again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from whisq.calibration import Calibration, read_calibration
from whisq.calibration.factors import check_factors
from whisq.calibration.run import CalibrationSettings, calibrate
from whisq.clips.clip import ClipSet
from whisq.clips.datasets import load_clips
from whisq.clips.split import split_clips
from whisq.errors import PlanError
from whisq.evaluation.model_files import choose_runtimes, describe
from whisq.evaluation.results import Evaluation
from whisq.evaluation.results_json import to_json
from whisq.evaluation.run import EvaluationSettings, evaluate
from whisq.extras import REPORTING, SCORING, require_packages
from whisq.formats import container_of, open_model
from whisq.model import Model
from whisq.network.devices import check_device
from whisq.optimization.steps import Steps
from whisq.progress import Progress, no_progress
from whisq.provenance import provenance_of
from whisq.quantization.method import GGML, Method
from whisq.quantization.plan import Plan, make_plan
from whisq.quantization.rounding import FEEDBACK
from whisq.quantization.write import check_output, quantize
from whisq.recipe import Recipe, Rule, load_recipe, save_recipe
from whisq.report.page import write_report
from whisq.runtimes.registry import is_readable
from whisq.search.goal import Goal, Space
from whisq.search.measure import SearchSettings
from whisq.search.run import measure_space, solve
from whisq.search.sensitivity import read_sensitivity, write_sensitivity
from whisq.types import F16, TensorType
from whisq.writing import write_text


@dataclass(frozen=True, slots=True)
class OptimizationSettings:
    """What the mix may consist of, and how it is measured.

    ``inside`` is the number of clips for the divergence of the files; ``folder`` is where what is made on the way is
    kept, by default OUTPUT's name with ``.optimize``.
    """

    types: tuple[str, ...] = ()
    target: str = "transcribe.cpp"
    protect: tuple[str, ...] = ()
    unprotect: tuple[str, ...] = ()
    probes: int = 8
    limit: int | None = None
    seed: int = 0
    language: str | None = None
    skip_bad: bool = False
    inside: int = 20
    device: str = "cpu"
    folder: Path | None = None


@dataclass(frozen=True)
class Optimized:
    """What came of it. ``evaluation`` has the source first, then the result, then ggml's uniform files beside it.

    ``reused`` names the files that an earlier run had made already.
    """

    output: Path
    folder: Path
    calibration: Calibration
    recipe: Recipe
    evaluation: Evaluation
    reused: tuple[str, ...]


def optimize(
    model: str | Path,
    output: str | Path,
    data: str | Path,
    *,
    size_bytes: int | None = None,
    bits: float | None = None,
    divergence: float | None = None,
    settings: OptimizationSettings | None = None,
    progress: Progress = no_progress,
) -> Optimized:
    """Write the best mix for a size, for bits per weight, or for a divergence, and measure it on held-out clips.

    Everything that can be is checked first. Raises ``PlanError`` for a goal that no mix reaches, ``OutputError``,
    ``DataError``, ``MissingExtraError``.
    """
    chosen = settings or OptimizationSettings()
    target = Path(output)
    goal = Goal(size_bytes, bits, divergence, container_of(target))
    check_device(chosen.device)
    require_packages(*SCORING, *REPORTING, purpose="optimizing")
    with open_model(model) as opened:
        space = Space.of(opened, chosen.types, chosen.target, chosen.protect, chosen.unprotect)
        _refuse_unreachable(opened, target, goal, space)
        if is_readable(opened.format):
            choose_runtimes([describe(opened, opened.path.name)])
        folder = chosen.folder or target.with_name(f"{target.stem}.optimize")
        steps = Steps(folder)
        clips = load_clips(
            data,
            limit=chosen.limit,
            seed=chosen.seed,
            language=chosen.language,
            skip_bad=chosen.skip_bad,
            on_clip=lambda done, total: progress("checking clips", done, total),
        )
        learnt, judged = split_clips(clips, seed=chosen.seed)
        work = _Work(opened, target, goal, space, chosen, steps, progress)
        calibration = work.calibrate(learnt)
        recipe = work.search(calibration)
        work.quantize(calibration, recipe)
        evaluation = work.evaluate(judged)
    return Optimized(target, folder, calibration, recipe, evaluation, tuple(steps.reused))


def _refuse_unreachable(model: Model, target: Path, goal: Goal, space: Space) -> None:
    if not space.tensors:
        raise PlanError("no matrix takes part: all are protected", hint="leave out --protect, or --unprotect some")
    rules = tuple(Rule(re.escape(name), kind) for name, kind in space.smallest().items())
    plan = make_plan(model, Recipe(F16, rules, space.protect, space.unprotect), container=goal.container)
    check_output(plan, target)
    if goal.size_bytes is not None and plan.size_bytes > goal.size_bytes:
        raise PlanError(
            f"the smallest mix is a file of {plan.size_bytes} bytes, {goal.size_bytes} were asked for",
            hint="raise the size, allow smaller types (--types), or let the embedding take part (--unprotect)",
        )
    if goal.bits is not None and plan.bits_per_weight > goal.bits:
        raise PlanError(
            f"the smallest mix has {plan.bits_per_weight:.2f} bits per weight, {goal.bits} were asked for",
            hint="raise the bits, allow smaller types (--types), or let the embedding take part (--unprotect)",
        )


@dataclass(frozen=True, slots=True)
class _Work:
    model: Model
    target: Path
    goal: Goal
    space: Space
    settings: OptimizationSettings
    steps: Steps
    progress: Progress

    def _file(self, name: str) -> Path:
        return self.steps.folder / name

    def calibrate(self, clips: ClipSet) -> Calibration:
        path = self._file("model.calib")
        settings = CalibrationSettings(seed=self.settings.seed, device=self.settings.device, cache=self._file("cache"))
        self.steps.make(
            path,
            {"model": self.model.sha256, "clips": clips.sha256},
            lambda: calibrate(self.model, clips, path, settings=settings, progress=self.progress),
        )
        return check_factors(read_calibration(path))

    def search(self, calibration: Calibration) -> Recipe:
        path, measured = self._file("recipe.toml"), self._file("sensitivity.json")
        settings = SearchSettings(FEEDBACK, self.settings.probes, self.settings.seed, self.settings.device)

        def measure() -> None:
            found, _ = measure_space(self.model, calibration, self.space, settings=settings, progress=self.progress)
            write_sensitivity(measured, found)

        def save() -> None:
            found = solve(self.model, calibration, self.goal, self.space, read_sensitivity(measured))
            write_text(path, save_recipe(found.recipe))

        types = {name: [kind.name for kind in kinds] for name, kinds in self.space.types.items()}
        how = {"probes": settings.probes, "seed": settings.seed}
        self.steps.make(measured, {"calibration": self.steps.key("model.calib"), "types": types, **how}, measure)
        wanted = [self.goal.size_bytes, self.goal.bits, self.goal.divergence]
        made_from = {"measured": self.steps.key("sensitivity.json"), "goal": wanted, "as": self.goal.container}
        self.steps.make(path, made_from, save)
        return load_recipe(str(path))

    def quantize(self, calibration: Calibration, recipe: Recipe) -> None:
        made_from = {"recipe": save_recipe(recipe), "calibration": self.steps.key("model.calib")}
        self.steps.make(self.target, made_from, partial(self._write, self.target, recipe, FEEDBACK, calibration))

    def _plan(self, path: Path, recipe: Recipe, method: Method, calibration: Calibration | None) -> Plan:
        container = container_of(path)
        provenance = provenance_of(self.model, recipe, method, calibration) if container == "gguf" else None
        return make_plan(
            self.model, recipe, container=container, provenance=provenance, calibration=calibration, method=method
        )

    def _write(self, path: Path, recipe: Recipe, method: Method, calibration: Calibration | None = None) -> None:
        plan = self._plan(path, recipe, method, calibration)
        done = 0

        def advance(weights: int) -> None:
            nonlocal done
            done += weights
            self.progress(f"writing {path.name}", done, self.model.n_weights)

        quantize(plan, path, progress=advance)

    def evaluate(self, clips: ClipSet) -> Evaluation:
        candidates = [self.target]
        for kind in self._beside():
            path = self._file(f"uniform-{kind}{self.target.suffix}")
            recipe = self._uniform(kind)
            made_from = {"model": self.model.sha256, "recipe": save_recipe(recipe)}
            self.steps.make(path, made_from, partial(self._write, path, recipe, GGML))
            candidates.append(path)
        settings = EvaluationSettings(
            seed=self.settings.seed,
            inside=self.settings.inside,
            device=self.settings.device,
            cache=self._file("cache"),
        )
        evaluation = evaluate(self._reference(), candidates, clips, settings=settings, progress=self.progress)
        write_text(self._file("results.json"), to_json(evaluation))
        curve = read_sensitivity(self._file("sensitivity.json")).curve
        write_report(evaluation, self._file("report.html"), curve)
        return evaluation

    def _reference(self) -> Model | Path:
        """Return the source as a model that a runtime reads."""
        if is_readable(self.model.format):
            return self.model
        path = self._file("reference-f16.bin")
        self.steps.make(path, {"model": self.model.sha256}, partial(self._write, path, Recipe(F16), GGML))
        return path

    def _beside(self) -> list[TensorType]:
        """Return the uniform types whose files are the next smaller and the next larger than the result."""
        size = self.target.stat().st_size
        sizes = {kind: self._uniform_size(kind) for kind in self._common()}
        smaller = [kind for kind in sizes if sizes[kind] <= size]
        larger = [kind for kind in sizes if sizes[kind] > size]
        return [*sorted(smaller, key=lambda k: sizes[k])[-1:], *sorted(larger, key=lambda k: sizes[k])[:1]]

    def _common(self) -> list[TensorType]:
        """Return the block types that every matrix may take."""
        first, *others = self.space.types.values()
        return [kind for kind in first if kind.is_quantized and all(kind in kinds for kinds in others)]

    def _uniform(self, kind: TensorType) -> Recipe:
        return Recipe(kind, protect=self.space.protect, unprotect=self.space.unprotect)

    def _uniform_size(self, kind: TensorType) -> int:
        if self.goal.container == "bin":
            return self.space.size_of(dict.fromkeys(self.space.types, kind))
        return make_plan(self.model, self._uniform(kind), container=self.goal.container).size_bytes
