import base64
import gzip
import io
import json
import struct
import tracemalloc
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from samed_hf.inference import Segmenter, predict_image, segment_volume
from samed_hf.serving import handler as serving
from samed_hf.serving.handler import EndpointHandler
from samed_hf.volumes import InputLimits, Volume

NIFTI_START = (348).to_bytes(4, "little")


@pytest.fixture(scope="module")
def handler(tiny_adapter):
    return EndpointHandler(str(tiny_adapter))


@pytest.fixture(scope="module")
def image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50), dtype=np.uint8))


@pytest.fixture(scope="module")
def scan():
    return np.random.default_rng(0).normal(50, 90, (20, 24, 3)).astype(np.int16)


def encoded(image, kind="PNG"):
    content = io.BytesIO()
    image.save(content, format=kind)
    return content.getvalue()


def decoded(mask):
    image = Image.open(io.BytesIO(base64.b64decode(mask)))
    assert (image.format, image.mode) == ("PNG", "L")
    return np.asarray(image)


def nifti(array, kind=nib.Nifti1Image):
    """The file's bytes, in the byte order of the array."""
    header = kind.header_class(endianness=">" if array.dtype.byteorder == ">" else "<")
    return kind(array, np.diag([2, 2, 5, 1.0]), header, dtype=array.dtype).to_bytes()


def with_shape(content, shape):
    """The file with another shape in its header."""
    return content[:42] + struct.pack("<3h", *shape) + content[48:]


def check(handler, answer, labels, confidence):
    """The answer has exactly the labels of the map, in the order of their ids, with their masks and scores."""
    indices = [int(index) for index in np.unique(labels) if index]
    assert [found["label"] for found in answer] == [handler.model.config.id2label[index] for index in indices]
    for index, found in zip(indices, answer, strict=True):
        np.testing.assert_array_equal(decoded(found["mask"]), (labels == index) * 255)
        assert found["score"] == pytest.approx(confidence[labels == index].mean(), abs=1e-5)


def test_the_model_is_ready(handler):
    assert not handler.model.training
    accelerator = torch.accelerator.is_available()
    assert handler.model.device.type == (torch.accelerator.current_accelerator().type if accelerator else "cpu")


def test_an_image(handler, image):
    content = encoded(image)
    text = base64.b64encode(content).decode()
    broken = "\n".join(text[start : start + 76] for start in range(0, len(text), 76))
    prefixed = f"data:image/png;name=a;base64,{text}"
    answers = [handler({"inputs": inputs}) for inputs in (content, bytearray(content), text, broken, prefixed, image)]
    assert all(answer == answers[0] for answer in answers)
    answer = json.loads(json.dumps(answers[0]))
    assert answer
    assert all(set(found) == {"label", "score", "mask"} for found in answer)
    check(handler, answer, *predict_image(handler.model, image))


def test_scores_by_hand(handler, image, monkeypatch):
    labels = np.array([[2, 2, 0], [1, 2, 0]], dtype=np.uint8)
    confidence = np.array([[0.5, 0.75, 0.9], [0.375, 1.0, 0.9]], dtype=np.float32)
    monkeypatch.setattr(serving, "predict_image", lambda *_: (labels, confidence))
    disc, bar = handler({"inputs": image})
    assert (disc["label"], disc["score"], bar["label"], bar["score"]) == ("disc", 0.375, "bar", 0.75)
    assert decoded(disc["mask"]).tolist() == [[0, 0, 0], [255, 0, 0]]
    assert decoded(bar["mask"]).tolist() == [[255, 255, 0], [0, 255, 0]]
    labels[:] = 0
    assert handler({"inputs": image}) == []


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "1"])
def test_other_modes_of_images(handler, image, mode):
    image = image.convert(mode)
    check(handler, handler({"inputs": encoded(image)}), *predict_image(handler.model, image))
    assert handler({"inputs": encoded(image)}) == handler({"inputs": image})


def test_a_jpeg(handler, image):
    content = encoded(image, "JPEG")
    check(handler, handler({"inputs": content}), *predict_image(handler.model, Image.open(io.BytesIO(content))))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_an_image_is_turned_by_its_orientation(handler, image, kind):
    exif = Image.Exif()
    exif[0x0112] = 8
    content = io.BytesIO()
    image.save(content, format=kind, exif=exif)
    opened = Image.open(io.BytesIO(content.getvalue()))
    labels, _ = predict_image(handler.model, Image.open(io.BytesIO(content.getvalue())))
    assert labels.shape == (50, 40)
    for inputs in (content.getvalue(), opened):
        for found in handler({"inputs": inputs}):
            index = handler.model.config.label2id[found["label"]]
            np.testing.assert_array_equal(decoded(found["mask"]) > 0, labels == index)


def test_a_16_bit_image_holds_intensities_in_the_windows_unit(handler, image):
    shallow = np.asarray(image)
    content = encoded(Image.fromarray(shallow.astype(np.uint16)))
    assert Image.open(io.BytesIO(content)).mode == "I;16"
    answer = handler({"inputs": content})
    check(handler, answer, *predict_image(handler.model, shallow.astype(np.float32)))
    assert answer != handler({"inputs": image})  # the same values, scaled by 255


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("wrap", [bytes, gzip.compress, base64.b64encode])
@pytest.mark.parametrize("dtype", ["<i2", ">i2", "u1"])
def test_a_volume_slice_by_slice(handler, scan, kind, wrap, dtype):
    scan = scan.clip(0, 255).astype(dtype)
    volume = Volume(scan.astype(np.int16), np.diag([2, 2, 5, 1.0]))
    maps = segment_volume(Segmenter.of(handler.model), volume, confidence_dtype=torch.float32)
    labels, confidence = maps.labels.transpose(2, 1, 0), maps.confidence.transpose(2, 1, 0)
    inputs = wrap(nifti(scan, kind))
    inputs = inputs.decode() if wrap is base64.b64encode else inputs
    answer = json.loads(json.dumps(handler({"inputs": inputs})))
    assert answer
    assert [found["slice"] for found in answer] == sorted(found["slice"] for found in answer)
    for index in range(3):
        inside = [found for found in answer if found["slice"] == index]
        check(handler, inside, labels[index], confidence[index])


def test_slices_are_cut_as_the_processor_says(handler, scan, monkeypatch):
    everything = handler({"inputs": nifti(scan)})
    monkeypatch.setattr(handler.model.image_processor, "axis_order", [0, 2, 1])
    assert handler({"inputs": nifti(scan.transpose(2, 0, 1))}) == everything
    assert {decoded(found["mask"]).shape for found in everything} == {(24, 20)}


def test_the_batch_size_is_used(handler, scan, monkeypatch):
    sizes = []
    resize = handler.model.image_processor.resize_slices
    monkeypatch.setattr(
        handler.model.image_processor,
        "resize_slices",
        lambda slices, *size: sizes.append(len(slices)) or resize(slices),
    )
    handler({"inputs": nifti(scan), "parameters": {"batch_size": 2}})
    assert sizes == [2, 1]
    assert handler({"inputs": nifti(scan), "parameters": {"batch_size": None}}) == handler({"inputs": nifti(scan)})


def test_only_the_requested_labels(handler, image, scan, monkeypatch):
    slices = handler({"inputs": nifti(scan)})
    requested = slices[-1]["label"]
    only = handler({"inputs": nifti(scan), "parameters": {"labels": [requested]}})
    assert only == [found for found in slices if found["label"] == requested]
    labels = np.array([[0, 1, 2]], dtype=np.uint8)
    monkeypatch.setattr(serving, "predict_image", lambda *_: (labels, np.ones(labels.shape)))
    for names, expected in ((["bar"], ["bar"]), (["bar", "disc"], ["disc", "bar"])):
        answer = handler({"inputs": image, "parameters": {"labels": names}})
        assert [found["label"] for found in answer] == expected


SECRET = "patient" * 200


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "no 'inputs'"),
        ("image", "no 'inputs'"),
        ({"inputs": b""}, "is empty: expected a PNG or JPEG"),
        ({"inputs": ""}, "is empty"),
        ({"inputs": "data:image/png;base64,"}, "is empty"),
        ({"inputs": None}, "of type NoneType"),
        ({"inputs": 5}, "of type int"),
        ({"inputs": np.zeros((4, 4))}, "of type ndarray"),
        ({"inputs": SECRET + "!"}, "no base64"),
        ({"inputs": SECRET + "é"}, "no base64"),
        ({"inputs": f"data:image/png,{SECRET}"}, "no base64"),
        ({"inputs": SECRET}, "neither an image nor a volume"),
        ({"inputs": SECRET.encode()}, "neither an image nor a volume"),
        ({"inputs": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"}, "neither an image nor a volume"),
        ({"inputs": Image.new("L", (1, 1))}, "at least 2 pixels each way"),
        ({"inputs": gzip.compress(SECRET.encode())}, "The volume cannot be read as NIfTI"),
        ({"inputs": NIFTI_START}, "The volume cannot be read as NIfTI"),
        ({"inputs": NIFTI_START + b"x" * 400}, "The volume cannot be read as NIfTI|damaged volume"),
        ({"inputs": nifti(np.zeros((4, 4, 3, 2), np.int16))}, "The volume holds 2 frames"),
        ({"inputs": nifti(np.full((4, 4, 3), np.nan, np.float32))}, "The volume holds NaN"),
        ({"inputs": b"x", "parameters": {"size": 3}}, "'size': 3.*labels and batch_size"),
        ({"inputs": b"x", "parameters": {"a\nb": SECRET}}, "expected .*labels and batch_size"),
        ({"inputs": b"x", "parameters": {1: 2}}, "expected .*labels and batch_size"),
        ({"inputs": b"x", "parameters": "labels"}, "parameters is 'labels'"),
        ({"inputs": b"x", "parameters": []}, r"parameters is \[\]"),
        (
            {"inputs": b"x", "parameters": {"labels": ["disc", "heart"]}},
            "'heart'.*expected a list of some of disc, bar",
        ),
        ({"inputs": b"x", "parameters": {"labels": ["background"]}}, "expected a list of some of disc, bar"),
        ({"inputs": b"x", "parameters": {"labels": [[SECRET]]}}, "expected a list of some of disc, bar"),
        ({"inputs": b"x", "parameters": {"labels": "disc"}}, "labels is 'disc'"),
        ({"inputs": b"x", "parameters": {"labels": []}}, r"labels is \[\]"),
        ({"inputs": b"x", "parameters": {"batch_size": 0}}, "batch_size is 0"),
        ({"inputs": b"x", "parameters": {"batch_size": True}}, "batch_size is True"),
        ({"inputs": b"x", "parameters": {"batch_size": "8"}}, "batch_size is '8'"),
    ],
)
def test_errors_of_bad_input_are_one_short_line(handler, data, message):
    with pytest.raises(ValueError, match=message) as caught:
        handler(data)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    assert "patient" * 5 not in str(caught.value)


def test_truncated_input(handler, image, scan):
    for content in (encoded(image)[:200], encoded(image, "JPEG")[:-300]):
        with pytest.raises(ValueError, match="The image cannot be read"):
            handler({"inputs": content})
        with pytest.raises(ValueError, match="damaged image"):  # opened, not yet loaded
            handler({"inputs": Image.open(io.BytesIO(content))})
    packed = gzip.compress(nifti(scan))
    flipped = bytearray(packed)
    flipped[-6] ^= 1  # in the checksum
    for content in (packed[:-12], packed[:14], bytes(flipped)):
        with pytest.raises(ValueError, match="The volume cannot be read as NIfTI"):
            handler({"inputs": content})
    with pytest.raises(ValueError, match="The volume cannot be read as NIfTI"):
        handler({"inputs": nifti(scan)[:-100]})


@pytest.mark.parametrize("wrap", [bytes, gzip.compress])
@pytest.mark.parametrize("shape", [(32767, 32767, 32767), (2000, 1500, 1000)])
def test_a_header_that_claims_more_than_the_file_holds_allocates_no_memory(handler, scan, wrap, shape):
    content = wrap(with_shape(nifti(scan), shape))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=f"The volume .*{2 * np.prod(shape, dtype=object)} bytes"):
            handler({"inputs": content})
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("wrap", [bytes, gzip.compress])
def test_input_beyond_the_limits(handler, image, scan, monkeypatch, wrap):
    def limited(**limits):
        monkeypatch.setattr(handler, "limits", replace(InputLimits.served(), **limits))

    for limits, found in (({"pixels": 1999}, "2,000 pixels"), ({"side": 49}, "50 pixels along a side")):
        limited(**limits)
        for inputs in (encoded(image), image):
            with pytest.raises(ValueError, match=rf"{found}.*SAMED_MAX_{next(iter(limits)).upper()}"):
                handler({"inputs": inputs})
    content = wrap(nifti(scan))  # (20, 24, 3) in 352 + 2880 bytes
    for name, most, found in (
        *(
            ("side", 23, 24),
            ("pixels", 479, 480),
            ("slices", 2, 3),
            ("voxels", 1439, "1,440"),
            ("bytes", 3231, "3,232"),
        ),
    ):
        limited(**{name: most})
        with pytest.raises(ValueError, match=rf"has {found} .*SAMED_MAX_{name.upper()}"):
            handler({"inputs": content})
        limited(**{name: most + 1})
        assert handler({"inputs": content})
    limited(bytes=1 << 20)
    with pytest.raises(ValueError, match="SAMED_MAX_BYTES"):  # zeros after the voxels
        handler({"inputs": gzip.compress(nifti(scan) + bytes(3 << 20))})


def test_a_request_cannot_take_more_slices_at_once_than_fit(handler, scan, monkeypatch):
    sizes = []
    monkeypatch.setattr(serving, "choose_batch_size", lambda models, size: 2)
    monkeypatch.setattr(serving, "segment_volume", lambda *_, batch_size, **__: sizes.append(batch_size) or 1 / 0)
    for asked in (None, 1, 2, 3, 10**9):
        with pytest.raises(ZeroDivisionError):
            handler({"inputs": nifti(scan), "parameters": {"batch_size": asked}})
    assert sizes == [None, 1, 2, 2, 2]
    monkeypatch.setattr(handler, "limits", replace(InputLimits.served(), pixels=959))  # a slice has 480
    with pytest.raises(ZeroDivisionError):
        handler({"inputs": nifti(scan)})
    assert sizes[-1] == 1


def test_an_open_image_of_another_format_is_not_decoded(handler, tmp_path):
    """Pillow decodes EPS by starting Ghostscript."""
    image = Image.open(io.BytesIO(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"))
    assert image.format == "EPS"
    image.load = lambda: pytest.fail("it was decoded")
    with pytest.raises(ValueError, match="format EPS: expected PNG or JPEG"):
        handler({"inputs": image})


def test_pillows_own_limit(handler, image, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 900)
    with pytest.raises(ValueError, match="The image is too large"):
        handler({"inputs": encoded(image)})


def test_a_plain_sam_is_refused(tiny_sam):
    with pytest.raises(ValueError, match="no SAMed model"):
        EndpointHandler(str(tiny_sam))
