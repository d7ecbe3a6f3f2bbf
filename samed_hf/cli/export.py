"""`samed-hf export`: an adapter as a file for other runtimes."""

from __future__ import annotations

import argparse

from .common import hide_loading_bars

__all__ = ["add_parser", "run"]


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command's arguments."""
    parser = commands.add_parser("export", help="write an adapter and its base as ONNX, or a page that runs it")
    add = parser.add_argument
    add("adapter", metavar="ADAPTER", help="directory or Hub id")
    add("--output", required=True, metavar="DIR", help="new directory, or an earlier export, which is replaced")
    text = "onnx: model.onnx; browser: a static page, also a Space, that segments in its reader's browser [onnx]"
    add("--format", choices=("onnx", "browser"), default="onnx", help=text)
    text = "float32 gives PyTorch's logits; float16 is half as large, int8 a third [float32; of a page float16]"
    add("--precision", choices=("float32", "float16", "int8"), help=text)
    text = "whether the page has copies of its libraries, or loads them from cdn.jsdelivr.net [copies]"
    add("--vendor", action=argparse.BooleanOptionalAction, default=None, help=text)
    add("--opset", type=int, default=20, metavar="N", help="version of ONNX's operators [20]")
    text = "data set for the comparison with PyTorch and the calibration of int8 [phantoms]"
    add("--data_dir", metavar="DIR", help=text)
    text = "least share of the object's pixels that keep their label [0.98]"
    add("--min_agreement", type=float, default=0.98, metavar="SHARE", help=text)
    add("--force", action="store_true", help="write a model of less agreement")
    text = "directory or Hub id of the adapter's base model [the one that the adapter names]"
    add("--base_model_name_or_path", metavar="BASE", help=text)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Write the file, and print how it compares with PyTorch."""
    hide_loading_bars()
    from ..export import export_adapter, export_page

    names = ("opset", "data_dir", "min_agreement", "force", "base_model_name_or_path")
    options = {name: getattr(args, name) for name in names}
    if args.format == "browser":
        precision, vendor = args.precision or "float16", args.vendor is not False
        export_page(args.adapter, args.output, precision=precision, vendor=vendor, **options)
        print(f"wrote       {args.output}/index.html: python -m http.server -d {args.output}", flush=True)
        return
    if args.vendor is not None:
        raise ValueError("--vendor is of a page: give --format browser too, or leave it out.")
    export_adapter(args.adapter, args.output, precision=args.precision or "float32", **options)
    print(f"wrote       {args.output}/model.onnx", flush=True)
