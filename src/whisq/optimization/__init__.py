"""The best file for a goal in one go: calibrate, search, quantize, evaluate, report."""

from whisq.optimization.run import OptimizationSettings, Optimized, optimize

__all__ = ["OptimizationSettings", "Optimized", "optimize"]
