"""The fingerprint against numbers computed by hand, and the suggested settings."""

import json
import shlex

import numpy as np
import pytest

from samed_hf.data import DataArguments, make_processor
from samed_hf.data.dataset import CaseDataset
from samed_hf.data.layouts import read_data
from samed_hf.diagnostics.memory import TrainingMemory
from samed_hf.model.image_processing_samed import SamedImageProcessor
from samed_hf.training import parse_arguments
from samed_hf.training.arguments import SamedTrainingArguments
from samed_hf.validation.advice import Suggestion, suggest_batch, suggest_settings, training_command
from samed_hf.validation.fingerprint import PERCENTILES, make_fingerprint, pooled
from samed_hf.validation.measuring import measure_case
from samed_hf.validation.reading import CaseReading
from samed_hf.validation.run import validate_data

from ..data_folders import make_scans, save_nifti, write_nnunet

LABELS = {0: "background", 1: "liver", 2: "tumour"}


def measured(image, label, split="train", name="case", budget=10_000, spacing=(2.0, 1.0, 1.0), **reading):
    ml = None if spacing is None else float(np.prod(spacing)) / 1000
    reading = CaseReading(image, label, spacing=spacing, voxel_ml=ml, **reading)
    return measure_case(name, split, reading, len(LABELS), budget)


def small_case():
    """Two slices of 3×4: intensities 0 … 23; liver in both slices, tumour in the second."""
    image = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    label = np.zeros((2, 3, 4), np.uint8)
    label[0, 0, :2], label[1, :, 0], label[1, 2, 3] = 1, 1, 2
    return image, label


def test_a_case_by_hand():
    facts = measured(*small_case())
    assert facts.shape == (2, 3, 4)
    assert facts.voxels == (18, 5, 1)
    assert facts.labelled == (True, True)
    assert facts.areas[1:] == (2.5, 1.0)
    np.testing.assert_allclose(facts.centers[1], [3 / 5, 3 / 5, 1 / 5])
    np.testing.assert_allclose(facts.centers[2], [1, 2, 3])
    assert (facts.low, facts.high, facts.whole, facts.not_finite) == ((0,), (23,), True, 0)
    np.testing.assert_array_equal(facts.sample, [np.arange(24)])
    np.testing.assert_array_equal(facts.foreground, [[0, 1, 12, 16, 20, 23]])
    np.testing.assert_array_equal(facts.classes, [1, 1, 1, 1, 1, 2])


def test_equal_contents_have_equal_digests_whatever_the_type():
    image, label = small_case()
    digests = {measured(image.astype(kind), label).image_digest for kind in (np.int16, np.uint8, np.float64)}
    assert len(digests) == 1
    changed = image.copy()
    changed[1, 2, 3] += 1
    assert measured(changed, label).image_digest not in digests
    assert measured(image.reshape(2, 4, 3), label.reshape(2, 4, 3)).image_digest not in digests
    assert measured(np.full((2, 3, 4), 5), label).image_digest == ""
    minus_zero = image.astype(np.float32)
    minus_zero[0, 0, 0] = -0.0
    assert measured(minus_zero, label).image_digest in digests


def test_nan_is_counted_and_left_out():
    image, label = small_case()
    image = image.astype(np.float32)
    image[0, 0, 0], image[1, 0, 0] = np.nan, np.inf
    facts = measured(image, label)
    assert facts.not_finite == 2
    assert np.isfinite(facts.sample).all()
    assert (facts.low, facts.high) == ((1,), (23,))


@pytest.mark.parametrize("width", [64, 60])
def test_the_sample_is_bounded_and_spread(width):
    """Every column has its turn, whatever the width; the percentiles are those of the whole."""
    image = np.tile(np.arange(width, dtype=np.float32), (20, 50, 1))
    label = np.zeros(image.shape, np.uint8)
    label[:, 10:40] = 1
    facts = measured(image, label, budget=500)
    assert 250 < facts.sample.shape[1] <= 500
    assert 250 < facts.foreground.shape[1] <= 500
    assert len(np.unique(facts.sample)) == width
    np.testing.assert_allclose(np.percentile(facts.sample, (5, 50, 95)), np.percentile(image, (5, 50, 95)), atol=2)
    np.testing.assert_allclose(np.median(facts.foreground), np.median(image), atol=2)


def test_the_sample_keeps_no_scan_alive():
    facts = measured(np.ones((4, 100, 100), np.float32) * np.arange(100), np.zeros((4, 100, 100), np.uint8), budget=50)
    assert facts.sample.base is None or facts.sample.base.nbytes < 1000


def data_set(**changes):
    arguments = {"train": ["a", "b"], "test": ["c"], "channel_names": ("CT",), "about": {"name": "Livers"}} | changes
    return CaseDataset("nnU-Net raw", "somewhere", LABELS, {}, **arguments)


def test_the_fingerprint_by_hand():
    image, label = small_case()
    cases = [
        measured(image, label, name="a", orientation="LPS"),
        measured(image + np.int16(100), label * 0, name="b", spacing=(4.0, 1.0, 1.0), orientation="RAS"),
        measured(image, np.minimum(label, 1), "test", "c", orientation="RAS"),
    ]
    fingerprint = make_fingerprint(data_set(), SamedImageProcessor(orientation="LPS"), cases)
    assert fingerprint["cases"] == {"train": 2, "validation": 0, "test": 1}
    assert fingerprint["readable"] == 3
    assert fingerprint["shape"]["height"] == {"min": 3, "median": 3, "max": 3}
    assert fingerprint["spacing_mm"]["slices"] == {"min": 2, "median": 2, "max": 4}
    assert fingerprint["spacing_by_anatomy_mm"] == {"left_right": 1, "front_back": 1, "up_down": 2}
    assert fingerprint["shape_by_anatomy"] == {"left_right": 4, "front_back": 3, "up_down": 2}
    assert fingerprint["orientations"] == {"RAS": 2, "LPS": 1}
    assert fingerprint["slices"]["train"] == {"labelled": 2, "unlabelled": 2}
    assert fingerprint["bytes"] == {"largest_case": 24 * 3, "disk": 3 * 24 * 3}
    liver, tumour = fingerprint["labels"]["liver"], fingerprint["labels"]["tumour"]
    assert (liver["voxels"], liver["cases"], liver["by_split"]) == (5 + 6, 2, {"train": 1, "test": 1})
    assert liver["ml"] == pytest.approx(11 * 2 / 1000)
    assert liver["voxels_per_case"] == {"min": 5, "median": 5.5, "max": 6}
    assert tumour["share_of_cases"] == pytest.approx(1 / 3, abs=1e-6)
    assert tumour["intensity_percentiles"]["50"] == 23
    everything = np.concatenate([image.ravel(), image.ravel() + 100, image.ravel()])
    intensity = fingerprint["intensity"]["CT"]
    assert (intensity["min"], intensity["max"]) == (0, 123)
    assert intensity["all"]["percentiles"] == pytest.approx(
        {f"{one:g}": np.percentile(everything, one) for one in PERCENTILES}, rel=1e-4
    )
    assert intensity["foreground"]["sampled"] == 12
    assert json.loads(json.dumps(fingerprint, allow_nan=False)) == fingerprint


def test_a_plane_cut_otherwise_has_the_same_anatomy():
    image, label = small_case()
    cases = [measured(image, label, name="a", spacing=(3.0, 1.0, 2.0))]
    coronal = SamedImageProcessor(orientation="LPI", axis_order=(1, 2, 0))
    fingerprint = make_fingerprint(data_set(), coronal, cases)
    assert fingerprint["spacing_by_anatomy_mm"] == {"left_right": 2, "front_back": 3, "up_down": 1}
    assert fingerprint["shape_by_anatomy"] == {"left_right": 4, "front_back": 2, "up_down": 3}


def test_only_images_or_only_labels():
    image, label = small_case()
    cases = [measured(image, None, name="a"), measured(None, label, name="b", spacing=None)]
    fingerprint = make_fingerprint(data_set(), SamedImageProcessor(orientation="LPS"), cases)
    assert fingerprint["readable"] == 0
    assert fingerprint["intensity"]["CT"]["foreground"] is None
    assert fingerprint["labels"]["liver"]["ml"] is None
    assert measured(None, None) is None


def test_pooled():
    cases = [measured(*small_case()), measured(*small_case())]
    assert len(pooled(cases, 0)) == 48
    assert pooled(cases, 0, 2).tolist() == [23, 23]
    assert len(pooled(cases, 0, 0)) == 12


def fingerprint_of(channel="CT", low=-1000, high=1000, inside=(40, 150), spacing=(5, 1, 1), side=512, **data):
    """A fingerprint with just what the suggestions read."""
    generator = np.random.default_rng(0)
    shape = (30, min(side, 64), min(side, 64))
    image = generator.uniform(low, high, shape)
    label = np.zeros(shape, np.uint8)
    label[:, :30, :30] = 1
    image[label == 1] = generator.uniform(*inside, np.count_nonzero(label))
    processor = SamedImageProcessor(orientation="LPS")
    content = make_fingerprint(
        data_set(channel_names=(channel,), **data), processor, [measured(image, label, spacing=spacing)]
    )
    if side > 64:
        for axis in ("height", "width"):
            content["shape"][axis] = {"min": side, "median": side, "max": side}
        content["labels"]["liver"]["area_pixels"] = (side / 2) ** 2
    return {one.setting: one for one in suggest_settings(content, processor)}


@pytest.mark.parametrize(
    ("given", "flags"),
    [
        ({}, "--preprocessing ct"),
        ({"inside": (-900, -700)}, "--intensity_window"),
        ({"inside": (40, 60)}, "--intensity_window"),
        ({"channel": "scan"}, "--preprocessing ct"),  # from air to bone
        ({"channel": "T1", "low": 0}, "--preprocessing mr"),
        ({"channel": "CT", "low": 0}, ""),
        ({"is_2d": True, "low": 0}, ""),
    ],
)
def test_intensities(given, flags):
    chosen = next(iter(fingerprint_of(**given).values()))
    assert " ".join(chosen.flags).startswith(flags)
    assert (chosen.flags == []) == (flags == "")


def test_a_window_of_their_own_holds_the_labels():
    chosen = fingerprint_of(inside=(-900, -700))["intensity_window"]
    low, high = chosen.value
    assert low < -890
    assert high > -710
    assert high - low == pytest.approx(2 * 180, abs=30)
    assert SamedTrainingArguments(intensity_window=list(chosen.value)).intensity_window == [low, high]


@pytest.mark.parametrize(("side", "size"), [(40, 128), (64, 128), (100, 256), (160, 384), (224, 512), (512, 512)])
def test_image_size(side, size):
    assert fingerprint_of(side=side)["image_size"].value == size


def test_large_slices_and_small_labels_are_mentioned():
    assert "2 times smaller" in fingerprint_of(side=1024)["image_size"].reason
    image, label = np.random.default_rng(0).normal(0, 1, (4, 512, 512)), np.zeros((4, 512, 512), np.uint8)
    label[:, :5, :5] = 2
    processor = SamedImageProcessor(orientation="LPS")
    fingerprint = make_fingerprint(data_set(), processor, [measured(image, label)])
    reason = next(one.reason for one in suggest_settings(fingerprint, processor) if one.setting == "image_size")
    assert "fewer than 4 points of the logits show tumour" in reason


@pytest.mark.parametrize(
    ("spacing", "plane", "context"),
    [
        ((5, 1, 1), None, None),  # along slices, front-back, left-right
        ((1, 1, 1), None, True),
        ((1, 4, 1), "coronal", None),
        ((1, 1, 2), "sagittal", True),
        ((1.1, 1.2, 1), None, True),
    ],
)
def test_plane_and_context(spacing, plane, context):
    suggested = fingerprint_of(spacing=spacing, side=64)
    assert (suggested["plane"].value, suggested["context_slices"].value) == (plane, context)


def test_no_context_without_a_spacing_or_for_several_channels():
    assert fingerprint_of(spacing=None)["context_slices"].value is None
    image, label = small_case()
    processor = SamedImageProcessor(orientation="LPS", channel_names=["T1", "T2"])
    case = measured(np.stack([image] * 2, axis=1), label, spacing=(1, 1, 1))
    fingerprint = make_fingerprint(data_set(channel_names=("T1", "T2")), processor, [case])
    suggested = {one.setting: one for one in suggest_settings(fingerprint, processor)}
    assert suggested["context_slices"].value is None
    assert "T1 as mr, T2 as mr" in suggested["preprocessing"].reason


class Estimate:
    """1 GB, and for each slice 1 GB, or 0.2 GB with gradient checkpointing."""

    def training(self, batch_size, *, gradient_checkpointing=False):
        step = batch_size * int(2e8 if gradient_checkpointing else 1e9)
        return TrainingMemory(parameters=1000, trained=100, weights=int(1e9), optimizer=0, step=step)


@pytest.mark.parametrize(
    ("available", "flags"),
    [
        (20e9, "--per_device_train_batch_size 12"),
        (13e9, "--per_device_train_batch_size 12"),
        (12.9e9, "--per_device_train_batch_size 6 --gradient_accumulation_steps 2"),
        (2e9, "--per_device_train_batch_size 1 --gradient_accumulation_steps 12"),
        (1.5e9, "--per_device_train_batch_size 1 --gradient_accumulation_steps 12 --gradient_checkpointing"),
    ],
)
def test_the_batch_fits_the_memory(available, flags):
    suggested = suggest_batch(Estimate(), int(available), "a card")
    assert " ".join(flag for one in suggested for flag in one.flags) == flags


def test_the_command_is_what_training_takes(tmp_path):
    settings = [
        Suggestion("intensity_window", (-900, -700), ""),
        Suggestion("plane", None, "no"),
        Suggestion("context_slices", True, ""),
        *suggest_batch(Estimate(), int(1.5e9), "a card"),
    ]
    command = training_command(settings, ["--data_dir", "my data", "--output_dir", str(tmp_path)])
    words = shlex.split(command)
    assert words[:4] == ["samed-hf", "train", "--data_dir", "my data"]
    args = parse_arguments(words[2:])
    assert (args.data_dir, args.intensity_window, args.context_slices) == ("my data", [-900.0, -700.0], True)
    assert (args.per_device_train_batch_size, args.gradient_checkpointing, args.plane) == (1, True, None)


def test_millilitres_are_those_of_the_files(tmp_path):
    """Against nibabel's own header: an oblique grid, whose slices don't lie along an axis."""
    angle = np.radians(20)
    affine = np.array([[-1, 0, 0, 0], [0, -np.cos(angle), np.sin(angle), 0], [0, np.sin(angle), np.cos(angle), 0]])
    affine = np.vstack([affine @ np.diag([0.7, 0.8, 2.5, 1]), [0, 0, 0, 1]])
    scans = make_scans(2)
    root = write_nnunet(tmp_path, scans)
    for name, (image, label) in scans.items():
        save_nifti(root / "imagesTr" / f"{name}_0000.nii.gz", image, affine)
        save_nifti(root / "labelsTr" / f"{name}.nii.gz", label, affine)
    data = read_data(root)
    validation = validate_data(data, make_processor(DataArguments(data_dir=str(root)), data), images_per_split=0)
    fingerprint = make_fingerprint(data, validation.processor, validation.cases)
    voxels = sum(int(np.count_nonzero(label == 1)) for _, label in scans.values())
    assert fingerprint["labels"]["disc"]["ml"] == pytest.approx(voxels * 0.7 * 0.8 * 2.5 / 1000, rel=1e-4)
    assert any("tilted by more than 10°" in one.text for one in validation.problems)
