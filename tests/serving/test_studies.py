"""The datastore on disk, names that clients send, and limits of requests."""

from __future__ import annotations

import json

import pytest

from samed_hf.serving.studies import Studies, check_name
from samed_hf.serving.uploads import Sessions

from .served import write_scan


def test_ids_are_names_of_scans(tmp_path):
    write_scan(tmp_path / "Müller (CT).nii.gz")
    write_scan(tmp_path / "b.nrrd.nii.gz")
    studies = Studies(tmp_path)
    assert studies.ids() == ["Müller (CT)", "b.nrrd"]
    assert studies.count() == {"total": 2, "completed": 0, "label_tags": {}}
    with pytest.raises(KeyError):
        studies.scan("../b.nrrd")


def test_labels_are_a_data_set_that_can_be_moved(tmp_path):
    (tmp_path / "scans").mkdir()
    write_scan(tmp_path / "scans" / "a.nii.gz")
    studies = Studies(tmp_path / "scans")
    (tmp_path / "label.nii.gz").write_bytes(b"label")
    studies.add_label("a", "final", tmp_path / "label.nii.gz", {0: "background", 1: "liver"})
    directory = tmp_path / "scans" / "labels" / "final"
    assert json.loads((directory / "datalist.json").read_text()) == {
        "training": [{"image": "../../a.nii.gz", "label": "a.nii.gz"}]
    }
    assert studies.label_names("final") == {0: "background", 1: "liver"}
    assert studies.tags("a") == ["final"]
    assert studies.unlabelled("final") == []
    assert studies.ids() == ["a"]
    studies.remove_label("a", "final")
    assert json.loads((directory / "datalist.json").read_text()) == {"training": []}


def test_an_image_is_never_replaced(tmp_path):
    old = write_scan(tmp_path / "a.nii.gz").read_bytes()
    (tmp_path / "new").mkdir()
    studies = Studies(tmp_path)
    with pytest.raises(FileExistsError, match="'a'"):
        studies.add_scan("a", write_scan(tmp_path / "new" / "x.nii.gz", seed=1), ".nii.gz")
    assert (tmp_path / "a.nii.gz").read_bytes() == old


@pytest.mark.parametrize("names", [["p1/ct", "p2/ct"], ["a_0000", "b_0000"], ["new"]])
def test_an_upload_renames_no_scan(tmp_path, names):
    for number, name in enumerate(names):
        (tmp_path / "scans" / name).parent.mkdir(parents=True, exist_ok=True)
        write_scan(tmp_path / "scans" / f"{name}.nii.gz", seed=number)
    studies = Studies(tmp_path / "scans")
    before = studies.ids()
    with pytest.raises(FileExistsError, match=r"NEW|new"):
        studies.add_scan("NEW" if names == ["new"] else "new", write_scan(tmp_path / "x.nii.gz"), ".nii.gz")
    assert studies.ids() == before


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0", " a", "a\n", "x" * 201, "-rf", "a\\b", ".hidden"])
def test_names_that_are_no_file_names(name):
    with pytest.raises(ValueError, match="tag"):
        check_name("tag", name)
    assert check_name("tag", "2: Müller (5.0)") == "2: Müller (5.0)"


class _Upload:
    """What the forms hold."""

    def __init__(self, path):
        self.filename, self.file = path.name, path.open("rb")


def test_sessions_end(tmp_path):
    scan = write_scan(tmp_path / "scan.nii.gz")
    sessions = Sessions(most=2)
    names = [sessions.add([_Upload(scan)])[0] for _ in range(3)]
    with pytest.raises(KeyError):
        sessions.scan(names[0])
    path = sessions.scan(names[1]).path
    assert path.read_bytes() == scan.read_bytes()
    sessions.remove(names[1])
    assert not path.exists()
    sessions.close()
    expired = Sessions(seconds=-1.0)
    name, _ = expired.add([_Upload(scan)])
    with pytest.raises(KeyError):
        expired.scan(name)
