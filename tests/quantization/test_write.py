"""Carrying out a plan: the bytes, the file that is whole or absent, and weights that cannot be kept."""

import os
import struct
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.containers import write_bin, write_model
from tests.support.models import NARROW, WIDE, tiny_weights, values_of
from whisq import Recipe, kernels, load_recipe, make_plan, open_model, parse_rule, quantize
from whisq.errors import OutputError, WeightError
from whisq.types import TYPES
from whisq.work import Outline

LIFT = (r"decoder\.token_embedding\.weight",)
MLP = "encoder.blocks.0.mlp.0.weight"


@pytest.fixture
def model(tmp_path):
    with open_model(write_model(tmp_path / "source.bin", WIDE, kind=0)) as opened:
        yield opened


def header_ftype(path: Path) -> int:
    return struct.unpack("<12i", path.read_bytes()[:48])[11]


def leftovers(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.name not in ("source.bin", "out.bin"))


def test_what_is_rounded_as_it_is_read_is_not_shared_out(model, tmp_path):
    # An executor that does nothing: who asked it would get no matrix.
    executor = Outline()
    for name, method in (("shared", "ggml"), ("slow", "fit")):
        quantize(make_plan(model, Recipe(TYPES["q4_0"]), method=method), tmp_path / name, executor=executor)
        assert bool(executor.stages) == (method == "fit")
    quantize(make_plan(model, Recipe(TYPES["q4_0"])), tmp_path / "here")
    assert (tmp_path / "shared").read_bytes() == (tmp_path / "here").read_bytes()


@pytest.mark.parametrize("name", [name for name, kind in TYPES.items() if kind.is_quantized])
def test_every_tensor_holds_the_kernels_bytes(model, tmp_path, name):
    quantize(make_plan(model, Recipe(TYPES[name], unprotect=LIFT)), tmp_path / "out.bin")
    with open_model(tmp_path / "out.bin") as result:
        for tensor in result.tensors:
            wanted = values_of(tensor.spec)
            if tensor.spec.is_matrix:
                assert tensor.type.name == name
                assert bytes(result.rows(tensor)) == kernels.quantize(wanted, name).tobytes()
            elif tensor.role == "conv":
                assert bytes(result.rows(tensor)) == wanted.astype("<f2").tobytes()
            else:
                assert bytes(result.rows(tensor)) == wanted.tobytes()


@pytest.mark.parametrize(
    ("name", "ftype"), [("f32", 0), ("f16", 1), ("q4_0", 2002), ("q8_0", 2007), ("q6_K", 2014), ("iq4_xs", 2022)]
)
def test_uniform_files_say_their_type(model, tmp_path, name, ftype):
    quantize(make_plan(model, Recipe(TYPES[name], unprotect=LIFT)), tmp_path / "out.bin")
    assert header_ftype(tmp_path / "out.bin") == ftype


def test_mixed_files_say_2001(model, tmp_path):
    quantize(make_plan(model, Recipe(TYPES["q4_0"])), tmp_path / "out.bin")
    assert header_ftype(tmp_path / "out.bin") == 2001


def test_the_size_is_the_plans(model, tmp_path):
    plan = make_plan(model, load_recipe("balanced"))
    written = quantize(plan, tmp_path / "out.bin")
    assert (tmp_path / "out.bin").stat().st_size == plan.size_bytes == written.size_bytes


def test_the_same_bytes_with_any_number_of_threads_and_pieces(model, tmp_path):
    plan = make_plan(model, load_recipe("compact"))
    seen = set()
    for threads, weights in ((1, 1 << 19), (1, 1000), (2, 999), (5, 256), (3, 1 << 19)):
        quantize(plan, tmp_path / "out.bin", threads=threads, piece_weights=weights)
        seen.add((tmp_path / "out.bin").read_bytes())
    assert len(seen) == 1


def test_a_gguf_is_padded_behind_its_last_tensor_too(tmp_path):
    weights = tiny_weights()
    last = "decoder.token_embedding.weight"
    arrays = {name: array for name, array in weights.arrays.items() if name != last} | {last: weights.arrays[last]}
    with open_model(write_bin(tmp_path / "source.bin", replace(weights, arrays=arrays))) as model:
        plan = make_plan(model, Recipe(TYPES["q4_0"], unprotect=LIFT), container="gguf")
        quantize(plan, tmp_path / "out.bin")
    assert plan.assignments[-1].tensor.name == last
    assert plan.assignments[-1].size_after % 32
    assert (tmp_path / "out.bin").stat().st_size == plan.size_bytes
    assert plan.size_bytes % 32 == 0


def test_progress_counts_every_weight(model, tmp_path):
    done = []
    quantize(make_plan(model, Recipe(TYPES["q4_0"])), tmp_path / "out.bin", progress=done.append)
    assert sum(done) == model.n_weights


def test_output_is_input(model, tmp_path):
    before = (tmp_path / "source.bin").read_bytes()
    (tmp_path / "link.bin").symlink_to(tmp_path / "source.bin")
    plan = make_plan(model, Recipe(TYPES["q4_0"]))
    for name in ("source.bin", "link.bin"):
        with pytest.raises(OutputError, match="is the input itself"):
            quantize(plan, tmp_path / name)
    assert (tmp_path / "source.bin").read_bytes() == before


def test_a_symbolic_link_is_followed(model, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "out.bin").symlink_to(tmp_path / "real" / "file.bin")
    quantize(make_plan(model, Recipe(TYPES["q4_0"])), tmp_path / "out.bin")
    assert (tmp_path / "out.bin").is_symlink()
    assert (tmp_path / "real" / "file.bin").stat().st_size > 0


@pytest.mark.parametrize(("name", "message"), [(".", "is a directory"), ("absent/out.bin", "does not exist")])
def test_output_in_no_place(model, tmp_path, name, message):
    with pytest.raises(OutputError, match=message) as caught:
        quantize(make_plan(model, Recipe(TYPES["q4_0"])), tmp_path / name)
    assert caught.value.hint


def test_output_is_no_regular_file(model):
    with pytest.raises(OutputError, match="not a regular file"):
        quantize(make_plan(model, Recipe(TYPES["q4_0"])), os.devnull)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_output_without_permission(model, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(OutputError, match="no permission"):
        quantize(make_plan(model, Recipe(TYPES["q4_0"])), tmp_path / "locked" / "out.bin")


def test_no_room_on_the_disk(model, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: _Usage())
    with pytest.raises(OutputError, match="has 10 bytes free"):
        quantize(make_plan(model, Recipe(TYPES["q4_0"])), tmp_path / "out.bin")
    assert leftovers(tmp_path) == []


class _Usage:
    free = 10


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt(), MemoryError()])
def test_nothing_is_left_when_writing_fails(model, tmp_path, monkeypatch, failure, threads):
    (tmp_path / "out.bin").write_bytes(b"precious")
    writes, lock, real = [0], threading.Lock(), os.pwrite

    def failing(descriptor, data, offset):
        with lock:
            writes[0] += 1
            if writes[0] > len(plan.layout.pieces) + 3:
                raise failure
        return real(descriptor, data, offset)

    plan = make_plan(model, Recipe(TYPES["q4_0"]))
    monkeypatch.setattr("os.pwrite", failing)
    expected = OutputError if isinstance(failure, OSError) else type(failure)
    with pytest.raises(expected):
        quantize(plan, tmp_path / "out.bin", threads=threads)
    assert (tmp_path / "out.bin").read_bytes() == b"precious"
    assert leftovers(tmp_path) == []


def test_short_writes_are_continued(model, tmp_path, monkeypatch):
    real = os.pwrite
    plan = make_plan(model, Recipe(TYPES["q4_0"]))
    quantize(plan, tmp_path / "out.bin")
    whole = (tmp_path / "out.bin").read_bytes()
    monkeypatch.setattr("os.pwrite", lambda fd, data, offset: real(fd, data[:1000], offset))
    quantize(plan, tmp_path / "out.bin")
    assert (tmp_path / "out.bin").read_bytes() == whole


def test_an_existing_files_mode_is_kept(model, tmp_path):
    (tmp_path / "out.bin").write_bytes(b"")
    (tmp_path / "out.bin").chmod(0o640)
    quantize(make_plan(model, Recipe(TYPES["q4_0"])), tmp_path / "out.bin")
    assert (tmp_path / "out.bin").stat().st_mode & 0o777 == 0o640


def damaged(tmp_path, name, value, kind=0, count=3):
    dims = NARROW
    spec_values = None
    with open_model(write_model(tmp_path / "source.bin", dims, kind)) as model:
        spec_values = values_of(model[name].spec)
    spec_values.reshape(-1)[5 : 5 + count] = value
    return write_model(tmp_path / "source.bin", dims, kind, {name: spec_values})


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize("name", [MLP, "encoder.conv1.weight", "decoder.token_embedding.weight", "decoder.ln.bias"])
@pytest.mark.parametrize(("value", "word"), [(np.nan, "3 NaN"), (np.inf, "3 infinite"), (-np.inf, "3 infinite")])
def test_nan_and_infinity_name_the_tensor_and_the_count(tmp_path, kind, name, value, word):
    path = damaged(tmp_path, name, value, kind)
    with open_model(path) as model, pytest.raises(WeightError) as caught:
        quantize(make_plan(model, Recipe(TYPES["q4_0"])), tmp_path / "out.bin")
    assert f"{name}: {word}" in str(caught.value)
    assert caught.value.hint
    assert not (tmp_path / "out.bin").exists()
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("name", [MLP, "encoder.conv1.weight", "decoder.token_embedding.weight"])
def test_what_f16_cannot_hold(tmp_path, name):
    path = damaged(tmp_path, name, 70000.0)
    with open_model(path) as model:
        with pytest.raises(WeightError) as caught:
            quantize(make_plan(model, Recipe(TYPES["q4_0"])), tmp_path / "out.bin")
        assert f"{name}: 3 beyond f16's range" in str(caught.value)
        keep = Recipe(TYPES["q4_0"], (parse_rule(f"{MLP}=f32"),))
        quantize(make_plan(model, keep, keep_f32=True), tmp_path / "out.bin")
    with open_model(tmp_path / "out.bin") as result:
        assert np.abs(result.array(name)).max() == 70000


def test_norms_may_exceed_f16(tmp_path):
    with open_model(damaged(tmp_path, "decoder.ln.bias", 70000.0)) as model:
        quantize(make_plan(model, Recipe(TYPES["q4_0"])), tmp_path / "out.bin")


@pytest.mark.parametrize("piece_weights", [1 << 20, 640])
def test_all_bad_tensors_are_listed_at_once(tmp_path, piece_weights):
    change = {name: np.full((256, 64), np.nan, np.float32) for name in (MLP, MLP.replace("0.mlp", "1.mlp"))}
    path = write_model(tmp_path / "source.bin", NARROW, 0, change)
    with open_model(path) as model, pytest.raises(WeightError) as caught:
        quantize(make_plan(model, Recipe(TYPES["q8_0"])), tmp_path / "out.bin", piece_weights=piece_weights)
    assert "2 tensors hold weights" in str(caught.value)
    assert f"{MLP}: 16384 NaN" in str(caught.value)


def test_a_disk_error_that_only_the_sync_along_the_way_meets_is_reported(model, tmp_path, monkeypatch):
    met = threading.Event()

    def once(descriptor: int) -> None:
        if threading.current_thread().name == "whisq-sync" and not met.is_set():
            met.set()
            raise OSError(5, "Input/output error")

    def wait(n_weights: int) -> None:
        # Called after each piece is written: the other thread meets the error before the work ends.
        assert met.wait(60)

    monkeypatch.setattr("whisq.quantization.background_sync.SYNC_EVERY_BYTES", 1)
    monkeypatch.setattr("os.fsync", once)
    with pytest.raises(OutputError, match="Input/output error"):
        quantize(make_plan(model, Recipe(TYPES["q4_0"])), tmp_path / "out.bin", threads=1, progress=wait)
    assert not (tmp_path / "out.bin").exists()
    assert leftovers(tmp_path) == []
