"""What a manifest may call a file, and in which encoding."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.clips.test_layouts import SAID, tone
from whisq.clips.datasets import load_clips
from whisq.errors import DataError


def test_a_file_by_its_uri(tmp_path: Path) -> None:
    audio = tone(tmp_path / "a b.wav")
    (tmp_path / "m.tsv").write_text(f"path\ttext\nfile://{quote(str(audio))}\thello\n")
    (clip,) = load_clips(tmp_path / "m.tsv").clips
    assert clip.path == audio


def test_an_address_is_to_be_downloaded(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("path,text\nhttps://example.org/a.wav,hello\n")
    with pytest.raises(
        DataError, match=r"line 2: 'https://example\.org/a\.wav' is an address, expected a file: download it"
    ):
        load_clips(tmp_path / "m.csv")


@pytest.mark.skipif(shutil.which("iconv") is None, reason="the hint's command is not run: no iconv")
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_utf_16_is_told_with_the_command_that_turns_it(tmp_path: Path, encoding: str) -> None:
    """As a spreadsheet's "Unicode text" is."""
    tone(tmp_path / "a.wav")
    mark = "" if encoding == "utf-16" else "\ufeff"
    (tmp_path / "m.tsv").write_bytes(f"{mark}path\ttext\na.wav\t{SAID}\n".encode(encoding))
    with pytest.raises(DataError, match="is UTF-16 text, expected UTF-8") as caught:
        load_clips(tmp_path / "m.tsv")
    command, copy = str(caught.value.hint).split(" > ")
    Path(copy).write_bytes(subprocess.run(shlex.split(command), capture_output=True, check=True).stdout)
    assert [clip.text for clip in load_clips(copy).clips] == [SAID]
