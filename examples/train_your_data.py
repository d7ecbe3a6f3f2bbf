"""Validate your own data set from Python, train on it with the suggested settings, and print the scores.

    python examples/train_your_data.py DATA_DIR OUTPUT_DIR --model_name_or_path facebook/sam-vit-base

DATA_DIR has any layout that training reads: nnU-Net raw, Decathlon, directories of images and masks, Synapse, …
Further flags are those of `samed-hf train`; they override the suggestions.
"""

import sys

from samed_hf.cli import run_command
from samed_hf.data import make_processor, read_data
from samed_hf.training import parse_arguments, run_training
from samed_hf.validation import make_fingerprint, suggest_settings, validate_data


def main(data_dir: str, output_dir: str, *flags: str) -> int:
    args = parse_arguments(["--data_dir", data_dir, "--output_dir", output_dir, *flags])
    data = read_data(data_dir, label_names=args.label_names, fold=args.fold)
    validation = validate_data(data, make_processor(args, data, args.image_size))
    for problem in validation.problems:
        print(f"{problem.severity:<12}{problem.line}")
    if validation.count("error"):
        return 1
    suggested = suggest_settings(make_fingerprint(data, validation.processor, validation.cases), validation.processor)
    for suggestion in suggested:
        print(f"suggests    {' '.join(suggestion.flags)}  {suggestion.reason}")
    chosen = [flag for suggestion in suggested if f"--{suggestion.setting}" not in flags for flag in suggestion.flags]
    metrics = run_training(parse_arguments(["--data_dir", data_dir, "--output_dir", output_dir, *chosen, *flags]))
    for label, scores in metrics["per_class"].items() if metrics else ():
        print(f"{label}: DSC {scores['dice']}")
    return 0


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(run_command(lambda: main(*sys.argv[1:])))
