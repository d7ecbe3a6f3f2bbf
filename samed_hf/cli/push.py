"""`samed-hf push`: an adapter uploaded to the Hub."""

from __future__ import annotations

import argparse

__all__ = ["add_parser", "run"]


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command's arguments."""
    parser = commands.add_parser("push", help="upload an adapter to the Hub")
    add, dtypes = parser.add_argument, ("float32", "float16", "bfloat16")
    add("adapter", metavar="ADAPTER", help="directory of the adapter")
    add("--repo_id", required=True, metavar="NAME", help="user/name")
    add("--private", action="store_true", default=None, help="make a new repository private")
    add("--hub_token", metavar="TOKEN", dest="token", help="token of the Hub [that of hf auth login or HF_TOKEN]")
    add("--dtype", choices=dtypes, default="float32", help="of the weights [float32]")
    text = "Hub name of the base model, if the adapter names a local directory"
    add("--base_model", metavar="USER/NAME", help=text)
    add("--base_revision", metavar="REVISION", help="its branch, tag or commit")
    text = "upload overlay and example slices [those of synthetic data only]"
    add("--pictures", action=argparse.BooleanOptionalAction, dest="images", help=text)
    add("--with_handler", action="store_true", help="add handler.py for Inference Endpoints")
    add("--source", metavar="URL", help="git+https://…@COMMIT to install samed_hf from [where it was installed from]")
    for flag, what in (("license", "adapter's weights"), ("base_license", "base model"), ("data_license", "data")):
        add(f"--{flag}", metavar="ID", help=f"licence of the {what}, e.g. apache-2.0 [the training's, else unknown]")
    add("--revision", metavar="BRANCH", help="branch to commit to [main]")
    add("--create_pr", action="store_true", help="open a pull request instead")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Upload the adapter and print its address."""
    from ..hub import push_adapter

    options = ["private", "token", "dtype", "base_model", "base_revision", "images", "with_handler", "source"]
    options += ("license", "base_license", "data_license", "revision", "create_pr")
    address = push_adapter(args.adapter, args.repo_id, **{name: getattr(args, name) for name in options})
    print(f"pushed      {address}")
