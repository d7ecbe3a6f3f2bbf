import math

import pytest
import torch
from torch.utils.data import default_collate

from samed_hf.pretraining import SyntheticImages, make_small_sam, measure_iou
from samed_hf.pretraining.objective import PromptedSam, contrast_loss, mask_iou, mask_loss


@pytest.fixture(scope="module")
def batch():
    images = SyntheticImages(4, 64, 16, 2, seed=1)
    return default_collate([images[index] for index in range(4)])


def test_items(batch):
    assert batch["pixel_values"].shape == (4, 3, 64, 64)
    assert 0 <= batch["pixel_values"].min() < 0.1 < 0.9 < batch["pixel_values"].max() <= 1
    assert batch["masks"].shape == (4, 2, 16, 16)
    assert (batch["points"].shape, batch["boxes"].shape) == ((4, 2, 2), (4, 2, 4))
    assert (batch["clean"].shape, batch["edges"].shape, batch["regions"].shape) == (
        (4, 3, 16, 16),
        (4, 1, 16, 16),
        (4, 16, 16),
    )
    cells = (batch["points"] // 4).long()
    inside = batch["masks"].flatten(0, 1)[torch.arange(8), cells[..., 1].flatten(), cells[..., 0].flatten()]
    assert (inside > 0).all()
    assert batch["masks"].mean(dim=(2, 3)).max() <= 0.6
    assert {0.0, 1.0} <= set(batch["edges"].unique().tolist())


def test_mask_loss_by_hand():
    masks = torch.tensor([[1.0, 0, 0, 0]]).reshape(1, 2, 2)
    logits = torch.zeros(1, 2, 2)
    # Cross-entropy log 2 for both halves; Dice with sums of 0.5 and of 2 + 1, smoothed by 1.
    assert mask_loss(logits, masks).item() == pytest.approx(math.log(2) + 1 - (2 * 0.5 + 1) / (3 + 1), abs=1e-6)
    right = torch.tensor([[30.0, -30, -30, -30]]).reshape(1, 2, 2)
    assert mask_loss(right, masks).item() == pytest.approx(0, abs=1e-6)
    # Mask and outside count equally: missing the only pixel costs as much as inventing the other three.
    missing, inventing = torch.tensor([[-2.0, -30, -30, -30], [30, 2.0, 2, 2]]).reshape(2, 2, 2)
    entropy = math.log(1 + math.exp(2)) / 2
    share = 1 / (1 + math.exp(2))
    assert mask_loss(missing, masks[0]).item() == pytest.approx(entropy + 1 - (2 * share + 1) / (share + 2), abs=1e-5)
    total = 1 + 3 * (1 - share) + 1
    assert mask_loss(inventing, masks[0]).item() == pytest.approx(entropy + 1 - 3 / (total + 1), abs=1e-5)


def test_iou_counts_pixels_that_the_mask_fills_by_half():
    masks = torch.tensor([[0.6, 0.4, 1.0, 0.0]]).reshape(1, 2, 2)
    logits = torch.tensor([[1.0, 1.0, -1.0, -1.0]]).reshape(1, 2, 2)
    assert mask_iou(logits, masks).tolist() == pytest.approx([1 / 3])


def test_contrast_by_hand():
    regions = torch.tensor([[[0, 0], [0, 1]]])
    features = torch.tensor([[[[1.0, 1], [1, 0]], [[0, 0], [0, 2.0]]]])  # orthogonal, of different lengths
    assert contrast_loss(features, regions).item() == pytest.approx(math.log(1 + math.exp(-10)) / math.log(2), abs=1e-6)
    assert contrast_loss(torch.ones(1, 2, 2, 2), regions).item() == pytest.approx(1)  # chance
    # A pixel of region 0 looks like region 1: its cost counts a third in region 0.
    features[0, :, 0, 0] = torch.tensor([0.0, 1])
    first, second = torch.tensor([2 / 3, 1 / 3]) / math.sqrt(5 / 9), torch.tensor([0.0, 1])
    pixels = torch.tensor([[0.0, 1], [1, 0], [1, 0], [0, 1]])
    entropies = [-torch.log_softmax(torch.stack([pixel @ first, pixel @ second]) / 0.1, 0) for pixel in pixels]
    expected = (sum(entropy[0] for entropy in entropies[:3]) / 3 + entropies[3][1]) / 2 / math.log(2)
    assert contrast_loss(features, regions).item() == pytest.approx(expected.item(), rel=1e-4)


def test_one_region_has_no_contrast():
    features = torch.randn(1, 3, 4, 4, requires_grad=True)
    contrast_loss(features, torch.zeros(1, 4, 4, dtype=torch.long)).backward()
    assert not features.grad.any()


def test_prompts_as_those_of_transformers(batch):
    """One point, and a box with a point, give the masks of `SamModel` itself."""
    sam = make_small_sam(64).eval()
    prompted = PromptedSam(sam)
    points, boxes, pixels = batch["points"][:, :1], batch["boxes"][:, :1], batch["pixel_values"]
    inside = torch.ones(4, 1, dtype=torch.long)
    with torch.no_grad():
        embeddings = sam.vision_encoder(pixels).last_hidden_state
        expected = sam(pixels, input_points=points[:, None], multimask_output=True)
        logits, scores = prompted.decode(embeddings, prompted.embed_points(points, inside), several=True)
        assert torch.allclose(logits, expected.pred_masks[:, 0], atol=1e-5)
        assert torch.allclose(scores, expected.iou_scores[:, 0], atol=1e-5)
        labels = {"input_points": points[:, None], "input_labels": inside[:, None], "input_boxes": boxes}
        expected = sam(pixels, **labels, multimask_output=False)
        prompts = torch.cat([prompted.embed_points(points, inside, padded=False), prompted.embed_box(boxes[:, 0])], 1)
        logits, _ = prompted.decode(embeddings, prompts)
    assert torch.allclose(logits, expected.pred_masks[:, 0], atol=1e-5)


@pytest.mark.slow
def test_a_batch_is_learnt(batch):
    torch.manual_seed(0)
    model = PromptedSam(make_small_sam(64))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for step in range(0, 12, 2):  # the three masks and the single one are trained in turn
        for index in (step, step + 1):
            outputs = model(**batch | {"index": batch["index"] + 4 * index})
            outputs["loss"].backward()
            optimizer.step()
            optimizer.zero_grad()
        losses.append(outputs["loss"].item())
    assert set(outputs["parts"]) == {"contrast", "image", "prompts"}
    assert losses[-1] < losses[0] - 0.2
    scores = measure_iou(model.sam, [batch])
    assert set(scores) == {"point", "box", "corrections"}
    assert all(0 <= value <= 1 for value in scores.values())
    assert model.sam.training
