"""Units done on a Ray cluster that is there already: joined by its address, never started or stopped from here."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from whisq.errors import ClusterError, MissingExtraError
from whisq.extras import install_hint, is_installed
from whisq.work.account import Account
from whisq.work.dispatch import Dispatcher
from whisq.work.local import Local
from whisq.work.units import Done, Executor, Job, Unit

if TYPE_CHECKING:
    from whisq.work.hands import RayHands

VARIABLE = "WHISQ_RAY"
_DEFAULT_PORT = 6379
_PATIENCE_S = 5.0
_HOW = "start one: ray start --head; on other machines: ray start --address=HOST:6379"


class RayCluster(Executor):
    """A Ray cluster at an address, HOST or HOST:PORT; ``auto`` is the one that this machine belongs to.

    Raises ``MissingExtraError`` without Ray, ``ClusterError`` where there is no cluster, where it has another version
    of Ray or Python, and, before any work, where a node has another whisq. ``say`` is told what a user should know.
    """

    def __init__(self, address: str, say: Callable[[str], None] = lambda line: None) -> None:
        if not is_installed("ray"):
            raise MissingExtraError("--ray needs ray: not installed", hint=install_hint("ray"))
        self.account = Account()
        self._hands: RayHands | None = None
        _join(address)
        # Imports Ray, which takes seconds that only those spend who use it.
        from whisq.work.hands import RayHands

        try:
            self._hands = RayHands(self.account, say)
        except BaseException:
            self.close()
            raise

    @property
    def is_here(self) -> bool:
        """False: units are done on the nodes."""
        return False

    def run(self, job: Job, units: Iterable[Unit]) -> Iterator[Done]:
        """Yield every unit with its value as they are finished."""
        if self._hands is None:
            raise ClusterError("the cluster was left already")
        self._hands.take_job(job)
        yield from Dispatcher(self._hands, self.account).run(units)

    def close(self) -> None:
        """Leave the cluster, which ends what this process started there."""
        import ray

        if self._hands is not None:
            self._hands.close()
            self._hands = None
        ray.shutdown()


def _join(address: str) -> None:
    """Connect this process; raises ``ClusterError``."""
    if address.startswith("ray://"):
        raise ClusterError(
            f"{address}: is for Ray's client, which whisq does not use",
            hint="run whisq on a machine of the cluster: --ray auto",
        )
    place = _place_of(address)
    _check_answers(place)
    import ray

    # Zero GPUs hide GPUs from workers as ever; without this Ray warns of it at every start.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    try:
        ray.init(address=place, log_to_driver=False, logging_level="ERROR", configure_logging=False)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ClusterError(
            f"{place}: {' '.join(lines)}", hint="install the same versions of Ray and Python on all nodes"
        ) from None
    except (ConnectionError, ValueError) as error:
        raise ClusterError(f"{place}: {error}", hint=_HOW) from None
    # What Ray prints of processes that end is not for a user of whisq, who is told what became of the work.
    with contextlib.suppress(ImportError, AttributeError, KeyError):
        from ray._private.ray_logging import global_worker_stdstream_dispatcher

        global_worker_stdstream_dispatcher.remove_handler("ray_print_logs")


def _place_of(address: str) -> str:
    """Return HOST:PORT of an address."""
    if address != "auto":
        host, _, port = address.rpartition(":") if ":" in address else (address, "", str(_DEFAULT_PORT))
        if not host or not port.isdecimal():
            raise ClusterError(f"{address!r} is not an address of a Ray cluster", hint="--ray auto, or --ray HOST:6379")
        return f"{host}:{port}"
    found = os.environ.get("RAY_ADDRESS") or _noted_address()
    if not found:
        raise ClusterError("--ray auto: this machine belongs to no Ray cluster", hint=_HOW)
    return _place_of(found) if found != "auto" else found


def _noted_address() -> str:
    """Return the address of the cluster that was started on this machine last, as Ray notes it, or nothing."""
    folder = os.environ.get("RAY_TMPDIR") or "/tmp"
    noted = Path(folder) / "ray" / "ray_current_cluster"
    return noted.read_text().strip() if noted.is_file() else ""


def _check_answers(place: str) -> None:
    """Raise ``ClusterError`` where nobody listens: Ray itself would try for minutes."""
    host, _, port = place.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_PATIENCE_S).close()
    except OSError as error:
        raise ClusterError(
            f"{place}: no Ray cluster answers there: {error.strerror or error}",
            hint=f"check host and port, which `ray start --head` printed; {_HOW}",
        ) from None


def asked_address(given: str | None) -> str | None:
    """Return the address of the cluster that is to be used: what was given, else what WHISQ_RAY says, else None."""
    found = given if given is not None else os.environ.get(VARIABLE, "")
    return found or None


def executor_at(address: str | None, say: Callable[[str], None] = lambda line: None) -> Executor:
    """Return who does units: this process where there is no address, else the nodes of that cluster."""
    return Local() if address is None else RayCluster(address, say)
