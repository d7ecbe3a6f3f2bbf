"""Simulated clicks: where they are, and what they change."""

import numpy as np
import torch

from benchmarks.clicks import Click, click_on_error, second_pass, slice_dice
from samed_hf import SamedForSemanticSegmentation


def test_the_click_is_in_the_middle_of_the_largest_error():
    true, predicted = np.zeros((7, 9), int), np.zeros((7, 9), int)
    true[1:6, 1:6] = 2  # missed, 25 pixels
    true[0, 8] = 1
    assert click_on_error(predicted, true) == Click(3, 3, 2, 2)
    predicted[1:6, 1:6] = 2
    predicted[2:5, 6:9] = 1  # spurious, 9 pixels, now the largest
    assert click_on_error(predicted, true) == Click(3, 7, 1, 0)


def test_dice_of_a_slice():
    true, predicted = np.array([[1, 1, 0, 0]]), np.array([[1, 0, 0, 2]])
    assert slice_dice(predicted, true, 3) == np.mean([2 / 3, 0])
    assert slice_dice(predicted, true, 4) == np.mean([2 / 3, 0, 1])


@torch.no_grad()
def test_a_click_changes_the_logits_of_its_label_alone(tiny_adapter):
    model = SamedForSemanticSegmentation.from_pretrained(tiny_adapter).merge_and_unload()
    size = model.config.image_size
    embeddings = model.get_image_embeddings(torch.rand(2, 3, size, size))
    logits = model(image_embeddings=embeddings).logits
    for how in ("points", "masks"):
        changed = second_pass(model.sam, embeddings, logits, [Click(3, 4, 2, 2), Click(1, 1, 1, 0)], how) != logits
        assert changed.flatten(2).any(-1).tolist() == [[False, False, True], [False, True, False]]
    torch.testing.assert_close(model(image_embeddings=embeddings).logits, logits, rtol=0, atol=0)
