"""Train on MR: the hippocampus of the Medical Segmentation Decathlon (task 4), or another MR data set.

    python examples/train_mr.py Task04_Hippocampus OUTPUT_DIR [flags of samed-hf train]

Add --model_name_or_path facebook/sam-vit-base for a pretrained SAM, or samed_hf/small for the one in this package,
which learns these crops in minutes on a CPU. The default is a small SAM with random weights.
"""

import sys

from samed_hf.cli import main

MR = {
    "preprocessing": "mr",  # MR has no unit: the percentiles 0.5 and 99.5 of each scan are mapped to 0 and 1
    "plane": "axial",  # any plane suits isotropic voxels of 1 mm; for thick slices use the plane of acquisition
    "image_size": 128,  # crops of about 35 × 50 pixels: the labels' grid, 128 / 4, has a point for every two pixels
}


def train_mr(data_dir: str, output_dir: str, *flags: str) -> int:
    settings = {"data_dir": data_dir, "output_dir": output_dir} | MR
    given = [f"--{name}={value}" for name, value in settings.items()]
    return main(["train", *given, *flags])


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(train_mr(*sys.argv[1:]))
