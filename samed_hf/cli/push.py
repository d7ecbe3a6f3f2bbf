"""`samed-hf push`: an adapter uploaded to the Hub."""

from __future__ import annotations

import argparse

__all__ = ["add_parser", "run"]


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command's arguments."""
    parser = commands.add_parser("push", help="upload an adapter to the Hub")
    parser.add_argument("adapter", metavar="ADAPTER", help="directory of the adapter")
    parser.add_argument("--repo_id", required=True, metavar="NAME", help="user/name")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--hub_token", metavar="TOKEN", help="token of the Hub [that of hf auth login or HF_TOKEN]")
    parser.add_argument(
        "--dtype", choices=("float32", "float16", "bfloat16"), default="float32", help="of the weights [float32]"
    )
    parser.add_argument(
        "--base_model", metavar="USER/NAME", help="Hub name of the base model, if the adapter names a local directory"
    )
    parser.add_argument("--base_revision", metavar="REVISION", help="its branch, tag or commit")
    parser.add_argument(
        "--pictures",
        action=argparse.BooleanOptionalAction,
        help="upload overlay and example slices [those of synthetic data only]",
    )
    parser.add_argument("--with_handler", action="store_true", help="add handler.py for Inference Endpoints")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Upload the adapter and print its address."""
    from ..hub import push_adapter

    address = push_adapter(
        args.adapter,
        args.repo_id,
        private=args.private or None,
        token=args.hub_token,
        dtype=args.dtype,
        base_model=args.base_model,
        base_revision=args.base_revision,
        images=args.pictures,
        with_handler=args.with_handler,
    )
    print(f"pushed      {address}")
