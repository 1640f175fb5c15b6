"""Find the mix of types that costs least for a size: measure each matrix once, then solve for any budget."""

from whisq.search.allocate import Choice, fastest
from whisq.search.goal import Goal, Searched, Space
from whisq.search.measure import Settings
from whisq.search.run import curve, search
from whisq.search.sensitivity import Mix, Sensitivity, read_sensitivity, write_sensitivity

__all__ = [
    "Choice",
    "Goal",
    "Mix",
    "Searched",
    "Sensitivity",
    "Settings",
    "Space",
    "curve",
    "fastest",
    "read_sensitivity",
    "search",
    "write_sensitivity",
]
