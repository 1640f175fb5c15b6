"""What makes a comparison mean something else than it seems to: told before anybody believes its figures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from operator import ne

from whisq.errors import PlanError
from whisq.evaluation.model_files import ModelFile
from whisq.evaluation.results import Evaluation, ModelResult, TensorError
from whisq.evaluation.scoring import repeated_marks
from whisq.types import TYPES

_UNROUNDED = 0.004
"""Relative error beyond which no rounding to f16 or bf16 explains it: theirs are about 0.0003 and 0.002."""
_MOST_ROUNDED = 0.8
_SHOWN_HASH = 12
_SHOWN_TEXT = 30
_TEXT_TOKENS = 50_000
"""Words and their parts; containers list the special tokens behind them otherwise or not at all."""


def refuse_other_models(files: list[ModelFile]) -> None:
    """Raise ``PlanError`` that names all candidates of other dimensions or vocabulary than the first, the reference."""
    reference, wrong = files[0], []
    for file in files[1:]:
        unlike = [
            f"{one.name} is {getattr(file.dims, one.name)}, in the reference {getattr(reference.dims, one.name)}"
            for one in fields(file.dims)
            if getattr(file.dims, one.name) != getattr(reference.dims, one.name)
        ]
        if not unlike and any(map(ne, file.tokens[:_TEXT_TOKENS], reference.tokens[:_TEXT_TOKENS])):
            unlike = ["its tokens are not those of the reference"]
        if unlike:
            wrong.append(f"{file.path} is another model than {reference.path}: {', '.join(unlike)}")
    if wrong:
        raise PlanError("; ".join(wrong), hint="compare files that were made from one model, with that model")


def doubts(evaluation: Evaluation) -> list[str]:
    """Return what should not be so: one file twice, a quantized reference, candidates of other weights, loops."""
    return [
        *_twice(evaluation),
        *_reference(evaluation),
        *_other_weights(evaluation),
        *_loops_of_marks(evaluation),
    ]


def _loops_of_marks(evaluation: Evaluation) -> Iterator[str]:
    """Yield the files that write points or the like over and over where the reference does not."""
    heard = [repeated_marks(utterance.text) for utterance in evaluation.reference.utterances]
    for model in evaluation.candidates:
        told = [utterance.text for utterance in model.utterances]
        looping = [text for text, before in zip(told, heard, strict=False) if repeated_marks(text) > before]
        if looping:
            clips = "one clip" if len(looping) == 1 else f"{len(looping)} clips"
            where = f"in {clips}, which no error rate counts"
            yield f"{model.label} writes marks over and over {where}: {_ending(looping[0])}"


def _ending(text: str) -> str:
    return f"… {text[-_SHOWN_TEXT:]}" if len(text) > _SHOWN_TEXT else text


def _twice(evaluation: Evaluation) -> Iterator[str]:
    seen: dict[str, str] = {}
    for model in evaluation.models:
        if model.sha256 in seen:
            yield f"{seen[model.sha256]} and {model.label} are the same file, by their SHA-256"
        seen.setdefault(model.sha256, model.label)


def _reference(evaluation: Evaluation) -> Iterator[str]:
    reference = evaluation.reference
    if not any(TYPES[name].is_quantized for name in reference.types if name in TYPES):
        return
    finer = [model for model in evaluation.candidates if model.bits_per_weight > reference.bits_per_weight]
    if finer:
        best = max(finer, key=lambda model: model.bits_per_weight)
        yield (
            f"the reference, {reference.label}, is quantized itself ({', '.join(reference.types)}), and {best.label} is"
            f" less so: what is called a loss is a distance from {reference.label}. Take {best.label} as the reference"
        )


def _other_weights(evaluation: Evaluation) -> Iterator[str]:
    reference = evaluation.reference
    for model in evaluation.candidates:
        strange = [tensor for tensor in model.tensors if not _is_rounding(tensor)]
        if strange:
            worst = max(strange, key=lambda tensor: tensor.relative_error)
            yield (
                f"{model.label} seems to be of other weights than {reference.label}: {worst.name} ({worst.type}) is"
                f" {100 * worst.relative_error:.1f} % off, which no rounding explains ({len(strange)} such tensors)"
            )
        elif (source := _stated_source(model)) and _is_another(source, reference):
            yield (
                f"{model.label} says that it was made from another file than {reference.label}:"
                f" {source['name']}, SHA-256 {source['sha256'][:_SHOWN_HASH]}…"
            )


def _is_rounding(tensor: TensorError) -> bool:
    """Return whether rounding to its type can have made the error of a tensor."""
    kinds = [TYPES[name] for name in (tensor.type, tensor.reference_type) if name in TYPES]
    quantized = [kind.bits_per_weight for kind in kinds if kind.is_quantized]
    # Twice the usual error of a type and more: methods that weigh by inputs move weights further than rounding does.
    most = min(_MOST_ROUNDED, 2 ** (3.5 - int(min(quantized)))) if quantized else _UNROUNDED
    return tensor.relative_error <= most


def _stated_source(model: ModelResult) -> dict[str, str]:
    keys = ("name", "format", "sha256")
    found = {key: str(model.provenance.get(f"whisq.source.{key}") or "") for key in keys}
    return found if found["sha256"] else {}


def _is_another(source: dict[str, str], reference: ModelResult) -> bool:
    if source["sha256"] in (reference.sha256, _stated_source(reference).get("sha256")):
        return False
    return source["format"] == reference.container  # of another container the same weights have another hash
