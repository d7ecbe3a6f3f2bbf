"""IoU of a plain SAM's masks for a point, a box, and a box with three corrections, beside an untrained small SAM.

    python -m benchmarks.prompts [BASE ...] [--image_size 256] [--data_dir DIR] [FLAGS]

BASE is a directory or Hub id of a plain SAM [samed_hf/small]. The 200 synthetic images are those on which `samed-hf
pretrain` measures its IoU. With data, 200 pairs of a slice and a label in it are scored too: the prompt is the label's
box in the slice, or one of its pixels. FLAGS are those of `samed-hf train` for the data.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import SamModel

from samed_hf.cli import run_command
from samed_hf.data import SliceDataset, make_processor
from samed_hf.pretraining import SyntheticImages, make_small_sam, measure_iou, resize_input
from samed_hf.pretraining.prompts import draw_box, draw_point
from samed_hf.pretraining.run import VALIDATION_SEED
from samed_hf.training import parse_arguments
from samed_hf.training.data import open_store, read_training_data
from samed_hf.utils.packaged import SMALL_SAM, locate

_COUNT, _BATCH, _UNTRAINED = 200, 20, "untrained"


def synthetic_batches(size: int) -> Iterator[dict[str, torch.Tensor]]:
    """Batches of the synthetic images of `size` pixels."""
    images = SyntheticImages(_COUNT, size, size // 4, 4, VALIDATION_SEED, exact_boxes=True)
    return iter(DataLoader(images, batch_size=_BATCH))


def real_batches(size: int, flags: list[str]) -> Iterator[dict[str, torch.Tensor]]:
    """Batches of slices of a data set, resized to `size` pixels, each with one label that is in it as the mask."""
    with tempfile.TemporaryDirectory() as directory:
        args = replace(parse_arguments(["--num_validation_cases=0", *flags]), output_dir=directory)
        data = read_training_data(args)
        store = open_store(args, data, make_processor(args, data, size), decode=True)
        cases, generator = [*data.train, *data.validation, *data.test], np.random.default_rng(0)
        dataset = SliceDataset(store, cases, label_stride=1)
        items, side = list[dict[str, torch.Tensor]](), size // 4
        for index in generator.permutation(len(dataset)):
            item = dataset[0, int(index)]
            labels = item["labels"].numpy()
            if not (present := sorted({*np.unique(labels).tolist()} & {*data.id2label} - {0})):
                continue
            mask = labels == generator.choice(present)
            cells = mask.reshape(side, 4, side, 4).mean(axis=(1, 3), dtype=np.float32)
            prompts = {"masks": cells, "points": draw_point(mask, generator), "boxes": draw_box(mask)}
            items.append({key: torch.from_numpy(value[None]) for key, value in prompts.items()})
            items[-1]["pixel_values"] = item["pixel_values"][:3]
            if len(items) == _COUNT:
                break
    yield from DataLoader(items, batch_size=_BATCH)  # type: ignore[arg-type]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("bases", nargs="*", default=[SMALL_SAM])
    parser.add_argument("--image_size", type=int, default=256)
    args, flags = parser.parse_known_args()
    size = args.image_size
    batches = {"synthetic": list(synthetic_batches(size))}
    if flags:
        batches["data"] = list(real_batches(size, flags))
    print("| base | images | number | point | box | three corrections |\n|---|---|---|---|---|---|")
    for base in [_UNTRAINED, *args.bases]:
        sam = make_small_sam(size) if base == _UNTRAINED else resize_input(SamModel.from_pretrained(locate(base)), size)
        for name, images in batches.items():
            scores = " | ".join(f"{value:.3f}" for value in measure_iou(sam, images).values())
            print(f"| {base} | {name} | {sum(len(one['masks']) for one in images)} | {scores} |", flush=True)


if __name__ == "__main__":
    run_command(main)
