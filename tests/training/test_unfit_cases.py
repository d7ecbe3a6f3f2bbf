"""Training cases with NaN are left out and named; those of background alone are named and trained on."""

import shutil

import nibabel as nib
import numpy as np

from samed_hf.cli import main
from samed_hf.data.layouts.synapse import read_slice, write_slice

from ..data_folders import make_scans, write_nnunet


def spoil_slices(folder, cases, what):
    """Give every slice of some cases of a Synapse folder another image or label."""
    for case in cases:
        for path in sorted((folder / "train_npz").glob(f"{case}_*.npz")):
            write_slice(folder, path.stem, *what(*read_slice(path)))


def with_nan(image, label):
    image = image.copy()
    image[3, 4] = np.nan
    return image, label


def run(tiny_sam, data, output, *flags):
    settings = ["--model_name_or_path", str(tiny_sam), "--data_dir", str(data), "--output_dir", str(output)]
    settings += ["--image_size", "64", "--max_train_steps", "3", "--per_device_train_batch_size", "4"]
    return main(["train", *settings, "--num_validation_cases", "0", "--report_to", "none", *flags])


def test_one_nan_image_and_one_case_of_background_train_through(tiny_sam, tiny_data, tmp_path, capsys):
    data = shutil.copytree(tiny_data, tmp_path / "data")
    spoil_slices(data, ["case0001"], with_nan)
    spoil_slices(data, ["case0003"], lambda image, label: (image, np.zeros_like(label)))
    assert run(tiny_sam, data, tmp_path / "run") == 0
    out, err = capsys.readouterr()
    lines = err.splitlines()
    left_out = [line for line in lines if "excluded from the training" in line]
    assert len(left_out) == 1
    assert "case0001" in left_out[0]
    assert "NaN" in left_out[0]
    background = [line for line in lines if "background alone" in line and line.startswith("warning")]
    assert "case0003" in background[0]
    assert "5 cases to train on" in out
    assert (tmp_path / "run" / "adapter_model.safetensors").is_file()


def test_nothing_but_nan_is_one_clear_line(tiny_sam, tiny_data, tmp_path, capsys):
    data = shutil.copytree(tiny_data, tmp_path / "data")
    spoil_slices(data, [f"case{number:04d}" for number in range(6)], with_nan)
    assert run(tiny_sam, data, tmp_path / "run") == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(errors) == 1
    assert "all 6 hold NaN or infinite intensities" in errors[0]
    assert not (tmp_path / "run").exists()


def test_whole_scans_with_nan_too(tiny_sam, tmp_path, capsys):
    data = write_nnunet(tmp_path / "Dataset001_Discs", make_scans())
    path = sorted((data / "imagesTr").iterdir())[0]
    scan = nib.load(path)
    values = scan.get_fdata(dtype=np.float32)
    values[1, 2, 0] = np.inf
    nib.save(nib.Nifti1Image(values, scan.affine), path)
    assert run(tiny_sam, data, tmp_path / "run") == 0
    assert path.name.removesuffix("_0000.nii.gz") in next(
        line for line in capsys.readouterr().err.splitlines() if "excluded from the training" in line
    )
