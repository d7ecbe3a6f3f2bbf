"""`samed-hf prepare`: data sets in the Synapse layout."""

from __future__ import annotations

import argparse

__all__ = ["add_parser"]


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the arguments of `prepare synapse` and `prepare phantom`."""
    kinds = commands.add_parser("prepare", help="make a data set").add_subparsers(required=True, metavar="KIND")
    synapse = kinds.add_parser("synapse", help="raw BTCV scans to the Synapse layout")
    synapse.add_argument("raw", metavar="RAW_TRAINING_DIR", help="BTCV's RawData/Training, with img and label")
    synapse.add_argument("--output", required=True, metavar="DIR", help="directory to create")
    text = "side of the training slices in pixels; 0 keeps the scan's [224]"
    synapse.add_argument("--train_size", type=int, default=224, help=text)
    synapse.set_defaults(run=_prepare_synapse)
    phantom = kinds.add_parser("phantom", help="synthetic patients in the Synapse layout")
    phantom.add_argument("--output", required=True, metavar="DIR", help="directory to create")
    phantom.add_argument("--num_train", type=int, default=20, help="patients to train on [20]")
    phantom.add_argument("--num_test", type=int, default=6, help="patients to score [6]")
    phantom.add_argument("--seed", type=int, default=0, help="the same seed makes the same patients [0]")
    phantom.set_defaults(run=_prepare_phantom)


def _prepare_synapse(args: argparse.Namespace) -> None:
    from ..data import prepare_synapse

    if args.train_size < 0 or args.train_size == 1:
        raise ValueError(f"--train_size is {args.train_size}: expected a side in pixels, or 0 to keep the scan's own.")
    prepare_synapse(args.raw, args.output, train_size=args.train_size or None)


def _prepare_phantom(args: argparse.Namespace) -> None:
    from ..data import prepare_phantom

    prepare_phantom(args.output, num_train=args.num_train, num_test=args.num_test, seed=args.seed)
    print(f"{args.num_train} patients to train on and {args.num_test} to score in {args.output}")
