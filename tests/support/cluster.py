"""A Ray cluster of three nodes on this machine, each with a folder of its own; nodes that end by kill -9."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
STARTS_S = 90


@dataclass
class Node:
    """A raylet with what belongs to it."""

    folder: Path
    process: subprocess.Popen[bytes]

    def processes(self) -> list[int]:
        """Return the numbers of all its processes."""
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if f"WHISQ_CACHE={self.folder}\0".encode() in path.read_bytes() + b"\0":
                    found.append(int(path.parent.name))
        return found

    def wait(self) -> None:
        """Return when it has started."""
        log, end = self.folder / "log", time.monotonic() + STARTS_S
        while b"Ray runtime started" not in log.read_bytes():
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"a node did not start: {log.read_text(errors='replace')}")
            time.sleep(0.1)

    def kill(self) -> None:
        """End it as a machine ends that loses its power."""
        for number in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        self.process.wait()


@dataclass
class Cluster:
    """The nodes, the first of them the head."""

    folder: Path
    address: str
    nodes: list[Node] = field(default_factory=list)

    def start(self, **environment: str) -> Node:
        """Start one more node, with more in its environment, and wait for it."""
        number = len(self.nodes)
        folder = self.folder / f"node{number}-{time.monotonic_ns()}"
        folder.mkdir()
        port = self.address.rpartition(":")[2]
        words = ["--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={self.folder}/ray"]
        if self.nodes:
            words = [f"--address={self.address}"]
        words += [
            "--num-cpus=1",
            "--memory=3000000000",
            "--object-store-memory=100000000",
            "--node-ip-address=127.0.0.1",
        ]
        given = {
            "WHISQ_CACHE": str(folder),
            "WHISQ_NODE_PATHS": "0",
            "PYTHONPATH": os.pathsep.join([str(ROOT), *[path for path in sys.path if path]]),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_raylet_start_wait_time_s": str(STARTS_S),
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_failure_threshold": "3",
            **environment,
        }
        log = (folder / "log").open("wb")
        process = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats", *words],
            env={**os.environ, **given},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        node = Node(folder, process)
        self.nodes.append(node)
        node.wait()
        return node

    def close(self) -> None:
        """End all nodes, the head last."""
        for node in reversed(self.nodes):
            node.kill()


@contextlib.contextmanager
def cluster_of(count: int, folder: Path) -> Iterator[Cluster]:
    """Give a cluster of so many nodes."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    cluster = Cluster(folder, f"127.0.0.1:{port}")
    try:
        # One after the other: those that start at once on one machine take each other's ports.
        for _ in range(count):
            cluster.start()
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes of one core each, which do not look under the sender's paths."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("needs ray: pip install '.[ray]'")
    if sys.platform != "linux":
        pytest.skip("nodes are found and killed by /proc: Linux only")
    # Ray's sockets have names of 107 characters at most.
    folder = Path("/tmp") / f"whisq-ray-{os.getpid()}"
    folder.mkdir()
    with cluster_of(3, folder) as cluster:
        yield cluster
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
