"""Every layout of data, and every way it can be wrong, told all at once."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from whisq.clips.audio import decode_audio
from whisq.clips.datasets import load_clips
from whisq.errors import DataError

RATE = 16_000


def tone(path: Path, seconds: float = 0.5, *, rate: int = RATE, channels: int = 1, level: float = 0.3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = level * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate)
    # A different last sample for each name: no two clips have the same bytes.
    wave[-1:] = level * (sum(path.name.encode()) % 97) / 97
    soundfile.write(path, np.repeat(wave[:, None], channels, axis=1), rate)
    return path


@pytest.fixture
def librispeech(tmp_path: Path) -> Path:
    folder = tmp_path / "dev" / "84" / "121123"
    for number in range(4):
        tone(folder / f"84-121123-000{number}.flac", 0.3 + number / 10)
    lines = [f"84-121123-000{number} THE WORDS OF NUMBER {number}" for number in range(4)]
    (folder / "84-121123.trans.txt").write_text("\n".join(lines) + "\n")
    return tmp_path / "dev"


def test_librispeech_layout(librispeech: Path) -> None:
    found = load_clips(librispeech)
    assert found.kind == "LibriSpeech layout"
    assert [clip.id for clip in found.clips] == [f"84-121123-000{number}" for number in range(4)]
    assert found.clips[2].text == "THE WORDS OF NUMBER 2"
    assert {clip.language for clip in found.clips} == {"en"}
    assert found.duration_s == pytest.approx(1.8)
    assert not found.problems


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.csv", 'path,text,language\na.wav,"one, two",en_us\nb.wav,zwei,de\n'),
        ("m.csv", '\ufeffAudio,Transcript,Lang\na.wav,"one, two",EN\nb.wav,zwei,de-DE\n'),
        ("m.tsv", "client_id\tpath\tsentence\tlocale\nx\ta.wav\tone, two\ten\ny\tb.wav\tzwei\tde\n"),
        (
            "m.jsonl",
            '{"audio_filepath": "a.wav", "text": "one, two", "lang": "en"}\n\n'
            '{"audio_filepath": "b.wav", "text": "zwei", "lang": "de"}\n',
        ),
    ],
)
def test_manifests(tmp_path: Path, name: str, content: str) -> None:
    tone(tmp_path / "a.wav")
    tone(tmp_path / "b.wav")
    (tmp_path / name).write_text(content, encoding="utf-8")
    clips = load_clips(tmp_path / name).clips
    assert [(clip.text, clip.language) for clip in clips] == [("one, two", "en"), ("zwei", "de")]


def test_clips_of_absolute_paths_are_named_without_their_common_folder(tmp_path: Path) -> None:
    for name in ("one/a.wav", "two/b.wav"):
        tone(tmp_path / "speech" / name)
    rows = [f"{tmp_path}/speech/{name},words" for name in ("one/a.wav", "two/b.wav")]
    (tmp_path / "m.csv").write_text("path,text\n" + "\n".join(rows) + "\n")
    assert [clip.id for clip in load_clips(tmp_path / "m.csv").clips] == ["one/a.wav", "two/b.wav"]


def test_a_folder_with_a_manifest_in_it_is_that_manifest(tmp_path: Path) -> None:
    tone(tmp_path / "clips" / "a.wav")
    (tmp_path / "manifest.csv").write_text("path,text\nclips/a.wav,one\n")
    assert load_clips(tmp_path).clips[0].text == "one"


def test_folder_of_audio_with_text_beside(tmp_path: Path) -> None:
    for name in ("one.wav", "deep/two.ogg", "three.mp3"):
        file = tone(tmp_path / name)
        file.with_suffix(".txt").write_text(f" said in {name}\n")
    found = load_clips(tmp_path, language="de")
    assert [clip.id for clip in found.clips] == ["deep/two.ogg", "one.wav", "three.mp3"]
    assert {clip.language for clip in found.clips} == {"de"}


@pytest.mark.parametrize("embedded", [True, False])
def test_dataset_saved_on_disk(tmp_path: Path, embedded: bool) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow to write and read Arrow files")
    rows = []
    for name in ("a.wav", "b.wav"):
        file = tone(tmp_path / "data" / name)
        rows.append({"bytes": file.read_bytes() if embedded else None, "path": name})
    table = pyarrow.table({"path": ["elsewhere"] * 2, "audio": rows, "sentence": ["one", "two"]})
    folder = tmp_path / "data"
    file = str(folder / "data-00000-of-00001.arrow")
    with pyarrow.OSFile(file, "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    (folder / "state.json").write_text("{}")
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": ["data"]}))
    for where in (folder, tmp_path):
        found = load_clips(where)
        assert [clip.text for clip in found.clips] == ["one", "two"]
        assert found.clips[1].samples().size == RATE // 2


def test_clips_without_a_text_are_taken_only_where_none_is_needed(tmp_path: Path) -> None:
    """A model to be calibrated writes its own text; one to be judged cannot be judged by that."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("a.wav", "b.wav"):
        tone(folder / name)
    (folder / "b.txt").write_text("said")
    (tmp_path / "list.csv").write_text("path,language\nfolder/a.wav,de\nfolder/b.wav,en\n")
    (tmp_path / "partly.jsonl").write_text('{"path": "folder/a.wav", "text": ""}\n')
    for name, texts in (("folder", ["", "said"]), ("list.csv", ["", ""]), ("partly.jsonl", [""])):
        assert [clip.text for clip in load_clips(tmp_path / name, need_text=False).clips] == texts
        with pytest.raises(DataError):
            load_clips(tmp_path / name)
    (tmp_path / "nameless.csv").write_text("text,language\nsaid,de\n")
    with pytest.raises(DataError, match="no column for audio"):
        load_clips(tmp_path / "nameless.csv", need_text=False)


def test_dataset_written_by_the_datasets_package(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the datasets package")
    audio = [{"bytes": tone(tmp_path / name).read_bytes(), "path": name} for name in ("a.wav", "b.wav")]
    features = datasets.Features(
        {
            "audio": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
            "text": datasets.Value("string"),
        }
    )
    made = datasets.Dataset.from_dict({"audio": audio, "text": ["one", "two"]}, features=features)
    made.save_to_disk(tmp_path / "saved")
    assert [clip.text for clip in load_clips(tmp_path / "saved").clips] == ["one", "two"]


def test_limit_draws_the_same_clips_for_the_same_seed(librispeech: Path) -> None:
    draws = {seed: [clip.id for clip in load_clips(librispeech, limit=2, seed=seed).clips] for seed in range(8)}
    assert draws[3] == [clip.id for clip in load_clips(librispeech, limit=2, seed=3).clips]
    assert all(len(ids) == 2 and ids == sorted(ids) for ids in draws.values())
    assert len({tuple(ids) for ids in draws.values()}) > 1


def test_hash_of_the_data_changes_with_text_and_audio(librispeech: Path) -> None:
    before = load_clips(librispeech).sha256
    transcript = next(librispeech.rglob("*.trans.txt"))
    transcript.write_text(transcript.read_text().replace("NUMBER 1", "NUMBER ONE"))
    after = load_clips(librispeech).sha256
    tone(librispeech / "84" / "121123" / "84-121123-0000.flac", 0.7)
    assert len({before, after, load_clips(librispeech).sha256}) == 3


@pytest.mark.parametrize(("rate", "channels"), [(8_000, 1), (44_100, 2), (48_000, 6), (16_000, 1)])
def test_any_rate_and_channel_count_becomes_16_khz_mono(tmp_path: Path, rate: int, channels: int) -> None:
    samples = decode_audio(tone(tmp_path / "x.wav", 1.0, rate=rate, channels=channels).read_bytes())
    assert samples.dtype == np.float32
    assert samples.shape == (RATE,)
    middle = samples[4000:12000]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(middle.size)))
    assert spectrum.argmax() * RATE / middle.size == pytest.approx(440, abs=3)
    assert np.abs(middle).max() == pytest.approx(0.3, abs=0.01)


def test_everything_wrong_is_told_at_once(tmp_path: Path) -> None:
    tone(tmp_path / "good.wav")
    tone(tmp_path / "short.wav", 0.05)
    tone(tmp_path / "silent.wav", level=0.0)
    tone(tmp_path / "language.wav")
    tone(tmp_path / "twice.wav")
    (tmp_path / "not_audio.wav").write_text("this is text")
    soundfile.write(tmp_path / "no_samples.wav", np.zeros(0, np.float32), RATE)
    broken = np.full(RATE, np.nan, np.float32)
    soundfile.write(tmp_path / "nan.wav", broken, RATE, subtype="FLOAT")
    rows = [
        "good.wav,fine,en", "missing.wav,gone,en", "not_audio.wav,text,en",
        "silent.wav,nothing,en", "short.wav,blip,en", "no_samples.wav,none,en", "nan.wav,broken,en",
        "language.wav,what,klingonese", "twice.wav,one,en", "twice.wav,one,en", ",no path,en",
    ]  # fmt: skip
    (tmp_path / "m.csv").write_text("path,text,language\n" + "\n".join(rows) + "\n")
    with pytest.raises(DataError) as caught:
        load_clips(tmp_path / "m.csv")
    told = str(caught.value)
    assert "9 problems" in told
    for expected in (
        "missing.wav: audio missing",
        "not_audio.wav: not audio that libsndfile reads",
        "silent.wav: silent",
        "short.wav: 50 ms of audio, too short",
        "no_samples.wav: holds no samples",
        "nan.wav: holds samples that are NaN",
        "language.wav: Whisper has no language 'klingonese'",
        "twice.wav: its audio is listed more than once",
        "line 12: no audio path in column path",
    ):
        assert expected in told
    assert "--skip-bad" in str(caught.value.hint)


def test_skip_bad_measures_the_rest_and_lists_what_it_left_out(tmp_path: Path) -> None:
    tone(tmp_path / "good.wav")
    (tmp_path / "m.csv").write_text("path,text\ngood.wav,fine\nmissing.wav,gone\n")
    found = load_clips(tmp_path / "m.csv", skip_bad=True)
    assert [clip.id for clip in found.clips] == ["good.wav"]
    assert [problem.where for problem in found.problems] == ["missing.wav"]


def test_silent_clips_are_listed_without_stopping(tmp_path: Path) -> None:
    for name, level in (("good", 0.3), ("silent", 0.0)):
        tone(tmp_path / f"{name}.wav", level=level).with_suffix(".txt").write_text("words")
    found = load_clips(tmp_path)
    assert [clip.id for clip in found.clips] == ["good.wav"]
    assert "silent.wav: silent" in str(found.problems[0])


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, "no audio in it"),
        (
            {"a.wav": None, "b.txt": "words"},
            r"1 audio files \(first a.wav\) and 1 .txt files \(first b.txt\), but no two",
        ),
        ({"m.csv": "wave,words\na,b\n"}, "found wave, words; no column for audio .* and none for text"),
        ({"m.csv": "path,words\na,b\n"}, "found path, words; no column for text"),
        ({"m.csv": ""}, "no rows"),
        ({"m.jsonl": '{"path": "a.wav"\n[1]\n'}, "line 1: not JSON.*\n.*line 2: not a JSON object"),
        ({"m.docx": "x"}, ".docx, not a manifest"),
    ],
)
def test_data_of_the_wrong_kind(tmp_path: Path, files: dict[str, str | None], told: str) -> None:
    for name, content in files.items():
        if content is None:
            tone(tmp_path / name)
        else:
            (tmp_path / name).write_text(content)
    manifest = next((tmp_path / name for name in files if name.startswith("m.")), tmp_path)
    with pytest.raises(DataError, match=told):
        load_clips(manifest)


def test_half_matching_folder_and_transcript_without_audio(tmp_path: Path, librispeech: Path) -> None:
    (librispeech / "84" / "121123" / "84-121123-0001.flac").unlink()
    with pytest.raises(DataError, match=r"84-121123.trans.txt line 2: no audio named 84-121123-0001"):
        load_clips(librispeech)
    mixed = tmp_path / "mixed"
    tone(mixed / "a.wav").with_suffix(".txt").write_text("a")
    tone(mixed / "b.wav")
    (mixed / "c.txt").write_text("c")
    with pytest.raises(DataError, match=r"b.wav: no transcript.*\n.*c.txt: no audio of the same name"):
        load_clips(mixed)


def test_no_such_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        load_clips(tmp_path / "nothing")


def test_latin_1_manifest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_bytes("path,text\na.wav,Größe\n".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        load_clips(tmp_path / "m.csv")


def samples_of_cuts(content: bytes) -> dict[int, np.ndarray | None]:
    """Return what is decoded of the first bytes of a file by their number; None where that is a ``DataError``."""
    found: dict[int, np.ndarray | None] = {}
    for stop in range(0, len(content), 37):
        try:
            found[stop] = decode_audio(content[:stop])
        except DataError:
            found[stop] = None
    return found


def encoded_tone(format: str, **more: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.sin(np.arange(4000)) * 0.3, RATE, format=format, **more)
    return buffer.getvalue()


def test_a_cut_wav_gives_the_samples_that_are_there() -> None:
    content = encoded_tone("WAV", subtype="PCM_16")
    whole, header = decode_audio(content), 44
    assert len(whole) == 4000
    for stop, samples in samples_of_cuts(content).items():
        if stop < header + 2:
            assert samples is None, stop
        else:
            assert np.array_equal(samples, whole[: (stop - header) // 2]), stop


def test_a_cut_flac_is_refused_or_gives_fewer_samples() -> None:
    content = encoded_tone("FLAC")
    assert len(decode_audio(content)) == 4000
    header = 4 + 4 + 34  # the marker, and the block that says what the stream is
    for stop, samples in samples_of_cuts(content).items():
        # Of whole frames before the cut it is up to the version of libsndfile whether they are decoded.
        assert samples is None or (stop > header and len(samples) < 4000), stop


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        (
            "m.csv",
            "path,text\na.wav,hello, my world\n",
            "line 2: 3 cells, the header has 2: write a text",
        ),
        ("m.csv", 'path,text\na.wav,"hello\nb.wav,b\n', "not csv: unexpected end of data"),
        ("m.csv", f"path,text\na.wav,{'x' * 200_000}\n", "not csv: field larger than field limit"),
        ("m.csv", "path,text\na\0.wav,hello\n", "line 2: path is 'a\\x00.wav', expected text"),
        ("m.csv", f"path,text\n{'a' * 5000},hello\n", "File name too long"),
        ("m.csv", "path,text\n/dev/zero,hello\n", "is not a regular file"),
        ("m.jsonl", '{"path": "a\\u0000b", "text": "x"}', "line 1: not JSON: a text with NUL"),
        ("m.jsonl", '{"path": "a.wav", "text": 1' + "1" * 5000 + "}", "line 1: not JSON: an integer of 5001 digits"),
        ("m.jsonl", "[" * 9000, "not valid JSON: it is nested too deeply"),
        ("m.jsonl", '{"path": ["a.wav"], "text": "x"}', "line 1: path is ['a.wav'], expected text"),
        ("m.jsonl", '{"path": "a.wav", "text": {"b": 1}}', "line 1: text is {'b': 1}, expected text"),
        ("m.jsonl", '{"path": "a.wav", "text": true}', "line 1: text is True, expected text"),
        ("m.jsonl", '{"path": "a.wav", "text": "half: \\ud800"}', "line 1: text is 'half: \\ud800', expected text"),
        ("m.jsonl", '{"path": "a.wav", "text": "x", "language": "\\udc80"}', "language is '\\udc80', expected text"),
    ],
)
def test_manifests_that_hold_what_none_should(tmp_path: Path, name: str, content: str, told: str) -> None:
    tone(tmp_path / "a.wav")
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError) as caught:
        load_clips(tmp_path / name)
    assert told in str(caught.value)


def test_only_line_ends_end_a_line(tmp_path: Path) -> None:
    tone(tmp_path / "a.wav")
    (tmp_path / "m.jsonl").write_text('{"path": "a.wav", "text": "one\u2028two\x85three"}\r\n', encoding="utf-8")
    assert load_clips(tmp_path / "m.jsonl").clips[0].text == "one\u2028two\x85three"
