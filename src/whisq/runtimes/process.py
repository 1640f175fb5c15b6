"""The parent's end of a worker process: requests out, replies in, and the reason when it dies."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from types import TracebackType
from typing import Any

from whisq.errors import RuntimeUnavailableError
from whisq.stopping import held, undo_at_end, undone
from whisq.system import own_group

_NOISE = "load_backend:"  # ggml tells of each, whether all is well or not
_TAIL_LINES = 3
_DEATH_S = 30
"""A process that is killed is gone within this, unless the disk or a driver keeps it."""


class WorkerError(RuntimeUnavailableError):
    """The worker failed or died."""


class WorkerRefusedError(WorkerError):
    """The worker lives, and answered that it could not do what it was asked."""


class WorkerProcess:
    """A process that answers JSON lines; a context manager that ends it."""

    def __init__(self, module: str) -> None:
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - closed in close
        environment = dict(os.environ)
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        # ggml's abort starts a debugger for a trace of the stack: it would read our requests, and wait for ever.
        environment["GGML_NO_BACKTRACE"] = "1"
        with held:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
                encoding="utf-8",
                env=environment,
                # A terminal's Ctrl-C is for this process, which ends that one: not for both, in any order.
                **own_group(),
            )
            self._undoing = undo_at_end(self._kill)

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def ask(self, operation: str, **request: Any) -> dict[str, Any]:
        """Return the reply to one request; raises ``WorkerError`` with the reason where it failed."""
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise WorkerError("the worker has no pipes")
        try:
            stdin.write(json.dumps({"operation": operation, **request}) + "\n")
            stdin.flush()
            line = stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(f"the runtime's process {self._exit_status()}{self._stderr_tail()}")
        reply: dict[str, Any] = json.loads(line)
        if "failed" in reply:
            raise WorkerRefusedError(f"{reply['failed']}{self._stderr_tail()}")
        return reply

    def _exit_status(self) -> str:
        code = self._process.wait(timeout=60)
        if code < 0:
            return f"died of {signal.Signals(-code).name}"
        return f"exited with code {code}"

    def _stderr_tail(self) -> str:
        self._log.seek(0)
        lines = [line.strip() for line in self._log.read().splitlines()]
        told = [line for line in lines if line and _NOISE not in line]
        return f" ({' / '.join(told[-_TAIL_LINES:])})" if told else ""

    def close(self) -> None:
        """End the process and wait for it."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._kill()
        undone(self._undoing)
        self._log.close()

    def _kill(self) -> None:
        self._process.kill()
        self._process.wait(timeout=_DEATH_S)

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._process.kill()
        self.close()
