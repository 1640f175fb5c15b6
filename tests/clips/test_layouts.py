"""Speech data in the layouts that people have it in: every clip found, with its text, and nothing else."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from whisq.clips.audio import SAMPLE_RATE, decode_audio
from whisq.clips.clip import Clip
from whisq.clips.datasets import load_clips
from whisq.errors import DataError

SAID = 'Well, "ask not" what your country'


def tone(path: Path, seconds: float = 1.0, pitch: float = 440.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    times = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    soundfile.write(path, 0.1 * np.sin(2 * np.pi * pitch * times), SAMPLE_RATE)
    return path


def kaldi(folder: Path) -> None:
    """Kaldi"""
    tone(folder / "wav/u1.flac")
    (folder / "wav.scp").write_text(f"u1 {folder}/wav/u1.flac\n")
    (folder / "text").write_text(f"u1 {SAID}\n")


def mls(folder: Path) -> None:
    """MLS, VIVOS"""
    tone(folder / "audio/12/34/12_34_0.flac")
    (folder / "transcripts.txt").write_text(f"12_34_0\t{SAID}\n")


def vivos(folder: Path) -> None:
    """MLS, VIVOS"""
    tone(folder / "waves/SPK/SPK_1.wav")
    (folder / "prompts.txt").write_text(f"SPK_1 {SAID}\n")


def common_voice(folder: Path) -> None:
    """Common Voice"""
    tone(folder / "clips/a.wav")
    (folder / "test.tsv").write_text(f"client_id\tpath\tsentence\tlocale\nx\ta.wav\t{SAID}\ten\n")


def audio_folder_split(folder: Path) -> None:
    """AudioFolder"""
    tone(folder / "test/a.flac")
    (folder / "test/metadata.jsonl").write_text(json.dumps({"file_name": "a.flac", "transcription": SAID}))


def lj_speech(folder: Path) -> None:
    """LJSpeech"""
    tone(folder / "wavs/LJ001-0001.wav")
    (folder / "metadata.csv").write_text(f"LJ001-0001|{SAID}|{SAID}\n")


def text_in_capitals(folder: Path) -> None:
    """audio with texts"""
    tone(folder / "a.wav")
    (folder / "a.TXT").write_text(SAID)


def text_after_the_suffix(folder: Path) -> None:
    """audio with texts"""
    tone(folder / "a.wav")
    (folder / "a.wav.txt").write_text("\ufeff" + SAID)


def libri_speech(folder: Path) -> None:
    """LibriSpeech"""
    tone(folder / "12/34/12-34-0001.flac")
    (folder / "12/34/12-34.trans.txt").write_text(f"12-34-0001 {SAID}\n")


def nemo(folder: Path) -> None:
    """NeMo"""
    tone(folder / "a.wav", 2.0)
    row = {"audio_filepath": "a.wav", "text": SAID, "offset": 0.5, "duration": 1.0}
    (folder / "manifest.json").write_text(json.dumps(row))


def with_manifest(folder: Path) -> None:
    """a manifest"""
    tone(folder / "a.wav")
    (folder / "manifest.tsv").write_text(f"path\ttext\na.wav\t{SAID}\n")


def without_header(folder: Path) -> None:
    """a list without a header"""
    tone(folder / "a.wav")
    (folder / "manifest.tsv").write_text(f"a.wav\t{SAID}\n")


def spans(folder: Path) -> None:
    """rows with `start` and `end`"""
    tone(folder / "a.wav", 2.0)
    (folder / "manifest.jsonl").write_text(json.dumps({"path": "a.wav", "text": SAID, "start": 0.5, "end": 1.5}))


LAYOUTS = [
    kaldi, mls, vivos, common_voice, audio_folder_split, lj_speech, text_in_capitals, text_after_the_suffix,
    libri_speech, nemo, with_manifest, without_header, spans,
]  # fmt: skip


def test_the_documentation_lists_every_layout() -> None:
    page = (Path(__file__).parents[2] / "docs/evaluation.md").read_text(encoding="utf-8")
    table = page.partition("| what | looks like |")[2].partition("\n\n")[0]
    listed = [line.split("|")[1].strip() for line in table.splitlines()[2:]]
    in_tables = ["Parquet", "a Hugging Face dataset"]  # tests of their own, below
    assert sorted(listed) == sorted({str(layout.__doc__) for layout in LAYOUTS} | set(in_tables))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_is_read(tmp_path: Path, layout: Callable[[Path], None]) -> None:
    layout(tmp_path)
    found = load_clips(tmp_path)
    assert [clip.text for clip in found.clips] == [SAID]
    assert not found.problems


QUOTED = '"' + SAID.replace('"', '""') + '"'
ROW = {"audio": {"path": "a.wav"}, "sentence": SAID, "language": "English"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.csv", f"path,text\na.wav,{QUOTED}\n"),
        ("m.csv", f"path,text\r\na.wav,{QUOTED}\r\n"),
        ("m.csv", f"\ufeffpath,text\na.wav, {QUOTED}\n"),
        ("m.csv", f"path;text\na.wav;{SAID}\n".replace('"', "")),
        ("m.csv", f"path\ttext\na.wav\t{SAID}\n"),
        ("m.csv", f"a.wav,{QUOTED}\n"),
        ("m.csv", f"text,path,note\n{QUOTED},sub\\a.wav,\n"),
        ("m.tsv", f"path\ttext\na.wav\t{SAID}\n"),
        ("m.json", json.dumps([ROW], indent=1)),
        ("m.json", json.dumps(ROW) + "\n"),
        ("m.jsonl", "\n" + json.dumps(ROW) + "\n\n"),
        ("m.jsonl", json.dumps({**ROW, "sentence": SAID}, ensure_ascii=False)),
    ],
)
def test_a_manifest_is_read(tmp_path: Path, name: str, content: str) -> None:
    tone(tmp_path / "a.wav")
    tone(tmp_path / "sub/a.wav")
    (tmp_path / name).write_bytes(content.encode())
    found = load_clips(tmp_path / name)
    assert [clip.text.replace('"', "") for clip in found.clips] == [SAID.replace('"', "")]


def test_any_character_of_unicode_stays_in_its_line_of_json(tmp_path: Path) -> None:
    tone(tmp_path / "a.wav")
    text = "one\u2028two\x85three\x1c"
    (tmp_path / "m.jsonl").write_text(json.dumps({"path": "a.wav", "text": text}, ensure_ascii=False) + "\n")
    assert load_clips(tmp_path / "m.jsonl").clips[0].text == text.strip()


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("m.csv", f"path,text\na.wav,{SAID}\n".replace('"', ""), "line 2: 3 cells, the header has 2: write a text"),
        ("m.tsv", "path\ttext\na.wav\tone\ttwo\n", "line 2: 3 cells, the header has 2: a text cannot hold a tab"),
        ("m.csv", "path;text\na.wav;one;two\n", "line 2: 3 cells, the header has 2: write a text that has a semicolon"),
        ("m.csv", "path,text,language\na.wav\n", "line 2: 1 cells, the header has 3"),
        ("m.csv", "b.wav,one\nc.wav,two\n", "found b.wav, one; no column for audio"),
        ("m.jsonl", '{"path": "a.wav", "words": "x"}', "no column for text"),
        ("m.jsonl", '{"path": "a.wav", "text": "x"}\n{"path": "a.wav"}', "line 2: no text in column text"),
    ],
)
def test_a_manifest_is_refused_where_it_would_be_read_wrongly(
    tmp_path: Path, name: str, content: str, told: str
) -> None:
    tone(tmp_path / "a.wav")
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError) as caught:
        load_clips(tmp_path / name)
    assert told in str(caught.value)


def halves(folder: Path) -> Path:
    """One second at 300 Hz, then one at 2000 Hz."""
    times = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    both = [0.1 * np.sin(2 * np.pi * pitch * times) for pitch in (300, 2000)]
    soundfile.write(folder / "both.wav", np.concatenate(both), SAMPLE_RATE)
    return folder / "both.wav"


def pitch_of(clip: Clip) -> float:
    samples = clip.samples()
    return float(np.abs(np.fft.rfft(samples)).argmax()) / (samples.size / SAMPLE_RATE)


def test_nemo_segments_are_cut(tmp_path: Path) -> None:
    halves(tmp_path)
    rows = [{"audio_filepath": "both.wav", "offset": at, "duration": 1.0, "text": f"part {at}"} for at in (0.0, 1.0)]
    (tmp_path / "m.json").write_text("\n".join(json.dumps(row) for row in rows))
    first, second = load_clips(tmp_path / "m.json").clips
    assert pitch_of(first) == pytest.approx(300, abs=2)
    assert pitch_of(second) == pytest.approx(2000, abs=2)
    assert first.duration_s == second.duration_s == 1.0
    assert first.sha256 != second.sha256
    assert first.id != second.id


def test_a_nemo_row_without_an_offset_is_as_long_as_it_says(tmp_path: Path) -> None:
    halves(tmp_path)
    (tmp_path / "m.json").write_text(json.dumps({"audio_filepath": "both.wav", "duration": 1.0, "text": "first"}))
    (clip,) = load_clips(tmp_path / "m.json").clips
    assert clip.duration_s == 1.0


@pytest.mark.parametrize(
    "rows",
    [
        [
            {"path": "a.wav", "text": "x", "start": 0.25, "end": 0.75},
            {"path": "a.wav", "text": "y", "start": 1, "end": 2},
        ],
        [{"path": "a.wav", "text": "x", "Start_Time": "0.25", "end_time": "0.75"}],
        [{"audio": {"path": "a.wav", "start_time": 0.25, "end_time": 0.75}, "sentence": "x"}],  # Whisper-Finetune's
        [{"path": "a.wav", "text": "x", "offset": 0.25, "duration": 0.5}],
    ],
)
def test_a_start_and_an_end_are_a_part_of_the_file(tmp_path: Path, rows: list[dict[str, object]]) -> None:
    """The whole file, scored against a part's text, would be all words wrong."""
    tone(tmp_path / "a.wav", 2.0)
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    clips = load_clips(tmp_path / "m.jsonl").clips
    assert [clip.duration_s for clip in clips] == [0.5, 1.0][: len(rows)]
    assert clips[0].id == "a.wav@0.25s"


def test_audio_that_was_cut_out_already_is_all_of_it(tmp_path: Path) -> None:
    """Where it was in the recording is then told beside it, as in AMI and TED-LIUM."""
    tone(tmp_path / "a.wav", 1.5)
    tone(tmp_path / "b.wav", 1.0)
    (tmp_path / "m.csv").write_text("path,text,begin_time,end_time\na.wav,x,70.0,71.52\nb.wav,y,,\n")
    assert [clip.duration_s for clip in load_clips(tmp_path / "m.csv").clips] == [1.5, 1.0]


@pytest.mark.parametrize(
    ("start", "end", "told"), [("1.0", "0.5", "expected seconds after start"), ("x", "1", "seconds")]
)
def test_a_start_and_an_end_that_are_none(tmp_path: Path, start: str, end: str, told: str) -> None:
    tone(tmp_path / "a.wav", 2.0)
    (tmp_path / "m.csv").write_text(f"path,text,start,end\na.wav,x,{start},{end}\n")
    with pytest.raises(DataError, match=told):
        load_clips(tmp_path / "m.csv")


def test_kaldis_minus_one_is_the_end_of_the_recording(tmp_path: Path) -> None:
    tone(tmp_path / "a.wav", 2.0)
    (tmp_path / "wav.scp").write_text("r a.wav\n")
    (tmp_path / "segments").write_text("u r 0.5 -1\n")
    (tmp_path / "text").write_text("u hello\n")
    assert [clip.duration_s for clip in load_clips(tmp_path).clips] == [1.5]


def test_kaldi_segments_are_cut(tmp_path: Path) -> None:
    halves(tmp_path)
    (tmp_path / "wav.scp").write_text("rec both.wav\n")
    (tmp_path / "segments").write_text("u1 rec 0.0 1.0\nu2 rec 1.0 2.0\n")
    (tmp_path / "text").write_text("u1 low\nu2 high\n")
    (tmp_path / "utt2spk").write_text("u1 anna\nu2 bert\n")
    clips = load_clips(tmp_path).clips
    assert [(clip.text, clip.speaker) for clip in clips] == [("low", "anna"), ("high", "bert")]
    assert [pitch_of(clip) for clip in clips] == pytest.approx([300, 2000], abs=2)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"offset": 5.0, "duration": 1.0}, "is 2.00 s long, its part from 5.00 to 6.00 s is not in it"),
        ({"offset": 1.0, "duration": 1.5}, "is 2.00 s long, its part from 1.00 to 2.50 s is not in it"),
        ({"offset": "soon", "duration": 1.0}, "offset is 'soon', expected seconds"),
        ({"offset": -1.0, "duration": 1.0}, "offset is '-1.0', expected seconds"),
    ],
)
def test_segments_that_are_not_there(tmp_path: Path, row: dict[str, object], told: str) -> None:
    halves(tmp_path)
    (tmp_path / "m.json").write_text(json.dumps({"audio_filepath": "both.wav", "text": "x", **row}))
    with pytest.raises(DataError) as caught:
        load_clips(tmp_path / "m.json")
    assert told in str(caught.value)


def test_a_kaldi_command_is_not_run(tmp_path: Path) -> None:
    tone(tmp_path / "a.wav")
    (tmp_path / "wav.scp").write_text(f"u1 a.wav\nu2 touch {tmp_path}/ran |\n")
    (tmp_path / "text").write_text("u1 one\nu2 two\n")
    with pytest.raises(DataError, match="is a command, and none is run"):
        load_clips(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_parquet_and_only_the_files_that_a_state_names(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow: pip install '.[test]'")
    from pyarrow import parquet

    content = tone(tmp_path / "a.wav").read_bytes()
    table = pyarrow.table({"audio": [{"bytes": content, "path": "a.wav"}], "text": [SAID]})
    (tmp_path / "data").mkdir()
    parquet.write_table(table, tmp_path / "data/test-00000-of-00001.parquet")
    for source in (tmp_path / "data/test-00000-of-00001.parquet", tmp_path):
        assert [clip.text for clip in load_clips(source).clips] == [SAID]
    parquet.write_table(table, tmp_path / "data/train-00000-of-00001.parquet")
    with pytest.raises(DataError, match="holds the splits test, train, expected one"):
        load_clips(tmp_path)

    saved = tmp_path / "saved"
    saved.mkdir()
    for name in ("data-00000-of-00001.arrow", "cache-123.arrow"):
        with pyarrow.OSFile(str(saved / name), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    (saved / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    assert len(load_clips(saved).clips) == 1
    (saved / "state.json").write_text(json.dumps({"_data_files": [], "_indices_files": [{"filename": "i.arrow"}]}))
    with pytest.raises(DataError, match="rows were selected"):
        load_clips(saved)


def test_several_splits_are_named(tmp_path: Path) -> None:
    for split in ("test", "train"):
        tone(tmp_path / split / "a.wav")
        (tmp_path / split / "metadata.csv").write_text("file_name,text\na.wav,hello\n")
    with pytest.raises(DataError, match="holds the splits test, train, expected one"):
        load_clips(tmp_path)


def test_audio_alone_is_for_calibrate(tmp_path: Path) -> None:
    tone(tmp_path / "a.wav")
    with pytest.raises(DataError) as caught:
        load_clips(tmp_path)
    assert "`whisq calibrate` takes audio without texts" in str(caught.value.hint)
    assert len(load_clips(tmp_path, need_text=False).clips) == 1


def test_silence_that_says_nothing_is_a_clip(tmp_path: Path) -> None:
    tone(tmp_path / "a.wav")
    soundfile.write(tmp_path / "b.wav", np.zeros(SAMPLE_RATE), SAMPLE_RATE)
    (tmp_path / "m.csv").write_text("path,text\na.wav,hello\nb.wav,\n")
    assert [clip.text for clip in load_clips(tmp_path / "m.csv").clips] == ["hello", ""]
    (tmp_path / "m.csv").write_text("path,text\nb.wav,\n")
    with pytest.raises(DataError, match="no clip has a text"):
        load_clips(tmp_path / "m.csv")


def test_many_problems_of_a_kind_are_counted(tmp_path: Path) -> None:
    tone(tmp_path / "here.wav")
    rows = [f"gone{number}.wav,x" for number in range(50)] + ["here.wav,x,y"]
    (tmp_path / "m.csv").write_text("path,text\n" + "\n".join(rows) + "\n")
    with pytest.raises(DataError) as caught:
        load_clips(tmp_path / "m.csv")
    lines = str(caught.value).splitlines()
    assert "51 problems" in lines[0]
    assert "  and 45 more like these" in lines
    assert len(lines) == 1 + 1 + 5 + 1


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="no ffmpeg installed (Debian: ffmpeg)")
@pytest.mark.parametrize("suffix", [".m4a", ".aac", ".webm"])
def test_what_ffmpeg_reads(tmp_path: Path, suffix: str) -> None:
    source = tone(tmp_path / "a.wav", 1.0)
    made = tmp_path / f"a{suffix}"
    subprocess.run(["ffmpeg", "-v", "error", "-i", str(source), str(made)], check=True)
    source.unlink()
    made.with_suffix(".txt").write_text("a tone")
    (clip,) = load_clips(tmp_path).clips
    assert clip.duration_s == pytest.approx(1.0, abs=0.15)
    assert pitch_of(clip) == pytest.approx(440, abs=3)


def test_without_ffmpeg_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DataError) as caught:
        decode_audio(b"\0\0\0\x20ftypM4A " + bytes(100))
    assert "needs ffmpeg" in str(caught.value)
    assert "install ffmpeg" in str(caught.value.hint)


def test_what_ffmpeg_does_not_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "ffmpeg"
    fake.write_text("#!/bin/sh\necho 'file:/dev/fd/0: moov atom not found' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(DataError, match=r"not audio that ffmpeg reads \(moov atom not found\)"):
        decode_audio(b"\0\0\0\x20ftypM4A " + bytes(100))
