"""``whisq inspect``: what a model file holds, without reading its weights."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from whisq.cli.arguments import add_json
from whisq.cli.console import Console
from whisq.cli.paths import Read
from whisq.units import megabytes

if TYPE_CHECKING:
    from whisq.model import Model, TensorRef
    from whisq.runtimes.runtime import Verdict


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "model", type=Read, metavar="MODEL", help="any model that whisq reads: a path, or an id on the hub"
    )
    parser.add_argument("--tensors", action="store_true", help="list every tensor")
    add_json(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    """Inspect; returns the exit code."""
    from whisq.formats import open_model

    with open_model(args.model) as model:
        for note in model.notes:
            console.note_always(note)
        for warning in model.warnings:
            console.warn(warning)
        if args.json:
            console.result("inspect", _as_json(model, with_tensors=args.tensors))
            return 0
        for line in _lines(model):
            console.data(line)
        if args.tensors:
            for line in _tensor_lines(model):
                console.data(line)
    return 0


def _lines(model: Model) -> Iterator[str]:
    from whisq.formats.gguf_metadata import variant_of
    from whisq.runtimes.registry import is_readable, told

    dims = model.dims
    files = f" in {len(model.files)} files" if len(model.files) > 1 else ""
    yield f"{model.path}: {variant_of(model)} as {model.format}"
    yield (
        f"size: {megabytes(model.size_bytes):.2f} MB ({model.size_bytes} bytes){files}, {model.n_weights} weights,"
        f" {model.bits_per_weight:.2f} bits per weight"
    )
    yield (
        f"encoder: {dims.n_audio_layer} layers, width {dims.n_audio_state}, {dims.n_audio_head} heads,"
        f" {dims.n_mels} mels, {dims.n_audio_ctx} positions"
    )
    yield (
        f"decoder: {dims.n_text_layer} layers, width {dims.n_text_state}, {dims.n_text_head} heads,"
        f" {dims.n_text_ctx} positions"
    )
    yield _token_line(model)
    yield "types:"
    yield f"  {'stack':<8} {'role':<16} {'tensors':>7} {'MB':>9}  types"
    for row in _roles(model):
        types = ", ".join(f"{name} {count}" for name, count in row["types"].items())
        yield f"  {row['stack']:<8} {row['role']:<16} {row['tensors']:>7} {megabytes(row['size_bytes']):>9.2f}  {types}"
    if is_readable(model.format):
        yield "loads in:"
        for verdict in told(_verdicts(model)):
            yield f"  {'yes' if verdict.loads else ' no'}  {verdict.title}" + (
                "" if verdict.loads else f": {'; '.join(verdict.reasons)}"
            )
    else:
        yield f"loads in: no ggml runtime; whisq convert makes a .bin or .gguf of {model.format}"
    header = _header_note(model)
    if header:
        yield header
    yield from _provenance_lines(model)


def _token_line(model: Model) -> str:
    from whisq.formats.special_tokens import special_tokens

    special = special_tokens(model)
    languages = f"{len(special.languages)} languages" if special.languages else "English only"
    named = ", ".join(
        f"{name} {number}"
        for name, number in (("start", special.start), ("end", special.end), ("no timestamps", special.no_timestamps))
        if number is not None
    )
    listed = f"{model.dims.n_vocab} tokens ({len(model.tokenizer.tokens)} listed"
    return f"vocabulary: {listed}, {len(model.tokenizer.merges)} merges), {languages}" + (f"; {named}" if named else "")


def _roles(model: Model) -> list[dict[str, Any]]:
    """Return one row a stack and role, in file order."""
    rows: dict[tuple[str, str], list[TensorRef]] = {}
    for tensor in model.tensors:
        rows.setdefault((tensor.stack, tensor.role), []).append(tensor)
    return [
        {
            "stack": stack,
            "role": role,
            "tensors": len(tensors),
            "size_bytes": sum(tensor.size_bytes for tensor in tensors),
            "types": dict(Counter(tensor.type.name for tensor in tensors).most_common()),
        }
        for (stack, role), tensors in sorted(rows.items(), key=lambda item: item[0][0] != "encoder")
    ]


def _verdicts(model: Model) -> tuple[Verdict, ...]:
    """Return what each ggml runtime makes of the file; of other containers, what they all would say."""
    from whisq.runtimes.registry import RUNTIMES, is_readable, verdicts
    from whisq.runtimes.runtime import Verdict

    if is_readable(model.format):
        return verdicts(model.format, [(tensor.spec, tensor.type) for tensor in model.tensors])
    reason = f"no ggml runtime reads {model.format}: whisq convert makes a .bin or .gguf of it"
    return tuple(Verdict(runtime.name, runtime.title, (reason,)) for runtime in RUNTIMES)


def _header_note(model: Model) -> str | None:
    """Return a sentence when a ``.bin``'s header announces other types than its matrices have."""
    from whisq.formats.ggml import MIXED_FTYPE, header_ftype
    from whisq.formats.layout import Output

    if model.format != "bin":
        return None
    stated = model.metadata.get("ftype")
    expected = header_ftype([Output(tensor, tensor.type) for tensor in model.tensors])
    if stated == expected or (
        isinstance(stated, int) and {stated % 1000, expected % 1000} == {1} and expected == MIXED_FTYPE
    ):
        return None
    return f"  the header says ftype {stated}, its tensors would need {expected}: whisper.cpp may refuse the file"


def _provenance_lines(model: Model) -> Iterator[str]:
    from whisq.provenance import stated_provenance

    stated = stated_provenance(model)
    if not stated:
        yield "provenance: none stated"
        return
    yield "provenance:"
    for key, value in stated.items():
        lines = str(value).strip().split("\n")
        yield f"  {key}: {lines[0]}"
        yield from (f"    {line}".rstrip() for line in lines[1:])


def _tensor_lines(model: Model) -> Iterator[str]:
    width = max(len(tensor.name) for tensor in model.tensors)
    yield "tensors:"
    for tensor in model.tensors:
        shape = " × ".join(str(size) for size in tensor.shape)
        other = f"  ({tensor.source_name})" if tensor.source_name != tensor.name else ""
        yield f"  {tensor.name:<{width}}  {tensor.type.name:<6}  {shape:<16}  {tensor.size_bytes:>12} bytes{other}"


def _as_json(model: Model, *, with_tensors: bool) -> dict[str, Any]:
    from whisq.formats.gguf_metadata import variant_of
    from whisq.formats.special_tokens import special_tokens
    from whisq.provenance import stated_provenance

    special = special_tokens(model)
    document: dict[str, Any] = {
        "path": str(model.path),
        "format": model.format,
        "variant": variant_of(model),
        "size_bytes": model.size_bytes,
        "n_weights": model.n_weights,
        "bits_per_weight": model.bits_per_weight,
        "dimensions": asdict(model.dims),
        "vocabulary": {
            "listed": len(model.tokenizer.tokens),
            "merges": len(model.tokenizer.merges),
            "languages": list(special.languages),
            "start": special.start,
            "end": special.end,
            "no_timestamps": special.no_timestamps,
        },
        "roles": _roles(model),
        "runtimes": [{"runtime": v.runtime, "loads": v.loads, "reasons": list(v.reasons)} for v in _verdicts(model)],
        "provenance": stated_provenance(model),
        "warnings": list(model.warnings),
        "notes": list(model.notes),
    }
    if with_tensors:
        document["tensors"] = [
            {
                "name": tensor.name,
                "source_name": tensor.source_name,
                "type": tensor.type.name,
                "shape": list(tensor.shape),
                "size_bytes": tensor.size_bytes,
            }
            for tensor in model.tensors
        ]
    return document
