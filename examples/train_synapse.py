"""Train a SAMed adapter: `accelerate launch examples/train_synapse.py [flags]`; `--help` lists them.

Without flags it makes synthetic patients and a small SAM with random weights, trains, scores and draws the result.
With the paper's data and weights:

    accelerate launch examples/train_synapse.py --model_name_or_path facebook/sam-vit-base --data_dir DIR
"""

import sys

from samed_hf.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
