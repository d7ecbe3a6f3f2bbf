"""More than three hundred damaged inputs: each gives a correct result or one clear line, and costs no other case."""

import json
import re
import shutil

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from accelerate.state import AcceleratorState, GradientState
from PIL import Image

from samed_hf.cli import main
from samed_hf.volumes import Volume, read_volume, write_volume

from .conftest import TINY_SIZE
from .damage import damaged, leftovers
from .data_folders import (
    make_scans,
    save_nifti,
    write_decathlon,
    write_folders,
    write_nnunet,
    write_pictures,
    write_rows,
)
from .dicom_files import write_series

FORMATS = ("nii", "nii.gz", "nrrd", "mha", "png", "jpg", "tif", "dcm")
SCAN = make_scans(1, (16, 18, 3))["case_00"][0]
AFFINE = np.diag([-1.0, -1.5, 3.0, 1.0])


@pytest.fixture(autouse=True)
def fresh_accelerate_state():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One undamaged file of each format."""
    folder = tmp_path_factory.mktemp("whole")
    volume = Volume(SCAN, AFFINE)
    for suffix in ("nii", "nii.gz", "nrrd", "mha"):
        write_volume(folder / f"whole.{suffix}", volume)
    picture = Image.fromarray(SCAN[..., 1].T.astype(np.uint8))
    for suffix in ("png", "jpg", "tif"):
        picture.save(folder / f"whole.{suffix}")
    (series,) = write_series(folder / "series", SCAN[..., :1].astype(np.uint16))
    shutil.copy(series, folder / "whole.dcm")
    return folder


def assert_clear(line):
    assert line.strip()
    assert "Traceback" not in line
    assert len(line) < 1000


def assert_no_traceback(captured):
    for text in (captured.out, captured.err):
        assert "Traceback" not in text
        assert 'File "' not in text
        assert "Warning" not in text


@pytest.mark.slow
@pytest.mark.parametrize("suffix", FORMATS)
def test_predict(suffix, whole, tiny_adapter, tmp_path, capfd):
    """21 damaged inputs and a whole one in one run: the whole one is segmented, the others are or are named."""
    content = (whole / f"whole.{suffix}").read_bytes()
    inputs = []
    for word, changed in [*damaged(content), ("zz-whole", content)]:
        # A folder of its own for each DICOM file: in one folder they'd be slices of one series, which fails with them.
        inputs.append(tmp_path / "in" / (f"{word}/IM0001" if suffix == "dcm" else f"{word}.{suffix}"))
        inputs[-1].parent.mkdir(parents=True, exist_ok=True)
        inputs[-1].write_bytes(changed)
    inputs = [path.parent for path in inputs] if suffix == "dcm" else inputs
    output = tmp_path / "out"
    status = main(["predict", str(tiny_adapter), *map(str, inputs), "--output", str(output)])
    captured = capfd.readouterr()
    assert_no_traceback(captured)
    record = json.loads((output / "predictions.json").read_text())
    cases = {case["name"]: case for case in record["cases"]}
    assert len(cases) == len(inputs)
    failed = {name for name, case in cases.items() if case["status"] != "done"}
    assert status == (1 if failed else 0)
    assert "zz-whole" not in failed
    for path in inputs:
        name = path.name.removesuffix(f".{suffix}")
        assert (name in failed) or not name.startswith(("a-page", "noise", "zeros", "cut-at-0"))
        results = [found for found in output.glob(f"{name}.*") if found.is_file()]
        if name in failed:
            assert results == []
            assert not (output / name).exists()
            lines = [line for line in captured.err.splitlines() if line.startswith(f"error: {name}: ")]
            assert len(lines) == 1, (name, captured.err)
            assert_clear(lines[0])
            continue
        assert len(results) == 1
        assert (output / name / "statistics.json").is_file()
        if suffix == "dcm" and results[0].suffix == ".dcm":
            assert pydicom.dcmread(results[0]).Modality == "SEG"
        else:
            assert read_volume(results[0]).grid == read_volume(path).grid
            notes = json.loads((output / name / "statistics.json").read_text())["notes"]
            # A series whose damaged UIDs are as good as removed has NIfTI labels.
            assert suffix != "dcm" or any("UID" in note for note in notes)
    assert leftovers(output) == []


def write_synapse(root, scans):
    from samed_hf.data.dataset import Case
    from samed_hf.data.layouts.synapse import write_case, write_lists, write_slice

    slices = []
    for name, (image, label) in list(scans.items())[:-1]:
        for index in range(image.shape[2]):
            slices.append(f"{name}_slice{index:03d}")
            write_slice(root, slices[-1], image[..., index] / 255, label[..., index])
    name, (image, label) = list(scans.items())[-1]
    write_case(root, Case(name, np.transpose(image, (2, 1, 0)) / np.float32(255), np.transpose(label, (2, 1, 0))))
    write_lists(root, slices, [name], {0: "background", 1: "disc", 2: "bar"})
    return root


WRITERS = {
    "nnunet": write_nnunet,
    "decathlon": write_decathlon,
    "folders": write_folders,
    "pictures": write_pictures,
    "rows": write_rows,
    "synapse": write_synapse,
}
SCANS = make_scans(3, (20, 20, 2))


def damaged_data(root, kind):
    """The data set with one of its files damaged, again and again."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    telling = [path for path in files if path.suffix == ".json" or path.suffix == ".txt"][:2]
    chosen = [*telling, next(path for path in files if path not in telling), files[-1]]
    for path in dict.fromkeys(chosen):
        content = path.read_bytes()
        variants = list(damaged(content, seed=len(path.name), flips=4))
        for word, changed in variants[1::4] if kind == "train" else variants[::7]:
            path.write_bytes(changed)
            yield f"{path.name} {word}"
            path.write_bytes(content)
        path.unlink()
        yield f"{path.name} gone"
        path.write_bytes(content)


def ends_clearly(argv, captured, status, word):
    assert status in (0, 1, 2), word
    assert_no_traceback(captured)
    if status == 2:
        lines = [line for line in captured.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, (word, captured.err)
        assert_clear(lines[0])


@pytest.mark.slow
@pytest.mark.parametrize("layout", WRITERS)
def test_validate(layout, tiny_sam, tmp_path, capfd):
    root = WRITERS[layout](tmp_path / "data", SCANS)
    count = 0
    for word in damaged_data(root, "validate"):
        output = tmp_path / f"out{count}"
        status = main(["validate", str(root), "--output", str(output), "--model_name_or_path", str(tiny_sam)])
        ends_clearly([], capfd.readouterr(), status, word)
        assert not output.exists() or leftovers(output) == []
        if status == 1:
            assert (output / "fingerprint.json").is_file()
        count += 1
    assert count >= 12


@pytest.mark.slow
@pytest.mark.parametrize("layout", WRITERS)
def test_train(layout, tiny_sam, tmp_path, capfd):
    root = WRITERS[layout](tmp_path / "data", SCANS)
    for index, word in enumerate(damaged_data(root, "train")):
        output = tmp_path / f"out{index}"
        flags = {
            "model_name_or_path": tiny_sam,
            "data_dir": root,
            "output_dir": output,
            "image_size": TINY_SIZE,
            "max_train_steps": 1,
            "per_device_train_batch_size": 2,
            "report_to": "none",
        }
        status = main(["train", *(f"--{key}={value}" for key, value in flags.items())])
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        ends_clearly([], capfd.readouterr(), status, word)
        assert (output / "adapter_model.safetensors").is_file() == (status == 0), word
        if status == 2:
            assert not output.exists(), word


ODD = {
    "spaces and ümläuts.nii.gz": True,
    "-dash.nii.gz": True,
    "dots.in.the.name.nii.gz": True,
    "new\nline.nii.gz": True,
    "<b>bold&.nii.gz": True,
    "%s{x}$HOME.nii.gz": True,
    f"{'long' * 55}.nii.gz": True,
    "UPPER.NII.GZ": True,
    "CON.nii.gz": True,
    "表.nii.gz": True,
}


@pytest.mark.slow
def test_one_missing_file_keeps_no_other_case_from_being_checked(tiny_sam, tmp_path, capfd):
    for write in (write_decathlon, write_nnunet, write_folders, write_pictures):
        root = write(tmp_path / write.__name__, SCANS)
        sorted(path for path in root.rglob("*case_01*") if "mask" in str(path) or "labels" in str(path))[0].unlink()
        output = tmp_path / f"{write.__name__}-checked"
        assert main(["validate", str(root), "--output", str(output), "--model_name_or_path", str(tiny_sam)]) == 1
        captured = capfd.readouterr()
        assert_no_traceback(captured)
        assert "case_01" in captured.out
        assert json.loads((output / "fingerprint.json").read_text())
        assert main(["train", f"--data_dir={root}", f"--output_dir={tmp_path / 'run'}"]) == 2
        assert "case_01" in capfd.readouterr().err


@pytest.mark.slow
def test_odd_names(tiny_adapter, tmp_path, capfd):
    folder, output = tmp_path / "in", tmp_path / "out"
    for name in ODD:
        save_nifti(folder / "good.nii.gz", SCAN)
        (folder / "good.nii.gz").rename(folder / name)
    for foreign in ("notes.txt", "Thumbs.db", ".DS_Store", "report.pdf"):
        (folder / foreign).write_bytes(b"nothing of ours")
    (folder / "empty folder").mkdir()
    assert main(["predict", str(tiny_adapter), str(folder), "--output", str(output)]) == 0
    assert_no_traceback(capfd.readouterr())
    assert len([path for path in output.iterdir() if path.name.endswith(".nii.gz")]) == len(ODD)
    page = (output / "report.html").read_text()
    assert "<b>bold&" not in page
    assert leftovers(output) == []


def test_folders_without_a_scan(tiny_adapter, tmp_path, capfd):
    (tmp_path / "empty").mkdir()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "notes.txt").write_text("nothing")
    for folder in ("empty", "foreign", "nowhere"):
        for argv in (
            ["predict", str(tiny_adapter), folder, "--output", "out"],
            ["validate", folder],
            ["train", f"--data_dir={folder}"],
        ):
            argv = [str(tmp_path / word) if word in (folder, "out") else word for word in argv]
            argv = [word.replace(f"={folder}", f"={tmp_path / folder}") for word in argv]
            status = main([*argv, f"--output_dir={tmp_path / 'out'}"] if argv[0] == "train" else argv)
            captured = capfd.readouterr()
            assert status == 2, argv
            assert re.match(r"error: .+\n$", captured.err), captured.err
            assert_no_traceback(captured)
            assert not (tmp_path / "out").exists()


def test_missing_slices_and_nan(tiny_adapter, tmp_path, capfd):
    scan = make_scans(1, (16, 18, 8))["case_00"][0]
    files = write_series(tmp_path / "gap", scan.astype(np.uint16))
    files[3].unlink()
    write_series(tmp_path / "whole", scan.astype(np.uint16))
    image = scan.astype(np.float32)
    image[2, 2, 2] = np.nan
    save_nifti(tmp_path / "nan.nii.gz", image, AFFINE)
    output = tmp_path / "out"
    inputs = [str(tmp_path / name) for name in ("gap", "nan.nii.gz", "whole")]
    assert main(["predict", str(tiny_adapter), *inputs, "--output", str(output), "--format", "nii.gz"]) == 1
    captured = capfd.readouterr()
    assert_no_traceback(captured)
    assert any("gap" in line and "missing" in line for line in captured.err.splitlines())
    assert any("nan" in line and "NaN" in line for line in captured.err.splitlines())
    assert sitk.ReadImage(str(output / "whole.nii.gz")).GetSize() == (16, 18, 8)
