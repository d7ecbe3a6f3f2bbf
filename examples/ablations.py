"""Ablations of the recipe: runs that each change one thing of a common baseline, on any data set and base model.

    python examples/ablations.py --data_dir DIR --output_dir OUT [--only rank,optimizer] [--seeds 0,1] [TRAINING FLAGS]

Flags of `samed-hf train` are for all runs, e.g. --model_name_or_path facebook/sam-vit-base --max_train_steps 2000. To
resume, repeat the command: complete runs are skipped. A table of those in OUT is written after each, to ablations.md,
.csv and .json. --dry_run lists the runs. Several processes can share OUT by --only, once `--only baseline` has ended.
"""

import argparse
import csv
import json
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from samed_hf.cli import run_command
from samed_hf.scoring import compare_pairs, mean_interval
from samed_hf.training import SamedTrainingArguments, parse_arguments, run_training


@dataclass(frozen=True)
class Row:
    """A run: the flags that differ from the baseline's, and what the paper reports of it."""

    group: str  # for --only
    flags: str  # the name of the run's directory is made of them
    paper: float | None = None  # Dice in percent on Synapse with ViT-B; `None` where no figure is known from a source

    @property
    def name(self) -> str:
        return re.sub(r"[^\w.,]+", "-", self.flags).strip("-") or "baseline"


BASELINE = Row("baseline", "", paper=81.88)  # arXiv 2304.13785, abstract
ROWS = (
    Row("targets", "--lora_targets q,v"),
    Row("targets", "--lora_targets q,k,v,o"),
    Row("targets", "--lora_targets mlp"),
    Row("rank", "--rank 1"),
    Row("rank", "--rank 4"),
    Row("rank", "--rank 16"),
    Row("rank", "--rank 64"),
    Row("encoder", "--encoder frozen"),
    Row("encoder", "--encoder full"),
    Row("encoder", "--encoder full --learning_rate 0.0005"),  # LoRA's rate may be too high for whole weights
    Row("decoder", "--variant samed_s", paper=77.78),  # arXiv 2304.13785
    Row("warmup", "--lr_warmup_steps 0"),
    # The weight decay of adam and sgd is an L2 penalty, with which AdamW's 0.1 would outweigh the loss: 0.0001 is that
    # of SGD in the authors' code. AdamW's learning rate doesn't suit SGD: TransUNet's 0.01, and higher ones.
    Row("optimizer", "--optimizer adam --weight_decay 0.0001"),
    Row("optimizer", "--optimizer sgd --weight_decay 0.0001 --learning_rate 0.01"),
    Row("optimizer", "--optimizer sgd --weight_decay 0.0001 --learning_rate 0.1"),
    Row("optimizer", "--optimizer sgd --weight_decay 0.0001 --learning_rate 1"),
    Row("loss", "--dice_weight 0"),
    Row("loss", "--dice_weight 0.5"),
    Row("loss", "--dice_weight 0.8"),
    Row("loss", "--dice_weight 1"),
)
GROUPS = list(dict.fromkeys(row.group for row in (BASELINE, *ROWS)))
NOTES = """\
Dice: mean over a case's labels (and over seeds), then mean ± SD over cases [95 % interval, BCa bootstrap over cases].
Difference: row minus baseline on the same cases and seeds. The intervals say how much a result depends on the cases
that were scored; how much it depends on the seed, the column by seed says. Seconds: of the optimizer steps.

Paper: Dice in percent on Synapse's 12 test cases with SAM ViT-B (SAMed, arXiv 2304.13785); an empty cell has no known
figure. It can be compared with a row's Dice only after the same training (--preset samed, the pretrained ViT-B,
Synapse), and after another one only in the signs of differences. Parameters, sizes and seconds depend on the base.
"""


def arguments(output: Path, flags: Sequence[str], row: Row, seed: int = 0) -> SamedTrainingArguments:
    """The settings of a run; the flags of its row take precedence over those of all runs."""
    fixed = [f"--seed={seed}", f"--output_dir={output / row.name / f'seed-{seed}'}", "--resume_from_checkpoint=latest"]
    return parse_arguments([f"--cache_dir={output / 'cache'}", *flags, *row.flags.split(), *fixed])


def differs(output: Path, flags: Sequence[str], row: Row) -> bool:
    """Whether a row's settings are others than the baseline's, e.g. not `--rank 4` if that is the default."""
    try:
        one, other = (arguments(output, flags, each).fill_defaults().to_dict() for each in (row, BASELINE))
    except ValueError:  # named when the row runs
        return True
    return one | {"output_dir": ""} != other | {"output_dir": ""}


def check_flags(study: Path, flags: Sequence[str]) -> None:
    """Refuse flags that runs can't share, or that differ from those of earlier runs, which are in `study`."""
    common, defaults = parse_arguments(flags).to_dict(), parse_arguments([]).to_dict()
    seed, resume, metrics = map(common.get, ("seed", "resume_from_checkpoint", "metrics"))
    if seed or resume or "dice" not in metrics.split(",") or os.environ.get("WORLD_SIZE", "1") != "1":
        given = f"seed {seed}, resume_from_checkpoint {resume}, metrics {metrics}, WORLD_SIZE {os.getenv('WORLD_SIZE')}"
        raise ValueError(f"{given}: expected --seeds, each run's own checkpoints, dice in the metrics, one process.")
    chosen = {name: value for name, value in common.items() if value != defaults[name] and name != "cache_dir"}
    before = json.loads(study.read_text(encoding="utf-8")) if study.is_file() else chosen
    if other := [name for name in before | chosen if before.get(name) != chosen.get(name)]:
        shown = "; ".join(f"{name} is {chosen.get(name)!r} and was {before.get(name)!r}" for name in other)
        raise ValueError(f"{study.parent} has runs of other flags: {shown}. Repeat those, or give another directory.")
    write(study, json.dumps(chosen, indent=2) + "\n")


def read_run(directory: Path) -> dict[str, Any]:
    files = (directory / name for name in ("metrics.json", "training_settings.json"))
    metrics, settings = (json.loads(file.read_text(encoding="utf-8")) for file in files)
    with (directory / "training_log.csv").open(newline="", encoding="utf-8") as file:
        rates = [float(step["samples_per_second"]) for step in csv.DictReader(file)]
    batch = settings["per_device_train_batch_size"] * settings["gradient_accumulation_steps"]
    scores = {case: [score["dice"] for score in labels.values()] for case, labels in metrics["per_case"].items()}
    return {
        "dice": {case: float(np.mean([x for x in found if x is not None] or np.nan)) for case, found in scores.items()},
        "about": f"Base model: {settings['model_name_or_path']}; "
        f"{settings['image_size']} pixels; {settings['run']['train_cases']} training cases; {len(scores)} cases scored "
        f"({metrics['split']}, protocol {metrics['protocol']}).",
        "trainable_parameters": settings["run"]["trainable_parameters"],
        "adapter_mb": sum(file.stat().st_size for file in directory.glob("*.safetensors")) / 1e6,
        "steps": len(rates),
        "seconds": sum(batch / rate for rate in rates),
    }


def mean_dice(runs: Mapping[int, Any], seeds: Sequence[int]) -> dict[str, float]:
    return {case: float(np.mean([runs[seed]["dice"][case] for seed in seeds])) for case in runs[seeds[0]]["dice"]}


def summarize(row: Row, runs: Mapping[int, Mapping[str, Any]], baseline: Mapping[int, Any]) -> dict[str, Any]:
    """The record of a row in OUT/ablations.json."""
    dice = np.array([score for score in mean_dice(runs, list(runs)).values() if not np.isnan(score)])
    record: dict[str, Any] = {"group": row.group, "flags": row.flags}
    for cost in ("trainable_parameters", "adapter_mb", "steps", "seconds"):
        record[cost] = float(np.mean([run[cost] for run in runs.values()]))
    record["dice_by_seed"] = {seed: float(np.nanmean([*runs[seed]["dice"].values()])) for seed in sorted(runs)}
    record |= {"cases": len(dice), "dice": float(dice.mean()), "sd": float(dice.std(ddof=1)) if len(dice) > 1 else None}
    record["interval"] = mean_interval(dice[:, None])
    shared = [] if row == BASELINE else [seed for seed in runs if seed in baseline]
    pairs = compare_pairs(mean_dice(baseline, shared), mean_dice(runs, shared)) if shared else None
    record |= {"difference": pairs and pairs.mean_difference, "difference_interval": pairs and pairs.interval}
    return record | {"difference_seeds": shared, "paper_dice_percent": row.paper}


def show(value: float | None, interval: Sequence[float] | None, sign: str = "", sd: float | None = None) -> str:
    shown = "" if value is None else f"{value:{sign}.3f}" + ("" if sd is None else f" ± {sd:.3f}")
    return shown + ("" if interval is None else " [{1:{0}.3f}, {2:{0}.3f}]".format(sign, *interval))


def make_table(records: Sequence[Mapping[str, Any]]) -> str:
    head = ["ablation", "flags", "trained parameters", "adapter, MB", "steps", "seconds", "by seed", "Dice ± SD [95 %]"]
    rows = [[*head, "difference [95 %]", "paper, Synapse"], ["---"] * (len(head) + 2)]
    for one in records:
        cells = [one["group"], f"`{one['flags']}`" if one["flags"] else "", f"{one['trainable_parameters']:,.0f}"]
        cells += [f"{one['adapter_mb']:.2f}", f"{one['steps']:.0f}", f"{one['seconds']:.0f}"]
        cells += [", ".join(f"{seed}: {dice:.3f}" for seed, dice in one["dice_by_seed"].items())]
        cells += [show(one["dice"], one["interval"], sd=one["sd"])]
        cells += [show(one["difference"], one["difference_interval"], "+"), str(one["paper_dice_percent"] or "")]
        rows.append(cells)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def write_results(output: Path, flags: Sequence[str], failed: Mapping[str, str]) -> str:
    """Write the table of all complete runs in OUT, and return it as Markdown."""
    files = {row: output.glob(f"{row.name}/seed-*/metrics.json") for row in (BASELINE, *ROWS)}
    runs = {row: {int(one.parent.name[5:]): read_run(one.parent) for one in found} for row, found in files.items()}
    baseline = runs[BASELINE]
    records = [summarize(row, found, baseline) for row, found in runs.items() if found]
    parts = [f"Flags of all runs: `{shlex.join(flags)}`.", *[one["about"] for one in baseline.values()][:1]]
    parts += [make_table(records), *(f"Failed: {run}: {reason}" for run, reason in failed.items())]
    text = "\n\n".join([*parts, NOTES])
    write(output / "ablations.md", text)
    write(output / "ablations.json", json.dumps({"rows": records, "failed": failed}, indent=2) + "\n")
    with (output / "ablations.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([*records[:1], *(one.values() for one in records)])
    return text


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}-{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def main() -> int:
    parser = argparse.ArgumentParser(usage=__doc__, allow_abbrev=False)
    parser.add_argument("--output_dir", type=Path, required=True, metavar="OUT")
    parser.add_argument("--only", default=GROUPS, type=lambda text: text.split(","), help=f"of {', '.join(GROUPS)}")
    parser.add_argument("--seeds", default=[0], type=lambda text: [int(seed) for seed in text.split(",")], help="[0]")
    parser.add_argument("--dry_run", action="store_true", help="list the runs")
    args, flags = parser.parse_known_args()
    output = args.output_dir
    if unknown := [group for group in args.only if group not in GROUPS]:
        raise ValueError(f"only has {', '.join(unknown)}: expected some of {', '.join(GROUPS)}.")
    rows = [row for row in ROWS if row.group in args.only and differs(output, flags, row)]
    # All seeds of the baseline come first: they tell what a difference between rows means.
    runs = [(BASELINE, seed) for seed in args.seeds] + [(row, seed) for seed in args.seeds for row in rows]
    runs = [run for run in runs if not (output / run[0].name / f"seed-{run[1]}" / "metrics.json").is_file()]
    if args.dry_run:
        return print("\n".join(f"{row.name} (seed {seed})" for row, seed in runs)) or 0
    check_flags(output / "study.json", flags)
    failed: dict[str, str] = {}
    for number, (row, seed) in enumerate(runs, 1):
        print(f"run {number}/{len(runs)}: {row.name} (seed {seed})", flush=True)
        try:
            if run_training(arguments(output, flags, row, seed)) is None:
                raise ValueError("the data has no case to score: expected one for test or validation")
        except Exception as error:  # the other rows run
            failed[f"{row.name} (seed {seed})"] = f"{type(error).__name__}: {' '.join(str(error).split())}"
        write_results(output, flags, failed)
    print(write_results(output, flags, failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(run_command(main))
