"""What work on other machines took: units by node, core-hours, bytes moved; and how it is told."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from whisq.units import megabytes


@dataclass(slots=True)
class NodeAccount:
    """One node: what kind of CPU it has, and what was done there."""

    kind: str
    units: int = 0
    core_s: float = 0.0
    gpu_s: float = 0.0


@dataclass(slots=True)
class Account:
    """Of one run of a command: nodes by name, units that were tried again or copied, bytes that were sent."""

    nodes: dict[str, NodeAccount] = field(default_factory=dict)
    retried: int = 0
    copied: int = 0
    moved_bytes: int = 0
    notes: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, node: str, kind: str, seconds: float, threads: int, gpus: int = 0) -> None:
        """Add a unit that was finished."""
        with self._lock:
            found = self.nodes.setdefault(node, NodeAccount(kind))
            found.units += 1
            found.core_s += seconds * threads
            found.gpu_s += seconds * gpus

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of CPU that took part."""
        return tuple(sorted({node.kind for node in self.nodes.values()}))

    def line(self) -> str:
        """Return all in a line, empty where no other machine took part."""
        with self._lock:
            if not self.nodes:
                return ""
            each = ", ".join(f"{name} {node.units}" for name, node in sorted(self.nodes.items()))
            cores_h = sum(node.core_s for node in self.nodes.values()) / 3600
            gpus_h = sum(node.gpu_s for node in self.nodes.values()) / 3600
        gpu = f", {gpus_h:.2f} GPU-hours" if gpus_h else ""
        return f"{each}; {cores_h:.2f} core-hours{gpu}, {megabytes(self.moved_bytes):.0f} MB of files moved"

    def summary(self) -> Mapping[str, Any] | None:
        """Return what a written file says of it, None where no other machine took part.

        More than one kind of CPU is said there: figures then agree to the noise of float32 only.
        """
        if not self.nodes:
            return None
        return {
            "nodes": len(self.nodes),
            "units": sum(node.units for node in self.nodes.values()),
            "core_hours": round(sum(node.core_s for node in self.nodes.values()) / 3600, 4),
            "gpu_hours": round(sum(node.gpu_s for node in self.nodes.values()) / 3600, 4),
            "retried": self.retried,
            "copied": self.copied,
            "moved_bytes": self.moved_bytes,
            "cpus": list(self.kinds),
            **({"mixed_cpus": True} if len(self.kinds) > 1 else {}),
        }
