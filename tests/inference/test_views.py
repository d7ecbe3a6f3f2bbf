"""Test-time augmentation: every view is transformed back before averaging."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from samed_hf import SamedImageProcessor
from samed_hf.inference import views
from samed_hf.inference.views import mean_softmax, rotate_images
from samed_hf.transforms import SliceStack

SIZE = 64


def bright_spot(row, column):
    """A slice with a smooth bright spot off the centre."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    return np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 60).astype(np.float32)[None]


def brightness_model(*names):
    """A model stub whose second label is where the pixels are bright."""

    def forward(pixels):
        bright = 8 * (pixels[:, :1] - 0.5)
        return SimpleNamespace(logits=torch.cat([-bright, bright], dim=1))

    forward.config = SimpleNamespace(id2label=dict(enumerate(["background", *names])))
    forward.device = torch.device("cpu")
    return forward


def softmax_of(slices, model, tta):
    stack = SliceStack(slices, SamedImageProcessor(SIZE), rescaled=True)
    raw = torch.from_numpy(stack.read_raw(range(len(stack))))
    return mean_softmax([model], [stack], [raw], tta=tta)


def test_a_mirrored_view_is_mirrored_back(monkeypatch):
    monkeypatch.setattr(views, "TTA_DEGREES", (0.0,))
    slices = bright_spot(30, 12)
    plain, mirrored = (softmax_of(slices, brightness_model("spleen"), tta) for tta in (False, True))
    torch.testing.assert_close(mirrored, plain)
    assert plain[0, 1, 30, 12] > 0.99 > 0.01 > plain[0, 1, 30, SIZE - 1 - 12]


@pytest.mark.parametrize("degrees", [8.0, -8.0])
@pytest.mark.parametrize("name", ["spleen", "left kidney"])
def test_a_rotated_view_is_rotated_back(monkeypatch, degrees, name):
    slices = bright_spot(30, 8)
    plain = softmax_of(slices, brightness_model(name), tta=False)
    monkeypatch.setattr(views, "TTA_DEGREES", (degrees,))
    rotated = softmax_of(slices, brightness_model(name), tta=True)
    inside = slice(12, -12)  # beyond it, rotated slices lack corners
    torch.testing.assert_close(rotated[..., inside, 4:-12], plain[..., inside, 4:-12], rtol=0, atol=0.05)
    # Rotating back in the wrong direction would move the spot by a detectable distance.
    moved = rotate_images(plain[:, 1:], 2 * degrees)
    assert (moved - plain[:, 1:]).abs().max() > 0.5


def test_labels_with_a_side_are_not_mirrored(monkeypatch):
    seen = []
    original = views.predict_logits
    monkeypatch.setattr(views, "predict_logits", lambda *args: seen.append(args) or original(*args))
    for name, expected in (("spleen", 6), ("left kidney", 3)):
        seen.clear()
        softmax_of(bright_spot(20, 20), brightness_model(name), tta=True)
        assert len(seen) == expected


def test_models_are_averaged_by_hand():
    stack = SliceStack(bright_spot(30, 30), SamedImageProcessor(SIZE), rescaled=True)
    raw = torch.from_numpy(stack.read_raw([0]))
    first, second = brightness_model("spleen"), brightness_model("spleen")
    inverted = lambda pixels: SimpleNamespace(logits=second(pixels).logits.flip(1))  # noqa: E731
    inverted.config, inverted.device = second.config, second.device
    both = mean_softmax([first, inverted], [stack, stack], [raw, raw], tta=False)
    torch.testing.assert_close(both, torch.full_like(both, 0.5))


def test_a_rotation_by_hand():
    image = torch.zeros(1, 1, 5, 5)
    image[0, 0, 0, 2] = 1.0
    torch.testing.assert_close(rotate_images(image, 90.0)[0, 0, 2], torch.tensor([1.0, 0, 0, 0, 0]), rtol=0, atol=1e-6)
    assert rotate_images(image, 0.0) is image
