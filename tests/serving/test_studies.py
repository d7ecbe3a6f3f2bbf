"""The datastore on disk, names that clients send, and limits of requests."""

from __future__ import annotations

import json

import numpy as np
import pydicom
import pytest
import SimpleITK

from samed_hf.serving import studies as studies_module
from samed_hf.serving.engine import BusyError
from samed_hf.serving.studies import Studies, check_name
from samed_hf.serving.uploads import Sessions

from ..dicom_files import write_series
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


def test_other_directories_are_no_tags(tmp_path):
    write_scan(tmp_path / "a.nii.gz")
    for name in (".ipynb_checkpoints", "final"):
        (tmp_path / "labels" / name).mkdir(parents=True)
        (tmp_path / "labels" / name / "a.nii.gz").write_bytes(b"label")
    studies = Studies(tmp_path)
    assert studies.tags("a") == ["final"]
    assert studies.count() == {"total": 1, "completed": 1, "label_tags": {"final": 1}}
    with pytest.raises(ValueError, match=r"labels/final holds label maps without labels\.json"):
        studies.label_names("final")
    assert studies.label_names("other") == {}


def test_a_changed_directory_is_searched_again(tmp_path, monkeypatch):
    searched = []
    search = studies_module.search_scans
    monkeypatch.setattr(studies_module, "search_scans", lambda *a, **k: searched.append(1) or search(*a, **k))
    write_scan(tmp_path / "a.nii.gz")
    studies = Studies(tmp_path)
    for _ in range(3):
        assert studies.ids() == ["a"]
    assert len(searched) == 1
    write_scan(tmp_path / "b.nii.gz")
    assert studies.ids() == ["a", "b"]
    (tmp_path / "loop").symlink_to(tmp_path)
    studies.ids()


@pytest.mark.parametrize("uid", ["../../a", "a", "1.2.x"])
def test_a_uid_that_is_none_is_no_id(tmp_path, uid):
    write_scan(tmp_path / "a.nii.gz")
    write_series(tmp_path / "ct", change=lambda header, number: setattr(header, "SeriesInstanceUID", uid))
    assert sorted(Studies(tmp_path).ids()) == ["a", "ct"]


def test_a_uid_that_is_anothers_name_is_no_id(tmp_path):
    files = write_series(tmp_path / "ct")
    uid = str(pydicom.dcmread(next((tmp_path / "ct").iterdir())).SeriesInstanceUID)
    assert Studies(tmp_path).ids() == [uid], files
    write_scan(tmp_path / f"{uid}.nii.gz")
    found = Studies(tmp_path)
    assert sorted(found.ids()) == sorted([uid, "ct"])
    assert found.scan(uid).kind == "nifti"


def test_a_scan_is_removed_with_its_voxels(tmp_path):
    image = SimpleITK.GetImageFromArray(np.zeros((4, 6, 5), np.int16))
    SimpleITK.WriteImage(image, str(tmp_path / "a.mhd"))
    assert {path.suffix for path in tmp_path.iterdir()} == {".mhd", ".raw"}
    Studies(tmp_path).remove_scan("a")
    assert not list(tmp_path.iterdir())


class _Upload:
    """What the forms hold."""

    def __init__(self, path):
        self.filename, self.file = path.name, path.open("rb")


def test_sessions_end(tmp_path):
    scan = write_scan(tmp_path / "scan.nii.gz")
    sessions = Sessions(most=2, least=0.0)
    names = [sessions.add([_Upload(scan)])[0] for _ in range(3)]
    with pytest.raises(KeyError):
        sessions.scan(names[0])
    path = sessions.scan(names[1]).path
    assert path.read_bytes() == scan.read_bytes()
    sessions.remove(names[1])
    assert not path.exists()
    sessions.close()
    busy = Sessions(most=1)
    used, _ = busy.add([_Upload(scan)])
    with pytest.raises(BusyError, match="1 sessions"):
        busy.add([_Upload(scan)])
    assert busy.scan(used).path.exists()
    busy.close()
    expired = Sessions(seconds=-1.0)
    name, _ = expired.add([_Upload(scan)])
    with pytest.raises(KeyError):
        expired.scan(name)
