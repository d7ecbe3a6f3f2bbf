"""Exported models: PyTorch's logits and labels, in ONNX Runtime."""

import json

import numpy as np
import pytest
import torch

from samed_hf.cli import main
from samed_hf.data import phantom_patient
from samed_hf.export import export_adapter
from samed_hf.inference import Segmenter, load_model, onnx_model
from samed_hf.inference.onnx_model import OnnxModel
from samed_hf.model import onnx as onnx_export
from samed_hf.model.onnx import export_onnx
from samed_hf.volumes import Volume, read_volume, write_volume

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from ..conftest import TINY_LABELS, TINY_SIZE

pytestmark = pytest.mark.usefixtures("graphs")


@pytest.fixture(scope="module")
def exported(tiny_adapter, tmp_path_factory):
    directory = tmp_path_factory.mktemp("onnx") / "exported"
    export_adapter(str(tiny_adapter), directory)
    return directory


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


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "share"), [("float16", 0.9), ("int8", 0.7)])
def test_smaller_precisions(tiny_adapter, exported, tiny_data, tmp_path, precision, share):
    directory = tmp_path / precision
    facts = export_adapter(
        str(tiny_adapter), directory, precision=precision, data_dir=str(tiny_data), min_agreement=0.9
    )
    sizes = [(one / "model.onnx").stat().st_size for one in (directory, exported)]
    assert sizes[0] < share * sizes[1]
    assert 0.9 <= facts["agreement"]["classes"] <= 1
    assert 1e-7 < facts["agreement"]["logit_difference"] < 0.2


@pytest.mark.slow
def test_a_model_that_differs_is_written_only_by_force(tiny_adapter, tmp_path):
    command = ["export", str(tiny_adapter), "--output", str(tmp_path / "out"), "--precision", "int8"]
    command += ["--min_agreement", "1"]
    assert main(command) == 2
    assert list(tmp_path.iterdir()) == []
    assert main([*command, "--force"]) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.onnx"]


def test_bad_arguments(tiny_adapter, tmp_path):
    model = load_model(str(tiny_adapter))
    for options, named in (({"precision": "int4"}, "int4"), ({"opset": 11}, "11"), ({"precision": "int8"}, "int8")):
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
