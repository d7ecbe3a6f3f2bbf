"""`samed-hf push`: an adapter uploaded to the Hub."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

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
    text = "publish a page that runs the adapter in its reader's browser, as a static Space"
    add("--with_browser", action="store_true", help=text)
    text = "the page, written by samed-hf export --format browser [exported now, in float16]"
    add("--browser_site", metavar="DIR", help=text)
    add("--browser_space", metavar="USER/NAME", help="name of the page's Space [that of --repo_id]")
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
    options += ("license", "base_license", "data_license", "revision", "create_pr", "browser_space")
    values = {name: getattr(args, name) for name in options}
    address = push_adapter(args.adapter, args.repo_id, page=_find_page(args), **values)
    print(f"pushed      {address}")


def _find_page(args: argparse.Namespace) -> str | Callable[[Path], object] | None:
    """The page to publish, or the function that writes it."""
    if not args.with_browser:
        if given := [f"--{name}" for name in ("browser_site", "browser_space") if getattr(args, name)]:
            raise ValueError(f"{given[0]} is of a page: give --with_browser too, or leave it out.")
        return None
    if args.browser_site is None:
        from ..export import export_page

        return lambda directory: export_page(args.adapter, directory)
    from ..hub.card import read_json
    from ..inference import Segmenter

    found = read_json(Path(args.browser_site) / "config.json", required=True).get("fingerprint")
    if found != Segmenter.load([args.adapter]).fingerprints()[0]:
        raise ValueError(f"--browser_site {args.browser_site} is the page of another model: export it again.")
    return str(args.browser_site)
