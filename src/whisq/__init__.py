"""whisq: quantize Whisper models with a precision of its own for every tensor.

The way through, from Python::

    with whisq.open_model("model-f16.bin") as model:
        plan = whisq.make_plan(model, whisq.load_recipe("balanced"))
        whisq.quantize(plan, "model-balanced.bin")

Names are loaded when they are first used, so that ``import whisq`` costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOMES = {
    "Assignment": "whisq.plan",
    "Model": "whisq.model",
    "Plan": "whisq.plan",
    "Recipe": "whisq.recipe",
    "Rule": "whisq.recipe",
    "TensorRef": "whisq.model",
    "TensorType": "whisq.types",
    "WhisqError": "whisq.errors",
    "load_recipe": "whisq.recipe",
    "make_plan": "whisq.plan",
    "optimize": "whisq.optimizer",
    "open_model": "whisq.formats",
    "parse_rule": "whisq.recipe",
    "parse_type": "whisq.types",
    "quantize": "whisq.execute",
    "save_recipe": "whisq.recipe",
}
__all__ = [
    "Assignment",
    "Model",
    "Plan",
    "Recipe",
    "Rule",
    "TensorRef",
    "TensorType",
    "WhisqError",
    "__version__",
    "evaluate",
    "kernels",
    "load_recipe",
    "make_plan",
    "open_model",
    "optimize",
    "parse_rule",
    "parse_type",
    "quantize",
    "save_recipe",
]

if TYPE_CHECKING:
    from whisq import evaluate, kernels
    from whisq.errors import WhisqError
    from whisq.execute import quantize
    from whisq.formats import open_model
    from whisq.model import Model, TensorRef
    from whisq.optimizer import optimize
    from whisq.plan import Assignment, Plan, make_plan
    from whisq.recipe import Recipe, Rule, load_recipe, parse_rule, save_recipe
    from whisq.types import TensorType, parse_type


def __getattr__(name: str) -> object:
    import importlib

    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    if name in ("evaluate", "kernels"):
        # The package whisq.evaluate can be called: it is the function of that name, too.
        return importlib.import_module(f"whisq.{name}")
    raise AttributeError(f"module 'whisq' has no attribute {name!r}")
