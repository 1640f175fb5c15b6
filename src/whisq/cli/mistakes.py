"""Words that were typed wrongly: what was probably meant, said in the user's own words.

Nothing here decides what a command does; each function returns or raises an error whose hint can be pasted.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

from whisq.errors import WhisqError
from whisq.system import quoted
from whisq.types import type_meant

_SAME_OPTION = {
    "--token-embedding-type": "--embedding", "--output-tensor-type": "--embedding", "--imatrix": "--calibration",
    "--tensor-type-file": "--recipe", "--config": "--recipe", "--preset": "--recipe", "--nthreads": "--threads",
    "-t": "--threads", "-j": "--threads", "--outtype": "--type", "--dtype": "--type", "--dataset": "--data",
    "--audio": "--data", "--clips": "--data", "--manifest": "--data", "--wav": "--data", "--lang": "--language",
    "-l": "--language", "--num-samples": "--limit", "--backend": "--runtime", "--engine": "--runtime",
    "--html": "--report", "--exclude": "--protect", "--include": "--unprotect", "--simulate": "--dry-run",
    "-n": "--dry-run", "-q": "--quiet", "--silent": "--quiet", "--filter": "--match", "--budget": "--size",
    "--max-size": "--size", "--bpw": "--bits", "--kl": "--divergence",
    "--force": "--overwrite", "-f": "--overwrite", "-y": "--overwrite",
}  # fmt: skip
"""Options as other projects call them → as they are called here, where a command has them."""
_PLACES = {
    "input": ("-i", "--input", "-m", "--model", "--model-path", "--source", "--infile"),
    "output": ("-o", "--output", "--outfile", "--out", "--output-file", "--output-path"),
    "type": ("--type", "-t", "-q", "--qtype", "--quantization", "--quantize", "--quant", "--outtype"),
}
"""Options of other projects for what goes by its place here."""
_SAME_PLACE = {"source": "input", "model": "input", "reference": "input", "first": "input", "results": "input"}
_MODEL_SUFFIXES = (".bin", ".gguf", ".pt", ".pth")
_EXPLAINED = {
    (
        "quantize",
        "--leave-output-tensor",
    ): "the token embedding, also the output matrix, stays in f16 without --embedding",
    ("quantize", "--pure"): "without rules every matrix gets TYPE; the embedding too with --target whisper.cpp",
    ("quantize", "--json-out"): "--json prints to stdout: whisq quantize … --json > FILE",
    ("convert", "--recipe"): "recipes are for `whisq quantize`; convert changes the container, and --type all matrices",
    (
        "convert",
        "--tensor-type",
    ): "rules are for `whisq quantize`; convert changes the container, and --type all matrices",
    (
        "optimize",
        "--calibration",
    ): "it calibrates by itself, on two thirds of --data or on built-in speech; to use a calibration: whisq search",
    ("optimize", "--report"): "report.html is in the folder beside OUTPUT, best.optimize for best.bin; see --folder",
    ("optimize", "-o"): "OUTPUT goes by its place, the second: whisq optimize MODEL OUTPUT --size SIZE",
}
"""What other projects have and whisq does otherwise, by command and option."""
_BELOW_ZERO = re.compile(r"-\.?\d[\w.]*[A-Za-z%]")
"""A number with a unit, which argparse takes for an option."""
_SAME_VALUE = {
    ("method", "imatrix"): "importance", ("method", "gptq"): "feedback", ("method", "hessian"): "feedback",
    ("method", "rtn"): "ggml", ("method", "none"): "ggml", ("format", "ggml"): "bin", ("format", ".bin"): "bin",
    ("format", ".gguf"): "gguf", ("on_misfit", "fail"): "error", ("on_misfit", "stop"): "error",
}  # fmt: skip


def _near(word: str, known: Sequence[str], *, cutoff: float) -> str | None:
    """Return the one of these that a word is most like, None where it is like none."""
    from difflib import get_close_matches  # only for what is wrong

    return next(iter(get_close_matches(word, known, n=1, cutoff=cutoff)), None)


def _presets() -> Sequence[str]:
    from whisq.recipe.toml import preset_names

    return preset_names()


def check_command(word: str, commands: Iterable[str], after: Sequence[str]) -> None:
    """Raise what to type where a word names no command."""
    known = list(commands)
    if word in known:
        return
    asked = next((name for name in after if name in known), None)
    if word == "help":
        raise WhisqError("help is an option, not a command", hint=f"whisq {asked} --help" if asked else "whisq --help")
    near = _near(word.lower(), known, cutoff=0.6)
    if near:
        hint = f"did you mean: {_line('whisq', near, *after)}"
    elif Path(word).exists():
        hint = f"the command comes first: {_line('whisq', 'quantize', word, *after)}"
    else:
        hint = f"commands: {' '.join(known)}; see whisq --help"
    raise WhisqError(f"whisq has no command {word!r}", hint=hint)


def check_options(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Raise what an option is called here, for each word that looks like one and is none of the command's.

    Before argparse reads the words: it would name what is missing, not what was misspelt.
    """
    known = [name for action in parser._actions for name in action.option_strings]
    typed = [word for word in words[: words.index("--") if "--" in words else None] if _looks_like_option(word)]
    if {"-h", "--help", "--version"} & set(typed):
        return
    for word in typed:
        name = word.partition("=")[0]
        if name in known or word[:2] in known or (name[:2] == "--" and any(k.startswith(name) for k in known)):
            continue
        raise WhisqError(f"{parser.prog} has no option {name}", hint=_option_meant(parser, name, known))
    for option, word in pairwise(words):
        if option in known and _BELOW_ZERO.fullmatch(word):
            raise WhisqError(f"{option} {word}: a value below zero", hint=f"{option} {word[1:]}")


def _looks_like_option(word: str) -> bool:
    return word[:1] == "-" and len(word) > 1 and " " not in word and not word[1].isdigit() and word[1] != "."


def _option_meant(parser: argparse.ArgumentParser, name: str, known: Sequence[str]) -> str:
    help_line = f"{parser.prog} --help"
    explained = _EXPLAINED.get((parser.prog.split()[-1], name))
    if explained is not None:
        return explained
    placed = [action for action in parser._actions if not action.option_strings]
    for number, action in enumerate(placed):
        if name in _PLACES.get(_SAME_PLACE.get(action.dest, action.dest), ()):
            return f"{action.metavar} goes by its place, the {_ORDINALS[number]}: {shape_of(parser)}"
    ours = _SAME_OPTION.get(name)
    if ours not in known:
        ours = _near(name, known, cutoff=0.7)
    if ours is None:
        return f"what there is: {help_line}"
    action = next(action for action in parser._actions if ours in action.option_strings)
    return f"here it is {ours}{_value_of(action)}; see {help_line}"


_ORDINALS = ("first", "second", "third")


def _value_of(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    return f" {action.metavar or '|'.join(map(str, action.choices or [action.dest.upper()]))}"


def shape_of(parser: argparse.ArgumentParser) -> str:
    """Return a command line with a name in each place that has to be filled."""
    places = [str(action.metavar) for action in parser._actions if not action.option_strings and action.metavar]
    # Where a goal is wanted there is speech to do without data.
    goals = any(group.required for group in parser._mutually_exclusive_groups)
    needed = [
        f"{action.option_strings[0]}{_value_of(action)}"
        for action in parser._actions
        if action.option_strings and (action.required or (action.dest == "data" and not goals))
    ]
    needed += [
        f"{group._group_actions[0].option_strings[0]}{_value_of(group._group_actions[0])}"
        for group in parser._mutually_exclusive_groups
        if group.required
    ]
    return " ".join([parser.prog, *places, *needed])


def value_meant(action: argparse.Action, value: object) -> str:
    """Return what is wrong with a value that is none of an option's choices."""
    choices = [str(choice) for choice in action.choices or ()]
    text = str(value).strip().lower()
    meant = _SAME_VALUE.get((action.dest, text))
    kind = type_meant(text)
    if meant is None and kind is not None and kind.name in choices:
        meant = kind.name
    if meant is None:
        meant = _near(text, choices, cutoff=0.6)
    said = f"{value!r} is not one of {', '.join(choices)}"
    if meant is not None:
        return f"{said} (did you mean {meant}?)"
    if kind is not None and kind.is_quantized:
        return f"{said}; whisq quantize makes files of type {kind.name}"
    return said


def too_many(parser: argparse.ArgumentParser, args: argparse.Namespace, rest: Sequence[str]) -> WhisqError:
    """Return what to say of words that are more than the command takes."""
    word, given = rest[0], vars(args)
    name = args.command
    said = f"{' '.join(map(quoted, rest))}: more than {parser.prog} takes"
    kind = type_meant(word) if not word.isdecimal() else None
    alone = next((rule for rule in given.get("tensor_type", ()) if "=" not in rule), None)
    if kind is not None and alone is not None:
        return WhisqError(
            f"the rule '{alone}' has no type", hint=f"write it as one word: --tensor-type {_rule(alone, word)}"
        )
    if kind is not None and given.get("types"):
        return WhisqError(said, hint=f"separate types by commas: --types {','.join([*args.types, *rest])}")
    if kind is not None and name == "quantize" and args.type is not None:
        return WhisqError(
            f"TYPE is given twice: {args.type} and {word}",
            hint=f"give one: {_line('whisq', 'quantize', args.input, args.output, word)}",
        )
    if kind is not None and name == "convert":
        how = ["convert", args.source, args.output, "--type", kind.name]
        if kind.is_quantized:
            how = ["quantize", args.source, args.output, kind.name]
        return WhisqError(said, hint=_line("whisq", *how))
    options = {action.dest: action.option_strings[-1] for action in parser._actions if action.option_strings}
    if word.isdecimal() and "threads" in options:
        return WhisqError(said, hint=f"threads are an option: --threads {word}")
    if word in _presets() and "recipe" in options:
        return WhisqError(said, hint=f"a recipe is an option: --recipe {word}")
    if Path(word).exists() and "data" in options and not given.get("data"):
        return WhisqError(said, hint=f"audio is an option: --data {quoted(word)}")
    return WhisqError(said, hint=shape_of(parser))


def _rule(pattern: str, kind: str) -> str:
    return quoted(f"{pattern}={kind}")


def check_order(args: argparse.Namespace) -> None:
    """Raise the right order where a type stands for a file, or OUTPUT before INPUT; ``args`` are ``quantize``'s."""
    words = [str(word) for word in (args.input, args.output, args.type) if word is not None]
    kinds = [word for word in words if not word.isdecimal() and type_meant(word) and not Path(word).exists()]
    files = [word for word in words if word not in kinds]
    if args.type is not None and args.type not in kinds and files[-1:] == [args.type] and _is_recipe(args.type):
        raise WhisqError(
            f"{args.type!r} is a recipe, not a type",
            hint=_line("whisq", "quantize", args.input, args.output, "--recipe", args.type),
        )
    if str(args.input) not in kinds and str(args.output) not in kinds:
        check_swapped(args.input, args.output, "INPUT", ["quantize"], [args.type] if args.type else [])
        return
    if len(kinds) > 1:
        raise WhisqError(
            f"TYPE is given twice: {' and '.join(kinds)}", hint="the order: whisq quantize INPUT OUTPUT TYPE"
        )
    if len(files) == 1:
        source, kind = Path(files[0]), kinds[0]
        named = source.with_name(f"{source.stem or source.name}-{kind.lower()}.bin")
        raise WhisqError(f"OUTPUT is missing: {kind!r} is a type", hint=_line("whisq", "quantize", source, named, kind))
    if Path(files[1]).exists() and not Path(files[0]).exists():
        files.reverse()
    place = "INPUT" if str(args.input) in kinds else "OUTPUT"
    raise WhisqError(
        f"{place} is {kinds[0]!r}, which is a type: the order is INPUT OUTPUT TYPE",
        hint=_line("whisq", "quantize", *files, kinds[0]),
    )


def check_swapped(source: str, output: str, name: str, before: Sequence[str], after: Sequence[str] = ()) -> None:
    """Raise the other order where what is read is not there and what would be written is.

    Not where a file of nearly that name is there, or where it may be an id on the hub: then it is no swap.
    """
    path = Path(source)
    is_local = "/" not in source or (path.suffix.lower() in _MODEL_SUFFIXES and path.parent.is_dir())
    if not is_local or path.exists() or not Path(output).is_file():
        return
    beside = [entry.name for entry in path.parent.iterdir() if entry != Path(output)]
    if _near(path.name, beside, cutoff=0.75):
        return
    raise WhisqError(
        f"{source}: no such file, while OUTPUT, {output}, is there",
        hint=f"check {name}'s name; or were the two swapped? {_line('whisq', *before, output, source, *after)}",
    )


def _is_recipe(text: str) -> bool:
    return text.lower() in _presets() or text.lower().endswith(".toml")


def _line(*words: object) -> str:
    return " ".join(quoted(str(word)) for word in words)
