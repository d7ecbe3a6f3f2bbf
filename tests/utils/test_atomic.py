import os
import stat
from pathlib import Path

import pytest

from samed_hf.utils.atomic import write_bytes, write_text


def test_what_is_written_is_what_was_given(tmp_path):
    write_bytes(tmp_path / "a.bin", b"\x00\r\n\xff")
    assert (tmp_path / "a.bin").read_bytes() == b"\x00\r\n\xff"
    write_text(tmp_path / "a.txt", "Größe\r\n5 × 2 mm\n")
    assert (tmp_path / "a.txt").read_bytes() == "Größe\r\n5 × 2 mm\n".encode()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin", "a.txt"]


def test_others_may_read_the_file(tmp_path):
    write_bytes(tmp_path / "a", b"")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) & 0o444 == 0o444


def test_the_old_file_is_there_until_the_new_one_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "scores.json"
    write_text(path, "old")
    moves, replace = [], os.replace

    def watch(source, target):
        moves.append((Path(source).read_text(), Path(target).read_text(), Path(source).parent))
        replace(source, target)

    monkeypatch.setattr(os, "replace", watch)
    write_text(path, "new")
    # From the same folder, for only within one file system is a move a single step.
    assert moves == [("new", "old", tmp_path)]
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [OSError("no space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", ["chmod", "replace"])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, step, error):
    write_bytes(tmp_path / "a", b"old")

    def fail(*_):
        raise error

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(type(error)):
        write_bytes(tmp_path / "a", b"new")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_content_of_the_wrong_type_leaves_the_old_file(tmp_path):
    write_bytes(tmp_path / "a", b"old")
    with pytest.raises(TypeError):
        write_bytes(tmp_path / "a", "text")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_places_where_no_file_can_be(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileNotFoundError):
        write_bytes(tmp_path / "missing" / "a", b"")
    with pytest.raises(OSError, match="folder"):
        write_bytes(tmp_path / "folder", b"")
    assert [path.name for path in tmp_path.rglob("*")] == ["folder"]
