"""Every cell of "loads in": a small file of each kind is written, loaded and run in the real runtime.

A cell is a runtime, a type, a container, a vocabulary, and whether the file is of one type. What the registry says of
the file before it is written must be what the runtime does. whisper.cpp with pull request 3605 is carried by no
package: what is said of it was read in its loader's source.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.containers import write_bin
from tests.support.models import tiny_tokenizer, tiny_weights
from whisq import Recipe, make_plan, open_model, parse_rule, quantize
from whisq.formats.mel import mel_filters
from whisq.model import Model, Tokenizer
from whisq.runtimes.process import WorkerError, WorkerProcess, WorkerRefusedError
from whisq.runtimes.registry import parse_runtime
from whisq.runtimes.runtime import Runtime
from whisq.types import TYPES, TensorType
from whisq.whisper import Dimensions

VOCABULARIES = {51864: "English", 51865: "multilingual", 51866: "large-v3", 51900: "with tokens added"}

LOADER = """
import sys
from pathlib import Path
import numpy as np
from whisq.runtimes.registry import parse_runtime
from whisq.runtimes.worker import private_stdout, serve

class Loader:
    def whisper(self, path):
        model = parse_runtime("whisper.cpp").next_tokens(Path(path), 1)
        model.hear(np.zeros(1600, np.float32))
        found = bool(np.isfinite(model.after([50257, 50362])).all())
        model.close()
        return {"fine": found}
    def transcribe(self, path):
        model = parse_runtime("transcribe.cpp").transcriber(Path(path), 1, False)
        model.transcribe(np.zeros(16000, np.float32), None)
        return {"fine": True}

serve(sys.stdin, private_stdout(), Loader())
"""


def dims(n_vocab: int, width: int, positions: int = 1500) -> Dimensions:
    """Return sizes that runtimes accept: Whisper's own contexts, one layer each."""
    mels = 128 if n_vocab == 51866 else 80
    return Dimensions(n_vocab, positions, width, width // 64, 1, 448, width, width // 64, 1, mels)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("loads")
    (found / "loader_of_files.py").write_text(LOADER)
    return found


@pytest.fixture
def loader(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.syspath_prepend(str(folder))
    return "loader_of_files"


def source(folder: Path, n_vocab: int, width: int, positions: int = 1500) -> Path:
    """Return the f16 file of these sizes, made once."""
    path = folder / f"{n_vocab}-{width}-{positions}.bin"
    if not path.exists():
        sizes = dims(n_vocab, width, positions)
        weights = tiny_weights(sizes)
        arrays = {name: (array * 0.05).astype(array.dtype) for name, array in weights.arrays.items()}
        # As many texts as a Whisper of that size has: of fewer, no file is written.
        text = list(tiny_tokenizer().tokens[:-1])
        text += [b" word-%d" % number for number in range(len(text), 50256 if n_vocab == 51864 else 50257)]
        known = Tokenizer((*text, b"<|endoftext|>"), (), {})
        write_bin(path, replace(weights, arrays=arrays, tokenizer=known, filters=mel_filters(sizes.n_mels)))
    return path


def width_for(kind: TensorType) -> int:
    """Return a row length that the type fits."""
    return 256 if kind.block_size == 256 else 64


def recipe_of(kind: TensorType, *, mixed: bool) -> Recipe:
    """Return a recipe for one type in all matrices, or for it and another with the embedding in a third."""
    if not mixed:
        return Recipe(kind, unprotect=(r"decoder\.token_embedding\.weight",), embedding=kind)
    other = TYPES["q8_0" if kind.name != "q8_0" else "q5_0"]
    return Recipe(kind, (parse_rule(rf".*mlp.*\.weight={other.name}"),))


class Real:
    """A runtime in a process of its own, begun again where a file ended it."""

    def __init__(self, module: str, operation: str) -> None:
        self._module, self._operation = module, operation
        self._worker = WorkerProcess(module)

    def loads(self, path: Path) -> bool:
        try:
            return bool(self._worker.ask(self._operation, path=str(path))["fine"])
        except WorkerRefusedError:
            return False
        except WorkerError:
            self._worker.close()
            self._worker = WorkerProcess(self._module)
            return False

    def close(self) -> None:
        self._worker.close()


def disagreements(
    real: Real, runtime: Runtime, folder: Path, container: str, n_vocab: int, *, mixed: bool, names: list[str]
) -> Iterator[str]:
    """Yield every file of these of which the registry says one thing and the runtime does another."""
    for name in names:
        kind = TYPES[name]
        path = folder / f"cell.{container}"
        with open_model(source(folder, n_vocab, width_for(kind))) as model:
            says = says_and_writes(model, kind, path, container, runtime, mixed=mixed)
        does = real.loads(path)
        if says != does:
            yield f"{name}: the registry says {says}, the runtime {does}"


def says_and_writes(
    model: Model, kind: TensorType, path: Path, container: str, runtime: Runtime, *, mixed: bool
) -> bool:
    """Write a file, and return whether the plan says that the runtime loads it."""
    plan = make_plan(model, recipe_of(kind, mixed=mixed), container=container)  # type: ignore[arg-type]
    quantize(plan, path, threads=1)
    return next(verdict.loads for verdict in plan.verdicts if verdict.runtime == runtime.name)


@pytest.mark.parametrize("mixed", [False, True], ids=["uniform", "mixed"])
@pytest.mark.parametrize("n_vocab", VOCABULARIES, ids=VOCABULARIES.get)
@pytest.mark.parametrize("container", ["bin", "gguf"])
@pytest.mark.parametrize("name", ["whisper.cpp", "transcribe.cpp"])
def test_the_registry_says_what_the_runtime_does(
    whisper_cpp: object, transcribe_cpp: object, loader: str, folder: Path,
    name: str, container: str, n_vocab: int, mixed: bool,
) -> None:  # fmt: skip
    runtime = parse_runtime(name)
    # Types and vocabularies do not meet in a loader: of all types one vocabulary is enough, and the other way round.
    names = list(TYPES) if n_vocab == 51864 and container in runtime.containers else ["f16", "q5_1"]
    real = Real(loader, name.partition(".")[0])
    try:
        assert list(disagreements(real, runtime, folder, container, n_vocab, mixed=mixed, names=names)) == []
    finally:
        real.close()


@pytest.mark.parametrize("container", ["bin", "gguf"])
@pytest.mark.parametrize("name", ["whisper.cpp", "transcribe.cpp"])
def test_fewer_positions_than_whispers(
    whisper_cpp: object, transcribe_cpp: object, loader: str, folder: Path, name: str, container: str
) -> None:
    """A fine-tune for short commands: ``max_source_positions`` is not 1500."""
    real = Real(loader, name.partition(".")[0])
    path = folder / f"short.{container}"
    try:
        with open_model(source(folder, 51864, 64, positions=750)) as model:
            says = says_and_writes(model, TYPES["q5_1"], path, container, parse_runtime(name), mixed=False)
        assert says == real.loads(path) == ((name, container) in (("whisper.cpp", "bin"), ("transcribe.cpp", "gguf")))
    finally:
        real.close()


def test_what_was_tested_is_what_the_titles_name(whisper_cpp: object, transcribe_cpp: object) -> None:
    for name in ("whisper.cpp", "transcribe.cpp"):
        runtime = parse_runtime(name)
        if f"{runtime.package} {runtime.installed_version()}" not in runtime.title:
            pytest.skip(f"{runtime.package} {runtime.installed_version()} is not what {runtime.title} names")
    assert "not run" in parse_runtime("whisper.cpp-pr3605").title
