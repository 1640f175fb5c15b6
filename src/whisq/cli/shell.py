"""What a shell and ``man`` are told of every command, made of the commands' own arguments: nothing to keep in step.

Printed when asked for, by ``whisq --completion bash`` and ``whisq --man``; nothing runs while a user types.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping

SHELLS = ("bash", "fish", "zsh")

_BASH = """\
_whisq() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} command=${{COMP_WORDS[1]}} before=${{COMP_WORDS[COMP_CWORD-1]}}
    [ "${{COMP_WORDS[0]##*/}}" = whisq ] || command=quantize
    if [ "$COMP_CWORD" = 1 ] && [ "${{COMP_WORDS[0]##*/}}" = whisq ]; then
        COMPREPLY=($(compgen -W "{commands} --help --version" -- "$word"))
        return
    fi
    case "$command $before" in
{values}    esac
    case "$word" in -*) ;; *) COMPREPLY=($(compgen -f -- "$word")); return ;; esac
    case "$command" in
{options}    esac
}}
complete -o filenames -F _whisq whisq whisq-quantize
"""
_ZSH_FIRST = "#compdef whisq whisq-quantize\nautoload -U +X bashcompinit && bashcompinit\n"


def _options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in parser._actions if action.option_strings and action.help != argparse.SUPPRESS]


def _values(action: argparse.Action) -> list[str]:
    return [str(choice) for choice in action.choices or ()]


def completion(shell: str, parsers: Mapping[str, argparse.ArgumentParser]) -> str:
    """Return the script that completes commands, options and their values, and else names of files."""
    if shell == "fish":
        return _fish(parsers)
    values, options = [], []
    for name, parser in parsers.items():
        words = [word for action in _options(parser) for word in action.option_strings]
        options.append(f'        {name}) COMPREPLY=($(compgen -W "{" ".join(words)}" -- "$word")) ;;\n')
        for action in _options(parser):
            if _values(action):
                patterns = "|".join(f'"{name} {word}"' for word in action.option_strings)
                listed = " ".join(_values(action))
                values.append(f'        {patterns}) COMPREPLY=($(compgen -W "{listed}" -- "$word")); return ;;\n')
    script = _BASH.format(commands=" ".join(parsers), values="".join(values), options="".join(options))
    return _ZSH_FIRST + script if shell == "zsh" else script


def _fish(parsers: Mapping[str, argparse.ArgumentParser]) -> str:
    lines = []
    for name, parser in parsers.items():
        lines.append(f"complete -c whisq -n __fish_use_subcommand -f -a {name} -d {_quoted(parser.description or '')}")
        for action in _options(parser):
            line = f"complete -c whisq -n '__fish_seen_subcommand_from {name}'"
            for word in action.option_strings:
                line += f" -l {word[2:]}" if word.startswith("--") else f" -s {word[1:]}"
            if _values(action):
                line += f" -x -a {_quoted(' '.join(_values(action)))}"
            elif action.nargs != 0:
                line += " -r"
            lines.append(f"{line} -d {_quoted(_help(parser, action))}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    return parser._get_formatter()._expand_help(action) if action.help else ""


def manual(whole: argparse.ArgumentParser, parsers: Mapping[str, argparse.ArgumentParser], version: str) -> str:
    """Return the manual page, for ``man``: every command, its arguments, and what they mean."""
    lines = [f'.TH WHISQ 1 "" "whisq {version}"', ".SH NAME", f"whisq \\- {_roff(whole.description or '')}"]
    lines += [".SH SYNOPSIS", ".B whisq", "COMMAND \\&...", ".br", ".B quantize", "INPUT OUTPUT TYPE \\&..."]
    for name, parser in parsers.items():
        usage = " ".join(parser.format_usage().removeprefix("usage: ").split())
        lines += [f".SH WHISQ {name.upper()}", _roff(parser.description or ""), ".PP", f".B {_roff(usage)}"]
        for action in parser._actions:
            if action.help == argparse.SUPPRESS:
                continue
            heads = action.option_strings or [action.metavar if isinstance(action.metavar, str) else action.dest]
            lines += [".TP", f".B {_roff(', '.join(heads))}", _roff(_help(parser, action)) or "\\&"]
    lines += [
        ".SH EXIT STATUS",
        "0: fine. 1: what was asked for cannot be. 2: a bug. 128 + its number: a signal.",
    ]
    return "\n".join(lines) + "\n"


def _roff(text: str) -> str:
    """Return a text on one line that troff takes as it is."""
    text = " ".join(text.split()).replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text.startswith((".", "'")) else text
