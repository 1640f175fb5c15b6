"""Files made step by step: kept while what made them is the same, made again when anything is not."""

import pytest

from whisq.errors import OutputError
from whisq.optimization.steps import Steps


@pytest.mark.parametrize("damage", [b"[1]", b"null", b"3", b"{", b"\xff\xfe", b""])
def test_what_was_known_may_be_damaged(tmp_path, damage):
    folder = tmp_path / "made"
    path = folder / "a.txt"
    assert Steps(folder).make(path, {"from": 1}, lambda: path.write_text("a"))
    assert not Steps(folder).make(path, {"from": 1}, lambda: path.write_text("b"))
    (folder / "made.json").write_bytes(damage)
    assert Steps(folder).make(path, {"from": 1}, lambda: path.write_text("c"))
    assert path.read_text() == "c"


def test_another_source_or_a_changed_file_is_made_again(tmp_path):
    path = tmp_path / "a.txt"
    made = Steps(tmp_path)
    made.make(path, {"from": 1}, lambda: path.write_text("a"))
    assert made.make(path, {"from": 2}, lambda: path.write_text("b"))
    path.write_text("touched")
    assert made.make(path, {"from": 2}, lambda: path.write_text("b"))


def test_a_full_disk_is_said_to_be_one(tmp_path):
    def full() -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match=r"a\.txt: cannot be written: No space left"):
        Steps(tmp_path).make(tmp_path / "a.txt", {}, full)
