"""All of it in one go: calibrate, search, quantize, evaluate, report.

The data is split: what is judged by was not calibrated on. What each step makes is kept in a folder with a key of what
made it, so that the same call again goes on where it stopped, and another size measures nothing again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from whisq.calibration import Calibration, read_calibration
from whisq.clips.clip import ClipSet
from whisq.clips.datasets import load_clips
from whisq.clips.split import split_clips
from whisq.errors import PlanError
from whisq.evaluation.model_files import choose_runtimes, describe
from whisq.evaluation.results import Evaluation
from whisq.evaluation.results_json import to_json
from whisq.evaluation.run import Settings as EvaluateSettings
from whisq.evaluation.run import evaluate
from whisq.extras import require_packages, require_torch
from whisq.formats import container_of, open_model
from whisq.formats.layout import ContainerName
from whisq.hashing import source_sha256
from whisq.model import Model
from whisq.optimization.steps import MadeFiles
from whisq.progress import Progress, no_progress
from whisq.provenance import provenance_of
from whisq.quantization.method import GGML, Method
from whisq.quantization.plan import Plan, make_plan
from whisq.quantization.rounding import FEEDBACK
from whisq.quantization.write import check_output, quantize
from whisq.recipe import Recipe, Rule, load_recipe, save_recipe
from whisq.search.goal import Goal, Space
from whisq.search.measure import Settings as SearchSettings
from whisq.search.run import measure_space, search
from whisq.search.sensitivity import read_sensitivity, write_sensitivity
from whisq.types import F16, TensorType
from whisq.writing import write_text


@dataclass(frozen=True, slots=True)
class Settings:
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
    settings: Settings | None = None,
    progress: Progress = no_progress,
) -> Optimized:
    """Write the best mix for a size, for bits per weight, or for a divergence, and measure it on clips held back.

    Everything that can be is checked first. Raises ``PlanError`` for a goal that no mix reaches, ``OutputError``,
    ``DataError``, ``MissingExtraError``.
    """
    chosen = settings or Settings()
    goal = Goal(size_bytes, bits, divergence)
    if sum(value is not None for value in (size_bytes, bits, divergence)) != 1:
        raise PlanError("one goal is needed", hint="give a size, bits per weight, or a divergence")
    require_torch()
    require_packages("soundfile", "soxr", "jiwer", "whisper_normalizer", "jinja2", "plotly", purpose="optimizing")
    target = Path(output)
    with open_model(model) as opened:
        space = Space.of(opened, chosen.types, chosen.target, chosen.protect, chosen.unprotect)
        _refuse_unreachable(opened, target, goal, space)
        if _is_runnable(opened):
            choose_runtimes([describe(opened.path, opened.path.name)])
        folder = chosen.folder or target.with_name(f"{target.stem}.optimize")
        made = MadeFiles(folder)
        clips = load_clips(
            data, limit=chosen.limit, seed=chosen.seed, language=chosen.language, skip_bad=chosen.skip_bad,
            on_clip=lambda done, total: progress("checking clips", done, total),
        )  # fmt: skip
        heard, judged = split_clips(clips, seed=chosen.seed)
        work = _Work(opened, target, goal, space, chosen, made, progress)
        calibration = work.calibrate(heard)
        recipe = work.search(calibration)
        work.quantize(calibration, recipe)
        evaluation = work.evaluate(judged)
    return Optimized(target, folder, calibration, recipe, evaluation, tuple(made.reused))


def _smallest(model: Model, space: Space, container: ContainerName) -> Plan:
    rules = tuple(
        Rule(re.escape(t.name), min(space.types[t.name], key=lambda kind: kind.row_bytes(t.n_columns)))
        for t in space.tensors
    )
    recipe = Recipe(F16, rules, space.protect, space.unprotect)
    return make_plan(model, recipe, container=container)


def _refuse_unreachable(model: Model, target: Path, goal: Goal, space: Space) -> None:
    if not space.tensors:
        raise PlanError("no matrix takes part: all are protected", hint="leave out --protect, or --unprotect some")
    plan = _smallest(model, space, container_of(target))
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


def _is_runnable(model: Model) -> bool:
    return model.format in ("bin", "gguf")


@dataclass(frozen=True, slots=True)
class _Work:
    model: Model
    target: Path
    goal: Goal
    space: Space
    settings: Settings
    made: MadeFiles
    progress: Progress

    def _file(self, name: str) -> Path:
        return self.made.folder / name

    def calibrate(self, clips: ClipSet) -> Calibration:
        from whisq.calibration.run import Settings as CollectSettings
        from whisq.calibration.run import calibrate

        path = self._file("model.calib")
        settings = CollectSettings(seed=self.settings.seed, device=self.settings.device, cache=self._file("cache"))
        self.made.make(
            path,
            {"model": source_sha256(self.model), "clips": clips.sha256},
            lambda: calibrate(self.model, clips, path, settings=settings, progress=self.progress),
        )
        return read_calibration(path).check_factors()

    def search(self, calibration: Calibration) -> Recipe:
        path, measured = self._file("recipe.toml"), self._file("sensitivity.json")
        settings = SearchSettings(FEEDBACK, self.settings.probes, self.settings.seed, self.settings.device)

        def look() -> None:
            found, _ = measure_space(self.model, calibration, self.space, settings=settings, progress=self.progress)
            write_sensitivity(measured, found)

        def solve() -> None:
            found = search(
                self.model, calibration, self.goal, self.space, reuse=read_sensitivity(measured),
                container=container_of(self.target),
            )  # fmt: skip
            write_text(path, save_recipe(found.recipe))

        types = {name: [kind.name for kind in kinds] for name, kinds in self.space.types.items()}
        how = {"probes": settings.probes, "seed": settings.seed}
        self.made.make(measured, {"calibration": self.made.key("model.calib"), "types": types, **how}, look)
        wanted = [self.goal.size_bytes, self.goal.bits, self.goal.divergence]
        made_from = {"measured": self.made.key("sensitivity.json"), "goal": wanted, "as": container_of(self.target)}
        self.made.make(path, made_from, solve)
        return load_recipe(str(path))

    def quantize(self, calibration: Calibration, recipe: Recipe) -> None:
        made_from = {"recipe": save_recipe(recipe), "calibration": self.made.key("model.calib")}
        self.made.make(self.target, made_from, partial(self._write, self.target, recipe, FEEDBACK, calibration))

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
        from whisq.report.page import write_report

        candidates = [self.target]
        for kind in self._beside():
            path = self._file(f"uniform-{kind}{self.target.suffix}")
            recipe = Recipe(kind, protect=self.space.protect, unprotect=self.space.unprotect)
            made_from = {"model": source_sha256(self.model), "recipe": save_recipe(recipe)}
            self.made.make(path, made_from, partial(self._write, path, recipe, GGML))
            candidates.append(path)
        settings = EvaluateSettings(
            seed=self.settings.seed, inside=self.settings.inside, device=self.settings.device,
            cache=self._file("cache"),
        )  # fmt: skip
        evaluation = evaluate(self._reference(), candidates, clips, settings=settings, progress=self.progress)
        write_text(self._file("results.json"), to_json(evaluation))
        curve = read_sensitivity(self._file("sensitivity.json")).curve
        write_report(evaluation, self._file("report.html"), curve)
        return evaluation

    def _reference(self) -> Path:
        """Return the source as a file that a runtime reads."""
        if _is_runnable(self.model):
            return self.model.path
        path = self._file("reference-f16.bin")
        self.made.make(
            path, {"model": source_sha256(self.model)}, lambda: self._write(path, Recipe(F16), GGML)
        )  # fmt: skip
        return path

    def _beside(self) -> list[TensorType]:
        """Return the uniform types whose files are the next smaller and the next larger than the result."""
        size = self.target.stat().st_size
        common = [kind for kind in self.space.types[self.space.tensors[0].name] if kind.is_quantized]
        sizes = {
            kind: make_plan(
                self.model, Recipe(kind, protect=self.space.protect, unprotect=self.space.unprotect),
                container=container_of(self.target),
            ).size_bytes
            for kind in common
            if all(kind in kinds for kinds in self.space.types.values())
        }  # fmt: skip
        smaller = [kind for kind in sizes if sizes[kind] <= size]
        larger = [kind for kind in sizes if sizes[kind] > size]
        return [*sorted(smaller, key=lambda k: sizes[k])[-1:], *sorted(larger, key=lambda k: sizes[k])[:1]]
