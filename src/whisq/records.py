"""Values of dataclasses from what a JSON document says, every field checked against its type."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from math import isfinite
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


class RecordError(ValueError):
    """Says where in the document another thing stands than is expected."""


def record(kind: type[T], value: Any, where: str = "the document") -> T:
    """Return the ``kind``, a dataclass, whose fields an object holds; raises ``RecordError``.

    Lists become tuples where the field is one. Fields with a default may be absent, others may not, and none may be
    there that the dataclass does not have. A number is finite, an int is not a float, a bool is neither.
    """
    if not isinstance(value, dict):
        raise _unexpected(where, value, "an object")
    hints, given = _hints(kind), {}  # type: ignore[arg-type]  # every class can be hashed
    for field in fields(kind):  # type: ignore[arg-type]  # T is a dataclass, which no type can say
        if field.name in value:
            given[field.name] = typed(hints[field.name], value[field.name], f"{where}.{field.name}")
        elif field.default is MISSING and field.default_factory is MISSING:
            raise RecordError(f"{where} has no {field.name}")
    unknown = value.keys() - given.keys()
    if unknown:
        raise RecordError(f"{where} has an unknown key {ascii(min(unknown))[:60]}")
    return kind(**given)


def typed(hint: Any, value: Any, where: str) -> Any:
    """Return a value as a type says it is; raises ``RecordError``."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if is_dataclass(hint):
        return record(hint, value, where)  # type: ignore[arg-type]  # a dataclass, not one of its values
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (inner,) = (one for one in arguments if one is not type(None))
        return typed(inner, value, where)
    if origin is Literal:
        if value not in arguments:
            raise _unexpected(where, value, f"one of {', '.join(map(str, arguments))}")
        return value
    if origin is tuple:
        return _tuple(arguments, value, where)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            raise _unexpected(where, value, "an object")
        return {key: typed(arguments[1], one, f"{where}.{key[:60]}") for key, one in value.items()}
    return _plain(hint, value, where)


def _tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise _unexpected(where, value, "a list")
    if arguments[-1] is Ellipsis:
        return tuple([typed(arguments[0], one, f"{where}[{index}]") for index, one in enumerate(value)])
    if len(value) != len(arguments):
        raise _unexpected(where, value, f"a list of {len(arguments)}")
    return tuple(
        typed(kind, one, f"{where}[{index}]") for index, (kind, one) in enumerate(zip(arguments, value, strict=True))
    )


def _plain(hint: Any, value: Any, where: str) -> Any:
    if hint is float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            raise _unexpected(where, value, "a number")
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        names = {str: "a text", int: "a whole number", bool: "true or false", dict: "an object"}
        raise _unexpected(where, value, names.get(hint, hint.__name__))
    return value


def _unexpected(where: str, value: Any, expected: str) -> RecordError:
    return RecordError(f"{where} is {ascii(value)[:60]}, expected {expected}")


@cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    return get_type_hints(kind)
