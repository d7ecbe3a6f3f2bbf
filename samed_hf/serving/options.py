"""The options of a server: their arguments, the settings that they ask for, and its socket."""

from __future__ import annotations

import argparse
import logging
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from ..utils.text import comma_separated

if TYPE_CHECKING:
    from .app import ServerSettings

__all__ = ["add_arguments", "open_socket", "server_settings"]

logger = logging.getLogger(__name__)

_TOKEN = "SAMED_TOKEN"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of a server, which `examples/serve/ray_serve.py` has too."""
    add = parser.add_argument
    text = "directory or Hub id of an adapter, named after its last part; or NAME=SOURCE. No other is ever loaded"
    add("adapters", metavar="ADAPTER", nargs="+", help=text)
    text = "the datastore: a directory of scans, or an archive, dicomweb+URL [none: clients send scans]"
    add("--studies", metavar="DIR|URL", help=text)
    add("--downloads", type=Path, metavar="DIR", help="directory for the series of an archive and their labels")
    add("--host", default="127.0.0.1", help="address to listen on; others than loopback need a token [127.0.0.1]")
    add("--port", type=int, default=8000, help="port to listen on; 0 chooses a free one [8000]")
    add("--token", help=f"that clients have to present, at least 8 characters [the environment's {_TOKEN}, or none]")
    add("--ssl_certfile", type=Path, metavar="FILE", help="certificate, to serve HTTPS")
    add("--ssl_keyfile", type=Path, metavar="FILE", help="the certificate's key")
    text = "pages that may send requests from a browser, e.g. OHIF's https://ohif.example.org [none]"
    add("--allow_origin", type=comma_separated, default=(), metavar="URL,…", help=text)
    add("--allow_delete", action="store_true", help="let clients remove images from the datastore")
    add("--rate", default="600/minute", help="the most requests of a client [600/minute]")
    add("--max_waiting", type=int, default=64, metavar="N", help="the most requests that wait for the model [64]")
    add("--max_batch", type=int, default=16, metavar="N", help="requests whose slices share batches; 1: none [16]")
    add("--max_upload_mb", type=int, default=1024, metavar="MB", help="the largest request [1024]")
    add("--body_seconds", type=float, default=300.0, metavar="S", help="seconds in which a request has to arrive [300]")
    add("--max_loaded", type=int, default=16, metavar="N", help="the most adapters in memory [16]")
    add(
        "--batch_size",
        type=int,
        metavar="N",
        help="slices that go through the model at once [at most 8, by the memory]",
    )
    text = "data type of the model; auto is bfloat16 where the device computes it natively [float32]"
    add("--dtype", choices=("float32", "bfloat16", "auto"), default="float32", help=text)
    text = "directory or Hub id of the adapters' base model [the one that each names]"
    add("--base_model_name_or_path", metavar="BASE", help=text)


def server_settings(args: argparse.Namespace) -> ServerSettings:
    """The settings that the arguments ask for.

    Raises:
        ValueError: other machines would reach a server without a token.
        FileNotFoundError: the certificate or its key is no file.
    """
    from .access import is_loopback
    from .app import ServerSettings
    from .jobs import WorkerSettings, name_adapters

    token = args.token or os.environ.get(_TOKEN) or None
    if token is None and not is_loopback(args.host):
        raise ValueError(
            f"--host is {args.host!r}, which other machines reach: give --token or {_TOKEN}, or listen on 127.0.0.1."
        )
    if token is not None and not is_loopback(args.host) and args.ssl_certfile is None:
        logger.warning("the token crosses the network unencrypted: give --ssl_certfile, or put a TLS proxy in front")
    for name in ("ssl_certfile", "ssl_keyfile"):
        if (file := getattr(args, name)) is not None and not file.is_file():
            raise FileNotFoundError(f"--{name} {str(file)!r} is no file.")
    worker = WorkerSettings(
        name_adapters(args.adapters),
        max_loaded=args.max_loaded,
        dtype=args.dtype,
        base_model_name_or_path=args.base_model_name_or_path,
        batch_size=args.batch_size,
    )
    return ServerSettings(
        studies=args.studies,
        downloads=args.downloads,
        token=token,
        rate=args.rate,
        origins=args.allow_origin,
        max_waiting=args.max_waiting,
        max_batch=args.max_batch,
        max_upload=args.max_upload_mb << 20,
        body_seconds=args.body_seconds,
        allow_delete=args.allow_delete,
        worker=worker,
    )


def open_socket(host: str, port: int) -> socket.socket:
    """Open the port, so that an error is one line, and a free port is known; an `OSError` if it is in use."""
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    # Only with the protocol stated does asyncio turn off Nagle's algorithm, which delays answers by 40 ms.
    listening = socket.socket(family, kind, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(address)
    except OSError as error:
        listening.close()
        raise OSError(f"--host {host} --port {port} can't be listened on ({error.strerror}).") from error
    return listening
