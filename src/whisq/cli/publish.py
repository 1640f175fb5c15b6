"""``whisq publish``: a folder with every file of a model, checked, measured and described; on the hub where asked."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whisq.cli.arguments import (
    add_cache,
    add_clips,
    add_device,
    add_json,
    add_overwrite_and_quiet,
    add_ray,
    cache_folder,
    thread_count,
    type_names,
)
from whisq.cli.console import Console
from whisq.cli.paths import Read, Written
from whisq.errors import PlanError
from whisq.quantization.rounding import method_names
from whisq.stopping import begin
from whisq.units import megabytes

if TYPE_CHECKING:
    from whisq.publishing.run import Publication
    from whisq.publishing.upload import Upload

_EPILOG = """
  whisq publish whisper-small-hi published --types q4_0,q5_1,q8_0,mix-balanced --data clips
  whisq publish whisper-small-hi published --types q4_0,q5_1,q8_0,mix-balanced --data clips --repo me/small-hi-ggml

A type is that of all matrices, embedding included, as stock whisper.cpp loads it; mix-NAME is a preset. The folder gets
the models, README.md (the card), SHA256SUMS, recipes, results.json and report.html. The same command goes on where it
stopped, and sends what the hub has not got.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("model", type=Read, metavar="MODEL", help="the f16 or f32 model, in any form")
    parser.add_argument("output", metavar="FOLDER", help="the folder to make")
    files = parser.add_argument_group("the files")
    files.add_argument(
        "--types", type=type_names, default=(), metavar="TYPE,…", help="make a file of each: q5_1, or mix-balanced"
    )
    files.add_argument(
        "--recipe", type=Read, metavar="FILE", action="append", default=[], help="make a mix of this recipe; repeatable"
    )
    files.add_argument(
        "--formats", type=_formats, default=("bin",), metavar="FORMAT,…", help="bin, gguf or both (default: bin)"
    )
    files.add_argument("--name", help="call the model NAME in the files' names (default: as the source is called)")
    files.add_argument("--embedding", metavar="TYPE", help="give the token embedding TYPE; f16 keeps it whole")
    files.add_argument("--method", choices=method_names(), help="round matrices this way (default: feedback)")
    files.add_argument(
        "--calibration", type=Read, metavar="FILE", help="use this calibration (default: of the built-in speech)"
    )
    data = parser.add_argument_group("what they are judged by")
    add_clips(
        data,
        what="audio and what is said in it (default: built-in synthetic speech)",
        seed_of="the draw and the bootstrap",
        required=False,
    )
    card = parser.add_argument_group("the card")
    card.add_argument("--license", metavar="ID", help="the weights' license (default: as the original's card says)")
    card.add_argument("--base-model", metavar="ID", help="the original's id on the hub")
    card.add_argument(
        "--card-language", metavar="CODE", action="append", default=[], help="a language of the model; repeatable"
    )
    hub = parser.add_argument_group("the hub")
    hub.add_argument("--repo", metavar="ID", help="upload to this repository; it is made, private, where there is none")
    hub.add_argument("--public", action="store_true", help="make the repository a public one")
    hub.add_argument("--dry-run", action="store_true", help="make the folder, and list what --repo would send")
    how = parser.add_argument_group("how it runs")
    how.add_argument(
        "--folder", metavar="FOLDER", help="keep what is made on the way there (default: FOLDER's name, .publish)"
    )
    how.add_argument("--threads", type=thread_count, metavar="N", help="use N threads (default: all CPUs, at most 4)")
    add_cache(how, "calibrations")
    add_device(how)
    add_ray(how)
    add_json(how)
    add_overwrite_and_quiet(how)


def more_outputs(args: argparse.Namespace) -> list[Written]:
    """Return nothing: what is in the folder, and whose it is, is looked at once the files have names."""
    del args
    return []


def _formats(text: str) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(text.lower().split(",")))
    if not set(found) <= {"bin", "gguf"}:
        raise argparse.ArgumentTypeError(f"{text!r} is not bin, gguf or bin,gguf")
    return found


def run(args: argparse.Namespace, console: Console) -> int:
    """Publish; returns the exit code."""
    console.settle_device(args)
    for option, given in (("--public", args.public), ("--dry-run", args.dry_run)):
        if given and not args.repo:
            raise PlanError(f"{option} is about --repo, which is not given", hint=f"add --repo, or leave out {option}")
    from whisq.publishing.run import PublicationSettings, publish

    settings = PublicationSettings(
        containers=args.formats,
        recipes=tuple(args.recipe),
        embedding=args.embedding,
        method=args.method,
        calibration=args.calibration,
        name=args.name,
        license=args.license,
        base_model=args.base_model,
        languages=tuple(args.card_language),
        limit=args.limit,
        seed=args.seed,
        language=args.language,
        skip_bad=args.skip_bad,
        overwrite=args.overwrite,
        threads=args.threads,
        device=args.device,
        cache=cache_folder(args),
        folder=Path(args.folder) if args.folder else None,
    )
    begin(resumes=True)
    with console.executor(args.ray) as executor, console.stages(executor.account) as progress:
        settings = replace(settings, executor=executor)
        found = publish(
            args.model, args.output, args.types, args.data, settings=settings, progress=progress, say=console.note
        )
    _say_what_is_missing(found, args, console)
    for line in lines_of(found):
        console.data(line)
    sent = None
    if args.repo:
        from whisq.publishing.upload import upload

        with console.stages() as progress:
            sent = upload(
                found.folder, found.files, args.repo, public=args.public, dry_run=args.dry_run, progress=progress
            )
        for line in upload_lines(sent, dry_run=args.dry_run):
            console.data(line)
    console.result("publish", _document(found, sent, dry_run=args.dry_run))
    return 0


def _document(found: Publication, sent: Upload | None, *, dry_run: bool) -> dict[str, Any]:
    """Return what was made, and what the hub got, as JSON's types."""
    from whisq.evaluation.results_json import which_file_document

    uploaded = None
    if sent is not None:
        uploaded = {"url": sent.url, "private": sent.is_private, "new": sent.is_new, "dry_run": dry_run}
        uploaded |= {"sent": list(sent.sent), "there": list(sent.there)}
    return {
        "output": str(found.folder),
        "files": [path.relative_to(found.folder).as_posix() for path in found.files],
        "models": [
            {"file": edition.file_name, "size_bytes": plan.size_bytes, "method": plan.method.name}
            for edition, plan in zip(found.editions, found.plans, strict=True)
        ],
        "which_file": which_file_document(found.evaluation.which_file),
        "synthetic": found.is_synthetic,
        "reused": list(found.reused),
        "uploaded": uploaded,
    }


def _say_what_is_missing(found: Publication, args: argparse.Namespace, console: Console) -> None:
    for problem in found.evaluation.data.problems:
        console.warn(f"left out: {problem}")
    if found.reused:
        console.note(f"from an earlier run: {', '.join(found.reused)}")
    if found.origin.missing:
        console.note_always(f"the card does not say: {', '.join(found.origin.missing)}")
    if found.is_synthetic:
        console.note_always("judged by synthetic speech, which tells nothing of words: --data with your own")
    from whisq.cli.notes import lost_companions

    for edition, plan in zip(found.editions, found.plans, strict=True):
        for note in lost_companions(plan, Path(args.output) / edition.file_name):
            console.note_always(note)


def lines_of(found: Publication) -> Iterator[str]:
    """Yield a line for every file, the smallest first, and where they are."""
    from whisq.publishing.card import loads_in

    rows = sorted(
        zip(found.editions, found.plans, found.evaluation.summaries[1:], strict=True), key=lambda row: row[1].size_bytes
    )
    width = max(len(edition.file_name) for edition in found.editions)
    yield f"{'':{width}} {'MB':>8} {'divergence':>11}  {'95 %':20}  loads in"
    for edition, plan, summary in rows:
        inside = summary.divergence if summary is not None else None
        measured = f"{'–':>11}  {'':20}"
        if inside is not None:
            measured = f"{inside.estimate:11.5f}  {f'{inside.low:.5f} to {inside.high:.5f}':20}"
        yield f"{edition.file_name:{width}} {megabytes(plan.size_bytes):8.2f} {measured}  {loads_in(plan)}"
    yield f"wrote {found.folder}: {len(found.files)} files; read README.md before anyone else does"


def upload_lines(sent: Upload, *, dry_run: bool) -> Iterator[str]:
    """Yield what was sent, or would be, and where."""
    kind = "private" if sent.is_private else "public"
    new = "a new repository" if sent.is_new else "a repository"
    if dry_run:
        yield f"would send {len(sent.sent)} files to {sent.url}, {new}, {kind}:"
    else:
        yield f"sent {len(sent.sent)} files to {sent.url}, {new}, {kind}; {len(sent.there)} were there"
    if dry_run:
        yield from (f"  {name}" for name in sent.sent)
