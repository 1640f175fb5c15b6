"""Work in units: what one is, and who does them, this process or a Ray cluster."""

from whisq.work.account import Account
from whisq.work.cluster import asked_address, executor_at
from whisq.work.content import Source
from whisq.work.local import Local
from whisq.work.outline import Outline, Stage
from whisq.work.units import Bench, Done, Executor, Job, Needs, Parcel, Unit

__all__ = [
    "Account",
    "Bench",
    "Done",
    "Executor",
    "Job",
    "Local",
    "Needs",
    "Outline",
    "Parcel",
    "Source",
    "Stage",
    "Unit",
    "asked_address",
    "executor_at",
]
