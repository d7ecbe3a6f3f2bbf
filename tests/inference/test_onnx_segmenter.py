"""Exported models without PyTorch: labels of the PyTorch path, nothing heavy imported, and what is no such file."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from samed_hf import SamedConfig, SamedImageProcessor
from samed_hf.hub import onnx_file
from samed_hf.inference import OnnxSegmenter, Segmenter, load_model, predict_image, predict_volume
from samed_hf.inference.onnx_model import OnnxModel
from samed_hf.volumes import Volume, read_volume, write_volume

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

SIZE, LABELS = 64, {0: "background", 1: "dark", 2: "bright"}
OBLIQUE = np.array([[0.0, -1.9, 0.4, 5.0], [1.2, 0.0, 0.0, -7.0], [0.0, 0.3, 2.5, 1.0], [0.0, 0.0, 0.0, 1.0]])
SCRIPT = """
import json, sys
heavy = ("torch", "transformers", "peft", "accelerate", "huggingface_hub", "datasets", "SimpleITK")
if sys.argv.pop() == "missing":
    sys.modules.update(dict.fromkeys(heavy))
from samed_hf.inference import OnnxSegmenter
from samed_hf.volumes import read_volume, write_labels
model, scan, output = sys.argv[1:]
segmenter = OnnxSegmenter(model)
volume = read_volume(scan, num_channels=segmenter.num_channels)
write_labels(output, segmenter.segment(volume), like=volume)
print(json.dumps([name for name in heavy if sys.modules.get(name) is not None]))
"""


def write_model(path, *, inputs=3, without="", metadata=None, **settings):
    """A graph whose logits are linear in the means of 4×4 pixels, with the metadata of an export."""
    rng = np.random.default_rng(0)
    weights = np.array([[0.0] * inputs, [-3.0] * inputs, [3.0] * inputs]) * rng.uniform(0.5, 1.5, (3, inputs))
    bias = -weights.sum(axis=1) * [0.0, 0.35, 0.65]  # dark below 0.35, bright above 0.65
    node, tensor = onnx.helper.make_node, onnx.numpy_helper.from_array
    graph = onnx.helper.make_graph(
        [
            node("AveragePool", ["pixel_values"], ["means"], kernel_shape=[4, 4], strides=[4, 4]),
            node("Conv", ["means", "weights", "bias"], ["logits"]),
        ],
        "linear",
        [onnx.helper.make_tensor_value_info("pixel_values", 1, ["batch", inputs, SIZE, SIZE])],
        [onnx.helper.make_tensor_value_info("logits", 1, ["batch", 3, SIZE // 4, SIZE // 4])],
        [
            tensor(weights[..., None, None].astype(np.float32), "weights"),
            tensor(bias.astype(np.float32), "bias"),
        ],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    config = SamedConfig(image_size=SIZE, id2label=LABELS, channel_projection=inputs if inputs > 3 else None)
    processor = SamedImageProcessor(image_size=SIZE, **settings).to_dict()
    about = {"config": config.to_dict(), "preprocessor": {k: v for k, v in processor.items() if k != without}}
    onnx.helper.set_model_props(model, {"samed_hf": json.dumps(about)} if metadata is None else metadata)
    onnx.save(model, path)
    return path


def make_volume(*channels, affine=OBLIQUE):
    rng = np.random.default_rng(1)
    coarse = rng.normal(75, 150, (7, 8, 4, *channels))
    array = coarse.repeat(6, axis=0).repeat(5, axis=1).repeat(2, axis=2) + rng.normal(0, 20, (42, 40, 8, *channels))
    return Volume(array.astype(np.float32), affine)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"input_size": 48, "orientation": "LPS"},
        {"orientation": "RAS", "axis_order": (0, 2, 1)},
        {"intensity_window": None, "percentiles": (0.5, 99.5)},
        {"context_slices": True},
        {"channel_names": ("T1", "T2"), "intensity_window": [(0, 80), None]},
        {"channel_names": ("a", "b", "c", "d"), "channels": (3, 0, 2)},
        {"channel_names": ("a", "b", "c", "d", "e"), "channels": None},
    ],
    ids=lambda settings: ",".join(settings) or "window",
)
def test_labels_are_those_of_the_pytorch_path(settings, tmp_path):
    count = len(settings.get("channel_names", ())) or 1
    inputs = count if count > 3 and not settings.get("channels") else 3
    file = write_model(tmp_path / "model.onnx", inputs=inputs, **settings)
    volume = make_volume() if count == 1 else make_volume(count)
    segmenter, done = OnnxSegmenter(file), []
    found = segmenter.segment(volume, progress=lambda *counts: done.append(counts))
    model = OnnxModel(file)
    expected = predict_volume(model, volume)
    assert found.shape == volume.grid
    assert found.dtype == expected.dtype
    assert set(np.unique(expected)) == {0, 1, 2}
    assert np.mean(found == expected) >= 0.9999
    assert segmenter.id2label == LABELS
    assert segmenter.num_channels == count
    assert done[-1] == (len(done), len(done))


@pytest.mark.parametrize("colour", [False, True])
def test_images(colour, tmp_path):
    names = {"channel_names": ("red", "green", "blue")} if colour else {}
    file = write_model(tmp_path / "model.onnx", intensity_window=None, percentiles=None, **names)
    pixels = np.kron(np.random.default_rng(2).integers(0, 256, (7, 6, 3), np.uint8), np.ones((9, 9, 1), np.uint8))
    segmenter, model = OnnxSegmenter(file), OnnxModel(file)
    grey = pixels[..., 0]
    for image in (Image.fromarray(pixels), pixels, Image.fromarray(grey), grey.astype(np.uint16) * 200):
        found, (expected, _) = segmenter.segment(image), predict_image(model, image)
        assert found.shape == pixels.shape[:2]
        assert len(np.unique(expected)) > 1
        assert np.mean(found == expected) >= 0.9999
    Image.fromarray(pixels).save(tmp_path / "image.png")
    volume = read_volume(tmp_path / "image.png", num_channels=segmenter.num_channels)
    np.testing.assert_array_equal(segmenter.segment(volume)[..., 0].T, segmenter.segment(pixels))


@pytest.mark.parametrize("state", ["installed", "missing"])
def test_nothing_of_pytorch_is_imported(state, tmp_path):
    file, volume = write_model(tmp_path / "model.onnx", orientation="LPS"), make_volume()
    write_volume(tmp_path / "scan.nii.gz", volume)
    arguments = [str(file), str(tmp_path / "scan.nii.gz"), str(tmp_path / "labels.nii.gz"), state]
    command = [sys.executable, "-c", SCRIPT, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []
    labels, scan = read_volume(tmp_path / "labels.nii.gz"), read_volume(tmp_path / "scan.nii.gz")
    assert np.mean(labels.array == predict_volume(OnnxModel(file), scan)) >= 0.9999
    np.testing.assert_array_equal(labels.affine, scan.affine)


@pytest.mark.slow
def test_registration_after_a_reload():
    script = "import importlib, samed_hf; importlib.reload(samed_hf)\n"
    script += "from transformers import CONFIG_MAPPING; print(*CONFIG_MAPPING)"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    assert "samed" in done.stdout.split(), done.stderr


def test_what_can_not_be_segmented(tmp_path):
    segmenter = OnnxSegmenter(write_model(tmp_path / "model.onnx"))
    volume = make_volume()
    volume.array[3, 3, 3] = np.nan
    with pytest.raises(ValueError, match="1 NaN"):
        segmenter.segment(volume)
    with pytest.raises(ValueError, match="2 channels"):
        segmenter.segment(make_volume(2))
    with pytest.raises(ValueError, match="shape"):
        segmenter.segment(np.zeros((4, 5, 6, 7)))


def test_files_that_are_no_exported_model(tmp_path):
    good = write_model(tmp_path / "model.onnx").read_bytes()
    (tmp_path / "text.onnx").write_text("no model")
    (tmp_path / "short.onnx").write_bytes(good[: len(good) // 2])
    write_model(tmp_path / "other.onnx", metadata={})
    write_model(tmp_path / "list.onnx", metadata={"samed_hf": "[1]"})
    write_model(tmp_path / "empty.onnx", metadata={"samed_hf": "{}"})
    write_model(tmp_path / "older.onnx", without="axis_order")
    expected = {
        "text.onnx": "damaged",
        "short.onnx": "damaged",
        "other.onnx": "lack 'samed_hf'",
        "list.onnx": "list",
        "empty.onnx": "lack 'preprocessor'",
        "older.onnx": "lack 'axis_order'",
    }
    for name, reason in expected.items():
        for load in (OnnxSegmenter, load_model):
            with pytest.raises(ValueError, match=reason) as raised:
                load(str(tmp_path / name))
            assert name in str(raised.value)
    for load in (OnnxSegmenter, load_model):
        with pytest.raises(FileNotFoundError, match=r"absent\.onnx"):
            load(str(tmp_path / "absent.onnx"))
    with pytest.raises(ValueError, match="tensorrt"):
        OnnxSegmenter(tmp_path / "model.onnx", runtime="tensorrt")


def test_a_missing_runtime_is_named(tmp_path, monkeypatch):
    file = write_model(tmp_path / "model.onnx")
    monkeypatch.setattr(onnx_file, "find_spec", lambda name: None)
    for runtime, extra in (("onnxruntime", "onnx"), ("openvino", "openvino")):
        with pytest.raises(ImportError, match=rf"samed_hf\[{extra}\]"):
            OnnxSegmenter(file, runtime=runtime)


@pytest.mark.slow
def test_openvino(tiny_adapter, tmp_path, monkeypatch):
    pytest.importorskip("openvino")
    file, volume = write_model(tmp_path / "model.onnx"), make_volume()
    labels = [OnnxSegmenter(file, runtime=one).segment(volume) for one in ("onnxruntime", "openvino")]
    assert np.mean(labels[0] == labels[1]) >= 0.9999
    write_model(tmp_path / "other.onnx", metadata={})
    with pytest.raises(ValueError, match="lack 'samed_hf'"):
        OnnxSegmenter(tmp_path / "other.onnx", runtime="openvino")
    monkeypatch.setattr("samed_hf.inference.onnx_model.HF_HOME", str(tmp_path))
    model = load_model(str(tiny_adapter), backend="openvino")
    assert [path.name for path in tmp_path.rglob("*.compared")] == ["openvino.compared"]
    expected = predict_volume(load_model(str(tiny_adapter)), volume)
    assert np.mean(predict_volume(model, volume) == expected) >= 0.9999
    assert Segmenter.load(str(tmp_path / "model.onnx"), backend="openvino").id2label == LABELS
