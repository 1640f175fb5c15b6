"""Which operations run the forward pass: numpy's on a CPU, torch's on what it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from whisq.errors import PlanError
from whisq.extras import is_installed

if TYPE_CHECKING:
    from whisq.network.operations import Operations


def operations_for(device: str, threads: int | None = None) -> Operations:
    """Return the operations of a device: ``cpu`` is numpy, ``cuda``, ``cuda:1`` or ``mps`` are torch's.

    ``threads`` is their number on a CPU, None for all that it has. Raises ``PlanError`` for another name and for a
    device that is not there, ``MissingExtraError`` where one needs torch and that is not installed.
    """
    if device == "cpu":
        from whisq.network.numpy_operations import NumpyOperations

        return NumpyOperations(threads)
    kind, _, number = device.partition(":")
    if kind not in ("cuda", "mps") or (number and not number.isdecimal()):
        raise PlanError(f"unknown device '{device}'", hint="use one of: cpu cuda mps, or cuda:1 for the second")
    from whisq.network.torch_operations import TorchOperations

    return TorchOperations(device, threads)


def kind_of(device: str) -> str:
    """Return a device without its number: a node's process is given one GPU, and that is the first to it."""
    return device.partition(":")[0]


def device_there() -> str:
    """Return what ``auto`` means on this machine: cuda where torch is installed and has it, else cpu.

    Not mps, which has no float64: what is added up there goes to the CPU and back, and nobody has timed that.
    """
    if not is_installed("torch"):
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def check_device(device: str) -> None:
    """Raise what ``operations_for`` would raise for a device, before any work."""
    operations_for(device)
