"""What quantizing cost, measured by transcribing with real runtimes.

``whisq.evaluate(reference, candidates, data)`` returns an ``Evaluation``; this package can be called as that
function, because the name ``whisq.evaluate`` is both.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whisq.evaluate.results import Evaluation, ModelResult, Summary, Utterance
    from whisq.evaluate.results_json import from_json, read_results, to_json
    from whisq.evaluate.run import Settings, evaluate

_HOMES = {
    "Evaluation": "results",
    "ModelResult": "results",
    "Settings": "run",
    "Summary": "results",
    "Utterance": "results",
    "evaluate": "run",
    "from_json": "results_json",
    "read_results": "results_json",
    "to_json": "results_json",
}
__all__ = [
    "Evaluation",
    "ModelResult",
    "Settings",
    "Summary",
    "Utterance",
    "evaluate",
    "from_json",
    "read_results",
    "to_json",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'whisq.evaluate' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"whisq.evaluate.{_HOMES[name]}"), name)


class _CallablePackage(ModuleType):
    def __call__(self, *args: Any, **named: Any) -> Evaluation:
        from whisq.evaluate.run import evaluate

        return evaluate(*args, **named)


sys.modules[__name__].__class__ = _CallablePackage
