"""The report: one HTML file with everything in it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whisq.compare import finite_or_none
from whisq.evaluation.results import Evaluation
from whisq.extras import REPORTING, SCORING, require_packages
from whisq.report.figures import difference_figure, inside_figure, size_figure, speed_figure
from whisq.report.ladder import answer_lines, ladder_table, loads_text
from whisq.report.ladder_figure import ladder_figure
from whisq.report.search_curve import curve_figure, curve_table
from whisq.report.tables import Table, accuracy_table, difference_table, inside_table, speed_table
from whisq.report.tensor_map import map_figures
from whisq.report.transcripts import SHOWN, transcript_records
from whisq.report.wording import (
    inside_sentence,
    megabytes_text,
    number,
    remarks,
    speed_remark,
    verdict_parts,
    verdict_word,
)
from whisq.screen import shown
from whisq.units import duration, megabytes
from whisq.writing import write_bytes

if TYPE_CHECKING:
    from whisq.search import Mix

_ASSETS = Path(__file__).parent / "assets"


def render_report(evaluation: Evaluation, curve: Sequence[Mix] = ()) -> str:
    """Return the report as an HTML text that needs nothing else when it is opened.

    ``curve`` is a search's: mixes of all sizes. Raises ``MissingExtraError`` without jinja2 and jiwer.
    """
    require_packages(*REPORTING, *SCORING, purpose="making a report")
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_ASSETS), autoescape=True, undefined=StrictUndefined, finalize=_shown
    )
    template = environment.get_template("template.html.j2")
    text: str = template.render(
        **_context(evaluation),
        has_ladder=ladder_figure(evaluation) is not None,
        curve=curve_table(curve) if curve else None,
        style=Markup((_ASSETS / "style.css").read_text(encoding="utf-8")),
        script=Markup((_ASSETS / "page.js").read_text(encoding="utf-8")),
        charts=Markup((_ASSETS / "charts.js").read_text(encoding="utf-8")),
        payload=Markup(_embedded_json(_payload(evaluation, curve))),
    )
    return text


def write_report(evaluation: Evaluation, path: str | Path, curve: Sequence[Mix] = ()) -> int:
    """Write the report; returns its size in bytes. Raises ``OutputError``."""
    # Halves of surrogate pairs are left in the embedded JSON only, where this makes them escapes.
    content = render_report(evaluation, curve).encode("utf-8", "backslashreplace")
    write_bytes(path, content, hint="name a file in a folder you can write")
    return len(content)


def _shown(value: object) -> object:
    """Return what the template puts into the page: texts with their escapes, our own markup as it is."""
    return shown(value) if type(value) is str else value


def _embedded_json(value: Any) -> str:
    """Return JSON that cannot end the script element it stands in."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _payload(evaluation: Evaluation, curve: Sequence[Mix]) -> dict[str, Any]:
    return {
        "labels": [shown(model.label) for model in evaluation.models],
        "chosen": _opened_on(evaluation),
        "figures": {
            "ladder": ladder_figure(evaluation, curve),
            "size": size_figure(evaluation),
            "difference": difference_figure(evaluation),
            "speed": speed_figure(evaluation),
            "inside": inside_figure(evaluation),
            "curve": curve_figure(curve),
            "maps": [map_figures(model.tensors) for model in evaluation.models],
        },
        "tensors": [
            [
                [
                    tensor.name,
                    tensor.type,
                    tensor.reference_type,
                    tensor.n_weights,
                    megabytes(tensor.size_bytes),
                    finite_or_none(tensor.snr_db),
                    finite_or_none(100 * tensor.relative_error),
                ]
                for tensor in model.tensors
            ]
            for model in evaluation.models
        ],
        "transcripts": transcript_records(evaluation),
    }


def _context(evaluation: Evaluation) -> dict[str, Any]:
    candidates = [
        {"index": index, "label": model.label, "chosen": index == _opened_on(evaluation)}
        for index, model in enumerate(evaluation.models)
        if index and model.utterances
    ]
    inside = inside_table(evaluation)
    return {
        "reference": evaluation.reference.label,
        "title": _title(evaluation),
        "lead": _lead(evaluation),
        "made": _made(evaluation),
        "answers": [_sentence_case(line) for line in answer_lines(evaluation.which_file)],
        "ladder": ladder_table(evaluation.which_file),
        "where": inside_sentence(evaluation),
        "verdicts": _verdicts(evaluation),
        "remarks": [_tied(remark) for remark in remarks(evaluation)],
        "candidates": candidates,
        "has_difference": bool(candidates),
        "has_inside": inside is not None,
        "has_maps": any(model.tensors for model in evaluation.models),
        "accuracy": accuracy_table(evaluation),
        "differences": difference_table(evaluation),
        "speed": speed_table(evaluation),
        "speed_note": _speed_note(evaluation),
        "inside": inside,
        "inside_where": inside_sentence(evaluation),
        "models": _models_table(evaluation),
        "transcripts_left": max(0, len(evaluation.data.clips) - SHOWN),
        "facts": _facts(evaluation),
        "problems": [str(problem) for problem in evaluation.data.problems],
        "stopped": [
            f"{model.label}, {clip.id}: {utterance.remark}"
            for model in evaluation.models
            for clip, utterance in zip(evaluation.data.clips, model.utterances, strict=False)
            if utterance.remark
        ],
        "provenance": evaluation.provenance,
    }


def _title(evaluation: Evaluation) -> str:
    return evaluation.made or f"What quantizing {evaluation.reference.label} cost"


def _made(evaluation: Evaluation) -> dict[str, str] | None:
    """Return the name of the file that was made and what is to be said of it; None where none was."""
    rung = evaluation.which_file.named(evaluation.made or "")
    if rung is None:
        return None
    said = f"{megabytes_text(rung.file.size_bytes, 2)} MB; {rung.standing}; loads in {loads_text(rung.file.loads_in)}"
    return {"name": rung.file.name, "said": f"{said}."}


def _sentence_case(line: str) -> str:
    return _tied(f"{line[:1].upper()}{line[1:]}.")


def _opened_on(evaluation: Evaluation) -> int:
    """Return the file that was made, else the answer, else the candidate whose error rate moved most."""
    answers = [answer.rung.file.name for answer in evaluation.which_file.not_worse if answer.rung is not None]
    for name in (evaluation.made, *answers):
        for index, model in enumerate(evaluation.models):
            if index and model.label == name and model.utterances:
                return index
    return _most_changed(evaluation)


def _most_changed(evaluation: Evaluation) -> int:
    """Return the candidate whose error rate moved most: where a reader has most to see."""
    moved = {
        index: abs(summary.difference.interval.estimate)
        for index, summary in enumerate(evaluation.summaries)
        if summary and summary.difference
    }
    return max(moved, key=lambda index: moved[index], default=0)


def _lead(evaluation: Evaluation) -> str:
    data = evaluation.data
    languages = sorted({clip.language or "en" for clip in data.clips})
    count = len(evaluation.candidates)
    return (
        f"{count} {'candidate' if count == 1 else 'candidates'} against {evaluation.reference.label}, on "
        f"{len(data.clips)} utterances, {duration(data.duration_s)} of speech ({', '.join(languages)}), "
        "transcribed by a real runtime."
    )


def _verdicts(evaluation: Evaluation) -> list[dict[str, str]]:
    whole = evaluation.reference.size_bytes
    found = []
    for index, (model, summary) in enumerate(zip(evaluation.models, evaluation.summaries, strict=True)):
        word = verdict_word(model, summary)
        size = f"{megabytes_text(model.size_bytes)} MB, {number(model.bits_per_weight, 2)} bits/weight"
        if index and model.size_bytes < whole:
            size += f", {100 * (1 - model.size_bytes / whole):.0f} % smaller"
        said, needed = verdict_parts(evaluation, index)
        found.append(
            {
                "label": model.label,
                "size": _tied(size),
                "kind": {"not run": "failed", "not distinguishable": "same"}.get(word, word),
                "word": word,
                "said": _tied(f"{said}."),
                "needed": f"{needed[:1].upper()}{needed[1:]}." if needed else "",
            }
        )
    return found


def _tied(text: str) -> str:
    """Return the text with no line break between a number and its sign of per cent."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%")


def _speed_note(evaluation: Evaluation) -> str:
    return (
        f"Each model in a process of its own, on {evaluation.provenance.get('cpu', 'this machine')}. Peak memory is "
        f"the whole process's, with the pages of the mapped model file that were touched. {speed_remark(evaluation)}"
    )


def _models_table(evaluation: Evaluation) -> Table:
    rows = [
        (
            model.label,
            model.path,
            f"{model.size_bytes:,}",
            ", ".join(f"{count} × {name}" for name, count in model.types.items()),
            f"{model.runtime} {model.runtime_version}" if model.runtime else model.failure,
            model.sha256,
        )
        for model in evaluation.models
    ]
    return Table(("model", "file", "bytes", "matrices", "runtime", "SHA-256"), tuple(rows))


def _facts(evaluation: Evaluation) -> list[tuple[str, str]]:
    data, made, settings = evaluation.data, evaluation.provenance, evaluation.settings
    packages = ", ".join(f"{name} {version}" for name, version in made.get("packages", {}).items())
    chosen = ", ".join(f"{key} {value}" for key, value in settings.items() if value is not None)
    return [
        ("Data", f"{data.source} ({data.kind}), {len(data.clips)} utterances, {duration(data.duration_s)}"),
        ("Hash of the data", data.sha256),
        ("Settings", chosen),
        ("Measured", f"{made.get('created')} with whisq {made.get('whisq')}, Python {made.get('python')}"),
        ("Packages", packages),
        ("Machine", f"{made.get('cpu')}, {made.get('platform')}"),
    ]
