"""What the commands of `samed-hf` do with their arguments, apart from `cli` because its imports take seconds."""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from . import convert, hub
from .data import prepare
from .data.cases import Case
from .data.layouts import read_data
from .data.splits import k_fold
from .evaluation import CaseResult, evaluate_cases, write_metrics
from .files import write_bytes
from .image_processing_samed import SamedImageProcessor
from .inference import predict_picture, predict_volume
from .modeling_samed import SamedForSemanticSegmentation
from .published import compare_with_published, read_metrics
from .report import draw_overlay, format_scores, label_colors
from .segmentation import load_model
from .slicing import rows_run_up
from .volumes import case_name, find_volumes, read_volume, write_labels

__all__ = [
    "compare",
    "convert_original",
    "convert_sam",
    "convert_samed",
    "evaluate",
    "predict",
    "prepare_phantom",
    "prepare_synapse",
    "push",
]


_PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")


def prepare_synapse(args: argparse.Namespace) -> None:
    """`samed-hf prepare synapse`."""
    if args.train_size < 0 or args.train_size == 1:
        raise ValueError(f"--train_size is {args.train_size}: expected a side in pixels, or 0 to keep the scan's own.")
    prepare.prepare_synapse(args.raw, args.output, train_size=args.train_size or None)


def prepare_phantom(args: argparse.Namespace) -> None:
    """`samed-hf prepare phantom`."""
    prepare.prepare_phantom(args.output, num_train=args.num_train, num_test=args.num_test, seed=args.seed)
    print(f"{args.num_train} patients to train on and {args.num_test} to score in {args.output}")


def evaluate(args: argparse.Namespace) -> None:
    """`samed-hf evaluate`."""
    data = read_data(
        args.data if Path(args.data).exists() else None,
        dataset_name=None if Path(args.data).exists() else args.data,
        label_names=args.label_names,
        fold=args.fold,
    )
    if args.num_folds is not None:
        _, data.validation = k_fold(sorted({*data.train, *data.validation}), args.num_folds, args.fold or 0)
    if args.batch_size < 1 or (args.input_size is not None and args.input_size < 2):
        raise ValueError(
            f"--batch_size is {args.batch_size}, --input_size {args.input_size}: expected at least 1 slice, 2 pixels."
        )
    split, names = (args.split, getattr(data, args.split)) if args.split else data.scored
    if not names:
        declared = ", ".join(f"{len(getattr(data, one))} for {one}" for one in ("train", "validation", "test"))
        raise ValueError(f"{args.data} has no case to score ({declared}): give --split, e.g. --split train.")
    print(f"data        {args.data}: {data.layout}, {len(names)} {split} cases", flush=True)
    model = load_model(args.adapter)
    processor = model.image_processor
    data.expect_labels(model.config.id2label)
    for name in names:
        data.read_raw(name, processor)
    folder = Path(args.output)

    def report(case: Case, prediction: np.ndarray, result: CaseResult) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        picture = folder / f"{case.name}.png"
        draw_overlay(
            picture,
            case.image,
            case.label,
            prediction,
            model.config.id2label,
            title=case.name,
            spacing=case.spacing,
            rows_run_up=rows_run_up(processor),
        )
        dice = [score.dice for score in result.scores.values() if score.dice is not None]
        scored = f"mean DSC {sum(dice) / len(dice):.4f}" if dice else "nothing to score"
        print(f"{case.name}: {scored}", flush=True)

    metrics = evaluate_cases(
        model,
        (data.read_case(name, processor) for name in names),
        processor,
        protocol=args.protocol,
        input_size=args.input_size,
        batch_size=args.batch_size,
        on_case=report,
    )
    write_metrics(folder, metrics | {"split": split})
    print(f"\n{format_scores(metrics)}\n\nwrote {folder / 'metrics.json'}, metrics.csv and one picture for each case")


def predict(args: argparse.Namespace) -> None:
    """`samed-hf predict`."""
    pictures = [Path(path) for path in args.inputs if Path(path).suffix.lower() in _PICTURES]
    scans = [path for path in args.inputs if Path(path) not in pictures]
    inputs = [*(find_volumes(scans) if scans else []), *pictures]
    targets = _targets(inputs, Path(args.output), args.overwrite)
    if args.batch_size < 1:
        raise ValueError(f"--batch_size is {args.batch_size}: expected at least 1 slice.")
    model, processor = _load(args.adapter)
    Path(args.output).mkdir(parents=True, exist_ok=True)
    for target, path in targets.items():
        segment = _predict_picture if target.suffix == ".png" else _predict_scan
        found = segment(model, processor, path, target, args.batch_size)
        print(f"{target}: {', '.join(found) or 'nothing found'}", flush=True)


def _predict_scan(
    model: SamedForSemanticSegmentation, processor: SamedImageProcessor, path: Path, target: Path, batch_size: int
) -> list[str]:
    """Segment a scan on its own grid; returns each label's volume, for people."""
    scan = read_volume(path)
    labels = predict_volume(model, scan, processor, batch_size=batch_size)
    write_labels(target, labels, like=scan)
    # The determinant, not the spacings: a gantry's tilt shears the voxels.
    millilitres = abs(np.linalg.det(scan.affine[:3, :3])) / 1000.0
    found = {name: int((labels == index).sum()) for index, name in model.config.id2label.items() if index}
    return [f"{name} {count * millilitres:.3g} ml" for name, count in found.items() if count]


def _predict_picture(
    model: SamedForSemanticSegmentation, processor: SamedImageProcessor, path: Path, target: Path, batch_size: int
) -> list[str]:
    """Segment a picture at its own size into a PNG whose values are the labels; returns each label's pixels."""
    try:
        with Image.open(path) as picture:
            labels, _ = predict_picture(model, picture, processor)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"{path} can't be read as a picture ({error}): expected a whole PNG, JPEG or TIFF.") from error
    content = io.BytesIO()
    mask = Image.fromarray(labels)
    if labels.dtype == np.uint8:
        mask = mask.convert("P")
        mask.putpalette((label_colors(model.config.num_labels) * 255).round().astype(np.uint8).tobytes())
    mask.save(content, format="PNG")
    write_bytes(target, content.getvalue())
    found = {name: int((labels == index).sum()) for index, name in model.config.id2label.items() if index}
    return [f"{name} {count} pixels" for name, count in found.items() if count]


def _targets(paths: Sequence[Path], folder: Path, overwrite: bool) -> dict[Path, Path]:
    """The file to write for each input; none is an input itself, no two inputs share one, none is there already."""
    targets: dict[Path, Path] = {}
    sources = {path.resolve() for path in paths}
    for path in paths:
        picture = path.suffix.lower() in _PICTURES
        target = folder / (f"{path.stem}.png" if picture else f"{case_name(path)}.nii.gz")
        if target.resolve() in sources:
            raise ValueError(f"--output {folder} holds the scan {path} itself: choose another folder.")
        if target in targets:
            raise ValueError(
                f"{targets[target]} and {path} share the name {target.name}: predict them into different folders."
            )
        if target.exists() and not overwrite:
            raise ValueError(f"{target} is there already: choose another folder, or give --overwrite to replace it.")
        targets[target] = path
    return targets


def convert_sam(args: argparse.Namespace) -> None:
    """`samed-hf convert sam`."""
    options = {"decoder_heads": args.decoder_heads, "global_attn_indexes": args.global_attn_indexes}
    print(f"wrote {convert.convert_sam(args.checkpoint, args.output, **options)}")


def convert_samed(args: argparse.Namespace) -> None:
    """`samed-hf convert samed`."""
    options = {"image_size": args.image_size, "labels": args.labels, "input_size": args.input_size or None}
    print(f"wrote {convert.convert_samed(args.checkpoint, args.base, args.output, **options)}")


def convert_original(args: argparse.Namespace) -> None:
    """`samed-hf convert original`."""
    print(f"wrote {convert.convert_original(args.adapter, args.output, base=args.base)}")


def compare(args: argparse.Namespace) -> None:
    """`samed-hf compare`."""
    print(compare_with_published(read_metrics(args.metrics), args.preset))


def push(args: argparse.Namespace) -> None:
    """`samed-hf push`."""
    address = hub.push_adapter(
        args.adapter,
        args.repo_id,
        private=args.private or None,
        token=args.hub_token,
        dtype=args.dtype,
        base_model=args.base_model,
        base_revision=args.base_revision,
        pictures=args.pictures,
        with_handler=args.with_handler,
    )
    print(f"pushed      {address}")


def _load(adapter: str) -> tuple[SamedForSemanticSegmentation, SamedImageProcessor]:
    """Model and image processor of an adapter or a merged model, on the accelerator where there is one."""
    try:
        model = SamedForSemanticSegmentation.from_pretrained(adapter)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise FileNotFoundError(
            f"ADAPTER {adapter!r} can't be loaded: expected the folder of an adapter or its Hub id. "
            f"({str(error).splitlines()[0]})"
        ) from error
    if model.image_processor is None:
        raise ValueError(
            f"{adapter!r} is no SAMed model (no preprocessor_config.json of SamedImageProcessor): give an adapter's "
            "folder or Hub id, not a plain SAM."
        )
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    return model.to(device), model.image_processor
