"""Find the mix of types that costs least for a size: measure each matrix once, then solve for any budget."""

from whisq.search.allocate import Choice, fastest
from whisq.search.goal import Goal, Searched, Space
from whisq.search.measure import SearchSettings
from whisq.search.reach import refuse_out_of_reach, sizes_of_mixes
from whisq.search.run import curve, measure_space, search, solve
from whisq.search.sensitivity import Mix, Sensitivity, read_sensitivity, write_sensitivity

__all__ = [
    "Choice",
    "Goal",
    "Mix",
    "SearchSettings",
    "Searched",
    "Sensitivity",
    "Space",
    "curve",
    "fastest",
    "measure_space",
    "read_sensitivity",
    "refuse_out_of_reach",
    "search",
    "sizes_of_mixes",
    "solve",
    "write_sensitivity",
]
