"""Find the mix of types that costs least for a size: measure each matrix once, then solve for any budget."""

from whisq.search.allocate import Choice, allocate
from whisq.search.measure import Settings, measure
from whisq.search.sensitivity import Sensitivity, read_sensitivity, write_sensitivity

__all__ = [
    "Choice",
    "Sensitivity",
    "Settings",
    "allocate",
    "measure",
    "read_sensitivity",
    "write_sensitivity",
]
