"""Exported models: PyTorch's logits and labels, in ONNX Runtime."""

import json
import shutil

import numpy as np
import pytest
import torch

from samed_hf import SamedForSemanticSegmentation, SamedImageProcessor, samed_lora_config
from samed_hf.cli import main
from samed_hf.data import phantom_patient
from samed_hf.export import export_adapter
from samed_hf.inference import Segmenter, load_model, onnx_model
from samed_hf.inference.onnx_model import OnnxModel
from samed_hf.model import onnx as onnx_export
from samed_hf.model.onnx import export_onnx
from samed_hf.model.random_sam import make_random_sam
from samed_hf.volumes import Volume, read_volume, write_volume

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from ..conftest import TINY_LABELS, TINY_SIZE, randomize_lora

pytestmark = pytest.mark.usefixtures("graphs")


@pytest.fixture(scope="module")
def exported(tiny_adapter, tmp_path_factory):
    directory = tmp_path_factory.mktemp("onnx") / "exported"
    export_adapter(str(tiny_adapter), directory)
    return directory


@pytest.fixture(scope="module")
def small_sam(tmp_path_factory):
    return make_random_sam(
        tmp_path_factory.mktemp("sam") / "sam", image_size=128, hidden_size=32, num_layers=2, embedding_size=32
    )


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    image, _, spacing = phantom_patient(3, (8, 64, 48))
    path = tmp_path_factory.mktemp("scan") / "scan.nii.gz"
    write_volume(path, Volume(np.transpose(image, (1, 2, 0)), np.diag([-spacing[1], spacing[2], spacing[0], 1.0])))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_logits_of_any_batch_size(tiny_adapter, exported, batch_size):
    model, pixels = load_model(str(tiny_adapter)), torch.rand(batch_size, 3, TINY_SIZE, TINY_SIZE)
    with torch.inference_mode():
        expected = model(pixels).logits
    found = OnnxModel(exported)(pixels).logits
    assert found.shape == (batch_size, 3, TINY_SIZE // 4, TINY_SIZE // 4)
    assert float((found - expected).abs().max()) <= 1e-5 * float(expected.max() - expected.min())


@pytest.mark.slow
def test_predictions_and_reports_are_those_of_pytorch(tiny_adapter, exported, scan, tmp_path):
    labels = []
    for name, adapter in (("torch", tiny_adapter), ("onnx", exported)):
        assert main(["predict", str(adapter), str(scan), "--output", str(tmp_path / name)]) == 0
        labels.append(read_volume(next((tmp_path / name).glob("*.nii.gz"))))
    assert len(np.unique(labels[0].array)) > 1
    assert np.mean(labels[0].array == labels[1].array) >= 0.9999
    np.testing.assert_array_equal(labels[0].affine, labels[1].affine)


@pytest.mark.slow
def test_the_metadata(tiny_adapter, exported):
    import onnxruntime

    found = json.loads(
        onnxruntime.InferenceSession(exported / "model.onnx").get_modelmeta().custom_metadata_map["samed_hf"]
    )
    assert found["config"]["id2label"] == {str(index): name for index, name in TINY_LABELS.items()}
    assert found["preprocessor"]["intensity_window"] == [-125, 275]
    assert found["preprocessor"]["input_size"] == 48
    assert found["precision"] == "float32"
    assert found["fingerprint"] == Segmenter.load([str(tiny_adapter)]).fingerprints()[0]
    assert str(tiny_adapter.parent) not in json.dumps(found)
    content = (exported / "model.onnx").read_bytes()
    assert not [path for path in (onnx_export.__file__, torch.__file__) if path.encode() in content]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "size", "opset", "channels", "files"),
    [
        ("base", 128, 18, 5, ["model.onnx"]),
        ("adapter", 256, 22, 3, ["model.onnx", "model.onnx.data"]),
        ("merged", 512, 20, 3, ["model.onnx"]),
    ],
)
def test_base_adapter_and_merged_model(small_sam, tmp_path, monkeypatch, kind, size, opset, channels, files):
    options = {"channel_projection": channels, "regions": {"both": [1, 2]}} if channels != 3 else {}
    model = SamedForSemanticSegmentation.from_pretrained(small_sam, image_size=size, id2label=TINY_LABELS, **options)
    if kind != "base":
        model.add_adapter(samed_lora_config(rank=2))
        randomize_lora(model)
    if kind == "merged":
        model = model.merge_and_unload()
    names = [f"channel {index}" for index in range(channels if channels != 3 else 1)]
    processor = SamedImageProcessor(size, (-125, 275), input_size=48, channel_names=names)
    model.save_pretrained(tmp_path / "model", image_processor=processor)
    monkeypatch.setattr(onnx_export, "_LARGEST", 2**31 if len(files) == 1 else 1000)  # two files, as beyond 2 GB
    command = ["export", str(tmp_path / "model"), "--output", str(tmp_path / "out"), "--opset", str(opset)]
    assert main(command) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == files
    exported, pixels = OnnxModel(tmp_path / "out"), torch.rand(2, channels, size, size)
    with torch.inference_mode():
        expected = model.eval()(pixels).logits
    difference = (exported(pixels).logits - expected).abs().max()
    assert float(difference) <= 1e-5 * float(expected.max() - expected.min())
    assert (exported.config.regions or {}) == options.get("regions", {})


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "share", "difference"), [("float16", 0.95, 0.005), ("int8", 0.95, 0.2)])
def test_smaller_precisions(tiny_adapter, exported, tiny_data, tmp_path, monkeypatch, precision, share, difference):
    directory = tmp_path / precision
    options = {"precision": precision, "data_dir": str(tiny_data), "min_agreement": 0.9}
    facts = export_adapter(str(tiny_adapter), directory, **options)
    sizes = [(one / "model.onnx").stat().st_size for one in (directory, exported)]
    assert sizes[0] < share * sizes[1]
    assert 0.9 <= facts["agreement"]["classes"] <= 1
    assert facts["agreement"]["cases"] == 2
    assert 1e-7 < facts["agreement"]["logit_difference"] < difference
    monkeypatch.setattr(onnx_export, "_LARGEST", 1000)
    export_adapter(str(tiny_adapter), directory, **options)
    assert sorted(path.name for path in directory.iterdir()) == ["model.onnx", "model.onnx.data"]


@pytest.mark.slow
def test_a_model_that_differs_is_written_only_by_force(tiny_adapter, tmp_path, capsys):
    command = ["export", str(tiny_adapter), "--output", str(tmp_path / "out"), "--precision", "float16"]
    command += ["--min_agreement", "1"]
    assert main(command) == 2
    assert list(tmp_path.iterdir()) == []
    assert main([*command, "--force"]) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.onnx"]
    printed = "".join(capsys.readouterr())
    assert "on phantoms" in printed
    assert "true labels" not in printed  # the phantoms' organs aren't the model's labels
    assert main([*command[:4], "--opset", "99"]) == 2
    assert "opset is 99" in capsys.readouterr().err


@pytest.mark.slow
def test_data_that_do_not_fit_are_refused(tiny_adapter, tiny_data, tmp_path):
    data = shutil.copytree(tiny_data, tmp_path / "data")
    lists = next(path for path in data.rglob("*.json"))
    lists.write_text(lists.read_text().replace("disc", "ball"))
    with pytest.raises(ValueError, match="ball"):
        export_adapter(str(tiny_adapter), tmp_path / "out", data_dir=str(data))
    assert not (tmp_path / "out").exists()


def test_only_an_export_is_replaced(tiny_adapter, tmp_path):
    (tmp_path / "file").write_text("notes")
    (tmp_path / "directory").mkdir()
    (tmp_path / "directory" / "notes.txt").write_text("notes")
    (tmp_path / "directory" / "model.onnx").write_text("")
    for name, found in (("file", "file"), ("directory", r"notes\.txt")):
        with pytest.raises(ValueError, match=found):
            export_adapter(str(tiny_adapter), tmp_path / name)
    with pytest.raises(ValueError, match=r"\.json|\.safetensors"):
        export_adapter(str(tiny_adapter), tiny_adapter)


def test_bad_arguments(tiny_adapter, tmp_path):
    model = load_model(str(tiny_adapter))
    for options, named in (({"precision": "int4"}, "int4"), ({"opset": 17}, "17"), ({"precision": "int8"}, "int8")):
        with pytest.raises(ValueError, match=named):
            export_onnx(model, tmp_path / "model.onnx", model.image_processor, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named(tiny_adapter, tmp_path, monkeypatch):
    model = load_model(str(tiny_adapter))
    monkeypatch.setattr(onnx_export, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"samed_hf\[onnx\]"):
        export_onnx(model, tmp_path / "model.onnx", model.image_processor)


@pytest.mark.slow
def test_what_is_no_exported_model_is_refused(exported, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"model\.onnx"):
        load_model(str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"absent\.onnx"):
        load_model(str(tmp_path / "absent.onnx"))
    with pytest.raises(ValueError, match="bfloat16"):
        load_model(str(exported), dtype="bfloat16")


@pytest.mark.slow
def test_the_backend_of_predict_and_evaluate(tiny_adapter, tiny_data, scan, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_model, "HF_HOME", str(tmp_path / "home"))
    for backend in ("torch", "onnxruntime"):
        options = ["--backend", backend, "--output", str(tmp_path / backend)]
        assert main(["predict", str(tiny_adapter), str(scan), *options]) == 0
        assert main(["evaluate", str(tiny_adapter), "--data", str(tiny_data), *options]) == 0
    written = list((tmp_path / "home").rglob("model.onnx"))
    assert len(written) == 1
    labels = [read_volume(next((tmp_path / name).glob("*.nii.gz"))).array for name in ("torch", "onnxruntime")]
    assert np.mean(labels[0] == labels[1]) >= 0.9999
    means = [
        json.loads((tmp_path / name / "metrics.json").read_text())["mean"]["dice"] for name in ("torch", "onnxruntime")
    ]
    assert means[0] == pytest.approx(means[1], abs=1e-3)
    changed = written[0].stat().st_mtime_ns
    load_model(str(tiny_adapter), backend="onnxruntime")
    assert written[0].stat().st_mtime_ns == changed
    with pytest.raises(ValueError, match="bfloat16"):
        load_model(str(tiny_adapter), backend="onnxruntime", dtype="bfloat16")
    with pytest.raises(ValueError, match="tensorrt"):
        load_model(str(tiny_adapter), backend="tensorrt")
