"""What the routes share: the service, the options of a form, and errors as statuses of HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fastapi import HTTPException, Request

from ...utils.text import printable
from ...volumes import ScanFile
from ..engine import BusyError, WorkerDiedError
from ..jobs import Reply
from ..studies import Studies

if TYPE_CHECKING:
    from ..service import Service

__all__ = [
    "as_bad_request",
    "as_not_found",
    "find_stored",
    "get_service",
    "get_studies",
    "parse_options",
    "wait_for",
]


def get_service(request: Request) -> Service:
    """The server's state."""
    service: Service = request.app.state.service
    return service


def get_studies(request: Request) -> Studies:
    """The datastore; 404 without one."""
    studies = get_service(request).studies
    if studies is None:
        raise HTTPException(404, "This server has no datastore: start it with --studies.")
    return studies


async def find_stored(service: Service, image: str) -> ScanFile:
    """A scan of the datastore."""
    if service.studies is None:
        raise HTTPException(404, "This server has no datastore: start it with --studies, or send the image as file.")
    with as_not_found("image", image), as_bad_request():
        return await asyncio.to_thread(service.studies.scan, image)


async def wait_for(request: Request, work: Awaitable[Reply]) -> Reply:
    """Wait for the worker as long as the client does; the worker's errors become statuses."""
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=1.0)
            if not task.done() and await request.is_disconnected():
                raise HTTPException(499, "The client has gone.")
        reply = task.result()
    except (BusyError, WorkerDiedError) as error:
        raise HTTPException(503, str(error), {"Retry-After": "5"}) from error
    finally:
        task.cancel()
    if reply.error is not None:
        raise HTTPException(503 if reply.is_fault else 400, reply.error, {"Retry-After": "60"})
    return reply


def parse_options(params: str) -> dict[str, Any]:
    """The JSON object of a form's field `params`."""
    try:
        options = json.loads(params or "{}")
    except (ValueError, RecursionError):
        options = None
    if not isinstance(options, dict):
        raise HTTPException(400, f"params is {params!r:.100}: expected a JSON object.")
    return options


@contextmanager
def as_bad_request() -> Iterator[None]:
    """Turn a `ValueError` into the status 400."""
    try:
        yield
    except ValueError as error:
        raise HTTPException(400, str(error)) from error
    except FileNotFoundError as error:
        raise HTTPException(404, str(error)) from error


@contextmanager
def as_not_found(what: str, name: str) -> Iterator[None]:
    """Turn a `KeyError` into the status 404."""
    try:
        yield
    except KeyError as error:
        raise HTTPException(404, f"There is no {what} {printable(name)!r:.100}.") from error
