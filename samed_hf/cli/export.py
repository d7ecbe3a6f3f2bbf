"""`samed-hf export`: an adapter as a file for other runtimes."""

from __future__ import annotations

import argparse

from .common import hide_loading_bars

__all__ = ["add_parser", "run"]


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command's arguments."""
    parser = commands.add_parser("export", help="write an adapter and its base as ONNX")
    add = parser.add_argument
    add("adapter", metavar="ADAPTER", help="directory or Hub id")
    add("--output", required=True, metavar="DIR", help="directory for model.onnx, which is replaced")
    add("--format", choices=("onnx",), default="onnx", help="what to write [onnx]")
    text = "float32 gives PyTorch's logits; float16 is half as large, int8 a quarter [float32]"
    add("--precision", choices=("float32", "float16", "int8"), default="float32", help=text)
    add("--opset", type=int, default=20, metavar="N", help="version of ONNX's operators [20]")
    text = "data set for the comparison with PyTorch and the calibration of int8 [phantoms]"
    add("--data_dir", metavar="DIR", help=text)
    text = "least share of the object's pixels that keep their label [0.99]"
    add("--min_agreement", type=float, default=0.99, metavar="SHARE", help=text)
    add("--force", action="store_true", help="write a model of less agreement")
    text = "directory or Hub id of the adapter's base model [the one that the adapter names]"
    add("--base_model_name_or_path", metavar="BASE", help=text)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Write the file, and print how it compares with PyTorch."""
    hide_loading_bars()
    from ..export import export_adapter

    names = ("precision", "opset", "data_dir", "min_agreement", "force", "base_model_name_or_path")
    export_adapter(args.adapter, args.output, **{name: getattr(args, name) for name in names})
    print(f"wrote       {args.output}/model.onnx", flush=True)
