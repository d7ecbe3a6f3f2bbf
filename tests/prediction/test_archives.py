"""Series of a real archive, Orthanc, predicted by DICOMweb and stored back."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pydicom
import pytest

from samed_hf import SamedImageProcessor
from samed_hf.cli import main
from samed_hf.cli.watch_dicomweb import _State
from samed_hf.data import read_data
from samed_hf.serving.studies import ArchiveStudies
from samed_hf.volumes.dicom.web import Archive, ArchivedSeries, parse_address

from ..dicom_files import write_series
from ..orthanc import Orthanc
from ..serving.served import serve

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def series(tmp_path_factory) -> Path:
    """Three series in two studies, and one that is no CT."""
    root = tmp_path_factory.mktemp("series")
    generator = np.random.default_rng(0)
    for number, study in enumerate(("first", "first", "second"), 1):
        stored = np.kron(generator.integers(900, 1300, (5, 6, 2)), np.ones((5, 5, 4))).astype(np.uint16)
        write_series(root / f"ct-{number}", stored, series=f"series {number}", study=study, number=number)
    write_series(root / "mr", modality="MR", series="series 4", study="second", number=4)
    return root


@pytest.fixture
def orthanc(tmp_path, series):
    pytest.importorskip("dicomweb_client")
    archive = Orthanc(tmp_path / "orthanc")
    archive.start()
    archive.upload(sorted(series.rglob("*.dcm")))
    yield archive
    archive.kill()


def header(series: Path, name: str) -> pydicom.Dataset:
    """The header of a series' first file."""
    return pydicom.dcmread(min((series / name).iterdir()), stop_before_pixels=True)


def predict_files(adapter: Path, series: Path, output: Path) -> dict[str, bytes]:
    """The segmentations of the CTs by `predict` on the files, by their UIDs."""
    inputs = [str(series / f"ct-{number}") for number in (1, 2, 3)]
    assert main(["predict", str(adapter), *inputs, "--output", str(output), "--no_preview", "--no_report"]) == 0
    return {str(pydicom.dcmread(file).SOPInstanceUID): file.read_bytes() for file in output.glob("*.dcm")}


def voxels(content: dict[str, bytes]) -> dict[str, bytes]:
    """The pixel data of each segmentation."""
    return {uid: pydicom.dcmread(pydicom.filebase.DicomBytesIO(one)).PixelData for uid, one in content.items()}


def test_segmentations_are_stored(orthanc, series, tiny_adapter, tmp_path):
    expected = predict_files(tiny_adapter, series, tmp_path / "files")
    base = f"dicomweb+{orthanc.url}/studies"
    third = header(series, "ct-3")
    inputs = [f"{base}/{header(series, 'ct-1').StudyInstanceUID}"]
    inputs.append(f"{base}/{third.StudyInstanceUID}/series/{third.SeriesInstanceUID}")
    command = ["predict", str(tiny_adapter), *inputs, "--output", str(tmp_path / "archive"), "--store", "--no_preview"]
    assert main(command) == 0
    stored = orthanc.instances("SEG")
    assert voxels(stored) == voxels(expected)
    run = json.loads((tmp_path / "archive" / "predictions.json").read_text())
    assert [case["stored"] for case in run["cases"]] == [orthanc.url] * 3
    assert not (tmp_path / "archive" / ".dicomweb").exists()
    for content in stored.values():
        (tmp_path / "stored.dcm").write_bytes(content)
        if shutil.which("dciodvfy"):
            done = subprocess.run(["dciodvfy", "-new", str(tmp_path / "stored.dcm")], capture_output=True, text=True)
            assert not [line for line in done.stderr.splitlines() if line.startswith("Error")], done.stderr
    assert main([*command, "--skip_existing"]) == 0
    assert orthanc.instances("SEG").keys() == stored.keys()


def test_the_archive_dies_and_starts_again(orthanc, series, tiny_adapter, tmp_path):
    expected = predict_files(tiny_adapter, series, tmp_path / "files")
    command = ["watch-dicomweb", str(tiny_adapter), f"dicomweb+{orthanc.url}", "--output", str(tmp_path / "watched")]
    command += ["--modality", "CT", "--once", "--store"]

    def interrupt() -> None:
        while not (tmp_path / "watched" / "watch.json").exists():
            time.sleep(0.01)
        orthanc.kill()
        time.sleep(1.0)
        orthanc.start()

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert main(command) == 0
    thread.join()
    stored = orthanc.instances("SEG")
    assert voxels(stored) == voxels(expected)
    state = json.loads((tmp_path / "watched" / "watch.json").read_text())["series"]
    assert {one["status"] for one in state.values()} == {"done"}
    assert state.keys() == {str(header(series, f"ct-{number}").SeriesInstanceUID) for number in (1, 2, 3)}
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "watched").rglob("*.dcm")}
    assert main(command) == 0  # nothing is new
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "watched").rglob("*.dcm")} == before
    assert orthanc.instances("SEG").keys() == stored.keys()


def test_new_series_are_awaited(orthanc, series, tiny_adapter, tmp_path, monkeypatch):
    looks = []

    def look_again(seconds: float) -> None:
        looks.append(len(orthanc.instances("SEG")))
        if len(looks) == 1:
            orthanc.upload(sorted((series / "ct-3").iterdir())[4:])  # the rest of a series that is being sent
        if len(looks) == 4:
            raise KeyboardInterrupt

    last = sorted((series / "ct-3").iterdir())[4:]
    uids = {str(pydicom.dcmread(file).SOPInstanceUID) for file in last}
    orthanc.remove(uids)
    monkeypatch.setattr("samed_hf.cli.watch_dicomweb.time.sleep", look_again)
    command = ["watch-dicomweb", str(tiny_adapter), f"dicomweb+{orthanc.url}", "--output", str(tmp_path / "watched")]
    assert main([*command, "--modality", "CT", "--store"]) == 130
    assert looks == [0, 2, 3, 3]
    expected = predict_files(tiny_adapter, series, tmp_path / "files")
    assert voxels(orthanc.instances("SEG")) == voxels(expected)


def test_downloads_resume(orthanc, series, tmp_path):
    archive = Archive(orthanc.url, retries=0)
    (first, *_) = archive.find_series(str(header(series, "ct-1").StudyInstanceUID))
    directory = archive.fetch(first, tmp_path / "series")
    files = sorted(directory.iterdir())
    times = {file: file.stat().st_mtime_ns for file in files}
    files[0].unlink()
    archive.fetch(first, directory)
    assert sorted(directory.iterdir()) == files
    assert {file: file.stat().st_mtime_ns for file in files[1:]} == {file: times[file] for file in files[1:]}
    orthanc.kill()
    with pytest.raises(ConnectionError, match="can't be reached"):
        archive.fetch(first, directory)


def test_an_archive_that_counts_no_objects(tmp_path, monkeypatch):
    series, asked = ArchivedSeries("1.2", "1.2.3", "CT"), []
    monkeypatch.setattr(Archive, "_instances", lambda self, one: asked.append(one.uid) or ["1", "2"])
    counted = Archive("http://localhost:1/x").counted(series)
    assert (counted.instances, asked) == (2, ["1.2.3"])
    state = _State(tmp_path)
    assert state.is_open(series, 3)
    state.note(counted, [])
    assert not _State(tmp_path).is_open(counted, 3)
    assert _State(tmp_path).is_open(counted, 3, store=True)
    state.note(counted, [], stored=True)
    assert not _State(tmp_path).is_open(counted, 3, store=True)
    state.note(replace(counted, instances=3), ["an error"])
    for attempt in range(2, 4):
        state.note(replace(counted, instances=3), ["an error"])
        assert _State(tmp_path).is_open(replace(counted, instances=3), 3) == (attempt < 3)


@pytest.mark.parametrize("pages", ["short", "whole", "none"])
def test_lists_of_archives(pages, monkeypatch):
    """Of an archive that sends fewer entries than were asked for, as many, or all of them whatever was asked for."""
    entries = [{"00080018": {"vr": "UI", "Value": [f"1.2.{number}"]}} for number in range(1200)]

    def search(study: str, series: str, *, limit: int, offset: int) -> list[dict]:
        if pages == "none":
            return entries
        return entries[offset : offset + (100 if pages == "short" else limit)]

    archive = Archive("http://localhost:1/x")
    monkeypatch.setattr(archive._client, "search_for_instances", search)
    assert archive._instances(ArchivedSeries("1", "1.2")) == [f"1.2.{number}" for number in range(1200)]
    with pytest.raises(ValueError, match="1200 of the 1201 objects"):
        archive.fetch(ArchivedSeries("1", "1.2", instances=1201), Path("unused"))


def test_only_what_is_in_an_archive_is_stored(tiny_adapter, tmp_path, capsys):
    assert main(["predict", str(tiny_adapter), str(tmp_path), "--output", str(tmp_path / "out"), "--store"]) == 2
    assert "--store" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["dicomweb+ftp://a/b", "dicomweb+http://a/studies/x", "dicomweb+http://u:p@a/b"])
def test_addresses_are_checked(address):
    with pytest.raises(ValueError, match=r"dicomweb|password"):
        parse_address(address)
    assert parse_address("dicomweb+https://a:1/b/studies/1.2/series/1.3/") == ("https://a:1/b", "1.2", "1.3")


def test_a_server_offers_the_series_of_an_archive(orthanc, series, tiny_adapter, tmp_path):
    image = str(header(series, "ct-1").SeriesInstanceUID)
    options = ["--studies", f"dicomweb+{orthanc.url}", "--downloads", tmp_path / "downloads"]
    with serve(tiny_adapter, *options) as address:
        assert httpx.get(f"{address}/info/").json()["datastore"]["total"] == 4
        answer = httpx.post(f"{address}/infer/{tiny_adapter.name}?image={image}&output=dicom_seg", timeout=60)
        expected = predict_files(tiny_adapter, series, tmp_path / "files")
        assert answer.content == next(one for one in expected.values() if one == answer.content)
        assert httpx.post(f"{address}/infer/{tiny_adapter.name}?image=1.2.3").status_code == 404
        label = httpx.post(f"{address}/infer/{tiny_adapter.name}?image={image}&output=image").content
        form = {"files": {"label": ("label.nii.gz", label)}}
        assert httpx.put(f"{address}/datastore/label?image={image}", **form).status_code == 200
        orthanc.kill()
        assert httpx.get(f"{address}/health").status_code == 200
    data = read_data(tmp_path / "downloads" / "labels" / "final")
    case = data.read_case(data.train[0], SamedImageProcessor(64, (-125, 275)))
    assert case.label.shape == (8, 30, 25)


def test_series_that_grow_or_are_no_scan(orthanc, series, tmp_path):
    """Two echoes are refused, and neither they nor what is still being sent disturb the others."""
    write_series(tmp_path / "echoes", series="echoes", number=9, change=lambda one, number: _as_echo(one, number))
    orthanc.upload(sorted((tmp_path / "echoes").iterdir()))
    last = sorted((series / "ct-3").iterdir())[4:]
    orthanc.remove({str(pydicom.dcmread(file).SOPInstanceUID) for file in last})
    image, other = (str(header(series, name).SeriesInstanceUID) for name in ("ct-3", "ct-1"))
    echoes = str(header(tmp_path, "echoes").SeriesInstanceUID)
    directory = tmp_path / "downloads"
    studies = ArchiveStudies(f"dicomweb+{orthanc.url}", directory, fresh=0.0)
    for _ in range(2):
        with pytest.raises(ValueError, match="not one scan"):
            studies.scan(echoes)
    assert not [path for path in directory.iterdir() if echoes in path.name]
    assert len(studies.scan(image).files) == 4
    (tmp_path / "label.nii.gz").write_bytes(b"label")
    studies.scan(other)
    studies.add_label(
        other, "final", tmp_path / "label.nii.gz", {0: "background", 1: "liver"}, tmp_path / "label.nii.gz"
    )
    assert len(studies.datalist("final")) == 1
    assert set(studies.ids()) > {image, other, echoes}
    orthanc.upload(last)
    assert len(studies.scan(image).files) == 4 + len(last)
    again = ArchiveStudies(f"dicomweb+{orthanc.url}", directory)
    again.list_scans()
    assert len(again.datalist("final")) == 1
    orthanc.kill()
    assert len(studies.scan(image).files) == 4 + len(last)
    with pytest.raises(ConnectionError):
        studies.scan(str(header(series, "ct-2").SeriesInstanceUID))


def _as_echo(header: pydicom.Dataset, number: int) -> None:
    header.EchoNumbers, header.EchoTime = 1 + number % 2, 5.0 * (1 + number % 2)
    header.ImagePositionPatient = [0, 0, 2.5 * (number // 2)]


def test_a_series_that_is_no_scan_is_passed_over(orthanc, series, tiny_adapter, tmp_path):
    write_series(tmp_path / "echoes", series="echoes", number=9, change=lambda one, number: _as_echo(one, number))
    orthanc.upload(sorted((tmp_path / "echoes").iterdir()))
    options = ["--studies", f"dicomweb+{orthanc.url}", "--downloads", tmp_path / "downloads", "--allow_delete"]
    echoes = str(header(tmp_path, "echoes").SeriesInstanceUID)
    with serve(tiny_adapter, *options) as address:
        assert httpx.get(f"{address}/info/").json()["datastore"]["total"] == 5
        assert httpx.post(f"{address}/infer/{tiny_adapter.name}?image={echoes}").status_code == 400
        sample = httpx.post(f"{address}/activelearning/first", json={}, timeout=60).json()
        uids = sorted([echoes, *(str(header(series, one).SeriesInstanceUID) for one in ("ct-1", "ct-2", "ct-3", "mr"))])
        assert sample["id"] == next(uid for uid in uids if uid != echoes)
        assert httpx.get(f"{address}/datastore/?output=train").json() == []
        assert httpx.delete(f"{address}/datastore/image?id={sample['id']}").status_code == 400
        label = {"image": sample["id"], "tag": "final"}
        assert httpx.head(f"{address}/datastore/label", params=label).status_code == 404
