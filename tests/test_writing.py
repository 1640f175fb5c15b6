"""Files that are whole or absent: when they are on the disk, and for whom."""

import os

from whisq.writing import write_text


def test_a_file_is_on_the_disk_before_it_takes_its_name_and_the_name_after(tmp_path, monkeypatch):
    target = tmp_path / "out.json"
    synced: list[tuple[int, bool]] = []

    def note(descriptor: int) -> None:
        synced.append((os.fstat(descriptor).st_ino, target.exists()))

    monkeypatch.setattr("os.fsync", note)
    write_text(target, "{}")
    assert synced == [(target.stat().st_ino, False), (tmp_path.stat().st_ino, True)]


def test_a_new_files_mode_is_the_users(tmp_path):
    mask = os.umask(0o027)
    try:
        write_text(tmp_path / "out.json", "{}")
    finally:
        os.umask(mask)
    assert (tmp_path / "out.json").stat().st_mode & 0o777 == 0o640
