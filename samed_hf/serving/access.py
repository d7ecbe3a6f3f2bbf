"""Who may send requests, how many and how large: ASGI middleware of the server."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import math
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from fastapi import Request
from fastapi.responses import JSONResponse
from limits import RateLimitItem, parse
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

__all__ = ["BoundedBodies", "Gate", "has_token", "is_loopback", "parse_rate", "same_token"]

_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine only."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Gate:
    """Middleware that refuses requests before their bodies are read: with 401, 403 or 429.

    Args:
        app: the application.
        token: that requests have to present, or `None` for none.
        rate: the most requests of a client, e.g. "600/minute".
        origins: of the pages, such as OHIF's, that may send requests from a browser.
        open_paths: what needs no token.
    """

    def __init__(
        self, app: Any, *, token: str | None, rate: str, origins: Sequence[str] = (), open_paths: Sequence[str] = ()
    ) -> None:
        self.app, self.token, self.origins, self.open_paths = app, token, origins, open_paths
        self.rate = parse_rate(rate)
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Pass a request on, or refuse it."""
        refusal = self._refusal(Request(scope)) if scope["type"] == "http" else None
        await (refusal or self.app)(scope, receive, send)

    def _refusal(self, request: Request) -> JSONResponse | None:
        client = request.client.host if request.client else ""
        if not self._limiter.hit(self.rate, client):
            reset = self._limiter.get_window_stats(self.rate, client).reset_time
            wait = max(1, math.ceil(reset - time.time()))
            return refuse(429, f"More than {self.rate}: try again later.", {"Retry-After": str(wait)})
        origin = request.headers.get("origin")
        # A page of another site can send forms to a server on this machine, without asking.
        if origin and origin not in self.origins and urlsplit(origin).netloc != request.headers.get("host"):
            return refuse(403, f"Requests from pages of {origin!r:.100} are refused: start with --allow_origin.")
        authorized = self.token is None or has_token(request, self.token)
        if not authorized and request.url.path not in self.open_paths and request.method != "OPTIONS":
            return refuse(401, "The token is missing or wrong.", {"WWW-Authenticate": "Bearer"})
        return None


def has_token(request: Request, token: str) -> bool:
    """Whether a request presents the token; compared in constant time."""
    return same_token(request.headers.get("authorization", "").partition(" ")[2], token)


def same_token(given: str, token: str) -> bool:
    """Compare two tokens in constant time."""
    return hmac.compare_digest(given.encode(), token.encode())


def parse_rate(rate: str) -> RateLimitItem:
    """Parse e.g. "600/minute"; a `ValueError` for anything else."""
    try:
        return parse(rate)
    except ValueError as error:
        raise ValueError(f"rate is {rate!r}: expected a number and a unit of time, e.g. 600/minute.") from error


def refuse(status: int, reason: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The answer to a refused request, after which the connection is closed: its body isn't read."""
    return JSONResponse({"detail": reason}, status, {"Connection": "close", **(headers or {})})


class BoundedBodies:
    """Limits of the bodies of requests: the size of each and of all together, and the time to receive one.

    413 answers a body that is too large, 408 one that is too slow, and 503 one for which there is no room now.
    """

    def __init__(self, app: Any, *, max_bytes: int, max_total: int, seconds: float) -> None:
        self.app, self.max_bytes, self.max_total, self.seconds = app, max_bytes, max_total, seconds
        self.in_use = 0

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Pass a request on, and count what it receives."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        received = 0
        deadline = time.monotonic() + self.seconds
        complete = started = False

        async def bounded_receive() -> MutableMapping[str, Any]:
            nonlocal received, complete
            if complete:  # what follows the body is the client's disconnection
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, deadline - time.monotonic()))
            except asyncio.TimeoutError:
                raise _Refused(408, f"The body took longer than {self.seconds:g} s.") from None
            size = len(message.get("body", b""))
            received += size
            self.in_use += size
            if received > self.max_bytes:
                raise _Refused(413, f"The body has more than {self.max_bytes:,} bytes.")
            if self.in_use > self.max_total:
                raise _Refused(503, "Other uploads take the room: try again later.")
            complete = not message.get("more_body", False)
            return message

        async def noted_send(message: MutableMapping[str, Any]) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            length = dict(scope["headers"]).get(b"content-length", b"0")
            if length.isdigit() and int(length) > self.max_bytes:
                raise _Refused(413, f"The body has more than {self.max_bytes:,} bytes.")
            await self.app(scope, bounded_receive, noted_send)
        except _Refused as refused:
            if not started:
                headers = {"Retry-After": "5"} if refused.status == 503 else {}
                await refuse(refused.status, refused.reason, headers)(scope, receive, send)
        finally:
            self.in_use -= received


class _Refused(BaseException):
    """Not an `Exception`, which the application would turn into an answer of its own."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason
