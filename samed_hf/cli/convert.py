"""`samed-hf convert`: checkpoints of the original code, both ways."""

from __future__ import annotations

import argparse

from ..utils.text import comma_separated
from .common import hide_loading_bars

__all__ = ["add_parser"]


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the arguments of `convert sam`, `convert samed` and `convert original`."""
    text = "checkpoints of the original code, both ways"
    kinds = commands.add_parser("convert", help=text).add_subparsers(required=True, metavar="KIND")

    sam = kinds.add_parser("sam", help="original Segment Anything or MedSAM .pth to a SamModel directory")
    sam.add_argument("checkpoint", metavar="CHECKPOINT.pth", help="its sizes are read from its tensors")
    sam.add_argument("--output", required=True, metavar="DIR", help="directory of the model")
    sam.add_argument("--decoder_heads", type=int, default=8, help="heads of the mask decoder's attentions [8]")
    text = "blocks with global attention, if the tensors leave them open [read from the tensors]"
    sam.add_argument("--global_attn_indexes", type=_numbers, metavar="I,J,…", help=text)
    sam.set_defaults(run=_convert_sam)

    samed = kinds.add_parser("samed", help="original SAMed or SAMed_s .pth to an adapter")
    add = samed.add_argument
    add("checkpoint", metavar="CHECKPOINT.pth", help="variant, rank and labels are read from it")
    add("--base", required=True, metavar="DIR_OR_ID", help="the SAM it was trained on")
    add("--output", required=True, metavar="DIR", help="directory of the adapter")
    add("--image_size", type=int, default=512, help="side of the model's input in pixels [512]")
    text = "side of the slices it was trained on; 0 for no such zoom [224]"
    add("--input_size", type=int, default=224, help=text)
    text = "names of the organs, without the background [Synapse's for 8]"
    add("--labels", type=comma_separated, metavar="A,B,…", help=text)
    text = "orientation of the scans it was trained on, into which scans are brought [as stored]"
    add("--orientation", metavar="LPS", help=text)
    samed.set_defaults(run=_convert_samed)

    original = kinds.add_parser("original", help="adapter to the .pth that the original code loads")
    original.add_argument("adapter", metavar="ADAPTER", help="directory or Hub id")
    original.add_argument("--output", required=True, metavar="CHECKPOINT.pth", help="file to write")
    original.add_argument("--base", metavar="DIR_OR_ID", help="its base model [the one it names]")
    original.set_defaults(run=_convert_original)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _convert_sam(args: argparse.Namespace) -> None:
    hide_loading_bars()
    from ..convert import convert_sam

    options = {"decoder_heads": args.decoder_heads, "global_attn_indexes": args.global_attn_indexes}
    print(f"wrote {convert_sam(args.checkpoint, args.output, **options)}")


def _convert_samed(args: argparse.Namespace) -> None:
    hide_loading_bars()
    from ..convert import convert_samed

    options = {"image_size": args.image_size, "input_size": args.input_size or None, "orientation": args.orientation}
    path = convert_samed(args.checkpoint, args.base, args.output, labels=args.labels, **options)
    print(f"wrote {path}")


def _convert_original(args: argparse.Namespace) -> None:
    hide_loading_bars()
    from ..convert import convert_original

    print(f"wrote {convert_original(args.adapter, args.output, base=args.base)}")
