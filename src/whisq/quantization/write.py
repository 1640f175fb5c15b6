"""Carry out a plan: stream every tensor from the source through the kernels into a new file.

The layout is known beforehand, so pieces of tensors are read, computed and written by several threads at
once, each at its own offset: the same bytes with any number of threads, and bounded memory for any model.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from whisq import kernels
from whisq.errors import OutputError, WeightError
from whisq.quantization.plan import Assignment, Plan
from whisq.quantization.rounding import Rounder
from whisq.types import BF16, F32, TensorType
from whisq.writing import Part, whole

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

F16_MAX = 65504.0
_CHUNK_WEIGHTS = 1 << 19
"""Weights in a piece of work: 1 MiB of f16, small enough that Ctrl-C and two threads' buffers cost nothing."""


_SYNC_EVERY_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class Written:
    """What came of a run: the file, its size in bytes, and how long it took in seconds."""

    path: Path
    size_bytes: int
    duration_s: float


def quantize(
    plan: Plan,
    output: str | Path,
    *,
    threads: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Written:
    """Write the file that a plan describes.

    The bytes go to a temporary file beside ``output``, are synced, and take its name at the end: on any
    error nothing is left and an existing file is as it was. ``threads`` defaults to the CPUs at hand;
    ``progress`` is called with the number of weights done since the last call, from any thread.

    Raises ``OutputError`` when the file cannot be written, ``WeightError`` when weights are NaN, infinite or
    beyond f16's range (all tensors that are so are named).
    """
    started = time.perf_counter()
    target = check_output(plan, output)
    with whole(target, hint="free some space, or write to another disk") as part:
        for offset, piece in plan.layout.pieces:
            part.write(piece, offset)
        with _Syncing(part.descriptor) as syncing:
            _write_tensors(plan, part, threads or _cpu_count(), progress, syncing)
        part.truncate(plan.size_bytes)
    return Written(target, plan.size_bytes, time.perf_counter() - started)


def _cpu_count() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_output(plan: Plan, output: str | Path) -> Path:
    """Return the path that will be written, symbolic links followed.

    Raises ``OutputError`` when it is a source file, a directory, in no directory, or the disk has no room.
    """
    target = Path(output).resolve()
    shown = str(output)
    if target.is_dir():
        raise OutputError(f"{shown}: is a directory, expected a file name", hint=f"write to {target / 'model.bin'}")
    if target.exists() and not target.is_file():
        raise OutputError(f"{shown}: is no regular file", hint="write to a file: the result is renamed into place")
    for file in plan.model.files:
        if target.exists() and target.samefile(file.path):
            raise OutputError(f"{shown}: is the input itself", hint="give the output another name")
    parent = target.parent
    if not parent.is_dir():
        raise OutputError(f"{shown}: there is no directory {parent}", hint=f"create it: mkdir -p {parent}")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"{shown}: no permission to write in {parent}", hint="choose another directory")
    free = shutil.disk_usage(parent).free
    if free < plan.size_bytes:
        raise OutputError(
            f"{shown}: the disk has {free} bytes free, the file needs {plan.size_bytes}",
            hint="free some space, or write to another disk",
        )
    return target


class _Syncing:
    """Sends what is written to the disk all along, so that the sync at the end of a large file finds little to do."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._written = 0
        self._error: OSError | None = None
        self._wake = threading.Semaphore(0)
        self._done = False
        self._thread = threading.Thread(target=self._sync, name="whisq-sync", daemon=True)

    def __enter__(self) -> _Syncing:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._done = True
        self._wake.release()
        _join([self._thread])
        if self._error is not None and kind is None:
            raise self._error

    def wrote(self, n_bytes: int) -> None:
        """Count what was written, from any thread; a count lost between two threads does no harm."""
        before, self._written = self._written, self._written + n_bytes
        if before // _SYNC_EVERY_BYTES != self._written // _SYNC_EVERY_BYTES:
            self._wake.release()

    def _sync(self) -> None:
        while self._wake.acquire() and not self._done:
            try:
                os.fsync(self._descriptor)
            except OSError as error:
                # fsync reports an error once; the final sync would miss it.
                self._error = self._error or error


@dataclass(slots=True)
class _Bad:
    """Weights of one tensor that its type cannot hold."""

    nan: int = 0
    infinite: int = 0
    overflow: int = 0

    def __bool__(self) -> bool:
        return bool(self.nan or self.infinite or self.overflow)

    def __str__(self) -> str:
        parts = [f"{self.nan} NaN"] * bool(self.nan) + [f"{self.infinite} infinite"] * bool(self.infinite)
        parts += [f"{self.overflow} beyond f16's range (±65504)"] * bool(self.overflow)
        return ", ".join(parts)


class _Worker:
    """Does pieces of work; one instance is shared by all threads, buffers are each thread's own."""

    def __init__(self, plan: Plan, part: Part, progress: Callable[[int], None] | None, syncing: _Syncing) -> None:
        self.model, self.part, self.progress, self.syncing = plan.model, part, progress, syncing
        self.bad: dict[str, _Bad] = {}
        self.lock = threading.Lock()
        self.stopped = False
        self.buffers = threading.local()
        self.rounder = Rounder(plan.calibration) if plan.calibration is not None else None
        self.shifts: dict[str, NDArray[np.float32]] = {}

    def do(self, assignment: Assignment, offset: int, start: int, stop: int) -> None:
        """Read, compute and write rows ``start:stop`` of a tensor whose data begins at ``offset``."""
        if self.stopped:
            return
        tensor, row_bytes = assignment.tensor, assignment.type.row_bytes(assignment.tensor.n_columns)
        source = self.model.rows(tensor, start, stop)
        result: bytearray | memoryview = source
        if not (tensor.type.is_quantized and tensor.type is assignment.type):
            result = self._compute(assignment, source, start, stop)
        if self.stopped:
            return
        self.part.write(memoryview(result)[: (stop - start) * row_bytes], offset + start * row_bytes)
        del source, result
        self.syncing.wrote((stop - start) * row_bytes)
        self.model.release(tensor, start, stop)
        if self.progress is not None:
            self.progress((stop - start) * tensor.n_columns)

    def _compute(self, assignment: Assignment, source: memoryview, start: int, stop: int) -> bytearray:
        tensor, kind = assignment.tensor, assignment.type
        source_type = tensor.type
        if source_type.is_quantized:
            weights = kernels.dequantize(source, source_type, (stop - start, tensor.n_columns))
            source, source_type = weights.data.cast("B"), F32
        if assignment.method == "feedback":
            return self._feedback(assignment, source, source_type, start, stop)
        importance = self._importance(assignment)
        size = (stop - start) * kind.row_bytes(tensor.n_columns)
        buffer = getattr(self.buffers, "output", None)
        if buffer is None or len(buffer) < size:
            buffer = self.buffers.output = bytearray(size)
        tally = kernels.quantize_rows(
            source, source_type, memoryview(buffer)[:size], kind, tensor.n_columns, importance
        )
        self._count(tensor.name, tally, kind)
        shift = self.shifts.get(tensor.name)
        if shift is not None:
            return _shifted(memoryview(buffer)[:size], shift[start:stop] if tensor.n_rows > 1 else shift)
        return buffer

    def _count(self, name: str, tally: kernels.Tally, kind: TensorType) -> None:
        overflow = 0 if kind in (F32, BF16) else tally.overflow
        if tally.nan or tally.infinite or overflow:
            with self.lock:
                bad = self.bad.setdefault(name, _Bad())
                bad.nan += tally.nan
                bad.infinite += tally.infinite
                bad.overflow += overflow

    def _importance(self, assignment: Assignment) -> NDArray[np.float32] | None:
        if assignment.method != "importance" or self.rounder is None:
            return None
        return self.rounder.importance(assignment.tensor.name)

    def _feedback(
        self, assignment: Assignment, source: memoryview, source_type: TensorType, start: int, stop: int
    ) -> bytearray:
        """Round rows with feedback, and keep what that takes from the layer's mean output for its bias."""
        import numpy as np

        tensor, kind = assignment.tensor, assignment.type
        shape = (stop - start, tensor.n_columns)
        weights = kernels.dequantize(source, source_type, shape)
        finite = np.isfinite(weights)
        nan = int(np.isnan(weights).sum())
        overflow = int((np.abs(weights[finite]) > F16_MAX).sum())
        self._count(tensor.name, kernels.Tally(nan, int((~finite).sum()) - nan, overflow), kind)
        if tensor.name in self.bad or self.rounder is None:
            return bytearray(shape[0] * kind.row_bytes(tensor.n_columns))
        blocks = self.rounder.round(tensor.name, weights, kind, "feedback")
        bias = tensor.name.removesuffix("weight") + "bias"
        if bias in self.model:
            shift = self.rounder.bias_shift(tensor.name, weights, kernels.dequantize(blocks.data, kind, shape))
            if shift is not None:
                with self.lock:
                    whole = self.shifts.setdefault(bias, np.zeros(tensor.n_rows, np.float32))
                    whole[start:stop] = shift
        return bytearray(blocks.tobytes())


def _write_tensors(
    plan: Plan, part: Part, threads: int, progress: Callable[[int], None] | None, syncing: _Syncing
) -> None:
    worker = _Worker(plan, part, progress, syncing)
    pieces = list(_pieces(plan))
    # A bias takes up what feedback shifted in its matrix: such biases come when all matrices are done.
    fed = {a.tensor.name.removesuffix("weight") + "bias" for a in plan.assignments if a.method == "feedback"}
    for work in (
        [piece for piece in pieces if piece[0].tensor.name not in fed],
        [piece for piece in pieces if piece[0].tensor.name in fed],
    ):
        _do_all(worker, work, threads)
    _refuse_bad(plan, worker)


def _do_all(worker: _Worker, work: list[tuple[Assignment, int, int, int]], threads: int) -> None:
    """Do all pieces, this thread among the others, so that Ctrl-C and errors stop them within milliseconds."""
    left = deque(work)
    errors: list[BaseException] = []

    def take() -> None:
        try:
            while not worker.stopped:
                try:
                    piece = left.popleft()
                except IndexError:
                    return
                worker.do(*piece)
        except BaseException as error:
            worker.stopped = True
            errors.append(error)

    others = [threading.Thread(target=take, name="whisq-worker", daemon=True) for _ in range(threads - 1)]
    try:
        for thread in others:
            thread.start()
        take()
        for thread in others:
            thread.join()
    except BaseException as error:
        worker.stopped = True
        errors.insert(0, error)
        _join(others)
    if errors:
        raise errors[0]


def _join(threads: list[threading.Thread]) -> None:
    """Wait for threads whatever comes: they write to a descriptor that is closed afterwards."""
    while any(thread.is_alive() for thread in threads):
        with contextlib.suppress(KeyboardInterrupt):
            for thread in threads:
                if thread.is_alive():
                    thread.join()


def _refuse_bad(plan: Plan, worker: _Worker) -> None:
    if worker.bad:
        order = [a.tensor.name for a in plan.assignments if a.tensor.name in worker.bad]
        listed = "\n".join(f"  {name}: {worker.bad[name]}" for name in order)
        raise WeightError(
            f"{plan.model.path}: {len(order)} tensors hold weights that cannot be kept:\n{listed}",
            hint="the source is damaged or was trained to divergence"
            if any(bad.nan or bad.infinite for bad in worker.bad.values())
            else "keep the tensor in f32 (--keep-f32, or a rule =f32), or rescale the model",
        )


def _shifted(bias: memoryview, shift: NDArray[np.float32]) -> bytearray:
    import numpy as np

    return bytearray((np.frombuffer(bias, "<f4") + shift).astype("<f4").tobytes())


def _pieces(plan: Plan) -> Iterator[tuple[Assignment, int, int, int]]:
    for assignment, offset in zip(plan.assignments, plan.layout.data_offsets, strict=True):
        tensor = assignment.tensor
        step = max(1, _CHUNK_WEIGHTS // tensor.n_columns)
        for start in range(0, tensor.n_rows, step):
            yield assignment, offset, start, min(start + step, tensor.n_rows)
