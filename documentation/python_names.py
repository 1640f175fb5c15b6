"""The page of the Python names: signatures and docstrings, from the code."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import textwrap
from typing import Any

import whisq

PAGE = "reference/python.md"
_MODULES = ("whisq.evaluation", "whisq.calibration")
"""Modules whose ``__all__`` is for users, beside whisq's own."""
_DIRECTIVE = re.compile(r"``([^`]+)``")


def page() -> str:
    """Return the page in Markdown."""
    parts = [
        "# From Python\n",
        "Made from the docstrings by `python -m documentation`.\n",
        _docstring(whisq),
        "## whisq\n",
        *(_name(whisq, name) for name in whisq.__all__ if name not in ("__version__", "kernels")),
    ]
    for name in _MODULES:
        module = importlib.import_module(name)
        parts += [f"## {name}\n", _docstring(module)]
        parts += [_name(module, entry) for entry in module.__all__ if entry not in whisq.__all__]
    return "\n".join(parts)


def _name(module: Any, name: str) -> str:
    value = getattr(module, name)
    text = [f"### {module.__name__}.{name}\n"]
    if inspect.isclass(value):
        text.append(_docstring(value))
        if dataclasses.is_dataclass(value):
            fields = [field for field in dataclasses.fields(value) if not field.name.startswith("_")]
            text.append("Fields: " + ", ".join(f"`{field.name}`" for field in fields) + ".\n")
        methods = [_method(entry, member) for entry, member in _members(value)]
        text += ["\n".join(methods) + "\n"] if methods else []
    elif callable(value):
        text += [f"```text\n{_signature(name, value)}\n```\n", _docstring(value)]
    else:
        text.append(f"`{value!r}`\n")
    return "\n".join(text)


def _members(value: type) -> list[tuple[str, Any]]:
    """Return the public methods and properties that a class defines itself and describes, in their order."""
    found = [(name, member) for name, member in vars(value).items() if not name.startswith("_")]
    kinds = (property, classmethod, staticmethod)
    return [(name, m) for name, m in found if (inspect.isfunction(m) or isinstance(m, kinds)) and inspect.getdoc(m)]


def _method(name: str, member: Any) -> str:
    function = getattr(member, "__func__", member)
    shown = name if isinstance(member, property) else _signature(name, function)
    first = (inspect.getdoc(member) or "").split("\n\n")[0].replace("\n", " ")
    return f"- `{shown}`: {_inline(first)}"


def _signature(name: str, value: Any) -> str:
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in inspect.signature(value).parameters.values()
        if parameter.name not in ("self", "cls")
    ]
    return f"{name}{inspect.Signature([_with_plain_default(parameter) for parameter in parameters])}"


def _with_plain_default(parameter: inspect.Parameter) -> inspect.Parameter:
    default = parameter.default
    if default is inspect.Parameter.empty or default is None or isinstance(default, bool | int | float | str | tuple):
        return parameter
    return parameter.replace(default=_Shown(f"{type(default).__name__}()"))


class _Shown:
    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _docstring(value: Any) -> str:
    blocks = []
    for block in (inspect.getdoc(value) or "").split("\n\n"):
        if block.startswith("    "):
            code = textwrap.dedent(block)
            blocks.append(f"```text\n{code}\n```")
        else:
            blocks.append(_inline(re.sub(r"::$", ":", block)))
    return "\n\n".join(blocks) + "\n"


def _inline(text: str) -> str:
    return _DIRECTIVE.sub(r"`\1`", text).replace("<", "&lt;") if "`" not in text.replace("``", "") else text
