"""Importance in other tools' files: llama.cpp's and CrispASR's, read and written."""

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

import whisq
from tests.support.calibrations import write
from tests.support.containers import model_bytes
from tests.support.models import WIDE
from whisq.calibration import read_calibration
from whisq.calibration.imatrix import IMATRIX_FORMS, write_imatrix
from whisq.cli.kinds import IMATRIX, MODEL, kind_of_file
from whisq.errors import CalibrationError


@pytest.mark.parametrize("dialect", ["canonical", "transcribe.cpp", "huggingface"])
def test_imatrix_round_trip_in_every_dialect(tmp_path: Path, dialect) -> None:
    made = write(tmp_path / "a.calib")
    write_imatrix(tmp_path / "a.gguf", read_calibration(tmp_path / "a.calib"), WIDE, dialect)
    back = read_calibration(tmp_path / "a.gguf")
    assert not back.has_second_moments
    assert set(back.counts) == set(made)
    for name, moments in made.items():
        np.testing.assert_allclose(back.moments(name).squares, moments.squares, rtol=1e-6)


def test_imatrix_has_llama_cpps_layout(tmp_path: Path) -> None:
    made = write(tmp_path / "a.calib")
    write_imatrix(tmp_path / "a.gguf", read_calibration(tmp_path / "a.calib"), WIDE)
    reader = gguf.GGUFReader(tmp_path / "a.gguf")
    assert reader.get_field("general.type").contents() == "imatrix"
    assert reader.get_field("imatrix.datasets").contents() == ["clips"]
    assert reader.get_field("imatrix.chunk_count") is not None
    assert reader.get_field("imatrix.chunk_size") is not None
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    name = "encoder.blocks.0.mlp.2.weight"
    assert list(tensors[f"{name}.in_sum2"].shape) == [1024, 1]
    assert list(tensors[f"{name}.counts"].shape) == [1, 1]
    assert tensors[f"{name}.counts"].data.reshape(-1)[0] == 500
    sums = tensors[f"{name}.in_sum2"].data.reshape(-1)
    np.testing.assert_allclose(sums, 500 * made["encoder.blocks.0.mlp.2"].squares, rtol=1e-6)


def test_an_older_imatrix_is_named_with_what_turns_it_into_a_gguf(tmp_path: Path) -> None:
    path = tmp_path / "mine.dat"
    path.write_bytes(struct.pack("<ii", 1, 4) + b"name" + struct.pack("<2i", 1, 64) + bytes(256))
    with pytest.raises(CalibrationError, match=r"is an imatrix as llama\.cpp wrote until July 2025") as caught:
        read_calibration(path)
    assert f"llama-imatrix --in-file {path} -o {tmp_path / 'mine.gguf'}" in str(caught.value.hint)


def test_an_imatrix_of_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    writer.add_string("general.type", "imatrix")
    writer.add_tensor("blk.0.ffn_up.weight.in_sum2", np.ones((1, 8), np.float32))
    writer.add_tensor("blk.0.ffn_up.weight.counts", np.ones((1, 1), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(CalibrationError, match="does not name a matrix of a Whisper"):
        read_calibration(tmp_path / "a.gguf")


def imatrix(path: Path, width: int = 256, value: float = 1.0, count: float = 4.0, name: str = "") -> Path:
    writer = gguf.GGUFWriter(path, "imatrix")
    writer.add_string("general.type", "imatrix")
    name = name or "encoder.blocks.0.attn.query.weight"
    writer.add_tensor(f"{name}.in_sum2", np.full((1, width), value, np.float32))
    writer.add_tensor(f"{name}.counts", np.full((1, 1), count, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def crispasr_imatrix(path: Path, sums: dict[str, np.ndarray], counts: dict[str, int]) -> Path:
    """Write as crispasr_imatrix_flush does: keys and tensors in the order of names, counts as u64."""
    writer = gguf.GGUFWriter(path, "crispasr-imatrix")
    writer.add_uint32("imatrix.version", 1)
    for name in sorted(sums):
        writer.add_tensor(name, sums[name].astype(np.float32))
        if name in counts:
            writer.add_uint64(f"count.{name}", counts[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("dialect", ["canonical", "transcribe.cpp", "huggingface"])
def test_an_imatrix_of_crispasr_is_read(tmp_path: Path, dialect) -> None:
    names = [whisq.whisper.name_in_dialect(f"encoder.blocks.0.mlp.{n}.weight", dialect) for n in (0, 2)]
    sums = {names[0]: np.arange(256.0), names[1]: np.full(1024, 6.0)}
    found = read_calibration(crispasr_imatrix(tmp_path / "a.gguf", sums, {names[0]: 4, names[1]: 3}))
    assert found.counts == {"encoder.blocks.0.mlp.0": 4, "encoder.blocks.0.mlp.2": 3}
    assert not found.has_second_moments
    np.testing.assert_array_equal(found.moments("encoder.blocks.0.mlp.0").squares, np.arange(256.0) / 4)
    np.testing.assert_array_equal(found.moments("encoder.blocks.0.mlp.2").squares, np.full(1024, 2.0))


def test_an_imatrix_is_written_as_crispasr_reads_it(tmp_path: Path) -> None:
    made = write(tmp_path / "a.calib")
    form = IMATRIX_FORMS["crispasr"]
    write_imatrix(tmp_path / "a.gguf", read_calibration(tmp_path / "a.calib"), WIDE, "transcribe.cpp", form)
    reader = gguf.GGUFReader(tmp_path / "a.gguf")
    assert reader.get_field("general.architecture").contents() == "crispasr-imatrix"
    assert reader.get_field("imatrix.version").contents() == 1
    # crispasr_load_imatrix: a tensor of f32 by the weight's name, divided by the u64 at count.NAME.
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    name = "enc.blocks.0.ffn.fc2.weight"
    assert (tensors[name].tensor_type, list(tensors[name].shape)) == (gguf.GGMLQuantizationType.F32, [1024])
    count = reader.get_field(f"count.{name}")
    assert (count.types, count.contents()) == ([gguf.GGUFValueType.UINT64], 500)
    assert {f"count.{name}" for name in tensors} == {key for key in reader.fields if key.startswith("count.")}
    np.testing.assert_allclose(tensors[name].data / 500, made["encoder.blocks.0.mlp.2"].squares, rtol=1e-6)
    back = read_calibration(tmp_path / "a.gguf")
    assert set(back.counts) == set(made)


def test_crispasrs_imatrix_of_a_whisper_that_it_ran_names_no_matrix(tmp_path: Path) -> None:
    # As CrispASR 0.8.45 wrote of tiny.en: encoder and decoder count from 0, each, into one file.
    path = crispasr_imatrix(tmp_path / "a.gguf", {"leaf_0": np.ones(384), "leaf_10": np.ones(1536)}, {"leaf_0": 6020})
    with pytest.raises(CalibrationError, match=r"by their place in a graph \(leaf_0\), as CrispASR does") as caught:
        read_calibration(path)
    assert "whisq calibrate MODEL" in str(caught.value.hint)


@pytest.mark.parametrize("count", [None, 0])
def test_a_matrix_that_crispasr_did_not_count(tmp_path: Path, count: int | None) -> None:
    name = "encoder.blocks.0.attn.query.weight"
    path = crispasr_imatrix(tmp_path / "a.gguf", {name: np.ones(256)}, {} if count is None else {name: count})
    with pytest.raises(CalibrationError, match="has no count of what was summed"):
        read_calibration(path)


def test_an_imatrix_of_either_form_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    assert kind_of_file(imatrix(tmp_path / "a.gguf")) == IMATRIX
    assert kind_of_file(crispasr_imatrix(tmp_path / "b.gguf", {"a": np.ones(1)}, {"a": 1})) == IMATRIX
    writer = gguf.GGUFWriter(tmp_path / "c.gguf", "whisper")
    writer.add_string("general.type", "model")
    writer.add_string("quantize.imatrix.file", "a.gguf")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert kind_of_file(tmp_path / "c.gguf") == MODEL


@pytest.mark.parametrize("count", [0, -1, np.nan, np.inf])
def test_an_imatrix_whose_count_cannot_be(tmp_path: Path, count: float) -> None:
    with pytest.raises(CalibrationError, match="has no count of what was summed"):
        read_calibration(imatrix(tmp_path / "a.gguf", count=count))


@pytest.mark.parametrize(("value", "count"), [(-1, 4), (np.nan, 4), (np.inf, 4), (3e38, 1e-3)])
def test_an_imatrix_whose_sums_cannot_be(tmp_path: Path, value: float, count: float) -> None:
    with pytest.raises(CalibrationError, match="is negative or not finite"):
        read_calibration(imatrix(tmp_path / "a.gguf", value=value, count=count))


def test_an_imatrix_of_a_wider_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "wide.bin").write_bytes(model_bytes(WIDE))
    with whisq.open_model(tmp_path / "wide.bin") as model:
        read_calibration(imatrix(tmp_path / "a.gguf")).check_fits(model)
        with pytest.raises(CalibrationError, match=r"has 384 columns, in .* it has 256"):
            read_calibration(imatrix(tmp_path / "b.gguf", width=384)).check_fits(model)
