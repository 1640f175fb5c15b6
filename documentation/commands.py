"""The page of the commands: every option of every command, from the parsers that read them."""

from __future__ import annotations

import argparse
import importlib
import re
import textwrap

from whisq.cli import COMMANDS

PAGE = "reference/commands.md"


def page() -> str:
    """Return the page in Markdown."""
    parts = [
        "# Commands\n",
        "Made from the parsers by `python -m documentation`; `whisq COMMAND --help` says the same.\n",
        "| command | what it does |\n| --- | --- |\n"
        + "".join(f"| [`whisq {name}`](#whisq-{name}) | {line} |\n" for name, line in COMMANDS.items()),
        "`quantize` alone is `whisq quantize --verbose`: one line for every tensor, as whisper.cpp's own prints them.\n"
        "[Exit codes](../scripts.md#exit-codes) are the same for all.\n",
    ]
    return "\n".join([*parts, *(_command(name, line) for name, line in COMMANDS.items())])


def _command(name: str, line: str) -> str:
    parser = argparse.ArgumentParser(prog=f"whisq {name}", add_help=False)
    importlib.import_module(f"whisq.cli.{name}").add_arguments(parser)
    text = [f"## whisq {name}\n", f"{_sentence(line)}\n", f"```text\n{_form(parser)}\n```\n"]
    if parser.epilog or (parser.description and parser.description != line):
        text += [_prose(parser.description or ""), _prose(parser.epilog or "")]
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if action.help != argparse.SUPPRESS]
        if not actions:
            continue
        if group.title not in ("positional arguments", "options"):
            text.append(f"### {name}: {group.title}\n")
        if group.description:
            text.append(_prose(group.description))
        rows = "".join(f"| {_shown(action)} | {_told(action, parser.prog)} |\n" for action in actions)
        text.append(f"| argument | meaning |\n| --- | --- |\n{rows}")
    return "\n".join(part for part in text if part)


def _form(parser: argparse.ArgumentParser) -> str:
    """Return the command with its places, those that may stay empty in brackets, and its required options."""
    words = [parser.prog]
    for action in parser._actions:
        value = str(action.metavar or action.dest)
        if action.option_strings:
            words += [f"{action.option_strings[-1]} {value}"] if action.required else []
        else:
            words.append({"?": f"[{value}]", "*": f"[{value} …]", "+": f"{value} …"}.get(str(action.nargs), value))
    return " ".join([*words, "[OPTIONS]"])


def _shown(action: argparse.Action) -> str:
    value = action.metavar or (
        "{" + ",".join(map(str, action.choices)) + "}" if action.choices is not None else action.dest.upper()
    )
    value = " ".join(value) if isinstance(value, tuple) else str(value)
    if not action.option_strings:
        return f"`{action.metavar or action.dest}`"
    takes = action.nargs != 0
    return ", ".join(f"`{name}{' ' + value if takes else ''}`" for name in action.option_strings).replace("|", "\\|")


def _told(action: argparse.Action, prog: str) -> str:
    values = {**vars(action), "prog": prog}
    values["choices"] = ", ".join(map(str, action.choices)) if action.choices is not None else ""
    told = _cell((action.help or "") % values)
    return told + (" (several times)" if isinstance(action, argparse._AppendAction) else "")


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").replace("<", "&lt;").strip()


def _prose(text: str) -> str:
    """Return paragraphs; one that is indented is an example."""
    blocks = [block.strip("\n") for block in text.split("\n\n") if block.strip()]
    shown = [f"```text\n{textwrap.dedent(block)}\n```" if block.startswith("  ") else _plain(block) for block in blocks]
    return "\n\n".join(shown) + "\n" if shown else ""


def _plain(text: str) -> str:
    return re.sub(r"([*_<])", r"\\\1", text)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."
