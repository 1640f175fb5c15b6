"""What runs on the nodes of a cluster: one ``Site`` for each node, and ``Worker``s that do units there."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whisq.kernels import active_isa
from whisq.version import __version__
from whisq.work.content import ContentCache, Source, SourcePart
from whisq.work.units import Bench, Parcel
from whisq.writing import default_cache_folder

CACHE_BYTES = 20 * 10**9
"""What a node's cache of files holds at most, unless WHISQ_NODE_CACHE_GB says otherwise."""
CACHE_VARIABLE = "WHISQ_NODE_CACHE_GB"
PATHS_VARIABLE = "WHISQ_NODE_PATHS"
"""0 has a node take files from its cache only, where reading them under the sender's path would be slow."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What has to be the same on all nodes: whisq's version and source, Python's and Ray's versions."""

    whisq: str
    source: str
    python: str
    ray: str

    def differences(self, other: Identity) -> list[str]:
        """Return what differs, as sentences: found in ``other``, expected here."""
        found = []
        for name, title in (("whisq", "whisq"), ("python", "Python"), ("ray", "Ray")):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                found.append(f"{title} {theirs}, expected {mine}")
        if not found and self.source != other.source:
            found.append(f"whisq {other.whisq} of another source ({other.source}), expected {self.source}")
        return found


def identity() -> Identity:
    """Return what this process is."""
    import ray

    digest = hashlib.sha256()
    root = Path(__file__).parent.parent
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return Identity(__version__, digest.hexdigest()[:12], platform.python_version(), ray.__version__)


@dataclass(frozen=True, slots=True)
class Description:
    """A node as it says itself: ``kind`` is what the last digits of a figure may depend on."""

    identity: Identity
    host: str
    kind: str


def cpu_kind() -> str:
    """Return the processor's architecture, and the instruction sets that whisq's core and numpy's products use here."""
    import numpy  # noqa: F401 - its BLAS is asked for
    from threadpoolctl import threadpool_info

    blas = {str(info.get("architecture")) for info in threadpool_info() if info.get("user_api") == "blas"}
    return " ".join([platform.machine(), active_isa(), *sorted(blas - {"None"})])


def _lack(package: str) -> str:
    """Return what is lacking of a package, nothing where it is there."""
    name, _, version = package.partition("==")
    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return package
    return f"{package} (it has {found})" if version and found != version else ""


class Site:
    """One on each node: says what the node is and takes files for it."""

    def __init__(self) -> None:
        most = float(os.environ.get(CACHE_VARIABLE, CACHE_BYTES / 10**9)) * 10**9
        looks = os.environ.get(PATHS_VARIABLE, "") != "0"
        self._cache = ContentCache(default_cache_folder(), int(most), looks_at_paths=looks)

    def describe(self) -> Description:
        """Return what the node is."""
        return Description(identity(), platform.node(), cpu_kind())

    def lacks(self, packages: Sequence[str]) -> list[str]:
        """Return which of these packages, NAME or NAME==VERSION, are not installed here."""
        return [told for told in map(_lack, packages) if told]

    def find(self, sources: Mapping[str, Source]) -> dict[str, Path | None]:
        """Return where each source is here, None where it has to be sent."""
        return {name: self._cache.find(source) for name, source in sources.items()}

    def begin(self, source: Source) -> None:
        """Make room for a source; raises ``ClusterError``."""
        self._cache.begin(source)

    def put(self, source: Source, part: SourcePart, offset: int, piece: bytes) -> None:
        """Take a piece of a source; raises ``ClusterError``."""
        self._cache.put(source, part, offset, piece)

    def end(self, source: Source) -> Path:
        """Return where a source is now that all of it has come; raises ``ClusterError``."""
        return self._cache.end(source)


class Worker:
    """Does units, one at a time, on the bench of the job that it was given last."""

    def __init__(self) -> None:
        self._bench: Bench | None = None
        self._wrong: BaseException | None = None

    def ready(self) -> int:
        """Return the number of this process."""
        return os.getpid()

    def begin(self, parcel: Parcel, paths: Mapping[str, Path], threads: int) -> None:
        """Open a job; what is wrong with that is raised by ``do``."""
        self.end()
        try:
            self._bench = parcel.open(paths, threads)
        except Exception as error:
            self._wrong = error

    def do(self, argument: Any, key: str, leaves: bool, taken: Mapping[str, list[Any]]) -> Any:
        """Return value and seconds of a unit, and what it left as a second result where it leaves something.

        ``taken`` holds, by the key of the unit that left it, references to what may be of use.
        """
        import ray

        if self._wrong is not None:
            raise self._wrong
        if self._bench is None:
            raise RuntimeError("no job was begun")
        for other, (left,) in taken.items():
            if not self._bench.has(other):
                # Lost with its node: the bench makes it again.
                with contextlib.suppress(ray.exceptions.RayError):
                    self._bench.take(other, ray.get(left))
        started = time.perf_counter()
        value = self._bench.do(argument)
        result = value, time.perf_counter() - started
        return (result, self._bench.left(key)) if leaves else result

    def end(self) -> None:
        """Let go of the job."""
        if self._bench is not None:
            self._bench.close()
        self._bench, self._wrong = None, None
