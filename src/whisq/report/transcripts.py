"""Transcripts side by side: what was said, what each model wrote, with the differences marked."""

from __future__ import annotations

from typing import Any

from whisq.evaluation.normalizing import normalize
from whisq.evaluation.results import Evaluation

SHOWN = 200
"""Utterances in a report at most, the worst first: beyond, a browser slows down and nobody reads on."""


def worst_order(evaluation: Evaluation) -> list[int]:
    """Return the clips' indexes, the worst first.

    Worst is where some candidate made most word errors more than the reference did; then where errors are
    most.
    """
    runs = [model.utterances for model in evaluation.models if model.utterances]

    def harm(index: int) -> tuple[int, int, int]:
        edits = [utterances[index].edits.word_edits for utterances in runs]
        return -(max(edits) - edits[0]), -max(edits), index

    return sorted(range(len(evaluation.data.clips)), key=harm)


def marked_words(said: str, written: str) -> list[tuple[str, str, str]]:
    """Return the alignment as (kind, said, written), kind one of equal, substitute, delete, insert."""
    import jiwer

    output = jiwer.process_words(said, written)
    reference, hypothesis = output.references[0], output.hypotheses[0]
    return [
        (
            chunk.type,
            " ".join(reference[chunk.ref_start_idx : chunk.ref_end_idx]),
            " ".join(hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx]),
        )
        for chunk in output.alignments[0]
    ]


def transcript_records(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return the worst utterances, each with every model's marked text, ready for the page's script."""
    records = []
    for index in worst_order(evaluation)[:SHOWN]:
        clip = evaluation.data.clips[index]
        said = normalize(clip.text, clip.language)
        models: list[dict[str, Any] | None] = []
        for model in evaluation.models:
            if not model.utterances:
                models.append(None)
                continue
            utterance = model.utterances[index]
            models.append(
                {
                    "marks": marked_words(said, normalize(utterance.text, clip.language)),
                    "text": utterance.text,
                    "edits": utterance.edits.word_edits,
                    "runaway": utterance.edits.runaway,
                    "remark": utterance.remark,
                }
            )
        records.append(
            {
                "clip": clip.id,
                "language": clip.language or "en",
                "duration_s": round(clip.duration_s, 1),
                "words": next(m.utterances[index].edits.words for m in evaluation.models if m.utterances),
                "said": said,
                "models": models,
            }
        )
    return records
