import base64
import gzip
import io
import json

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from samed_hf import serving
from samed_hf.inference import predict_confidence, predict_picture, predict_volume
from samed_hf.serving import EndpointHandler
from samed_hf.volumes import Volume


@pytest.fixture(scope="module")
def handler(tiny_adapter):
    return EndpointHandler(str(tiny_adapter))


@pytest.fixture(scope="module")
def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50), dtype=np.uint8))


@pytest.fixture(scope="module")
def scan():
    return np.random.default_rng(0).normal(50, 90, (20, 24, 3)).astype(np.int16)


def encoded(picture, kind="PNG"):
    content = io.BytesIO()
    picture.save(content, format=kind)
    return content.getvalue()


def decoded(mask):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(mask))))


def nifti(array):
    return nib.Nifti1Image(array, np.diag([2, 2, 5, 1.0])).to_bytes()


def test_a_picture(handler, picture):
    labels, confidence = predict_picture(handler.model, picture)
    content = encoded(picture)
    text = base64.b64encode(content).decode()
    answers = [handler({"inputs": inputs}) for inputs in (content, text, f"data:image/png;base64,{text}", picture)]
    assert all(answer == answers[0] for answer in answers)
    answer = json.loads(json.dumps(answers[0]))
    assert [found["label"] for found in answer] == [
        handler.model.config.id2label[int(index)] for index in np.unique(labels) if index
    ]
    assert answer
    for found in answer:
        index = handler.model.config.label2id[found["label"]]
        np.testing.assert_array_equal(decoded(found["mask"]), (labels == index) * 255)
        assert found["score"] == pytest.approx(confidence[labels == index].mean())


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "I;16"])
def test_other_kinds_of_pictures(handler, picture, mode):
    deep = Image.fromarray(np.asarray(picture).astype(np.uint16) * 3)
    picture = deep if mode == "I;16" else picture.convert(mode)
    labels, _ = predict_picture(handler.model, picture)
    masks = {found["label"]: decoded(found["mask"]) for found in handler({"inputs": encoded(picture)})}
    for index in np.unique(labels[labels > 0]):
        np.testing.assert_array_equal(masks[handler.model.config.id2label[int(index)]] > 0, labels == index)


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_a_volume_slice_by_slice(handler, scan, compress):
    labels = predict_volume(handler.model, Volume(scan, np.diag([2, 2, 5, 1.0]))).transpose(2, 1, 0)
    slices = handler.model.image_processor.normalize_intensity(scan.transpose(2, 1, 0))
    _, confidence = predict_confidence(handler.model, slices, handler.model.image_processor)
    answer = handler({"inputs": compress(nifti(scan)), "parameters": {"batch_size": 2}})
    rebuilt = np.zeros_like(labels)
    for found in answer:
        index = handler.model.config.label2id[found["label"]]
        mask = decoded(found["mask"]) > 0
        rebuilt[found["slice"]][mask] = index
        assert found["score"] == pytest.approx(confidence[found["slice"]][mask].mean(), abs=1e-5)
    np.testing.assert_array_equal(rebuilt, labels)


def test_only_the_labels_asked_for(handler, picture):
    everything = handler({"inputs": picture})
    wanted = everything[-1]["label"]
    assert handler({"inputs": picture, "parameters": {"labels": [wanted]}}) == [everything[-1]]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "no 'inputs'"),
        ("picture", "no 'inputs'"),
        ({"inputs": b""}, "is empty"),
        ({"inputs": 5}, "of type int"),
        ({"inputs": "not base64!"}, "no base64"),
        ({"inputs": b"garbage"}, "neither a picture nor a volume"),
        ({"inputs": gzip.compress(b"garbage")}, "something else than NIfTI"),
        ({"inputs": gzip.compress(b"garbage")[:15]}, "damaged gzip"),
        ({"inputs": (348).to_bytes(4, "little") + b"x" * 40}, "The volume cannot be read as NIfTI"),
        ({"inputs": b"x", "parameters": {"size": 3}}, "parameters holds size"),
        ({"inputs": b"x", "parameters": "labels"}, "parameters holds 'labels'"),
        ({"inputs": b"x", "parameters": {"labels": ["heart"]}}, "expected a list of some of disc, bar"),
        ({"inputs": b"x", "parameters": {"batch_size": 0}}, "batch_size is 0"),
    ],
)
def test_bad_input_is_told_in_one_line(handler, data, message):
    with pytest.raises(ValueError, match=message) as caught:
        handler(data)
    assert "\n" not in str(caught.value)


def test_a_truncated_picture(handler, picture):
    with pytest.raises(ValueError, match="damaged"):
        handler({"inputs": encoded(picture)[:200]})


def test_what_is_too_large(handler, picture, scan, monkeypatch):
    monkeypatch.setattr(serving, "MAX_PIXELS", 1000)
    monkeypatch.setattr(serving, "MAX_BYTES", 1000)
    with pytest.raises(ValueError, match="40 pixels: expected at most 1,000"):
        handler({"inputs": encoded(picture)})
    with pytest.raises(ValueError, match="more than 1,000 bytes"):
        handler({"inputs": gzip.compress(nifti(scan))})


def test_a_plain_sam_is_refused(tiny_sam):
    with pytest.raises(ValueError, match="expected a SAMed adapter"):
        EndpointHandler(str(tiny_sam))
