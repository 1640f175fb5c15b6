"""Carry out a plan: stream every tensor from the source through the kernels into a new file.

The layout is known beforehand, so pieces of tensors are read, computed and written by several threads at
once, each at its own offset: the same bytes with any number of threads, and bounded memory for any model.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from whisq import kernels
from whisq.calibration.inputs import input_of
from whisq.errors import FormatError, OutputError, WeightError
from whisq.kernels.threads import available_cpus, blas_on_one_thread
from whisq.quantization.background_sync import BackgroundSync, join_all
from whisq.quantization.method import UnfitWeightsError, hint_for
from whisq.quantization.plan import Assignment, Plan
from whisq.quantization.rounding import expected_by, rounded_rows, shifted
from whisq.quantization.scales import count_unfinite, may_be_unfinite, refuse_unfinite
from whisq.writing import Part, check_writable, files_with, whole

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from whisq.quantization.bench import RoundedMatrix
    from whisq.quantization.layer_inputs import LayerInputs
    from whisq.work import Executor

PIECE_WEIGHTS = 1 << 19
"""Weights in a piece of work: 1 MiB of f16, small enough that Ctrl-C and two threads' buffers cost nothing."""


_MOST_PASSED = 256
"""Pieces that a thread looks through for one that needs nothing which another thread is computing."""


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
    piece_weights: int = PIECE_WEIGHTS,
    check: Callable[[Path], object] | None = None,
    executor: Executor | None = None,
) -> Written:
    """Write the file that a plan describes.

    The bytes go to a temporary file beside ``output``, are synced, and take its name at the end: on any
    error nothing is left and an existing file is as it was. ``threads`` defaults to the CPUs at hand;
    ``progress`` is called with the number of weights done since the last call, from any thread. The bytes do not
    depend on either, nor on ``piece_weights``, how many are read, rounded and written at once. ``check`` is called with
    the whole file before it takes its name: where that raises, nothing is left either. ``executor`` is who does what is
    slow, a matrix a unit, None for this process; the bytes do not depend on that either.

    What goes with the file is written beside it first, and goes where it fails; what is there and says the same stays.

    Raises ``OutputError`` when the file cannot be written, ``WeightError`` when weights are NaN, infinite or
    beyond f16's range (all tensors that are so are named).
    """
    started = time.perf_counter()
    target = check_output(plan, output)
    with (
        files_with(_missing_beside(plan, target)),
        whole(target, hint="free some space, or write to another disk") as part,
    ):
        for offset, piece in plan.layout.pieces:
            part.write(piece, offset)
        with BackgroundSync(part.descriptor) as syncing:
            n_threads = threads or available_cpus()
            # numpy is for calibrated plans only: its import costs a plain one more than all else.
            with nullcontext() if plan.calibration is None else blas_on_one_thread():
                _write_tensors(_Worker(plan, part, progress, syncing, n_threads), n_threads, piece_weights, executor)
        part.truncate(plan.size_bytes)
        duration_s = time.perf_counter() - started
        if check is not None:
            check(part.path)
        plan.model.check_unchanged()
    return Written(target, plan.size_bytes, duration_s)


def check_output(plan: Plan, output: str | Path) -> Path:
    """Return the path that will be written, symbolic links followed.

    Raises ``OutputError`` when it is a source file, a directory, in no directory, or the disk has no room, and where
    a file of the name that one beside it must have says something else.
    """
    shown = str(output)
    check_writable(output)
    target = Path(output).resolve()
    for file in plan.model.files:
        if target.exists() and target.samefile(file.path):
            raise OutputError(f"{shown}: is the input itself", hint="give the output another name")
    parent = target.parent
    free = shutil.disk_usage(parent).free
    if free < plan.size_bytes:
        raise OutputError(
            f"{shown}: the disk has {free} bytes free, the file needs {plan.size_bytes}",
            hint="free some space, or write to another disk",
        )
    _missing_beside(plan, target)
    return target


def _missing_beside(plan: Plan, target: Path) -> list[tuple[Path, bytes]]:
    """Return what must stand beside a file and does not yet; raises ``OutputError`` where another does."""
    missing = []
    for file in plan.layout.beside:
        path = target.with_name(file.name)
        if path == target:
            raise OutputError(f"{path}: must hold what goes with the model", hint="give the output another name")
        if not path.exists():
            missing.append((path, file.content))
            continue
        try:
            agrees = path.is_file() and file.says_the_same(path)
        except FormatError:
            agrees = False
        if not agrees:
            raise OutputError(
                f"{path}: is there already, and is not this model's, which must be beside {target.name}",
                hint="write the model into a folder of its own",
            )
    return missing


@dataclass(frozen=True, slots=True)
class _Piece:
    """Rows ``start:stop`` of a tensor whose data begins at ``offset`` in the output."""

    assignment: Assignment
    offset: int
    start: int
    stop: int


class _Worker:
    """Does pieces of work; one instance is shared by all threads."""

    def __init__(
        self,
        plan: Plan,
        part: Part,
        progress: Callable[[int], None] | None,
        syncing: BackgroundSync,
        threads: int,
    ) -> None:
        self.plan, self.model, self.part, self.progress, self.syncing = plan, plan.model, part, progress, syncing
        self.unfit: dict[str, kernels.Tally] = {}
        self.unfinite: dict[str, int] = {}
        self.shifts: dict[str, NDArray[np.float32]] = {}
        self.stopped = False
        self._inputs = _layer_inputs(plan, threads)
        self._expected: dict[str, NDArray[np.float32] | None] = {}
        self._lock = threading.Lock()

    def do(self, piece: _Piece) -> None:
        """Read, compute and write; of weights that their type cannot hold, only take note."""
        if self.stopped:
            return
        tensor, kind = piece.assignment.tensor, piece.assignment.type
        n_rows, row_bytes = piece.stop - piece.start, kind.row_bytes(tensor.n_columns)
        copied = tensor.type.is_quantized and tensor.type is kind
        try:
            result = self.model.rows(tensor, piece.start, piece.stop) if copied else self._computed(piece)
        except UnfitWeightsError as error:
            self._note(tensor.name, error.tally)
        else:
            if self.stopped:
                return
            self._write(piece, result[: n_rows * row_bytes])
            del result
        if self.progress is not None:
            self.progress(n_rows * tensor.n_columns)

    def take(self, piece: _Piece, found: RoundedMatrix) -> None:
        """Write a whole matrix that was rounded elsewhere; of weights that its type cannot hold, only take note."""
        tensor = piece.assignment.tensor
        if found.unfit is not None:
            self._note(tensor.name, found.unfit)
        else:
            if found.bias_shift is not None and tensor.spec.bias is not None:
                self._shift(tensor.spec.bias, tensor.n_rows, piece, found.bias_shift)
            self._write(piece, memoryview(found.blocks))
        if self.progress is not None:
            self.progress(tensor.n_weights)

    def _write(self, piece: _Piece, result: memoryview) -> None:
        kind = piece.assignment.type
        if may_be_unfinite(piece.assignment):
            self._note_unfinite(piece.assignment, count_unfinite(result, kind))
        self.part.write(result, piece.offset + piece.start * kind.row_bytes(piece.assignment.tensor.n_columns))
        self.syncing.wrote(len(result))

    def would_wait(self, piece: _Piece) -> bool:
        """True for a piece that needs what another thread is still computing."""
        return self._inputs is not None and self._inputs.is_being_factored(piece.assignment.tensor.name)

    def _computed(self, piece: _Piece) -> memoryview:
        tensor = piece.assignment.tensor
        expected, rows = self._expected_of(piece.assignment), (piece.start, piece.stop)
        method = piece.assignment.method
        rounded = rounded_rows(self.model, tensor, rows, piece.assignment.type, method, self._inputs, expected)
        if rounded.bias_shift is not None and tensor.spec.bias is not None:
            self._shift(tensor.spec.bias, tensor.n_rows, piece, rounded.bias_shift)
        shift = self.shifts.get(tensor.name)
        if shift is not None:
            return shifted(rounded.blocks, shift).data.cast("B")
        return rounded.blocks.cast("B")

    def _expected_of(self, assignment: Assignment) -> NDArray[np.float32] | None:
        if not assignment.method.weighs_columns:
            return None
        name = assignment.tensor.name
        with self._lock:
            if name not in self._expected:
                self._expected[name] = expected_by(assignment.method, self.model, name)
            return self._expected[name]

    def _note(self, name: str, tally: kernels.Tally) -> None:
        with self._lock:
            before = self.unfit.get(name, (0, 0, 0))
            self.unfit[name] = kernels.Tally(*(one + other for one, other in zip(before, tally, strict=True)))

    def _note_unfinite(self, assignment: Assignment, count: int) -> None:
        if count:
            with self._lock:
                self.unfinite[assignment.tensor.name] = self.unfinite.get(assignment.tensor.name, 0) + count

    def _shift(self, bias: str, length: int, piece: _Piece, shift: NDArray[np.float32]) -> None:
        import numpy as np

        with self._lock:
            self.shifts.setdefault(bias, np.zeros(length, np.float32))[piece.start : piece.stop] = shift


def _layer_inputs(plan: Plan, threads: int) -> LayerInputs | None:
    if plan.calibration is None:
        return None
    # Its numpy costs a plain quantization more than that itself takes.
    from whisq.quantization.layer_inputs import LayerInputs

    return LayerInputs(plan.calibration, most_kept=threads + 1)


def _write_tensors(worker: _Worker, threads: int, piece_weights: int, executor: Executor | None) -> None:
    pieces = list(_pieces(worker.plan, piece_weights))
    if executor is not None and not executor.is_here and worker.plan.slow:
        pieces = _share(worker, pieces, executor)
    # Matrices with one input after each other: it is read and factored once, and then forgotten.
    if worker.plan.calibration is not None:
        first: dict[str, int] = {}
        for piece in pieces:
            first.setdefault(input_of(piece.assignment.tensor.name) or "", len(first))
        pieces.sort(key=lambda piece: first[input_of(piece.assignment.tensor.name) or ""])
    # A bias takes up what rounding takes from the mean output of its layer: it comes when all matrices are done.
    shifting = {a.tensor.spec.bias for a in worker.plan.assignments if a.method.shifts_bias}
    for work in (
        [piece for piece in pieces if piece.assignment.tensor.name not in shifting],
        [piece for piece in pieces if piece.assignment.tensor.name in shifting],
    ):
        _do_all(worker, work, threads)
    _refuse_unfit(worker)
    refuse_unfinite(worker.plan, worker.unfinite)


def _share(worker: _Worker, pieces: list[_Piece], executor: Executor) -> list[_Piece]:
    """Have others round what is slow, each matrix in the pieces that this process would; returns what is left."""
    # Imports numpy, which a plain quantization does without.
    from whisq.quantization.bench import RoundingJob, units_of

    slow = {a.tensor.name for a in worker.plan.slow}
    firsts = {p.assignment.tensor.name: p for p in pieces if p.start == 0 and p.assignment.tensor.name in slow}
    units = units_of([(piece.assignment, piece.stop) for piece in firsts.values()])
    for done in executor.run(RoundingJob(worker.plan), units):
        first = firsts[done.unit.key]
        worker.take(replace(first, stop=first.assignment.tensor.n_rows), done.value)
    return [piece for piece in pieces if piece.assignment.tensor.name not in slow]


def _pieces(plan: Plan, piece_weights: int) -> Iterator[_Piece]:
    for assignment, offset in zip(plan.assignments, plan.layout.data_offsets, strict=True):
        tensor = assignment.tensor
        step = max(1, piece_weights // tensor.n_columns)
        if assignment.method.takes_whole(tensor.spec, plan.calibration):
            step = tensor.n_rows
        for start in range(0, tensor.n_rows, step):
            yield _Piece(assignment, offset, start, min(start + step, tensor.n_rows))


def _do_all(worker: _Worker, work: list[_Piece], threads: int) -> None:
    """Do all pieces, this thread among the others, so that Ctrl-C and errors stop them within milliseconds."""
    left = deque(work)
    errors: list[BaseException] = []
    taking = threading.Lock()

    def next_piece() -> _Piece | None:
        # Past an input that another thread is factoring, to the next one; where all are, to wait is all there is.
        with taking:
            for index in range(min(len(left), _MOST_PASSED)):
                if not worker.would_wait(left[index]):
                    left.rotate(-index)
                    piece = left.popleft()
                    left.rotate(index)
                    return piece
            return left.popleft() if left else None

    def take() -> None:
        try:
            while not worker.stopped:
                piece = next_piece()
                if piece is None:
                    return
                worker.do(piece)
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
        join_all(others)
    if errors:
        raise errors[0]


def _refuse_unfit(worker: _Worker) -> None:
    if worker.unfit:
        order = [a.tensor.name for a in worker.plan.assignments if a.tensor.name in worker.unfit]
        listed = "\n".join(f"  {name}: {UnfitWeightsError(worker.unfit[name])}" for name in order)
        raise WeightError(
            f"{worker.model.path}: {len(order)} tensors hold weights that cannot be kept:\n{listed}",
            hint=hint_for(worker.unfit.values()),
        )
