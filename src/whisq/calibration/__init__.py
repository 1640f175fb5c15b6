"""What was learned of a model's linear layers from audio: values and files, no model is run here."""

from whisq.calibration.calibration import Calibration, Moments
from whisq.calibration.file import read_calibration, write_calibration
from whisq.calibration.inputs import input_of, inputs_of
from whisq.calibration.merge import merge
from whisq.calibration.probes import Probes

__all__ = [
    "Calibration",
    "Moments",
    "Probes",
    "input_of",
    "inputs_of",
    "merge",
    "read_calibration",
    "write_calibration",
]
