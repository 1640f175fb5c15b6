"""Run a model over audio, layer by layer, and keep the moments of what every linear layer sees."""

from whisq.collect.run import Settings, calibrate

__all__ = ["Settings", "calibrate"]
