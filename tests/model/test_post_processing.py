from types import SimpleNamespace

import numpy as np
import pytest
import torch

from samed_hf import SamedImageProcessor
from samed_hf.model.post_processing import resize_logits, upsample_logits


def test_post_processing_returns_the_label_of_every_pixel():
    processor = SamedImageProcessor(image_size=16)
    logits = torch.zeros(2, 3, 4, 4)
    logits[0, 1, :, 2:] = 9.0
    logits[1, 2] = 1.0
    outputs = SimpleNamespace(logits=logits)
    left, right = processor.post_process_semantic_segmentation(outputs, target_sizes=[(10, 20), (7, 5)])
    assert left.shape == (10, 20)
    assert left[:, :7].max() == 0
    assert (left[:, 12:] == 1).all()
    assert (right == 2).all()
    assert right.shape == (7, 5)
    assert processor.post_process_semantic_segmentation(outputs)[0].shape == (16, 16)
    for sizes in (torch.tensor([[10, 20], [7, 5]]), np.array([[10, 20], [7, 5]]), [torch.tensor([10, 20]), [7.0, 5]]):
        labels = processor.post_process_semantic_segmentation(outputs, target_sizes=sizes)
        assert torch.equal(labels[0], left)
        assert torch.equal(labels[1], right)
    scored = processor.post_process_semantic_segmentation(outputs, [(10, 20), (7, 5)], return_segmentation_scores=True)
    assert torch.equal(scored[0].segmentation, left)
    assert torch.equal(scored[1].segmentation_scores.argmax(dim=0), right)
    assert scored[1].segmentation_scores.shape == (3, 7, 5)


@pytest.mark.parametrize("sizes", [[(10, 20)], [(10, 20)] * 3, [10, 20], [(10, 20), (0, 5)], [(1, 2, 3)] * 2, []])
def test_bad_target_sizes(sizes):
    outputs = SimpleNamespace(logits=torch.zeros(2, 3, 4, 4))
    with pytest.raises(ValueError, match=r"target_sizes (is|has)"):
        SamedImageProcessor(16).post_process_semantic_segmentation(outputs, target_sizes=sizes)


def test_resizing_logits_inverts_the_zoom_of_the_image():
    # A zoom of the image maps corner pixel to corner pixel: a linear ramp must come back as itself.
    ramp = torch.linspace(0, 1, 33).expand(1, 1, 33, 33)
    torch.testing.assert_close(resize_logits(ramp, (9, 9))[0, 0, 4], torch.linspace(0, 1, 9))
    assert upsample_logits(torch.zeros(1, 2, 4, 4), 16).shape == (1, 2, 16, 16)
