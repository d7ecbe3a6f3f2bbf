"""The same file gives the same labels in predict, evaluate, the endpoint, the Space and transformers' pipeline."""

import base64
import importlib.util
import io
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from transformers import pipeline

from samed_hf import SamedForSemanticSegmentation, SamedImageProcessor, samed_lora_config
from samed_hf.cli import main
from samed_hf.data import read_data
from samed_hf.inference import predict_image
from samed_hf.scoring.evaluation import score_cases
from samed_hf.serving import EndpointHandler
from samed_hf.volumes import read_volume

from ..conftest import TINY_LABELS, TINY_SIZE, randomize_lora

SHAPE = (40, 52)
PROCESSORS = {
    "grey": SamedImageProcessor(TINY_SIZE, (-125, 275), input_size=48),
    "neighbours": SamedImageProcessor(TINY_SIZE, None, context_slices=True),
    "color": SamedImageProcessor(TINY_SIZE, None, percentiles=None, channel_names=["R", "G", "B"]),
    "windows": SamedImageProcessor(TINY_SIZE, [(0, 200), None, (50, 300)], channel_names=["R", "G", "B"]),
}


@pytest.fixture(scope="module", params=PROCESSORS)
def adapter(request, tiny_sam, tmp_path_factory):
    """An adapter of random weights, for images of one channel or three."""
    torch.manual_seed(2)
    model = SamedForSemanticSegmentation.from_pretrained(tiny_sam, image_size=TINY_SIZE, id2label=TINY_LABELS)
    model.add_adapter(samed_lora_config(rank=2))
    randomize_lora(model)
    directory = tmp_path_factory.mktemp(request.param) / "adapter"
    model.save_pretrained(directory, image_processor=PROCESSORS[request.param])
    return directory


@pytest.fixture(params=["rgb", "grey", "16-bit"])
def image(request, tmp_path):
    """An image file; the channels of the coloured one differ."""
    generator = np.random.default_rng(0)
    channels = ndimage.gaussian_filter(generator.normal(size=(*SHAPE, 3)), (3, 3, 0))
    channels = (channels - channels.min()) / np.ptp(channels)
    array = {
        "rgb": (channels * [255, 200, 120]).astype(np.uint8),
        "grey": (channels[..., 0] * 255).astype(np.uint8),
        "16-bit": (channels[..., 0] * 700).astype(np.uint16),
    }[request.param]
    path = tmp_path / "data" / "images" / f"{request.param}.png"
    path.parent.mkdir(parents=True)
    Image.fromarray(array).save(path)
    (tmp_path / "data" / "masks").mkdir()
    mask = np.arange(array.shape[0] * array.shape[1]).reshape(SHAPE) % len(TINY_LABELS)
    Image.fromarray(mask.astype(np.uint8)).save(tmp_path / "data" / "masks" / path.name)
    return path


def of_predict(adapter, path, tmp_path):
    assert main(["predict", str(adapter), str(path), "--output", str(tmp_path / "out"), "--no_report"]) == 0
    name = path.name.partition(".")[0]
    (file,) = (one for one in (tmp_path / "out").iterdir() if one.is_file() and one.name.startswith(name))
    return np.asarray(Image.open(file)) if file.suffix == ".png" else np.asarray(nib.load(file).dataobj)


def of_evaluate(model, path):
    data = read_data(path.parents[1], label_names=list(TINY_LABELS.values()))
    (name,) = data.sources
    case = data.read_case(name, model.image_processor)
    predictions = []
    score_cases(
        model,
        [case],
        lambda case: case,
        model.image_processor,
        predicted=lambda _, prediction: predictions.append(prediction),
        done=lambda *_: None,
    )
    return predictions[0]


def of_endpoint(adapter, path):
    answer = json.loads(json.dumps(EndpointHandler(str(adapter))({"inputs": path.read_bytes()})))
    indices = {name: index for index, name in TINY_LABELS.items()}
    masks = [np.asarray(Image.open(io.BytesIO(base64.b64decode(found["mask"])))) > 0 for found in answer]
    labels = np.zeros((1 + max(found.get("slice", 0) for found in answer), *masks[0].shape), np.uint8)
    for found, mask in zip(answer, masks, strict=True):
        labels[found.get("slice", 0)][mask] = indices[found["label"]]
    return labels


def of_space(model, path):
    pytest.importorskip("gradio", reason="gradio isn't installed: pip install -e '.[browser]'")
    file = Path(__file__).parents[2] / "examples" / "space" / "app.py"
    specification = importlib.util.spec_from_file_location("space_app", file)
    app = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(app)
    result = Path(app._segment(model, str(path))["file"])
    return np.asarray(Image.open(result)) if result.suffix == ".png" else np.asarray(nib.load(result).dataobj)


def of_pipeline(adapter, path):
    labels = np.zeros(SHAPE, np.uint8)
    for found in pipeline("image-segmentation", model=str(adapter))(str(path)):
        labels[np.asarray(found["mask"]) > 0] = {name: index for index, name in TINY_LABELS.items()}[found["label"]]
    return labels


@pytest.mark.slow
def test_an_image(adapter, image, tmp_path):
    model = SamedForSemanticSegmentation.from_pretrained(adapter)
    expected = of_predict(adapter, image, tmp_path)
    assert expected.shape == SHAPE
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(of_evaluate(model, image)[0], expected)
    np.testing.assert_array_equal(of_endpoint(adapter, image)[0], expected)
    np.testing.assert_array_equal(predict_image(model, Image.open(image))[0], expected)
    np.testing.assert_array_equal(predict_image(model, np.asarray(Image.open(image)))[0], expected)
    np.testing.assert_array_equal(of_pipeline(adapter, image), expected)
    np.testing.assert_array_equal(of_space(model, image), expected)


@pytest.mark.slow
def test_a_scan(adapter, tmp_path):
    model = SamedForSemanticSegmentation.from_pretrained(adapter)
    if model.image_processor.num_channels > 1:
        pytest.skip("a data set in directories has scans of one channel")
    affine = np.array([[-0.8, 0.1, 0, 90], [0.1, 0.9, 0, -100], [0, 0, 3, 20], [0, 0, 0, 1.0]])
    scan = ndimage.gaussian_filter(np.random.default_rng(0).normal(50, 900, (40, 30, 5)), 2).astype(np.int16)
    for directory, array in (("images", scan), ("masks", (scan > 50).astype(np.uint8))):
        (tmp_path / "data" / directory).mkdir(parents=True)
        nib.save(nib.Nifti1Image(array, affine), tmp_path / "data" / directory / "scan.nii.gz")
    path = tmp_path / "data" / "images" / "scan.nii.gz"
    expected = of_predict(adapter, path, tmp_path)
    assert expected.shape == read_volume(path).grid
    assert len(np.unique(expected)) > 1
    slices = np.transpose(expected, (2, 1, 0))
    np.testing.assert_array_equal(of_evaluate(model, path), slices)
    np.testing.assert_array_equal(of_endpoint(adapter, path), slices)
    np.testing.assert_array_equal(of_space(model, path), expected)
