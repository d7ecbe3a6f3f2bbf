"""One small data set written in every layout that the package reads."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

LABELS = {0: "background", 1: "disc", 2: "bar"}


def make_scans(count: int = 6, shape: tuple[int, int, int] = (20, 24, 5), seed: int = 0) -> dict:
    """Scans `(x, y, z)` int16 in LPS with their label maps by the case's name: a disc and a bar at random positions."""
    generator = np.random.default_rng(seed)
    scans = {}
    x, y = np.mgrid[: shape[0], : shape[1]]
    for index in range(count):
        label = np.zeros(shape, np.uint8)
        label[:, int(generator.integers(2, shape[1] - 5)) :][:, :3] = 2
        centre = generator.integers(6, min(shape[:2]) - 6, 2)
        label[(x - centre[0]) ** 2 + (y - centre[1]) ** 2 < 20] = 1
        label[..., 0] = 0
        image = generator.integers(0, 40, shape) + np.array([0, 160, 80])[label]
        scans[f"case_{index:02d}"] = (image.astype(np.int16), label)
    return scans


def save_nifti(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([-1.0, -1.5, 3.0, 1.0]) if affine is None else affine
    nib.save(nib.Nifti1Image(array, affine), path)


def write_nnunet(root: Path, scans: dict, **changes) -> Path:
    for name, (image, label) in scans.items():
        save_nifti(root / "imagesTr" / f"{name}_0000.nii.gz", image)
        save_nifti(root / "labelsTr" / f"{name}.nii.gz", label)
    content = {
        "channel_names": {"0": "T1"},
        "labels": {name: index for index, name in LABELS.items()},
        "numTraining": len(scans),
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(content | changes))
    return root


def write_decathlon(root: Path, scans: dict, **changes) -> Path:
    training = []
    for name, (image, label) in scans.items():
        save_nifti(root / "imagesTr" / f"{name}.nii.gz", image)
        save_nifti(root / "labelsTr" / f"{name}.nii.gz", label)
        training.append({"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"})
    content = {
        "name": "Shapes",
        "modality": {"0": "MRI"},
        "labels": {str(index): name for index, name in LABELS.items()},
        "training": training[::-1],
        "test": [],
    }
    (root / "dataset.json").write_text(json.dumps(content | changes))
    return root


def write_folders(root: Path, scans: dict, suffix: str = ".nii.gz") -> Path:
    for name, (image, label) in scans.items():
        save_nifti(root / "images" / f"{name}{suffix}", image)
        save_nifti(root / "masks" / f"{name}_mask{suffix}", label)
    (root / "labels.json").write_text(json.dumps({str(index): name for index, name in LABELS.items()}))
    return root


def write_pictures(root: Path, scans: dict) -> Path:
    """Every slice as a PNG, called as the slices of their case."""
    for directory in ("images", "masks"):
        (root / directory).mkdir(parents=True)
    for name, (image, label) in scans.items():
        for index in range(image.shape[2]):
            file_name = f"{name}_slice{index:03d}.png"
            Image.fromarray(image[..., index].T.astype(np.uint8)).save(root / "images" / file_name)
            Image.fromarray(label[..., index].T).save(root / "masks" / file_name)
    (root / "labels.txt").write_text("\n".join(LABELS.values()))
    return root


def write_rows(root: Path, scans: dict, kind: str = "nifti", splits: dict | None = None) -> Path:
    """A saved Hugging Face data set: whole scans as NIfTI, or every slice as an image with its case."""
    import datasets

    def table(names):
        rows: dict[str, list] = {"case": [], "image": [], "label": []}
        for name in names:
            image, label = scans[name]
            if kind == "nifti":
                for column, array in (("image", image), ("label", label)):
                    save_nifti(root.parent / f"{root.name}-files" / column / f"{name}.nii.gz", array)
                    rows[column].append(str(root.parent / f"{root.name}-files" / column / f"{name}.nii.gz"))
                rows["case"].append(name)
                continue
            for index in range(image.shape[2]):
                rows["case"].append(name)
                rows["image"].append(Image.fromarray(image[..., index].T.astype(np.uint8)))
                rows["label"].append(Image.fromarray(label[..., index].T))
        feature = datasets.Nifti() if kind == "nifti" else datasets.Image()
        features = datasets.Features({"case": datasets.Value("string"), "image": feature, "label": feature})
        return datasets.Dataset.from_dict(rows, features=features)

    if splits is None:
        table(scans).save_to_disk(root)
    else:
        datasets.DatasetDict({split: table(names) for split, names in splits.items()}).save_to_disk(root)
    return root
