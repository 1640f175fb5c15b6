"""What a model may become for a target: mixes where it loads them, files of one type always; and what was judged."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from whisq.calibration import Calibration
from whisq.clips.clip import Clip, ClipSet
from whisq.formats.layout import CONTAINERS, ContainerName
from whisq.hashing import file_sha256
from whisq.model import Model
from whisq.network.devices import operations_for
from whisq.progress import Progress
from whisq.provenance import provenance_of
from whisq.quantization.plan import Plan, make_plan
from whisq.recipe import Recipe, save_recipe
from whisq.runtimes.registry import parse_runtime
from whisq.search.goal import Goal, Space
from whisq.search.judging import Divergences, Judge
from whisq.search.reach import sizes_of_mixes
from whisq.search.uniform import Candidate, Ladder, judge_all, uniform_candidates, uniform_recipe, uniform_types
from whisq.types import F16, TensorType, parse_type
from whisq.version import __version__
from whisq.work.known import Cache

_LANGUAGES = "languages"
"""The key of what was heard, beside those of files, which are hashes."""


@dataclass(frozen=True)
class Choices:
    """``space`` holds the mixes, None where the target loads none; ``recipes`` give one type throughout, by type."""

    model: Model
    container: ContainerName
    target: str
    space: Space | None
    recipes: Mapping[TensorType, Recipe]

    @classmethod
    def of(
        cls,
        model: Model,
        container: ContainerName,
        *,
        target: str,
        types: Sequence[str] = (),
        protect: Sequence[str] = (),
        unprotect: Sequence[str] = (),
        embedding: str | None = None,
    ) -> Choices:
        """Return what a target loads. Raises ``PlanError`` for what it does not, ``TypeNameError``."""
        runtime = parse_runtime(target)
        own = parse_type(embedding) if embedding else None
        space = None
        names = list(types)
        if runtime.loads_mixes:
            space = Space.of(model, types, target, protect, unprotect, own)
            names = [kind.name for kind in space.block_types]
        kinds = uniform_types(model, names, runtime)
        return cls(model, container, target, space, {kind: uniform_recipe(kind, protect, own) for kind in kinds})

    def sizes(self) -> list[int]:
        """Return the bytes of files that could be the answer, the smallest among them, and of the model in f16.

        Raises ``PlanError`` where the target refuses a file of one type, or nothing takes part.
        """
        uniform = [c.plan.size_bytes for c in self.candidates(None)]
        uniform.append(self.plan_of(Recipe(F16)).size_bytes)
        if self.space is None:
            return uniform
        mixes = list(sizes_of_mixes(self.space))
        if self.container != "bin":
            extremes = (self.space.smallest(), self.space.largest())
            mixes = [self.plan_of(self.space.recipe_of(mix)).size_bytes for mix in extremes]
        return [*mixes, *uniform]

    def smallest(self) -> Plan:
        """Return the plan of a file that is as small as any, or nearly so."""
        plans = [c.plan for c in self.candidates(None)]
        if self.space is not None:
            plans.append(self.plan_of(self.space.recipe_of(self.space.smallest())))
        return min(plans, key=lambda plan: plan.size_bytes)

    def plan_of(self, recipe: Recipe) -> Plan:
        """Return the plan of a recipe, rounded as ggml rounds."""
        stated = provenance_of(self.model, recipe) if CONTAINERS[self.container].has_provenance else None
        return make_plan(self.model, recipe, container=self.container, provenance=stated)

    def candidates(self, calibration: Calibration | None, limit_bytes: int | None = None) -> list[Candidate]:
        """Return the files of one type in every method that a calibration allows, of so many bytes at most."""
        target = self.target if self.space is None else None
        found = uniform_candidates(self.model, self.recipes, self.container, calibration, target)
        return [c for c in found if limit_bytes is None or c.plan.size_bytes <= limit_bytes]


def ladder_for(
    choices: Choices,
    goal: Goal,
    calibration: Calibration,
    clips: ClipSet,
    *,
    mixes: Sequence[Candidate] = (),
    most_clips: int | None = None,
    device: str = "cpu",
    seed: int = 0,
    cache: Path | None = None,
    progress: Progress,
) -> Ladder:
    """Return what was judged on clips, and the answer to a goal; with a cache, what was measured there is not again."""
    model, limit_bytes = choices.model, goal.limit_for(choices.model.n_weights)
    heard = evenly(clips.clips, most_clips)
    candidates = choices.candidates(calibration, limit_bytes)
    known = Cache(
        cache,
        "judged",
        whisq=__version__,
        model=model.sha256,
        calibration=file_sha256(calibration.path) if cache else "",
        clips=[clip.sha256 for clip in heard],
        device=device,
    )
    judge: Judge | None = None
    done = 0

    def measure(candidate: Candidate) -> Divergences:
        nonlocal judge, done
        recipe = f"{save_recipe(candidate.plan.recipe)}\n{candidate.method}"
        key = hashlib.sha256(recipe.encode()).hexdigest()
        found = known.get(key)
        if found is None:
            if judge is None:
                judge = Judge(model, heard, operations_for(device), progress)
                known.put(_LANGUAGES, {"pairs": judge.languages})
            measured = judge.divergences(candidate.plan)
            found = {"name": candidate.name, "sums": list(measured.sums), "tokens": list(measured.tokens)}
            known.put(key, found)
        done += 1
        progress("measuring files", done, max(done, len(candidates) + len(mixes)))
        return Divergences(tuple(found["sums"]), tuple(found["tokens"]))

    ladder = judge_all(candidates, measure, divergence=goal.divergence, mixes=mixes, seed=seed)
    pairs = (known.get(_LANGUAGES) or {"pairs": ()})["pairs"]
    return replace(ladder, languages=tuple((taken, heard) for taken, heard in pairs))


def evenly(clips: Sequence[Clip], most: int | None) -> list[Clip]:
    """Return so many clips at most, evenly spaced, so that all speakers of sorted data have their share."""
    count = len(clips) if most is None else min(most, len(clips))
    return [clips[index * len(clips) // count] for index in range(count)]
