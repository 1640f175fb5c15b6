"""whisq: quantize Whisper models with a precision of its own for every tensor.

The way through, from Python::

    with whisq.open_model("model-f16.bin") as model:
        plan = whisq.make_plan(model, whisq.load_recipe("balanced"))
        whisq.quantize(plan, "model-balanced.bin")

Names are loaded when they are first used, so that ``import whisq`` costs next to nothing.
"""

from __future__ import annotations

from whisq.version import __version__

TYPE_CHECKING = False  # as type checkers know it: `typing` takes ten times as long as the rest of this

_HOMES = {
    "Assignment": "whisq.quantization.plan",
    "Model": "whisq.model",
    "Plan": "whisq.quantization.plan",
    "Recipe": "whisq.recipe",
    "Rule": "whisq.recipe",
    "TensorRef": "whisq.model",
    "TensorType": "whisq.types",
    "WhisqError": "whisq.errors",
    "calibrate": "whisq.calibration.run",
    "evaluate": "whisq.evaluation.run",
    "load_recipe": "whisq.recipe",
    "make_plan": "whisq.quantization.plan",
    "open_model": "whisq.formats",
    "optimize": "whisq.optimization.run",
    "parse_rule": "whisq.recipe",
    "parse_type": "whisq.types",
    "quantize": "whisq.quantization.write",
    "save_recipe": "whisq.recipe",
}
"""Where each public name lives; a test holds it against what a type checker sees below."""

__all__ = sorted([*_HOMES, "__version__", "kernels"])

if TYPE_CHECKING:
    from whisq import kernels
    from whisq.calibration.run import calibrate
    from whisq.errors import WhisqError
    from whisq.evaluation.run import evaluate
    from whisq.formats import open_model
    from whisq.model import Model, TensorRef
    from whisq.optimization.run import optimize
    from whisq.quantization.plan import Assignment, Plan, make_plan
    from whisq.quantization.write import quantize
    from whisq.recipe import Recipe, Rule, load_recipe, parse_rule, save_recipe
    from whisq.types import TensorType, parse_type


def __getattr__(name: str) -> object:
    import importlib

    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    if name == "kernels":
        return importlib.import_module("whisq.kernels")
    raise AttributeError(f"module 'whisq' has no attribute {name!r}")
