"""From a model and a recipe to a file: a plan says what happens to every tensor, ``quantize`` carries it out."""

from whisq.quantization.plan import Assignment, Plan, make_plan
from whisq.quantization.write import Written, quantize

__all__ = ["Assignment", "Plan", "Written", "make_plan", "quantize"]
