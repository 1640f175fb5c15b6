"""The card of a publication: what a person, and the hub, read first.

The metadata are the hub's (Hugging Face, "Model Cards"), written by huggingface_hub's own ``ModelCardData``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whisq.errors import PlanError
from whisq.evaluation.results import FORWARD_PASS
from whisq.publishing.names import hub_id
from whisq.report.ladder import answer_lines
from whisq.report.wording import in_markdown, interval, megabytes_text, number, percent
from whisq.version import __version__

if TYPE_CHECKING:
    from whisq.evaluation.results import Summary
    from whisq.model import Model
    from whisq.publishing.run import Publication
    from whisq.quantization.plan import Plan

CARD = "README.md"
_MOST_CARD_BYTES = 1 << 20
_ENGLISH = ("en",)


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose weights these are, as far as it is stated: ids and codes of the hub.

    ``license_link`` goes with a license that the hub has no name for. ``missing`` says what nobody states.
    """

    base_model: str | None
    license: str | None
    languages: tuple[str, ...]
    license_name: str | None = None
    license_link: str | None = None

    @property
    def missing(self) -> tuple[str, ...]:
        """What the card cannot say, each with the option that says it."""
        wanted = (("license", self.license), ("base model", self.base_model), ("languages", self.languages))
        options = {"license": "--license", "base model": "--base-model", "languages": "--card-language"}
        return tuple(f"{what} ({options[what]})" for what, value in wanted if not value)


def origin_of(
    model: Model, license_id: str | None = None, base_model: str | None = None, languages: Sequence[str] = ()
) -> Origin:
    """Return what was stated, else what the original's own card and its id say.

    Raises ``PlanError`` for a base model that is no id on the hub.
    """
    if base_model is not None and base_model.count("/") != 1:
        raise PlanError(
            f"{base_model!r} is no id on the hub", hint="write owner/name: --base-model openai/whisper-base"
        )
    stated = _stated(model)
    spoken = stated.get("language")
    carried = [spoken] if isinstance(spoken, str) else spoken if isinstance(spoken, list) else []
    known = tuple(languages) or tuple(code for code in carried if isinstance(code, str))
    return Origin(
        base_model=base_model or hub_id(model),
        license=license_id or _text(stated, "license"),
        languages=known or (() if model.dims.is_multilingual else _ENGLISH),
        license_name=None if license_id else _text(stated, "license_name"),
        license_link=None if license_id else _text(stated, "license_link"),
    )


def _stated(model: Model) -> Mapping[str, Any]:
    """Return the metadata of the original's card, else of its GGUF."""
    place = Path(model.path)
    card = (place if place.is_dir() else place.parent) / CARD
    # What lies beside a single file is the card of whatever is in that folder.
    if card.is_file() and place.is_dir() and card.stat().st_size <= _MOST_CARD_BYTES:
        from huggingface_hub.repocard import metadata_load

        try:
            found = metadata_load(card)
        except Exception:  # whatever YAML finds wrong: a card that cannot be read states nothing
            return {}
        return found if isinstance(found, dict) else {}
    inside = model.metadata.get("gguf", {})
    kept = model.metadata.get("hub", {})
    found_license = inside.get("general.license") or kept.get("license")
    return {"license": found_license} if isinstance(found_license, str) else {}


def _text(stated: Mapping[str, Any], key: str) -> str | None:
    found = stated.get(key)
    return found if isinstance(found, str) and found.strip() else None


def card_of(found: Publication) -> str:
    """Return the card: metadata, which file to take, the table, how to use them, and how they were made."""
    return f"---\n{_metadata(found)}\n---\n\n" + "\n".join(_body(found)) + "\n"


def _metadata(found: Publication) -> str:
    from huggingface_hub import ModelCardData

    origin = found.origin
    containers = sorted({edition.container for edition in found.editions})
    more: dict[str, Any] = {
        key: getattr(origin, key) for key in ("license_name", "license_link") if getattr(origin, key)
    }
    if origin.base_model:
        more["base_model_relation"] = "quantized"
    data = ModelCardData(
        base_model=origin.base_model,
        language=list(origin.languages) or None,
        license=origin.license,
        library_name="whisper.cpp" if "bin" in containers else "transcribe.cpp",
        pipeline_tag="automatic-speech-recognition",
        tags=["whisper", "ggml", *(["gguf"] if "gguf" in containers else []), "whisq"],
        **more,
    )
    return data.to_yaml()


def _body(found: Publication) -> Iterator[str]:
    whose = found.origin.base_model
    link = f"[{whose}](https://huggingface.co/{whose})" if whose else f"`{in_markdown(found.name)}`"
    yield f"# {in_markdown(found.name)}, quantized"
    yield ""
    yield f"{link} in smaller files, for whisper.cpp, transcribe.cpp and what is built on them."
    yield ""
    yield from _answers(found)
    yield from _table(found)
    yield ""
    yield from _measured(found)
    yield ""
    yield from _usage(found)
    yield ""
    yield from _made(found)


def _answers(found: Publication) -> Iterator[str]:
    """Yield which file to take; of synthetic speech, which tells nothing of words, nothing is concluded."""
    if found.is_synthetic:
        return
    for answer in answer_lines(found.evaluation.which_file):
        yield f"- {in_markdown(answer)}"
    yield ""


def _table(found: Publication) -> Iterator[str]:
    words = not found.is_synthetic
    columns = [
        "file",
        "MB",
        "bits per weight",
        "divergence (95 %)",
        *(["words wrong, % (95 %)"] if words else []),
        "loads in",
    ]
    yield "| " + " | ".join(columns) + " |"
    yield "|---|--:|--:|--:|" + ("--:|" if words else "") + "---|"
    for index, edition in sorted(enumerate(found.editions), key=lambda one: found.plans[one[0]].size_bytes):
        model, summary = found.evaluation.models[index + 1], found.evaluation.summaries[index + 1]
        cells = [
            f"[{edition.file_name}]({edition.file_name})",
            megabytes_text(model.size_bytes),
            number(model.bits_per_weight, 2),
            _divergence(summary),
            *([_words(summary)] if words else []),
            loads_in(found.plans[index]),
        ]
        yield "| " + " | ".join(cells) + " |"
    source, summary = found.evaluation.models[0], found.evaluation.summaries[0]
    cells = ["the original", megabytes_text(source.size_bytes), number(source.bits_per_weight, 2), "0"]
    yield "| " + " | ".join([*cells, *([_words(summary)] if words else []), ""]) + " |"


def loads_in(plan: Plan) -> str:
    """Return the names of the runtimes that load a planned file."""
    return ", ".join(verdict.runtime for verdict in plan.verdicts if verdict.loads)


def _divergence(summary: Summary | None) -> str:
    if summary is None or summary.divergence is None:
        return "–"
    inside = summary.divergence
    return f"{number(inside.estimate, 4)} ({number(inside.low, 4)} to {number(inside.high, 4)})"


def _words(summary: Summary | None) -> str:
    if summary is None:
        return "–"
    return f"{percent(summary.word_error_rate.estimate, 2)} ({interval(summary.word_error_rate, 2)})"


def _measured(found: Publication) -> Iterator[str]:
    evaluation = found.evaluation
    data = evaluation.data
    inside = next((model for model in evaluation.models if model.inside), None)
    if inside is not None:
        heard = {one.clip for one in inside.inside}
        seconds = sum(clip.duration_s for clip in data.clips if clip.id in heard)
        yield (
            "Divergence is how far a file's probabilities of the next token are from the original's (Kullback–Leibler,"
            f" nats per token), measured in {inside.inside_in or FORWARD_PASS} on {_clips(len(heard), seconds)}."
        )
    if found.is_synthetic:
        yield "The clips are synthetic speech that comes with whisq; those that judge calibrated nothing."
        yield "They tell nothing of words: compare those on speech like yours."
    else:
        languages = sorted({clip.language for clip in data.clips if clip.language})
        spoken = f" in {', '.join(languages)}" if languages else ""
        heard_in = f"{_clips(len(data.clips), data.duration_s)}{spoken} of {in_markdown(Path(data.source).name)}"
        yield f"Words are those of {heard_in}, which calibrated nothing."
    yield "Every figure is in [results.json](results.json), and in [a report](report.html) with the transcripts."


def _clips(count: int, seconds: float) -> str:
    return f"{count} {'clip' if count == 1 else 'clips'} ({seconds:.0f} s)"


def _usage(found: Publication) -> Iterator[str]:
    yield "## How to use"
    yield ""
    for edition, plan in zip(found.editions, found.plans, strict=True):
        stock = next((v for v in plan.verdicts if v.loads), None)
        if stock is not None:
            yield "```sh"
            yield f"{_command_of(stock.runtime)} -m {edition.file_name} -f speech.wav"
            yield "```"
            break
    yield ""
    yield "Check a download against `SHA256SUMS`: `sha256sum -c SHA256SUMS`."


def _command_of(runtime: str) -> str:
    return "whisper-cli" if runtime.startswith("whisper.cpp") else "transcribe-cli"


def _made(found: Publication) -> Iterator[str]:
    source = found.evaluation.models[0]
    yield "## How they were made"
    yield ""
    method = next((plan.method for plan in found.plans), None)
    learnt = found.calibration.audio if found.calibration is not None else {}
    heard = f"the speech that comes with it (version {learnt['speech']})" if "speech" in learnt else "recorded speech"
    calibrated = f", calibrated on {heard}" if learnt else ""
    yield f"With whisq {__version__}, `--method {method}`{calibrated}."
    yield "Each file's types are in `recipes/`: `whisq quantize --recipe FILE` makes it again from the original."
    yield f"The original has SHA-256 `{source.sha256}`."
    if found.origin.license:
        yield (
            "The license is the original's."
            if found.origin.base_model
            else "The license is that of the original weights."
        )
