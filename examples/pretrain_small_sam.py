"""Pretrain the small base model on synthetic images: first at 128 pixels, then at 256, and save it in float16.

    python examples/pretrain_small_sam.py [--output_dir outputs/small_sam] [--steps 4500,1500] [FLAGS]

FLAGS are those of `samed-hf pretrain`, for both stages. Repeat the command after an interruption: it resumes.
"""

import argparse
import sys
from pathlib import Path

import torch
from transformers import SamModel, SamProcessor

from samed_hf.cli import main

SIZES, LEARNING_RATES = (128, 256), (1e-3, 3e-4)


def pretrain(output: Path, steps: list[str], flags: list[str]) -> int:
    earlier: list[str] = []
    for size, count, rate in zip(SIZES, steps, LEARNING_RATES, strict=True):
        directory = output / f"{size}px"
        stage = ["--output_dir", str(directory), "--image_size", str(size), "--max_train_steps", count]
        status = main(["pretrain", *stage, "--learning_rate", str(rate), "--resume", *earlier, *flags])
        if status:
            return status
        earlier = ["--model_name_or_path", str(directory), "--dense_steps", "0"]
    sam = SamModel.from_pretrained(directory, dtype=torch.float16)
    sam.save_pretrained(output)
    sam.config.dtype = torch.float32  # of the computation, which transformers takes from here
    sam.config.save_pretrained(output)
    SamProcessor.from_pretrained(directory).save_pretrained(output)
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/small_sam"), help="directory of the model")
    parser.add_argument("--steps", default="4500,1500", help="optimizer steps at 128 and at 256 pixels [4500,1500]")
    args, rest = parser.parse_known_args()
    steps = args.steps.split(",")
    if len(steps) != len(SIZES):
        parser.error(f"--steps is {args.steps}: expected two numbers, e.g. 4500,1500")
    sys.exit(pretrain(args.output_dir, steps, rest))
