import os
import stat
from contextlib import nullcontext
from pathlib import Path

import pytest

from samed_hf.utils.atomic import (
    atomic_directory,
    atomic_file,
    atomic_update,
    remove_leftovers,
    write_bytes,
    write_text,
)


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


def fail_after_writing(context, write):
    with context as temporary:
        write(temporary)
        raise RuntimeError


def write_new_files(directory):
    with atomic_update(directory) as temporary:
        for name in ("a", "b", "c"):
            (temporary / name).write_text("new")


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_atomic_file_keeps_the_old_file_when_the_block_fails(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(RuntimeError):
        fail_after_writing(atomic_file(tmp_path / "a"), lambda temporary: temporary.write_text("half"))
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_a_name_as_long_as_the_file_system_allows(tmp_path):
    path = tmp_path / ("a" * 255)
    write_text(path, "content")
    assert path.read_text() == "content"


def test_atomic_directory_replaces_the_old_one(tmp_path):
    old = tmp_path / "parent" / "run"
    with atomic_directory(old) as temporary:
        (temporary / "a").write_text("1")
        assert not old.exists()
    with atomic_directory(old) as temporary:
        (temporary / "b").write_text("2")
        assert names(old) == ["a"]
    assert names(old) == ["b"]
    assert names(old.parent) == ["run"]


def test_atomic_directory_keeps_the_old_one_when_the_block_fails(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "a").write_text("1")
    with pytest.raises(RuntimeError):
        fail_after_writing(atomic_directory(tmp_path / "run"), lambda temporary: (temporary / "b").write_text("2"))
    assert names(tmp_path / "run") == ["a"]
    assert names(tmp_path) == ["run"]


def test_atomic_update_replaces_files_of_the_same_name_and_keeps_the_others(tmp_path):
    (tmp_path / "kept").write_text("old")
    (tmp_path / "replaced").write_text("old")
    with atomic_update(tmp_path) as temporary:
        (temporary / "replaced").write_text("new")
        (temporary / "added").write_text("new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "kept": "old",
        "replaced": "new",
        "added": "new",
    }


def test_atomic_update_moves_json_files_last(tmp_path, monkeypatch):
    moved, replace = [], os.replace
    monkeypatch.setattr(
        os, "replace", lambda source, target: (moved.append(Path(target).name), replace(source, target))
    )
    with atomic_update(tmp_path) as temporary:
        for name in ("a.json", "b.safetensors", "c.txt"):
            (temporary / name).write_text("")
    assert moved == ["b.safetensors", "c.txt", "a.json"]


def test_atomic_update_with_a_subdirectory(tmp_path, monkeypatch):
    replace = os.replace

    def write():
        with atomic_update(tmp_path, order=lambda path: path.name == "last") as temporary:
            (temporary / "sub").mkdir()
            (temporary / "sub" / "first").write_text("")
            (temporary / "last").write_text("")

    def fail(source, target):
        if Path(target).name == "last":
            raise OSError("no space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        write()
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []
    write()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["first", "last", "sub"]


@pytest.mark.parametrize("has_links", [True, False])
def test_atomic_update_restores_all_files_when_one_cannot_be_moved(tmp_path, monkeypatch, has_links):
    (tmp_path / "a").write_text("old")
    (tmp_path / "c").write_text("old")
    replace = os.replace

    def fail(source, target):
        if Path(target).name == "c":
            raise OSError("no space left on device")
        replace(source, target)

    def no_link(source, target):
        raise OSError("not supported")

    monkeypatch.setattr(os, "replace", fail)
    if not has_links:
        monkeypatch.setattr(os, "link", no_link)
    with pytest.raises(OSError, match="no space"):
        write_new_files(tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "old", "c": "old"}


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    (tmp_path / ".abc.tmp").mkdir()
    (tmp_path / ".abc.tmp" / "half").write_text("")
    (tmp_path / ".def.tmp").write_text("")
    (tmp_path / ".best.old").mkdir()  # killed after the old one was renamed, before the new one took its place
    (tmp_path / ".best.old" / "weights").write_text("whole")
    (tmp_path / "run").mkdir()
    (tmp_path / ".run.old").mkdir()  # killed before the old one was deleted
    (tmp_path / ".hidden").write_text("a user's")
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [".hidden", "best", "run"]
    assert (tmp_path / "best" / "weights").read_text() == "whole"


@pytest.mark.parametrize("step", range(5))
def test_atomic_update_removes_obsolete_files_or_nothing(tmp_path, monkeypatch, step):
    old = {"a.bin": "old", "config.json": "old", "sub/obsolete.json": "old", "obsolete.bin": "old", "other": "old"}
    for name, text in old.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    done = []

    def count(change):
        def step_or_fail(*arguments):
            if len(done) == step and "backup" not in str(arguments[0]):
                monkeypatch.undo()
                raise OSError("disk full")
            done.append(arguments)
            return change(*arguments)

        return step_or_fail

    monkeypatch.setattr("os.replace", count(os.replace))
    unlink = Path.unlink
    monkeypatch.setattr(Path, "unlink", lambda self, missing_ok=False: count(unlink)(self, missing_ok))
    obsolete = ["sub/obsolete.json", "obsolete.bin"]
    with (
        pytest.raises(OSError, match="disk full") if step < 4 else nullcontext(),
        atomic_update(tmp_path, obsolete=lambda written: obsolete) as temporary,
    ):
        (temporary / "a.bin").write_text("new")
        (temporary / "config.json").write_text("new")
    expected = old if step < 4 else {"a.bin": "new", "config.json": "new", "other": "old"}
    assert {str(p.relative_to(tmp_path)): p.read_text() for p in tmp_path.rglob("*") if p.is_file()} == expected
    assert (tmp_path / "sub").exists() == (step < 4)


def test_a_directory_that_another_process_made_meanwhile_is_kept(tmp_path):
    with atomic_directory(tmp_path / "case", replace=False) as mine:
        (mine / "a").write_text("mine")
        with atomic_directory(tmp_path / "case", replace=False) as theirs:
            (theirs / "a").write_text("theirs")
    assert (tmp_path / "case" / "a").read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["case"]
