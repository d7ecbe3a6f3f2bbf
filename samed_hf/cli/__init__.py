"""`samed-hf …`: arguments, one-line errors and exit codes; what is heavy is imported inside the commands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

__all__ = ["main", "run_command"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 1 where some cases failed, or 2 for bad input."""
    argv = list(sys.argv[1:] if argv is None else argv)
    # Training has its own parser, made from the settings: its flags and its help are all its own.
    if argv[:1] == ["train"]:
        return run_command(lambda: _train(argv[1:]))
    args = _parser().parse_args(argv)
    return run_command(lambda: _run(args, argv))


def run_command(command: Callable[[], int | None]) -> int:
    """Run `command` and turn its errors into one line on standard error; returns its exit status, or the errors'."""
    try:
        return command() or 0
    except (ValueError, OSError, ImportError, MemoryError) as error:
        print(f"error: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="samed-hf", description="SAMed: Segment Anything for medical images.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_prepare(commands)
    _add_validate(commands)
    commands.add_parser("train", help="train an adapter (samed-hf train --help)", add_help=False)
    _add_evaluate(commands)
    _add_predict(commands)
    _add_convert(commands)
    _add_compare(commands)
    _add_push(commands)
    check = commands.add_parser("doctor", help="what this machine has, what is missing, which models fit")
    check.add_argument("--json", action="store_true", help="as JSON")
    check.set_defaults(command="doctor")
    return parser


def _add_prepare(commands: argparse._SubParsersAction) -> None:
    kinds = commands.add_parser("prepare", help="make a data folder").add_subparsers(required=True, metavar="KIND")
    synapse = kinds.add_parser("synapse", help="raw BTCV scans to the Synapse layout")
    synapse.add_argument("raw", metavar="RAW_TRAINING_DIR", help="BTCV's RawData/Training, with img and label")
    synapse.add_argument("--output", required=True, metavar="DIR", help="folder to make")
    synapse.add_argument(
        "--train_size", type=int, default=224, help="side of the training slices in pixels; 0 keeps the scan's [224]"
    )
    synapse.set_defaults(command="prepare_synapse")
    phantom = kinds.add_parser("phantom", help="synthetic patients in the Synapse layout")
    phantom.add_argument("--output", required=True, metavar="DIR", help="folder to make")
    phantom.add_argument("--num_train", type=int, default=20, help="patients to train on [20]")
    phantom.add_argument("--num_test", type=int, default=6, help="patients to score [6]")
    phantom.add_argument("--seed", type=int, default=0, help="the same seed makes the same patients [0]")
    phantom.set_defaults(command="prepare_phantom")


def _add_validate(commands: argparse._SubParsersAction) -> None:
    validate = commands.add_parser("validate", help="look through a data set before training on it")
    validate.add_argument("data", metavar="DIR", help="data set in any layout that training reads, or a Hub id")
    validate.add_argument(
        "--output", metavar="DIR", help="folder for fingerprint.json, validation.html [outputs/validation-NAME]"
    )
    validate.add_argument(
        "--tolerance",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="how far image and label may lie apart, as a share of a voxel [0.1]",
    )
    validate.add_argument("--label_names", nargs="+", metavar="NAME", help="names of its labels, where no file is")
    validate.add_argument("--orientation", metavar="LPS", help="where the axes run to before scans are cut [LPS]")
    validate.add_argument("--plane", choices=("axial", "coronal", "sagittal"), help="slices to cut [axial]")
    validate.add_argument("--fold", type=int, metavar="K", help="which of the folds that it declares [0]")
    validate.add_argument("--dataset_config_name", metavar="NAME", help="configuration of a Hugging Face data set")
    for column, what in (("image", "images"), ("label", "label maps"), ("case", "which slices are of one case")):
        validate.add_argument(f"--{column}_column", metavar="NAME", help=f"its column: {what} [by the usual names]")
    validate.add_argument(
        "--model_name_or_path",
        metavar="DIR_OR_ID",
        help="plain SAM to train, whose memory is estimated [facebook/sam-vit-base]",
    )
    validate.set_defaults(command="validate")


def _add_evaluate(commands: argparse._SubParsersAction) -> None:
    evaluate = commands.add_parser("evaluate", help="score an adapter on volumes with labels")
    evaluate.add_argument("adapter", metavar="ADAPTER", help="folder or Hub id")
    evaluate.add_argument(
        "--data", required=True, metavar="DIR", help="data set in any layout that training reads, or a Hub id"
    )
    evaluate.add_argument(
        "--split", choices=("train", "validation", "test"), help="which cases [test, or else validation]"
    )
    evaluate.add_argument("--label_names", nargs="+", metavar="NAME", help="names of its labels, where no file is")
    evaluate.add_argument("--num_folds", type=int, metavar="N", help="score a fold, as it was held out in training")
    evaluate.add_argument("--fold", type=int, metavar="K", help="which one, from 0 [0]")
    evaluate.add_argument(
        "--output", required=True, metavar="DIR", help="folder for metrics.json, metrics.csv, pictures"
    )
    evaluate.add_argument("--protocol", choices=("strict", "samed"), default="strict", help="how to score [strict]")
    evaluate.add_argument(
        "--input_size",
        type=int,
        help="side in pixels slices are zoomed to on the way [the adapter's; the paper's is 224]",
    )
    _add_computing(evaluate)
    evaluate.set_defaults(command="evaluate")


def _add_predict(commands: argparse._SubParsersAction) -> None:
    predict = commands.add_parser("predict", help="segment scans")
    predict.add_argument("adapter", metavar="ADAPTER", help="folder or Hub id")
    predict.add_argument(
        "inputs", metavar="INPUT", nargs="+", help="NIfTI, NRRD, MHA, DICOM files, pictures, or folders of them"
    )
    predict.add_argument("--output", required=True, metavar="DIR", help="folder for the segmentations")
    predict.add_argument(
        "--format",
        choices=("nii.gz", "nii", "nrrd", "mha", "dcm"),
        help="of the segmentations [the scan's own: DICOM-SEG for DICOM, PNG for pictures]",
    )
    predict.add_argument("--labels", type=_names, metavar="A,B,…", help="labels to keep [all]")
    predict.add_argument("--per_class", action="store_true", help="a mask for each label too")
    predict.add_argument("--probabilities", action="store_true", help="each label's probability too, in a 4-D file")
    predict.add_argument(
        "--ensemble", nargs="+", default=[], metavar="ADAPTER", help="more adapters of the same labels, averaged"
    )
    predict.add_argument("--tta", action="store_true", help="test-time augmentation: average turned and mirrored views")
    predict.add_argument(
        "--keep_largest", type=_names, metavar="all|A,B,…", help="labels of which only the largest piece stays [none]"
    )
    predict.add_argument(
        "--min_island_ml", metavar="ML|A=ML,…", help="remove pieces smaller than this, of all labels or of some [none]"
    )
    _add_computing(predict)
    predict.add_argument("--overwrite", action="store_true", help="replace segmentations that are there already")
    predict.add_argument("--no_preview", action="store_true", help="no picture of each case")
    predict.add_argument("--no_report", action="store_true", help="no report.html")
    predict.set_defaults(command="predict")


def _add_convert(commands: argparse._SubParsersAction) -> None:
    help_text = "checkpoints of the original code, both ways"
    kinds = commands.add_parser("convert", help=help_text).add_subparsers(required=True, metavar="KIND")
    sam = kinds.add_parser("sam", help="original Segment Anything or MedSAM .pth to a SamModel folder")
    sam.add_argument("checkpoint", metavar="CHECKPOINT.pth", help="its sizes are read from its tensors")
    sam.add_argument("--output", required=True, metavar="DIR", help="folder of the model")
    sam.add_argument("--decoder_heads", type=int, default=8, help="heads of the mask decoder's attentions [8]")
    sam.add_argument(
        "--global_attn_indexes",
        type=_numbers,
        metavar="I,J,…",
        help="blocks with global attention, where the tensors can't tell [read from them]",
    )
    sam.set_defaults(command="convert_sam")
    samed = kinds.add_parser("samed", help="original SAMed or SAMed_s .pth to an adapter")
    samed.add_argument("checkpoint", metavar="CHECKPOINT.pth", help="variant, rank and labels are read from it")
    samed.add_argument("--base", required=True, metavar="DIR_OR_ID", help="the SAM it was trained on")
    samed.add_argument("--output", required=True, metavar="DIR", help="folder of the adapter")
    samed.add_argument("--image_size", type=int, default=512, help="side of the model's input in pixels [512]")
    samed.add_argument(
        "--input_size", type=int, default=224, help="side of the slices it was trained on; 0 for no such zoom [224]"
    )
    samed.add_argument(
        "--labels", type=_names, metavar="A,B,…", help="names of the organs, without the background [Synapse's for 8]"
    )
    samed.add_argument(
        "--orientation",
        metavar="LPS",
        help="how the scans lay that it was trained on; scans are brought into it [as they lie]",
    )
    samed.set_defaults(command="convert_samed")
    original = kinds.add_parser("original", help="adapter to the .pth that the original code loads")
    original.add_argument("adapter", metavar="ADAPTER", help="folder or Hub id")
    original.add_argument("--output", required=True, metavar="CHECKPOINT.pth", help="file to write")
    original.add_argument("--base", metavar="DIR_OR_ID", help="its base model [the one it names]")
    original.set_defaults(command="convert_original")


def _add_compare(commands: argparse._SubParsersAction) -> None:
    compare = commands.add_parser("compare", help="scores beside the paper's, organ by organ")
    compare.add_argument("metrics", metavar="METRICS.json", help="what samed-hf evaluate wrote, or its folder")
    compare.add_argument(
        "--preset", choices=("samed", "samed_s", "samed_h"), default="samed", help="which of the paper's runs [samed]"
    )
    compare.set_defaults(command="compare")


def _add_computing(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--batch_size",
        type=_batch_size,
        metavar="N|auto",
        help="slices through the model at once [auto: by the free memory]",
    )
    command.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "auto"),
        default="float32",
        help="that the model computes in; auto is bfloat16 where it is computed natively [float32]",
    )


def _batch_size(text: str) -> int | None:
    try:
        return None if text == "auto" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of slices: expected one, or auto") from None


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _add_push(commands: argparse._SubParsersAction) -> None:
    push = commands.add_parser("push", help="upload an adapter to the Hub")
    push.add_argument("adapter", metavar="ADAPTER", help="folder of the adapter")
    push.add_argument("--repo_id", required=True, metavar="NAME", help="user/name")
    push.add_argument("--private", action="store_true", help="make a new repository private")
    push.add_argument("--hub_token", metavar="TOKEN", help="token of the Hub [that of hf auth login or HF_TOKEN]")
    push.add_argument(
        "--dtype", choices=("float32", "float16", "bfloat16"), default="float32", help="of the weights [float32]"
    )
    push.add_argument("--base_model", metavar="USER/NAME", help="Hub name of the base model, where it is a folder here")
    push.add_argument("--base_revision", metavar="REVISION", help="its branch, tag or commit")
    push.add_argument(
        "--pictures",
        action=argparse.BooleanOptionalAction,
        help="overlay and example slices too [of synthetic data alone]",
    )
    push.add_argument("--with_handler", action="store_true", help="handler.py for Inference Endpoints")
    push.set_defaults(command="push")


def _train(argv: Sequence[str]) -> None:
    _start_processes(["train", *argv])
    from .train import train_command

    train_command(argv, prog="samed-hf train")


def _start_processes(argv: Sequence[str]) -> None:
    """Start the processes that `accelerate launch` was asked for on a CPU and didn't start."""
    from ..training.distributed.launching import processes_not_started, restart_in_processes

    missing = processes_not_started()
    if missing:
        restart_in_processes("samed_hf.cli", argv, missing)
    if missing is not None:
        print("note        accelerate launch started one process; torchrun --nproc_per_node=N starts N on a CPU")


def _run(args: argparse.Namespace, argv: Sequence[str]) -> int | None:
    if args.command == "predict":
        _start_processes(argv)
    if args.command == "doctor":  # which is to work where transformers doesn't
        from ..diagnostics.doctor import doctor

        return doctor(args)
    from transformers.utils import logging

    logging.disable_progress_bar()
    if args.command == "predict":
        from .predict import predict

        return predict(args)
    if args.command == "validate":
        from .validate import validate

        return validate(args)
    from . import commands

    return getattr(commands, args.command)(args)
