"""MR instead of CT: the hippocampus of the Medical Segmentation Decathlon (task 4), or any other data set of MR.

    python examples/train_mr.py Task04_Hippocampus OUTPUT_DIR [flags of samed-hf train]

With a pretrained SAM: --model_name_or_path facebook/sam-vit-base. Without one a small SAM of random weights is
trained, which learns these crops in minutes on a CPU.
"""

import sys

from samed_hf.cli import main

MR = {
    "preprocessing": "mr",  # MR has no unit: each scan's own percentiles 0.5 and 99.5 become 0 and 1
    "plane": "axial",  # voxels of 1 mm each way favour no plane; cut thick slices across their thickness
    "image_size": 128,  # crops of some 35 × 50 pixels: a quarter of 128 still has a point for every two pixels
}


def train_mr(data_dir: str, output_dir: str, *flags: str) -> int:
    settings = {"data_dir": data_dir, "output_dir": output_dir} | MR
    given = [f"--{name}={value}" for name, value in settings.items()]
    return main(["train", *given, *flags])


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(train_mr(*sys.argv[1:]))
