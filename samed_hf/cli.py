"""`samed-hf …`: arguments, one-line errors and exit codes; what is heavy is imported inside the commands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

__all__ = ["main", "run_command"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, or 2 for bad input."""
    argv = list(sys.argv[1:] if argv is None else argv)
    # Training has its own parser, made from the settings: its flags and its help are all its own.
    if argv[:1] == ["train"]:
        return run_command(lambda: _train(argv[1:]))
    args = _parser().parse_args(argv)
    return run_command(lambda: args.run(args))


def run_command(command: Callable[[], None]) -> int:
    """Run `command` and turn its errors into one line on standard error and the exit status."""
    try:
        command()
    except (ValueError, OSError, ImportError, MemoryError) as error:
        print(f"error: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="samed-hf", description="SAMed: Segment Anything for medical images.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_prepare(commands)
    commands.add_parser("train", help="train an adapter (samed-hf train --help)", add_help=False)
    _add_evaluate(commands)
    _add_predict(commands)
    _add_push(commands)
    return parser


def _add_prepare(commands: argparse._SubParsersAction) -> None:
    kinds = commands.add_parser("prepare", help="make a data folder").add_subparsers(required=True, metavar="KIND")
    synapse = kinds.add_parser("synapse", help="raw BTCV scans to the Synapse layout")
    synapse.add_argument("raw", metavar="RAW_TRAINING_DIR", help="BTCV's RawData/Training, with img and label")
    synapse.add_argument("--output", required=True, metavar="DIR", help="folder to make")
    synapse.add_argument(
        "--train_size", type=int, default=224, help="side of the training slices in pixels; 0 keeps the scan's [224]"
    )
    synapse.set_defaults(run=_prepare_synapse)
    phantom = kinds.add_parser("phantom", help="synthetic patients in the Synapse layout")
    phantom.add_argument("--output", required=True, metavar="DIR", help="folder to make")
    phantom.add_argument("--num_train", type=int, default=20, help="patients to train on [20]")
    phantom.add_argument("--num_test", type=int, default=6, help="patients to score [6]")
    phantom.add_argument("--seed", type=int, default=0, help="the same seed makes the same patients [0]")
    phantom.set_defaults(run=_prepare_phantom)


def _add_evaluate(commands: argparse._SubParsersAction) -> None:
    evaluate = commands.add_parser("evaluate", help="score an adapter on volumes with labels")
    evaluate.add_argument("adapter", metavar="ADAPTER", help="folder or Hub id")
    evaluate.add_argument("--data", required=True, metavar="DIR", help="folder in the Synapse layout")
    evaluate.add_argument(
        "--output", required=True, metavar="DIR", help="folder for metrics.json, metrics.csv, pictures"
    )
    evaluate.add_argument("--protocol", choices=("strict", "samed"), default="strict", help="how to score [strict]")
    evaluate.add_argument(
        "--input_size",
        type=int,
        help="side in pixels slices are zoomed to on the way [the adapter's; the paper's is 224]",
    )
    evaluate.add_argument("--batch_size", type=int, default=8, help="slices through the model at once [8]")
    evaluate.set_defaults(run=_evaluate)


def _add_predict(commands: argparse._SubParsersAction) -> None:
    predict = commands.add_parser("predict", help="segment scans")
    predict.add_argument("adapter", metavar="ADAPTER", help="folder or Hub id")
    predict.add_argument("inputs", metavar="INPUT", nargs="+", help="NIfTI files, or folders of them")
    predict.add_argument("--output", required=True, metavar="DIR", help="folder for the segmentations")
    predict.add_argument("--batch_size", type=int, default=8, help="slices through the model at once [8]")
    predict.set_defaults(run=_predict)


def _add_push(commands: argparse._SubParsersAction) -> None:
    push = commands.add_parser("push", help="upload an adapter to the Hub")
    push.add_argument("adapter", metavar="ADAPTER", help="folder of the adapter")
    push.add_argument("--repo_id", required=True, metavar="NAME", help="user/name")
    push.add_argument("--private", action="store_true", help="make a new repository private")
    push.set_defaults(run=_push)


def _prepare_synapse(args: argparse.Namespace) -> None:
    from .data.prepare import prepare_synapse

    if args.train_size < 0 or args.train_size == 1:
        raise ValueError(f"--train_size is {args.train_size}: expected a side in pixels, or 0 to keep the scan's own.")
    prepare_synapse(args.raw, args.output, train_size=args.train_size or None)


def _prepare_phantom(args: argparse.Namespace) -> None:
    from .data.prepare import prepare_phantom

    prepare_phantom(args.output, num_train=args.num_train, num_test=args.num_test, seed=args.seed)
    print(f"{args.num_train} patients to train on and {args.num_test} to score in {args.output}")


def _train(argv: Sequence[str]) -> None:
    from .launching import processes_not_started, restart_in_processes

    missing = processes_not_started()
    if missing:
        restart_in_processes("samed_hf.cli", ["train", *argv], missing)
    if missing is not None:
        print("note        accelerate launch started one process; torchrun --nproc_per_node=N starts N on a CPU")
    from .train_command import parse_arguments, run_training

    run_training(parse_arguments(argv, prog="samed-hf train"))


def _evaluate(args: argparse.Namespace) -> None:
    from .data.synapse import SynapseData
    from .evaluation import evaluate_cases, write_metrics
    from .report import draw_overlay, format_scores

    data = SynapseData(args.data)
    if not data.test_cases:
        raise ValueError(f"{args.data} lists no case to score: expected at least one name in test_vol.txt.")
    model, processor = _load(args.adapter)
    data.expect_labels(model.config.id2label)
    data.check_test()
    folder = Path(args.output)

    def report(case, prediction, result) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        picture = folder / f"{case.name}.png"
        names = model.config.id2label
        draw_overlay(picture, case.image, case.label, prediction, names, title=case.name, spacing=case.spacing)
        dice = [score.dice for score in result.scores.values() if score.dice is not None]
        print(
            f"{case.name}: mean DSC {sum(dice) / len(dice):.4f}" if dice else f"{case.name}: nothing to score",
            flush=True,
        )

    metrics = evaluate_cases(
        model,
        data.test_volumes(),
        processor,
        protocol=args.protocol,
        input_size=args.input_size,
        batch_size=args.batch_size,
        on_case=report,
    )
    write_metrics(folder, metrics)
    print(f"\n{format_scores(metrics)}\n\nwrote {folder / 'metrics.json'}, metrics.csv and one picture for each case")


def _predict(args: argparse.Namespace) -> None:
    from .inference import predict_volume
    from .volumes import find_volumes, read_volume, write_labels

    targets = _targets(find_volumes(args.inputs), Path(args.output))
    model, processor = _load(args.adapter)
    Path(args.output).mkdir(parents=True, exist_ok=True)
    for target, path in targets.items():
        scan = read_volume(path)
        labels = predict_volume(model, scan, processor, batch_size=args.batch_size)
        write_labels(target, labels, like=scan)
        voxel = abs(scan.spacing[0] * scan.spacing[1] * scan.spacing[2]) / 1000.0
        found = {name: int((labels == index).sum()) for index, name in model.config.id2label.items() if index}
        volumes = ", ".join(f"{name} {count * voxel:.1f} ml" for name, count in found.items() if count)
        print(f"{target}: {volumes or 'nothing found'}", flush=True)


def _targets(paths: Sequence[Path], folder: Path) -> dict[Path, Path]:
    """The file to write for each scan; none is a scan itself, and no two scans share one."""
    from .volumes import case_name

    targets: dict[Path, Path] = {}
    for path in paths:
        target = folder / f"{case_name(path)}.nii.gz"
        if target.exists() and target.samefile(path):
            raise ValueError(f"--output {folder} holds the scan {path} itself: choose another folder.")
        if target in targets:
            raise ValueError(f"{targets[target]} and {path} share the name {target.name}: predict them one by one.")
        targets[target] = path
    return targets


def _push(args: argparse.Namespace) -> None:
    from .hub import push_adapter

    print(push_adapter(args.adapter, args.repo_id, private=args.private or None))


def _load(adapter: str):
    """Model and image processor of an adapter or a merged model, on the accelerator where there is one."""
    import torch
    from transformers.utils import logging

    from .modeling_samed import SamedForSemanticSegmentation

    logging.disable_progress_bar()
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


if __name__ == "__main__":
    sys.exit(main())
