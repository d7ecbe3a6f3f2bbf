"""Accuracy beside a 2-D U-Net: trained on the same slices, cores and minutes, scored on the same cases.

    python -m benchmarks accuracy --data_dir DIR --output_dir OUT [--minutes 4,13] [--cases 5,20,120] [--seeds 0]
        [--methods unet,unet_context,ours] [--row 'small=--model_name_or_path DIR'] [TRAINING FLAGS]

These lists are the defaults. A --row adds flags of `samed-hf train` to its defaults, which are `ours`; if its name
begins with unet, it is a U-Net. TRAINING FLAGS are for all rows; U-Nets use those of the data and --augmentation. When
repeated, the command skips complete runs. OUT/accuracy.md and .json are written after each run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import re
import shutil
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product, starmap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from monai.losses import DiceCELoss
from monai.networks.nets import BasicUNet
from torch.utils.data import DataLoader

from samed_hf.data import CaseDataset, CaseStore, EpochBatchSampler, SliceDataset, make_processor
from samed_hf.data.processor import slice_side
from samed_hf.model.precision import default_device
from samed_hf.scoring import evaluate_cases, mean_interval
from samed_hf.training import SamedTrainingArguments, parse_arguments, run_training, train
from samed_hf.training.data import open_store, read_training_data
from samed_hf.training.distributed.interruption import end_distributed
from samed_hf.training.step import choose_augmentation
from samed_hf.utils.atomic import write_text
from samed_hf.utils.threads import single_threaded_blas

from .machine import describe

_WARM_UP, _TIMED = 5, 15  # steps before each run, which tell how many fit into its minutes
_BATCH, _RATE, _MAX_NORM, _MAX_SIDE = 16, 1e-3, 12.0, 256
_METHODS = {"unet": "", "unet_context": "--context_slices", "ours": ""}
_LISTS = {"minutes": "4,13", "cases": "5,20,120", "seeds": "0", "methods": ",".join(_METHODS)}
# Settings that the benchmark makes itself, and those that decide which cases are scored and how.
_OWN = ("output_dir", "seed", "num_train_cases", "train_fraction", "max_train_steps", "num_train_epochs")
_OWN += ("stop_after_epochs", "early_stopping_patience", "resume_from_checkpoint", "push_to_hub")
_SHARED = ("data_dir", "dataset_name", "num_folds", "fold", "splits", "num_validation_cases", "metrics", "protocol")
_NOTE = "Mean Dice of the cases [95 % BCa interval]. Minus U-Net: the same cases, minutes and seeds, paired by case.\n"


class UNet(BasicUNet):
    """MONAI's BasicUNet with its defaults (2.0 million parameters), and what [`evaluate_cases`] uses of our model."""

    def __init__(self, channels: int, data: CaseDataset) -> None:
        super().__init__(spatial_dims=2, in_channels=channels, out_channels=len(data.id2label))
        self.channels, self.device = channels, default_device()
        self.config = SimpleNamespace(id2label=data.id2label, num_labels=len(data.id2label), regions=data.regions)

    def forward(self, pixel_values: torch.Tensor) -> SimpleNamespace:
        """`logits` `(batch_size, num_labels, S, S)`; `pixel_values` repeat a grey slice three times, for SAM."""
        return SimpleNamespace(logits=super().forward(pixel_values[:, : self.channels]))


def train_unet(args: SamedTrainingArguments, store: CaseStore, steps: int) -> tuple[UNet, list[float]]:
    """Train by AdamW with cosine decay on Dice and cross-entropy; return the model and the seconds of each step."""
    torch.manual_seed(args.seed)
    model = UNet(store.slices(store.data.train[0]).read([0]).shape[1], store.data).to(default_device())
    augmentation = choose_augmentation(args.augmentation or "default", store)
    dataset = SliceDataset(store, store.data.train, augmentation, args.seed, label_stride=1)
    sampler = EpochBatchSampler(len(dataset), _BATCH, steps, seed=args.seed)
    optimizer = torch.optim.AdamW(model.parameters(), _RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    measure_loss = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)
    times = [time.monotonic()]
    with single_threaded_blas():
        for batch in DataLoader(dataset, batch_sampler=sampler, num_workers=args.dataloader_num_workers):
            pixels, labels = (batch[key].to(model.device) for key in ("pixel_values", "labels"))
            optimizer.zero_grad()
            measure_loss(model(pixels).logits, labels[:, None]).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), _MAX_NORM, error_if_nonfinite=True)
            optimizer.step()
            schedule.step()
            times.append(time.monotonic())
    return model.eval(), np.diff(times).tolist()


def count_steps(minutes: float, seconds: Sequence[float]) -> int:
    """How many steps fit, by the seconds of a few of them."""
    return max(1, int(60 * minutes / statistics.median(seconds[_WARM_UP:])))


def run_unet(args: SamedTrainingArguments, minutes: float) -> dict[str, Any]:
    """Train and score a U-Net on squares of 64 to 256 pixels, by the side of the slices."""
    data = read_training_data(args)
    if data.has_ignored:
        raise ValueError(f"{data.root} has unlabelled voxels, which the U-Net's loss can't ignore: expected none.")
    side = min(_MAX_SIDE, max(64, -(-slice_side(data, make_processor(args, data)) // 16) * 16))
    store = open_store(args, data, make_processor(args, data, side), decode=True)
    model, seconds = train_unet(args, store, count_steps(minutes, train_unet(args, store, _WARM_UP + _TIMED)[1]))
    about = {"steps": len(seconds), "seconds": sum(seconds), "parameters": sum(map(torch.numel, model.parameters()))}
    scores, how = dict[str, Any](), {"protocol": args.scored_protocol, "measures": args.measures, "batch_size": _BATCH}
    for name in data.validation:
        scores |= evaluate_cases(model, [store.case(name)], store.processor, **how)["per_case"]
    return about | {"train": data.train, "scores": scores}


def run_ours(args: SamedTrainingArguments, minutes: float) -> dict[str, Any]:
    """Train and score an adapter as `samed-hf train` does."""
    probe = train(replace(args, output_dir=f"{args.output_dir}-probe", max_train_steps=_WARM_UP + _TIMED))
    end_distributed(probe.accelerator)
    shutil.rmtree(probe.output_dir)
    slices = probe.num_slices / probe.plan.batches_per_epoch * probe.plan.accumulation  # the last batch may be smaller
    steps = count_steps(minutes, [slices / row["samples_per_second"] for row in probe.log])
    scores = (run_training(replace(args, max_train_steps=steps), split="validation") or {})["per_case"]
    saved = json.loads(Path(args.output_dir, "training_settings.json").read_text(encoding="utf-8"))
    about = {"steps": steps, "seconds": saved["run"]["seconds"], "parameters": saved["run"]["trainable_parameters"]}
    return about | {"train": saved["cases"]["train"], "scores": scores}


def check_flags(common: Sequence[str], methods: Mapping[str, str]) -> SamedTrainingArguments:
    """Return the settings of all rows; refuse those that the benchmark makes, and rows with other cases or scores."""
    shared, defaults = parse_arguments(common), vars(parse_arguments([]))
    if shared.uses_phantom or "dice" not in shared.metrics.split(","):
        raise ValueError(f"data_dir is {shared.data_dir}, metrics {shared.metrics}: expected data, and dice.")
    expected = {name: defaults[name] for name in _OWN} | {name: getattr(shared, name) for name in _SHARED}
    for method, flags in methods.items():
        args = vars(parse_arguments([*common, *flags.split()]))
        if wrong := [f"{name} {args[name]}" for name, value in expected.items() if args[name] != value]:
            raise ValueError(f"{method} has {', '.join(wrong)}: expected none, as it is the same for all rows.")
    return shared


def summarize(runs: Mapping[int, Mapping[str, Any]], unet: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """The row of a method from its runs by seed, and from the U-Net's of the same minutes and cases."""

    def mean_dice(one: Mapping[int, Mapping[str, Any]], seeds: Iterable[int]) -> np.ndarray:
        cases = [[labels.values() for labels in one[seed]["scores"].values()] for seed in seeds]
        dice = [[[score["dice"] for score in labels] for labels in case] for case in cases]
        return np.ma.masked_invalid(np.array(dice, np.float64)).mean(axis=0).filled(np.nan)  # (cases, labels)

    def measure(values: np.ndarray) -> list[Any]:
        return [float(np.ma.masked_invalid(values).mean(axis=0).mean()), mean_interval(values)]

    first, dice = next(iter(runs.values())), mean_dice(runs, runs)
    row = {name: first[name] for name in ("cases", "minutes", "method", "flags", "parameters")} | {"scored": len(dice)}
    row |= {name: statistics.fmean(run[name] for run in runs.values()) for name in ("steps", "seconds")}
    for index, label in enumerate(next(iter(first["scores"].values()))):
        row.setdefault("dice", {})[label] = measure(dice[:, [index]])
    row |= {"mean": measure(dice), "by_seed": {seed: measure(mean_dice(runs, [seed]))[0] for seed in runs}}
    seeds = [] if first["method"] == "unet" else [seed for seed in runs if seed in unet]
    return row | {"difference": measure(mean_dice(runs, seeds) - mean_dice(unet, seeds)) if seeds else None}


def make_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Render the rows as Markdown."""

    def show(value: float, interval: Sequence[float] | None, sign: str = "") -> str:
        return f"{value:{sign}.3f}" + (" [{1:{0}.3f}, {2:{0}.3f}]".format(sign, *interval) if interval else "")

    head = ["cases", "minutes", "method", "flags", *rows[0]["dice"], "mean", "minus U-Net", "by seed", "steps"]
    lines = [[*head, "minutes taken", "parameters"], ["---"] * (len(head) + 2)]
    for row in rows:
        cells = [str(row["cases"]), f"{row['minutes']:g}", row["method"], row["flags"] and f"`{row['flags']}`"]
        cells += [*starmap(show, [*row["dice"].values(), row["mean"]])]
        cells += [show(*row["difference"], "+") if row["difference"] else ""]
        cells += [", ".join(f"{dice:.3f}" for dice in row["by_seed"].values()), f"{row['steps']:.0f}"]
        lines.append([*cells, f"{row['seconds'] / 60:.2f}", f"{row['parameters']:,}"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_results(output: Path, files: Mapping[tuple[Any, ...], Path]) -> str:
    """Write the table of the complete runs to OUT, and return it as Markdown."""
    runs: dict[tuple[Any, ...], dict[int, Any]] = {}
    for (seed, *row), file in files.items():
        if file.is_file():
            runs.setdefault(tuple(row), {})[seed] = json.loads(file.read_text(encoding="utf-8"))
    rows = [summarize(found, runs.get((*row[:2], "unet"), {})) for row, found in runs.items()]
    about = "{0} cases scored. {device}, {threads} threads.".format(rows[0]["scored"], **(machine := describe()))
    write_text(output / "accuracy.md", text := f"{about}\n\n{make_table(rows)}\n\n{_NOTE}")
    write_text(output / "accuracy.json", json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")
    return text


def main(argv: Sequence[str] | None = None) -> None:
    """Run what isn't in OUT yet, and print the table."""
    parser, cores = argparse.ArgumentParser(usage=__doc__, allow_abbrev=False), sorted(os.sched_getaffinity(0))
    for (flag, default), kind in zip(_LISTS.items(), (float, int, int, str), strict=True):
        parser.add_argument(f"--{flag}", default=default, type=lambda text, kind=kind: [*map(kind, text.split(","))])
    parser.add_argument("--output_dir", type=Path, required=True, metavar="OUT")
    parser.add_argument("--row", default=[], action="append", metavar="NAME=FLAGS")
    parser.add_argument("--threads", type=int, choices=range(1, len(cores) + 1), default=len(cores), help="[all cores]")
    args, common = parser.parse_known_args(argv)
    if not {*args.methods} <= {*_METHODS}:
        parser.error(f"methods is {','.join(args.methods)}: expected some of {','.join(_METHODS)}")
    rows = dict(row.partition("=")[::2] for row in args.row)
    if wrong := [row for row in args.row if not re.match(r"[\w.-]+=", row) or row.partition("=")[0] in _METHODS]:
        parser.error(f"row is {wrong[0]!r}: expected NAME=FLAGS, with another name than {', '.join(_METHODS)}")
    if len(rows) < len(args.row):
        parser.error(f"row is {args.row}: expected different names")
    for flag, smallest in {"minutes": 0.01, "cases": 1, "seeds": 0}.items():
        if not all(smallest <= number < math.inf for number in getattr(args, flag)):
            parser.error(f"{flag} is {getattr(args, flag)}: expected numbers of at least {smallest}")
    methods = {name: _METHODS[name] for name in args.methods} | rows
    torch.set_num_threads(args.threads)
    os.sched_setaffinity(0, cores[: args.threads])  # a training that finds one thread takes all cores
    output, shared = args.output_dir, check_flags(common, methods)
    data = read_training_data(replace(shared, output_dir=str(output)))
    split = [{"train": data.train, "val": data.validation}]
    if not data.validation or max(args.cases) > len(data.train):
        known = f"{len(data.train)} cases to train on and {len(data.validation)} to score"
        raise ValueError(f"cases is {args.cases}, but {data.root} has {known}: expected enough of both.")
    fixed: dict[str, Any] = {"splits": str(output / "splits.json"), "num_folds": None, "fold": None}
    fixed |= {"num_validation_cases": 0, "cache_dir": shared.cache_dir or str(output / "cache")}
    files: dict[tuple[Any, ...], Path] = {}
    for run in product(args.seeds, args.cases, args.minutes, methods):
        key = hashlib.sha256(json.dumps([common, methods[run[3]], split]).encode()).hexdigest()[:8]
        files[run] = output / "{3}-{4}/cases-{1}-minutes-{2:g}-seed-{0}/run.json".format(*run, key)
    missing = [one for one in files.items() if not one[1].is_file()]
    for number, ((seed, cases, minutes, method), file) in enumerate(missing, 1):
        print(f"run {number}/{len(missing)}: {method}, {cases} cases, {minutes:g} minutes, seed {seed}", flush=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(output / "splits.json", json.dumps(split))
        settings = parse_arguments(["--report_to=none", "--checkpointing_steps=0", *common, *methods[method].split()])
        settings = replace(settings, **fixed, output_dir=str(file.parent), num_train_cases=cases, seed=seed)
        found = (run_unet if method.startswith("unet") else run_ours)(settings, minutes)
        found |= {"cases": cases, "minutes": minutes, "method": method, "flags": methods[method]}
        write_text(file, json.dumps(found) + "\n")
        write_results(output, files)
    print(write_results(output, files))
