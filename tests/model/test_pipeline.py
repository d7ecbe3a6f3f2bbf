import logging

import numpy as np
import pytest
from PIL import Image
from transformers import SegformerConfig, SegformerForSemanticSegmentation, pipeline
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

from samed_hf import SamedForSemanticSegmentation
from samed_hf.inference import predict_image
from samed_hf.serving import EndpointHandler

from ..conftest import TINY_LABELS

DEEP = (np.random.default_rng(0).random((30, 40)) * 400).astype(np.uint16)


def labels_of(found, shape=DEEP.shape):
    labels = np.zeros(shape, np.uint8)
    for one in found:
        labels[np.asarray(one["mask"]) > 0] = {name: index for index, name in TINY_LABELS.items()}[one["label"]]
    return labels


def test_16_bits_are_kept(tiny_adapter, tmp_path, caplog):
    path = tmp_path / "deep.png"
    Image.fromarray(DEEP).save(path)
    with caplog.at_level(logging.ERROR, "transformers"):
        segment = pipeline("image-segmentation", model=str(tiny_adapter))
    assert "not supported" not in caplog.text
    model = SamedForSemanticSegmentation.from_pretrained(tiny_adapter)
    expected = predict_image(model, DEEP)[0]
    reduced = Image.open(path).convert("RGB")
    assert (predict_image(model, reduced)[0] != expected).any()
    for source in (str(path), Image.open(path), DEEP):
        np.testing.assert_array_equal(labels_of(segment(source)), expected)
    for found in segment([str(path), Image.open(path)], batch_size=2):
        np.testing.assert_array_equal(labels_of(found), expected)


def test_an_image_is_turned_by_its_exif_orientation(tiny_adapter, tmp_path):
    image = Image.fromarray((DEEP % 256).astype(np.uint8))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    (found, *_) = pipeline("image-segmentation", model=str(tiny_adapter))(str(tmp_path / "turned.png"))
    assert found["mask"].size == (30, 40)


def test_16_bits_of_colors_are_refused(tiny_adapter, tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    path = tmp_path / "colors.png"
    sitk.WriteImage(sitk.GetImageFromArray(np.dstack([DEEP] * 3), isVector=True), str(path))
    segment, handler = pipeline("image-segmentation", model=str(tiny_adapter)), EndpointHandler(str(tiny_adapter))
    for call in (segment, segment.image_processor, lambda image: handler({"inputs": image})):
        with pytest.raises(ValueError, match="mode RGB with 16 bits"):
            call(Image.open(path))
    for call in (segment, segment.image_processor):
        with pytest.raises(ValueError, match="mode RGB with 16 bits"):
            call(str(path))


def test_other_models_have_transformers_own_pipeline():
    config = SegformerConfig(
        num_encoder_blocks=1,
        depths=[1],
        sr_ratios=[1],
        hidden_sizes=[8],
        patch_sizes=[3],
        strides=[4],
        num_attention_heads=[1],
        mlp_ratios=[1],
        decoder_hidden_size=8,
        id2label={0: "a", 1: "b"},
    )
    model, processor = (
        SegformerForSemanticSegmentation(config),
        SegformerImageProcessorPil(size={"height": 32, "width": 32}),
    )
    found = pipeline("image-segmentation", model=model, image_processor=processor)(Image.fromarray(DEEP))
    assert sum((np.asarray(one["mask"]) > 0).sum() for one in found) == DEEP.size
