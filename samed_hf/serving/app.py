"""The server's application: MONAI Label's API, health, metrics and access."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Form, HTTPException, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.middleware.trustedhost import TrustedHostMiddleware

from ..volumes.dicom.web import is_address
from .access import BoundedBodies, Gate, has_token, parse_rate, same_token
from .engine import Engine
from .jobs import WorkerSettings
from .monai_label import datastore_router, models_router
from .service import Metrics, Observed, Service
from .studies import ArchiveStudies, Studies

__all__ = ["ServerSettings", "create_app"]

logger = logging.getLogger(__name__)

_OPEN = ("/health", "/ready", "/auth/", "/auth/token", "/docs", "/openapi.json")
_LOOPBACK_NAMES = ["localhost", "127.0.0.1", "[::1]", "::1"]


@dataclass(frozen=True)
class ServerSettings:
    """How a server is reached and bounded.

    Attributes:
        studies: Directory of the datastore, or address `dicomweb+http://…` of an archive; `None` for none.
        downloads: Directory for the series of an archive, and for their label maps.
        token: That requests have to present; without one the server answers to names of this machine only.
        rate: The most requests of a client.
        origins: Of the pages that may send requests from a browser.
        max_waiting: The most requests that wait for the worker.
        max_batch: The most requests whose slices share batches; 1 turns it off.
        max_upload: The most bytes of a request's body.
        body_seconds: The longest time in which a body arrives.
        allow_delete: Whether clients may remove images.
    """

    studies: str | None = None
    downloads: Path | None = None
    token: str | None = None
    rate: str = "600/minute"
    origins: tuple[str, ...] = ()
    max_waiting: int = 64
    max_batch: int = 16
    max_upload: int = 1 << 30
    body_seconds: float = 300.0
    allow_delete: bool = False
    worker: WorkerSettings = field(default_factory=lambda: WorkerSettings({}))

    def __post_init__(self) -> None:
        """Check what can be checked."""
        parse_rate(self.rate)
        if self.token is not None and len(self.token) < 8:
            raise ValueError("token has fewer than 8 characters: give a long random one, e.g. of openssl rand -hex 32.")
        for name in ("max_waiting", "max_batch", "max_upload", "body_seconds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: expected at least 1.")


def create_app(settings: ServerSettings, engine: Engine | None = None) -> FastAPI:
    """Make the application; its lifespan starts the worker and loads every adapter once.

    Args:
        settings: how the server is reached and bounded.
        engine: what segments; by default an [`Engine`] of one worker process. Another one has the same methods, e.g.
            that of `examples/serve/ray_serve.py`.

    Raises:
        FileNotFoundError: the directory of studies does not exist.
    """
    version = import_module(__package__.partition(".")[0]).__version__
    engine = engine or Engine(settings.worker, max_waiting=settings.max_waiting, max_batch=settings.max_batch)
    studies = None if settings.studies is None else _open_studies(settings.studies, settings.downloads)
    service = Service(engine, version, studies, allow_delete=settings.allow_delete)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        package_log = logging.getLogger(__package__.partition(".")[0])
        package_log.addHandler(service.log)
        try:
            async with engine:
                await _describe_models(service)
                sweep = asyncio.create_task(_remove_expired(service))
                try:
                    yield
                finally:
                    sweep.cancel()
        except Exception as error:
            service.failure = error
            raise
        finally:
            service.sessions.close()
            package_log.removeHandler(service.log)

    app = FastAPI(title="samed_hf", version=version, lifespan=lifespan, redoc_url=None)
    app.state.service, app.state.metrics = service, Metrics(engine)
    app.include_router(models_router)
    app.include_router(datastore_router)
    _add_operation(app, settings)
    app.add_exception_handler(ConnectionError, _no_archive)
    app.add_exception_handler(Exception, _unexpected)
    bodies = {"max_bytes": settings.max_upload, "max_total": 4 * settings.max_upload}
    app.add_middleware(BoundedBodies, **bodies, seconds=settings.body_seconds)
    gate: dict[str, Any] = {"token": settings.token, "rate": settings.rate, "origins": settings.origins}
    app.add_middleware(Gate, **gate, open_paths=_OPEN)
    if settings.token is None:  # a page whose name resolves to this machine has another host
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=_LOOPBACK_NAMES)
    app.add_middleware(CORSMiddleware, allow_origins=settings.origins, allow_methods=["*"], allow_headers=["*"])
    app.add_middleware(Observed, metrics=app.state.metrics)
    return app


async def _remove_expired(service: Service) -> None:
    while True:
        await asyncio.sleep(60)
        service.sessions.remove_expired()


def _open_studies(source: str, downloads: Path | None) -> Studies:
    if not is_address(source):
        return Studies(source)
    if downloads is None:
        raise ValueError(f"--studies is {source!r}: give --downloads, a directory for its series and their labels.")
    return ArchiveStudies(source, downloads)


async def _describe_models(service: Service) -> None:
    for name in service.engine.settings.sources:
        service.models[name] = await service.engine.describe(name)
        labels = ", ".join(service.models[name]["labels"])
        logger.info("model       %s: %s", name, labels)
    if service.studies is not None:
        channels = {max(1, len(about["channels"])) for about in service.models.values()}
        if len(channels) > 1:
            raise ValueError(
                f"The adapters expect scans of {sorted(channels)} channels: serve those of one number with --studies."
            )
        service.studies.num_channels = channels.pop()
        await asyncio.to_thread(service.studies.list_scans)


def _add_operation(app: FastAPI, settings: ServerSettings) -> None:
    """Add the routes for those who run the server, and MONAI Label's for the token."""

    @app.get("/health", tags=["Operation"])
    async def health() -> dict[str, str]:
        """The server answers."""
        return {"status": "ok"}

    @app.get("/ready", tags=["Operation"])
    async def ready(request: Request) -> dict[str, str]:
        """Adapters are loaded, and there is room for a request."""
        engine = request.app.state.service.engine
        if engine.waiting >= engine.max_waiting:
            raise HTTPException(503, "As many requests wait as the server accepts.", {"Retry-After": "5"})
        return {"status": "ready"}

    @app.get("/metrics", tags=["Operation"])
    async def metrics(request: Request) -> Response:
        """In Prometheus' text format."""
        return Response(generate_latest(request.app.state.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/auth/", tags=["Token"])
    async def auth() -> dict[str, Any]:
        """Whether there is a token."""
        return {"enabled": settings.token is not None, "client_id": "samed_hf", "realm": "samed_hf"}

    @app.post("/auth/token", tags=["Token"])
    async def login(password: Annotated[str, Form()] = "") -> dict[str, Any]:
        """Exchange the password, which is the token, for the token."""
        if settings.token is None:
            return {"access_token": None, "token_type": None}
        if not same_token(password, settings.token):
            raise HTTPException(401, "The password is not the server's token.", {"WWW-Authenticate": "Bearer"})
        return {"access_token": settings.token, "token_type": "bearer"}

    @app.get("/auth/token/valid", tags=["Token"])
    async def valid(request: Request) -> dict[str, Any]:
        """Whether the request has the token; 401 if not."""
        return {"valid": settings.token is None or has_token(request, settings.token)}


async def _no_archive(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 502, {"Retry-After": "30"})


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    # The message may hold the name of a file, and so of a patient.
    frames = [f"{Path(one.filename).name}:{one.lineno}" for one in traceback.extract_tb(error.__traceback__)]
    logger.error("%s at %s", type(error).__name__, " ".join(frames[-5:]))
    return JSONResponse({"detail": "The server failed unexpectedly; its log says more."}, 500)
