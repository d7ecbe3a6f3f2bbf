"""The state of a server, its log and its metrics."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import psutil
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .engine import Engine
from .studies import Studies
from .uploads import Sessions

__all__ = ["LogLines", "Metrics", "Observed", "Service"]

logger = logging.getLogger(__name__)

_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS")


class LogLines(logging.Handler):
    """Keeps the last lines of the server's log."""

    def __init__(self, most: int = 10_000) -> None:
        super().__init__()
        self._lines: deque[str] = deque(maxlen=most)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self._lines.append(self.format(record))

    def lines(self, count: int) -> list[str]:
        """The last `count` lines."""
        return list(self._lines)[-count:]


class Metrics(Collector):
    """Prometheus metrics of requests, of the worker and of memory."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.registry = engine, CollectorRegistry()
        labels = ["method", "route"]
        self.requests = Counter("samed_requests", "Requests", [*labels, "status"], registry=self.registry)
        self.seconds = Histogram(
            "samed_request_seconds",
            "Seconds of requests",
            labels,
            registry=self.registry,
            buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300),
        )
        self.registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """What is read when it is asked for."""
        found = self.engine.statistics
        yield GaugeMetricFamily("samed_waiting_requests", "Requests that wait", value=self.engine.waiting)
        yield CounterMetricFamily("samed_worker_restarts", "Workers that died", value=self.engine.restarts)
        yield CounterMetricFamily("samed_adapter_hits", "Adapters found loaded", value=found.get("hits", 0))
        yield CounterMetricFamily("samed_adapter_misses", "Adapters loaded", value=found.get("misses", 0))
        yield GaugeMetricFamily("samed_adapters_loaded", "Adapters in memory", value=found.get("loaded", 0))
        yield GaugeMetricFamily("samed_weight_bytes", "Weights in memory", value=found.get("weight_bytes", 0))
        resident = GaugeMetricFamily("samed_resident_bytes", "Resident memory", labels=["process"])
        resident.add_metric(["server"], psutil.Process().memory_info().rss)
        resident.add_metric(["worker"], found.get("resident_bytes", 0))
        yield resident

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request, and log it without anything that the client sent."""
        self.requests.labels(method, route, status).inc()
        self.seconds.labels(method, route).observe(seconds)
        logger.info("%s %s %d %.3f s", method, route, status, seconds)


class Observed:
    """Middleware that counts, times and logs requests."""

    def __init__(self, app: Any, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.monotonic(), 499  # of a client that leaves before the answer

        async def noted_send(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self.app(scope, receive, noted_send)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self.metrics.observe(method, route, status, time.monotonic() - started)


@dataclass
class Service:
    """What the routes of a server use.

    Attributes:
        models: What [`~samed_hf.serving.worker.describe`] tells of each adapter.
        allow_delete: Whether clients may remove images.
        writing: Held while the datastore is changed.
        failure: Why the server didn't start.
    """

    engine: Engine
    version: str
    studies: Studies | None = None
    allow_delete: bool = False
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    sessions: Sessions = field(default_factory=Sessions)
    log: LogLines = field(default_factory=LogLines)
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    failure: Exception | None = None
