"""What a simulated click on the largest error of a slice gives: Dice before and after, with intervals over patients.

    python -m benchmarks.clicks ADAPTER [--steps 300]

ADAPTER is a training's output directory, whose `training_settings.json` names the cases. A click is a point in the
middle of the largest connected region of pixels with one true label and another predicted one. It corrects the mask of
one label: positive for the missed label, negative for one that is spurious. SAM's prompt encoder sees it in two ways:
"points", as its point embeddings, and "masks", as a disc of ±5 in the input of its mask embedding, which alone is
trained here on the clicks of the training cases: without a click the model's output stays as it is. For comparison,
"brush" paints the true label in a disc around the same point.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import ndimage
from tqdm import tqdm

from samed_hf.data import CaseStore, SliceDataset, read_data
from samed_hf.inference import load_model
from samed_hf.model import segmentation_loss
from samed_hf.model.post_processing import resize_logits, upsample_logits
from samed_hf.scoring.intervals import mean_interval

_RADIUS, _VALUE, _BATCH, _RATE = 2.0, 5.0, 16, 3e-3


class Click(NamedTuple):
    """A point, the label whose mask it corrects, and the label that the pixel has: 0 for a negative click."""

    row: float
    column: float
    label: int
    true: int


def click_on_error(predicted: np.ndarray, true: np.ndarray, generator: np.random.Generator | None = None) -> Click:
    """Click into the middle of the largest error, or at a random pixel of it; without an error, anywhere."""
    best, size = np.ones(true.shape, bool), 0
    for label in np.unique(true):
        parts, count = ndimage.label((predicted != true) & (true == label))
        if count and (sizes := np.bincount(parts.ravel())[1:]).max() > size:
            best, size = parts == 1 + sizes.argmax(), sizes.max()
    if generator is None:
        depth = ndimage.distance_transform_edt(np.pad(best, 1))[1:-1, 1:-1]
        row, column = np.unravel_index(depth.argmax(), depth.shape)
    else:
        row, column = generator.choice(np.argwhere(best))
    label = int(true[row, column])
    return Click(row, column, label or int(predicted[row, column]), label)


def second_pass(sam: Any, embeddings: torch.Tensor, logits: torch.Tensor, clicks: list[Click], how: str) -> Any:
    """The logits `(batch_size, num_labels, S / 4, S / 4)` after a click on each slice, given in their pixels."""
    dense, positions = sam.embed_no_prompt(embeddings.device)
    points = torch.tensor([[click.column, click.row] for click in clicks], dtype=torch.float32)
    positive = torch.tensor([click.true > 0 for click in clicks])
    hook = None
    if how == "masks":
        rows, columns = torch.meshgrid(*[torch.arange(logits.shape[-1])] * 2, indexing="ij")
        distances = torch.hypot(columns - points[:, 0, None, None], rows - points[:, 1, None, None])
        discs = (distances <= _RADIUS) * torch.where(positive, _VALUE, -_VALUE)[:, None, None]
        dense = dense + sam.prompt_encoder.mask_embed(discs[:, None])
    else:  # further tokens of the decoder's transformer
        tokens, _ = sam.prompt_encoder(4 * points[:, None, None] + 1.5, positive[:, None, None].long(), None, None)
        hook = sam.mask_decoder.transformer.register_forward_pre_hook(
            lambda _, args, options: (
                args,
                options | {"point_embeddings": torch.cat([options["point_embeddings"], tokens], 2)},
            ),
            with_kwargs=True,
        )
    new, _ = sam.mask_decoder(embeddings, positions, dense)
    if hook is not None:
        hook.remove()
    index, labels = torch.arange(len(clicks)), torch.tensor([click.label for click in clicks])
    changed = logits.clone()
    changed[index, labels] = new[index, labels]
    return changed


def train_mask_embedding(model: Any, data: SliceDataset, steps: int) -> None:
    """Train SAM's mask embedding alone on one random click in each of `16 · steps` slices."""
    generator = np.random.default_rng(0)
    model.requires_grad_(False)
    embed = model.sam.prompt_encoder.mask_embed.requires_grad_(True)
    optimizer = torch.optim.AdamW(embed.parameters(), _RATE, weight_decay=0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0, steps)
    for _ in tqdm(range(steps), desc="training", mininterval=10):
        batch = [data[0, int(index)] for index in generator.integers(0, len(data), _BATCH)]
        pixels, labels = (torch.stack([one[key] for one in batch]) for key in ("pixel_values", "labels"))
        with torch.no_grad():
            embeddings = model.get_image_embeddings(pixels)
            logits = model(image_embeddings=embeddings).logits
        pairs = zip(logits.argmax(1).numpy(), labels.numpy(), strict=True)
        clicks = [click_on_error(*pair, generator) for pair in pairs]
        segmentation_loss(second_pass(model.sam, embeddings, logits, clicks, "masks"), labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()


def slice_dice(predicted: np.ndarray, true: np.ndarray, num_labels: int) -> float:
    """Mean Dice over the labels of a slice; 1 for a label that is in neither."""
    pairs = [(predicted == label, true == label) for label in range(1, num_labels)]
    return float(np.mean([2 * (a & b).sum() / (a.sum() + b.sum()) if a.any() or b.any() else 1.0 for a, b in pairs]))


@torch.inference_mode()
def measure(model: Any, store: CaseStore, names: list[str], hows: list[str]) -> dict[str, list[float]]:
    """Mean Dice over the slices with an error of each case: `before` and after a click, or after the brush."""
    results: dict[str, list[float]] = {}
    size, count = store.processor.image_size, model.config.num_labels
    for name in tqdm(names, desc="measuring", mininterval=10):
        stack, truth = store.slices(name), np.asarray(store.label(name))
        pixels = store.processor.resize_slices(torch.from_numpy(stack.read(range(len(stack))))).expand(-1, 3, -1, -1)
        embeddings = model.get_image_embeddings(pixels)
        low = model(image_embeddings=embeddings).logits
        before = _labels(low, size, truth)
        wrong = np.flatnonzero((before != truth).any(axis=(1, 2)))
        clicks = [click_on_error(before[index], truth[index]) for index in wrong]
        ratio = [(size / 4 - 1) / (side - 1) for side in truth.shape[1:]]
        scaled = [click._replace(row=click.row * ratio[0], column=click.column * ratio[1]) for click in clicks]
        after = {"before": before[wrong]}
        for how in hows:
            after[how] = _labels(second_pass(model.sam, embeddings[wrong], low[wrong], scaled, how), size, truth)
        rows, columns = np.indices(truth.shape[1:])
        for radius in (1, 2, 3):
            painted = [(np.hypot(rows - one.row, columns - one.column) <= radius, one.true) for one in clicks]
            pairs = zip(painted, before[wrong], strict=True)
            after[f"brush {radius}"] = np.array([np.where(disc, label, one) for (disc, label), one in pairs])
        for how, maps in after.items():
            scores = [slice_dice(one, true, count) for one, true in zip(maps, truth[wrong], strict=True)]
            results.setdefault(how, []).append(float(np.mean(scores)))
    return results


def _labels(logits: torch.Tensor, size: int, truth: np.ndarray) -> np.ndarray:
    return resize_logits(upsample_logits(logits, size), truth.shape[1:]).argmax(1).numpy()


def main() -> None:
    """Print the Dice before a click and the gains after it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.clicks", description=__doc__)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("--steps", type=int, default=300, help="of the mask embedding's training [300]")
    arguments = parser.parse_args()
    settings = json.loads((arguments.adapter / "training_settings.json").read_text())
    model = load_model(str(arguments.adapter)).merge_and_unload()
    cases, data = settings["cases"], read_data(settings["data_dir"])
    held_out = cases.get("test") or cases["validation"]
    with tempfile.TemporaryDirectory() as folder:
        store = CaseStore(data, model.image_processor, Path(settings["cache_dir"] or folder))
        store.prepare([*cases["train"], *held_out])
        train_mask_embedding(model, SliceDataset(store, cases["train"]), arguments.steps)
        results = {
            how: np.array(scores) for how, scores in measure(model, store, held_out, ["points", "masks"]).items()
        }
    before = results.pop("before")
    gains = {how: scores - before for how, scores in results.items()}
    gains["masks - brush 2"] = gains["masks"] - gains["brush 2"]
    print(f"{len(held_out)} cases held out, Dice of a slice with an error before: {before.mean():.3f}")
    for how, gain in gains.items():
        low, high = mean_interval(gain[:, None]) or (np.nan, np.nan)
        print(f"{how:16} {gain.mean():+.4f} [{low:+.4f}, {high:+.4f}]")


if __name__ == "__main__":
    main()
