"""Calibration files: what is written is read, what is damaged or of another model is refused."""

import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import whisq
from tests.support.calibrations import MULTILINGUAL, languages_heard, moments_of, write
from tests.support.containers import model_bytes
from tests.support.models import NARROW, WIDE
from whisq.calibration import input_of, inputs_of, merge, read_calibration, write_calibration
from whisq.calibration.calibration import pack_triangle, unpack_triangle
from whisq.calibration.outputs import OutputMoment, weighed_outputs
from whisq.calibration.probes import MOST_PROBES, Probes
from whisq.errors import CalibrationError
from whisq.kernels.feedback import damping_for
from whisq.whisper import expected_tensors

PARTS = ((1, 100), (2, 300))
"""Seeds and numbers of vectors of two calibrations."""


def test_queries_keys_and_values_share_an_input() -> None:
    assert input_of("encoder.blocks.3.attn.value.weight") == "encoder.blocks.3.attn.query"
    assert input_of("decoder.blocks.5.cross_attn.value.weight") == "decoder.blocks.0.cross_attn.key"
    assert input_of("decoder.blocks.5.cross_attn.query.weight") == "decoder.blocks.5.cross_attn.query"
    assert input_of("encoder.conv1.weight") is None
    assert input_of("encoder.blocks.0.attn.query.bias") is None


def test_every_matrix_has_an_input_as_wide_as_its_rows() -> None:
    widths = inputs_of(NARROW)
    for spec in expected_tensors(NARROW).values():
        if spec.is_matrix:
            assert widths[input_of(spec.name)] == spec.shape[1]


def test_a_triangle_holds_the_whole_matrix() -> None:
    matrix = moments_of(37, 1).second_moment
    assert np.array_equal(unpack_triangle(pack_triangle(matrix), 37), matrix)


def test_moments_survive_the_file(tmp_path: Path) -> None:
    made = write(tmp_path / "a.calib")
    read = read_calibration(tmp_path / "a.calib")
    assert list(read.counts) == list(made)
    for name, expected in made.items():
        found = read.moments(name)
        assert found.n_rows == 500
        assert np.array_equal(found.second_moment, expected.second_moment)
        assert np.array_equal(found.mean, expected.mean)
        assert np.array_equal(found.squares, expected.squares)


def test_the_damping_that_was_chosen_survives_the_file_and_counts_for_less_among_more(tmp_path: Path) -> None:
    widths = inputs_of(NARROW)
    listed = [(name, width, 500) for name, width in widths.items()]
    chosen = {name: 0.5 + index for index, name in enumerate(widths)}
    (without, *_), made = widths, {name: moments_of(width, 3) for name, width in widths.items()}
    del chosen[without]
    damped = {name: replace(moments, damping=chosen.get(name)) for name, moments in made.items()}
    for path in (tmp_path / "a.calib", tmp_path / "b.calib"):
        write_calibration(path, {"model_sha256": "x"}, listed, damped.__getitem__, None)
    read = read_calibration(tmp_path / "a.calib")
    assert {name: read.moments(name).damping for name in widths} == {without: None, **chosen}
    merge(tmp_path / "c.calib", [read, read_calibration(tmp_path / "b.calib")])
    both = read_calibration(tmp_path / "c.calib")
    assert both.moments(without).damping is None
    for name in chosen:
        least = damping_for(widths[name], 1000)
        assert both.moments(name).damping == pytest.approx(max(chosen[name] / 2, least))


def test_weighed_outputs_survive_the_file_and_are_merged_by_windows(tmp_path: Path) -> None:
    widths, parts = inputs_of(NARROW), []
    made = {name: moments_of(width, 3) for name, width in widths.items()}
    (first, second), size = list(weighed_outputs(NARROW))[:2], NARROW.n_audio_state
    for number, windows in enumerate((1, 3)):
        outputs = {first: OutputMoment(moments_of(size, number).second_moment, 0.1 + number)}
        outputs |= {second: outputs[first]} if number else {}
        listed, path = [(name, width, 500) for name, width in widths.items()], tmp_path / f"{number}.calib"
        write_calibration(path, {"model_sha256": "x", "windows": windows}, listed, made.__getitem__, None, outputs)
        parts.append(read_calibration(path))
        found = parts[-1].load_output(first)
        assert np.array_equal(found.second_moment, outputs[first].second_moment)
        assert found.damping == outputs[first].damping
    assert parts[0].outputs == {first}
    assert parts[0].load_output(second) is None
    merge(tmp_path / "c.calib", parts)
    both = read_calibration(tmp_path / "c.calib")
    assert both.outputs == {first}
    expected = 0.25 * moments_of(size, 0).second_moment + 0.75 * moments_of(size, 1).second_moment
    np.testing.assert_allclose(both.load_output(first).second_moment, expected, rtol=1e-5, atol=1e-6)
    assert both.load_output(first).damping == 1.1


@pytest.mark.parametrize("damage", ["gone", "cut", "not finite"])
def test_weighed_outputs_that_are_damaged_are_refused(tmp_path: Path, damage: str) -> None:
    widths, name = inputs_of(NARROW), next(iter(weighed_outputs(NARROW)))
    made = {each: moments_of(width, 3) for each, width in widths.items()}
    outputs = {name: OutputMoment(moments_of(NARROW.n_audio_state, 3).second_moment, 0.1)}
    listed = [(each, width, 500) for each, width in widths.items()]
    write_calibration(tmp_path / "a.calib", {}, listed, made.__getitem__, None, outputs)
    arrays = load_file(tmp_path / "a.calib")
    if damage == "gone":
        del arrays[f"{name}.output_moment"]
    elif damage == "cut":
        arrays[f"{name}.output_moment"] = arrays[f"{name}.output_moment"][:-1]
    else:
        arrays[f"{name}.output_moment"][3] = np.nan
    save_again(tmp_path / "a.calib", arrays)
    said = (
        f"the output moment of {name} is not finite" if damage == "not finite" else f"lacks the output moment of {name}"
    )
    with pytest.raises(CalibrationError, match=said):
        read_calibration(tmp_path / "a.calib").load_output(name)


def test_merging_is_as_if_all_had_been_one_calibration(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a.calib", seed=0, seconds=3), write(tmp_path / "b.calib", seed=99, seconds=4)
    merge(tmp_path / "c.calib", [read_calibration(tmp_path / "a.calib"), read_calibration(tmp_path / "b.calib")])
    both = read_calibration(tmp_path / "c.calib")
    assert both.audio["seconds"] == 7
    for name in first:
        found = both.moments(name)
        assert found.n_rows == 1000
        expected = (first[name].second_moment + second[name].second_moment) / 2
        np.testing.assert_allclose(found.second_moment, expected, rtol=1e-6, atol=1e-7)


def test_what_was_measured_on_more_audio_counts_for_more(tmp_path: Path) -> None:
    widths, parts = inputs_of(NARROW), []
    made = [{name: moments_of(width, seed, n_rows) for name, width in widths.items()} for seed, n_rows in PARTS]
    for number, (moments, (_, n_rows)) in enumerate(zip(made, PARTS, strict=True)):
        audio = {"model_sha256": "x", "languages": {"en": 60.0, "de": 60.0 * number}}
        listed = [(name, width, n_rows) for name, width in widths.items()]
        probes = Probes(np.full((20, 2, 3), number, np.float16), tuple(f"{number}.{n}" for n in range(20)))
        write_calibration(tmp_path / f"{number}.calib", audio, listed, moments.__getitem__, probes)
        parts.append(read_calibration(tmp_path / f"{number}.calib"))
    merge(tmp_path / "c.calib", parts)
    both = read_calibration(tmp_path / "c.calib")
    assert both.audio["languages"] == {"en": 120.0, "de": 60.0}
    for name in widths:
        found, first, second = both.moments(name), made[0][name], made[1][name]
        assert found.n_rows == 400
        for part in ("second_moment", "mean"):
            expected = 0.25 * getattr(first, part) + 0.75 * getattr(second, part)
            np.testing.assert_allclose(getattr(found, part), expected, rtol=1e-5, atol=1e-6)
    probes = both.load_probes()
    assert len(probes) == MOST_PROBES
    # Of both, from the first to the last, each with its own language.
    assert (probes.languages[0], probes.languages[-1]) == ("0.0", "1.19")
    assert [float(language[0]) for language in probes.languages] == probes.mels[:, 0, 0].tolist()


def test_calibrations_of_different_models_are_not_merged(tmp_path: Path) -> None:
    write(tmp_path / "a.calib")
    write(tmp_path / "b.calib", model_sha256="y")
    parts = [read_calibration(tmp_path / name) for name in ("a.calib", "b.calib")]
    with pytest.raises(CalibrationError, match="different models"):
        merge(tmp_path / "c.calib", parts)
    assert not (tmp_path / "c.calib").exists()


def test_a_multilingual_model_heard_in_one_language_is_warned_of(tmp_path: Path) -> None:
    # English-only calibration made a multilingual model worse in German; English and German made it better.
    ((message, hint),) = languages_heard(tmp_path / "a.calib", MULTILINGUAL, en=300.0).warnings
    assert "a.calib: all audio is in one language (en)" in message
    assert "add clips of the languages" in hint
    assert not languages_heard(tmp_path / "b.calib", MULTILINGUAL, en=300.0, de=40.0).warnings
    assert not languages_heard(tmp_path / "c.calib", WIDE, en=300.0).warnings


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.calib", NARROW)
    whole = (tmp_path / "a.calib").read_bytes()
    for size in [*range(0, 64), *range(64, len(whole), max(1, len(whole) // 40))]:
        (tmp_path / "b.calib").write_bytes(whole[:size])
        with pytest.raises(CalibrationError):
            read_calibration(tmp_path / "b.calib")


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF" + b"\xff" * 64, b"not a calibration at all"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.calib").write_bytes(content)
    with pytest.raises(CalibrationError) as caught:
        read_calibration(tmp_path / "a.calib")
    assert "a.calib" in str(caught.value)
    assert caught.value.hint


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="No such file"):
        read_calibration(tmp_path / "none.calib")


def test_a_calibration_of_another_shape_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.calib", NARROW)
    (tmp_path / "wide.bin").write_bytes(model_bytes(WIDE))
    with whisq.open_model(tmp_path / "wide.bin") as model, pytest.raises(CalibrationError, match="another model"):
        read_calibration(tmp_path / "a.calib").check_fits(model)


@pytest.mark.parametrize(
    "changes",
    [
        {"counts": 3},
        {"counts": {"a": "x"}},
        {"counts": {"a": -1}},
        {"counts": {"a": 1 << 70}},
        {"idle": 5},
        {"languages": []},
        {"languages": {"en": "x"}},
        {"dims": 1},
        {"data": 7},
        {"seconds": "x"},
        {"tokens": None},
        {"singular": None},
        {"singular": ["a"]},
        {"singular": {"a": 1}},
        {"damping": 1},
        {"damping": {"a": "x"}},
        {"damping": {"a": -0.1}},
        {"damping": {"a": float("nan")}},
        {"output_damping": 1},
        {"output_damping": {"a": -0.1}},
    ],
)
def test_a_calibration_that_says_nonsense_is_refused(tmp_path: Path, changes: dict) -> None:
    write(tmp_path / "a.calib", NARROW)
    with_metadata(tmp_path / "a.calib", json.dumps({"counts": {}}))
    read_calibration(tmp_path / "a.calib")
    with_metadata(tmp_path / "a.calib", json.dumps({"counts": {}, **changes}))
    with pytest.raises(CalibrationError, match="a safetensors file but not a calibration"):
        read_calibration(tmp_path / "a.calib")


@pytest.mark.parametrize("text", ["", "[]", "3", "[" * 50_000, "{}"])
def test_a_calibration_whose_document_is_none_is_refused(tmp_path: Path, text: str) -> None:
    write(tmp_path / "a.calib", NARROW)
    with_metadata(tmp_path / "a.calib", text)
    with pytest.raises(CalibrationError, match="a safetensors file but not a calibration"):
        read_calibration(tmp_path / "a.calib")


@pytest.mark.parametrize("part", ["mean", "second_moment"])
def test_moments_that_are_not_finite_are_refused(tmp_path: Path, part: str) -> None:
    name = next(iter(write(tmp_path / "a.calib", NARROW)))
    arrays = load_file(tmp_path / "a.calib")
    arrays[f"{name}.{part}"][3] = np.nan
    save_again(tmp_path / "a.calib", arrays)
    with pytest.raises(CalibrationError, match=f"the moments of {name} are not finite"):
        read_calibration(tmp_path / "a.calib").moments(name)


def test_moments_of_another_size_than_their_mean_are_refused(tmp_path: Path) -> None:
    name = next(iter(write(tmp_path / "a.calib", NARROW)))
    arrays = load_file(tmp_path / "a.calib")
    arrays[f"{name}.second_moment"] = arrays[f"{name}.second_moment"][:-1]
    save_again(tmp_path / "a.calib", arrays)
    with pytest.raises(CalibrationError, match=rf"{name}.second_moment has shape \[\d+\], expected \[\d+\]"):
        read_calibration(tmp_path / "a.calib")


def save_again(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write a calibration with other arrays, its document as it was."""
    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
    save_file(arrays, path, metadata)


def with_metadata(path: Path, text: str) -> None:
    content = path.read_bytes()
    (size,) = struct.unpack_from("<Q", content)
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"] = {"whisq.calibration": text}
    raw = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + content[8 + size :])
