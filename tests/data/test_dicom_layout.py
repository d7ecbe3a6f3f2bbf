"""Data sets of DICOM series with structure sets and segmentations, laid out as archives export them."""

import numpy as np
import pydicom
import pytest

from samed_hf import SamedImageProcessor
from samed_hf.data import read_data
from samed_hf.data.cache import CaseStore
from samed_hf.validation.reading import read_for_faults
from samed_hf.volumes.dicom import read_series

from ..data_folders import save_nifti
from ..dicom_files import uid, write_series
from ..label_objects import write_segments, write_structures

PLAIN = SamedImageProcessor(intensity_window=[-1024, 0], image_size=32)


def rectangle(columns, rows, along):
    """A rectangle from pixel edge to pixel edge on a series of `write_series`, in mm."""
    x = np.multiply(np.add(columns, (-0.5, 0.5)), 0.7) - 100.5
    y = np.multiply(np.add(rows, (-0.5, 0.5)), 0.8) - 80.25
    return [(x[i], y[j], 50 + 2.5 * along) for i, j in ((0, 0), (1, 0), (1, 1), (0, 1))]


LIVER, SPLEEN = (rectangle((1, 3), (1, 2), 2),), (rectangle((5, 6), (3, 5), 0),)  # 6 voxels each


def patient(root, name, regions, *, inside="scan/ct", beside="rt/rs.dcm"):
    """A patient's series and a structure set of it."""
    files = write_series(root / name / inside, study=name, series="ct")
    write_structures(root / name / beside, regions, study=name, series="ct")
    return files


def test_patients_in_directories_of_any_depth(tmp_path):
    patient(tmp_path, "A", {"liver": [LIVER], "spleen": [SPLEEN]}, inside="1.2/3.4", beside="1.2/5.6/1-1.dcm")
    patient(tmp_path, "B", {"spleen": [SPLEEN]}, inside=".", beside="structures")
    data = read_data(tmp_path)
    assert data.id2label == {0: "background", 1: "liver", 2: "spleen"}
    assert (data.train, data.validation, data.test, data.channel_names) == (["A", "B"], [], [], ("CT",))
    assert any("liver in 1" in note for note in data.notes)
    case = data.read_case("A", PLAIN)
    assert case.label.shape == (5, 6, 7)
    assert np.bincount(case.label.ravel()).tolist() == [210 - 12, 6, 6]
    assert (case.label[2, 1:3, 1:4] == 1).all()
    assert case.image[0, 0, 0] == pytest.approx(1000 / 1024)
    assert len(data.sources["A"].files()) == 6


def test_segmentations_and_structure_sets_are_mixed(tmp_path):
    patient(tmp_path, "A", {"liver": [LIVER]})
    files = write_series(tmp_path / "B" / "ct", study="B", series="ct")
    masks = np.zeros((5, 6, 7, 1), np.uint8)
    masks[1, 2:4, 2:5] = 1
    write_segments(tmp_path / "B" / "seg.dcm", files, masks, "BINARY", ["liver"])
    data = read_data(tmp_path)
    assert [int((data.read_case(name, PLAIN).label == 1).sum()) for name in data.train] == [6, 6]


def test_label_names_choose_and_order_regions(tmp_path):
    patient(tmp_path, "A", {"liver": [LIVER], "spleen": [SPLEEN], "couch": [SPLEEN]})
    data = read_data(tmp_path, label_names=["spleen", "liver"])
    assert data.id2label == {0: "background", 1: "spleen", 2: "liver"}
    assert any("couch" in note for note in data.notes)
    assert (data.read_case("A", PLAIN).label[0] == 1).sum() == 6
    (tmp_path / "labels.json").write_text('{"background": 0, "liver": 1}')
    data = read_data(tmp_path)
    assert data.id2label == {0: "background", 1: "liver"}
    assert np.bincount(data.read_case("A", PLAIN).label.ravel()).tolist() == [204, 6]
    with pytest.raises(ValueError, match="lvier"):
        read_data(tmp_path, label_names=["lvier"])


def test_names_that_differ_in_case_or_spacing_are_noted(tmp_path):
    patient(tmp_path, "A", {"Left Lung": [LIVER]})
    patient(tmp_path, "B", {"left  lung": [LIVER]})
    data = read_data(tmp_path)
    assert list(data.id2label.values()) == ["background", "Left Lung", "left  lung"]
    assert any("'Left Lung'" in note and "'left  lung'" in note for note in data.notes)


def test_overlaps_reach_the_user(tmp_path, caplog):
    patient(tmp_path, "A", {"liver": [LIVER], "body": [(rectangle((0, 6), (0, 5), 2),)]})
    data = read_data(tmp_path)
    raw = data.read_raw("A", PLAIN)
    assert np.bincount(raw.label.ravel()).tolist() == [210 - 42, 0, 42]
    assert "6 voxels" in raw.notes[0]
    assert "6 voxels" in caplog.text
    assert "6 voxels" in data.notes[-1]
    reading = read_for_faults(data, "A", PLAIN)
    assert [(one.severity, one.kind) for one in reading.problems] == [("warning", "overlap")]
    np.testing.assert_array_equal(reading.label, raw.label)


def test_the_cases_of_a_patient_are_a_group(tmp_path):
    for name, person in (("A", "1"), ("B", "1"), ("C", "2")):
        write_series(tmp_path / name / "ct", study=name, series="ct")

        def identify(dataset, person=person):
            dataset.PatientID = person

        write_structures(tmp_path / name / "rs.dcm", {"liver": [LIVER]}, study=name, series="ct", change=identify)
    assert read_data(tmp_path).groups == {"A": "1", "B": "1"}


def test_a_label_without_its_series_is_left_out_by_name(tmp_path):
    patient(tmp_path, "A", {"liver": [LIVER]})
    write_structures(tmp_path / "B" / "lost.dcm", {"spleen": [SPLEEN]}, study="B", series="ct")
    write_series(tmp_path / "C", study="C", series="unlabelled")
    data = read_data(tmp_path)
    assert (data.train, list(data.id2label.values())) == (["A"], ["background", "liver"])
    assert any("lost.dcm" in note and uid("B", "ct") in note for note in data.notes)
    assert any(str(tmp_path / "C") in note for note in data.notes)


def test_a_structure_set_that_names_images_only_finds_its_series(tmp_path):
    write_series(tmp_path / "A", study="A", series="ct")
    contour = (LIVER[0], "CLOSED_PLANAR", 2)

    def without_series(dataset):
        dataset.ROIContourSequence[0].ContourSequence[0].ContourImageSequence[0].ReferencedSOPInstanceUID = uid(
            "A", "ct", 2
        )

    write_structures(tmp_path / "rs.dcm", {"liver": [contour]}, study="A", series=None, change=without_series)
    assert (read_data(tmp_path).read_case("A", PLAIN).label[2] == 1).sum() == 6


def test_each_series_that_a_structure_set_refers_to_is_a_case(tmp_path):
    write_series(tmp_path / "A" / "ct", study="A", series="ct")
    write_series(tmp_path / "A" / "pet", study="A", series="pet", number=2)

    def refer_to_both(dataset):
        study = dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
        study.RTReferencedSeriesSequence.append(pydicom.Dataset())
        study.RTReferencedSeriesSequence[1].SeriesInstanceUID = uid("A", "pet")

    write_structures(tmp_path / "A" / "rs.dcm", {"liver": [LIVER]}, study="A", series="ct", change=refer_to_both)
    data = read_data(tmp_path)
    assert data.train == ["ct", "pet"]
    assert [(data.read_case(name, PLAIN).label == 1).sum() for name in data.train] == [6, 6]


def test_two_labels_of_a_series_are_refused(tmp_path):
    patient(tmp_path, "A", {"liver": [LIVER]})
    write_structures(tmp_path / "A" / "second.dcm", {"liver": [SPLEEN]}, study="A", series="ct")
    with pytest.raises(ValueError, match=r"rs\.dcm.*second\.dcm|second\.dcm.*rs\.dcm"):
        read_data(tmp_path)


def test_series_and_labels_are_chosen_by_modality_kind_or_description(tmp_path):
    files = patient(tmp_path, "A", {"liver": [LIVER]})
    masks = np.zeros((5, 6, 7, 1), np.uint8)
    masks[1, 2:4, 2:4] = 1
    write_segments(tmp_path / "A" / "seg.dcm", files, masks, "BINARY", ["liver"], series_description="By hand")
    for wanted, count in (("RTSTRUCT", 6), ("seg", 4), ("by hand", 4)):
        data = read_data(tmp_path, label_column=wanted)
        assert (data.read_case("A", PLAIN).label == 1).sum() == count
    with pytest.raises(FileNotFoundError):
        read_data(tmp_path, label_column="SEG", image_column="MR")


def test_series_without_any_label_are_refused(tmp_path):
    write_series(tmp_path / "A")
    with pytest.raises(FileNotFoundError, match="RTSTRUCT"):
        read_data(tmp_path)


def test_directories_called_as_splits_are_splits(tmp_path):
    for split, name in (("train", "A"), ("train", "B"), ("test", "C"), ("other", "D")):
        patient(tmp_path / split, name, {"liver": [LIVER]})
    data = read_data(tmp_path)
    assert (data.train, data.validation, data.test) == (["A", "B"], [], ["C"])
    assert any("other" in note for note in data.notes)


def test_images_and_labels_in_directories_of_their_own(tmp_path):
    for name in ("A", "B"):
        write_series(tmp_path / "images" / name, study=name, series="ct")
        write_structures(tmp_path / "labels" / f"{name}.dcm", {"liver": [LIVER]}, study=name, series="ct")
    data = read_data(tmp_path)
    assert data.train == ["A", "B"]
    assert (data.read_case("B", PLAIN).label == 1).sum() == 6


@pytest.mark.parametrize("where", ["images/{}", "{}/ct", "train/{}/1/2"])
def test_label_maps_of_dicom_series(tmp_path, where):
    for name in ("A", "B"):
        files = write_series(tmp_path / where.format(name), study=name, series="ct")
        scan = read_series(files, tmp_path)
        label = np.zeros(scan.grid, np.uint8)
        label[1:4, 1:3, 2] = 1
        beside = {"images/{}": "labels/{}.nii.gz", "{}/ct": "{}/seg.nii.gz", "train/{}/1/2": "train/{}/{}_label.nii.gz"}
        save_nifti(tmp_path / beside[where].format(name, name), label, scan.affine)
    data = read_data(tmp_path, label_names=["liver"])
    assert (data.train, data.channel_names) == (["A", "B"], ("CT",))
    assert (data.read_case("B", PLAIN).label[2, 1:3, 1:4] == 1).all()
    write_series(tmp_path / where.format("B") / "more", study="B", series="second")
    with pytest.raises(ValueError, match=r"B.*2 DICOM series"):
        read_data(tmp_path, label_names=["liver"])


def test_a_listing_of_series_and_structure_sets(tmp_path):
    patient(tmp_path, "A", {"liver": [LIVER], "spleen": [SPLEEN]})
    patient(tmp_path, "B", {"liver": [LIVER]})
    (tmp_path / "cases.csv").write_text("image,label,split\nA/scan/ct,A/rt/rs.dcm,train\nB/scan/ct,B/rt/rs.dcm,test\n")
    data = read_data(tmp_path / "cases.csv")
    assert list(data.id2label.values()) == ["background", "liver", "spleen"]
    assert (len(data.train), len(data.test)) == (1, 1)
    assert np.bincount(data.read_case(data.train[0], PLAIN).label.ravel()).tolist() == [198, 6, 6]


def test_the_cache_notices_another_choice_of_labels(tmp_path):
    patient(tmp_path / "data", "A", {"liver": [LIVER], "spleen": [SPLEEN]})
    counts = []
    for names in (["liver", "spleen"], ["spleen", "liver"]):
        store = CaseStore(read_data(tmp_path / "data", label_names=names), PLAIN, tmp_path / "cache")
        store.prepare(["A"])
        counts.append((store.label("A")[2] == 1).sum())
    assert counts == [6, 0]


def test_a_damaged_label_is_an_error_or_a_note(tmp_path):
    patient(tmp_path, "A", {"liver": [LIVER]})
    path = write_structures(tmp_path / "B" / "rs.dcm", {"liver": [LIVER]}, study="B")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"rs\.dcm"):
        read_data(tmp_path)
    data = read_data(tmp_path, strict=False)
    assert data.train == ["A"]
    assert any("rs.dcm" in note for note in data.notes)
