"""`samed-hf serve`: adapters behind MONAI Label's API."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ..serving.options import add_arguments, open_socket, server_settings
from ..utils.text import name_some

if TYPE_CHECKING:
    import uvicorn

__all__ = ["add_parser", "run"]

_PACKAGES = {"fastapi": "fastapi", "uvicorn": "uvicorn", "limits": "limits", "prometheus_client": "prometheus-client"}


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command's arguments."""
    parser = commands.add_parser("serve", help="serve adapters to 3D Slicer, OHIF and other clients of MONAI Label")
    add_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until the process is interrupted."""
    _check_packages()
    import uvicorn

    from ..serving.app import create_app

    app = create_app(server_settings(args))
    config = uvicorn.Config(
        app,
        host=args.host,
        port=args.port,
        ssl_certfile=args.ssl_certfile,
        ssl_keyfile=args.ssl_keyfile,
        loop="asyncio",
        http="h11",
        access_log=False,  # its lines hold the ids of images, which may be names of patients
        server_header=False,
        log_level="critical",  # the application logs what fails, and how a start failed is printed in one line
        limit_concurrency=4 * args.max_waiting,
    )
    try:
        _serve(uvicorn.Server(config), args)
    except SystemExit:  # uvicorn's way to end when the application doesn't start
        if (failure := app.state.service.failure) is not None:
            raise failure from None
        raise
    return 0


def _serve(server: uvicorn.Server, args: argparse.Namespace) -> None:
    """Listen, and print the address once the adapters are loaded."""
    import asyncio

    listening = open_socket(args.host, args.port)
    scheme = "https" if args.ssl_certfile else "http"
    host = f"[{args.host}]" if ":" in args.host else args.host
    address = f"{scheme}://{host}:{listening.getsockname()[1]}"

    async def announce() -> None:
        while not server.started and not server.should_exit:
            await asyncio.sleep(0.05)
        if server.started:
            print(f"serving     {address}, its API at {address}/docs", flush=True)

    async def main() -> None:
        task = asyncio.create_task(announce())
        try:
            await server.serve(sockets=[listening])
        finally:
            task.cancel()

    asyncio.run(main())


def _check_packages() -> None:
    from importlib.util import find_spec

    if missing := [package for module, package in _PACKAGES.items() if find_spec(module) is None]:
        raise ImportError(f"serve needs {name_some(missing)}: pip install 'samed_hf[serve]'.")
