"""The best file for a goal in one go: calibrate, search, quantize, evaluate, report."""

from whisq.optimization.run import Optimized, Settings, optimize

__all__ = ["Optimized", "Settings", "optimize"]
