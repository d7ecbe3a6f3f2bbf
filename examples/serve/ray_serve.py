"""The application of `samed-hf serve` on Ray Serve: replicas of the models on one machine or a cluster.

On this machine, with the options of `samed-hf serve`:

    python examples/serve/ray_serve.py ADAPTER [ADAPTER ...] --studies DIR --replicas 2

On a cluster, `build` is the import path of `serve run` and of a RayService; its arguments are the same options:

    SAMED_TOKEN=... serve run examples.serve.ray_serve:build adapters="ADAPTER ADAPTER" studies=DIR replicas=2
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.exceptions import ObjectLostError, RayActorError
from ray.serve.config import AutoscalingConfig, BackpressureConfig
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from samed_hf.serving import (
    Answer,
    BusyError,
    Correction,
    PackedScan,
    Reply,
    Request,
    ServerSettings,
    WorkerDiedError,
    WorkerSettings,
    add_arguments,
    create_app,
    jobs,
    open_socket,
    pack,
    server_settings,
    transfer,
)
from samed_hf.volumes import ScanFile

QUIET = {"enable_access_log": False}  # its lines hold the ids of images, which may be names of patients


def make_models(settings: ServerSettings) -> type:
    """The class of the replicas; Serve's decorators take their sizes when it is defined."""

    class Models:
        def __init__(self) -> None:
            jobs.start(settings.worker)
            self.thread = ThreadPoolExecutor(1)  # the models do one thing at a time
            self.computing, self.idle = 0, asyncio.Event()
            self.idle.set()

        async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
            return await asyncio.get_running_loop().run_in_executor(self.thread, function, *arguments)

        # The adapters are in the worker's pool; Serve learns which replica has which, and sends requests there.
        @serve.multiplexed(max_num_models_per_replica=settings.worker.max_loaded)
        async def load(self, adapter: str) -> tuple[dict[str, Any], dict[str, float]]:
            return await self.run(jobs.describe, adapter)

        # Serve splits a batch by model.
        @serve.batch(max_batch_size=settings.max_batch, batch_wait_timeout_s=0.002 if settings.max_batch > 1 else 0.0)
        async def batch(self, scans: list[tuple[PackedScan, str, str | None, bool]]) -> list[Answer]:
            self.idle.clear()
            return await self.run(transfer.segment, serve.get_multiplexed_model_id(), scans)

        async def describe(self) -> tuple[dict[str, Any], dict[str, float]]:
            return await self.load(serve.get_multiplexed_model_id())

        async def segment(self, *scan: Any) -> Answer:
            await self.load(serve.get_multiplexed_model_id())
            await self.idle.wait()  # Serve would close batches of one while an earlier one is computed
            self.computing += 1
            try:
                return await self.batch(scan)
            finally:
                self.computing -= 1
                if not self.computing:
                    self.idle.set()

        async def save_label(self, *arguments: Any) -> Answer:
            return await self.run(transfer.save_label, *arguments)

        async def check_scan(self, *arguments: Any) -> Answer:
            return await self.run(transfer.check_scan, *arguments)

    return Models


class RayEngine(AbstractAsyncContextManager):
    """The engine of `create_app` whose worker is one of the replicas: what it writes comes back as bytes."""

    def __init__(self, models: DeploymentHandle, settings: WorkerSettings, max_waiting: int) -> None:
        self.models, self.settings, self.max_waiting = models, settings, max_waiting
        self.waiting = self.restarts = 0
        self.statistics: dict[str, float] = {}  # of the replica that replied last
        self.dead: set[str] = set()  # each replica fails several requests

    async def __aexit__(self, *_: object) -> None:
        pass

    async def segment(self, request: Request) -> Reply:
        method = self.models.options(multiplexed_model_id=request.adapter).segment
        self.waiting += 1
        try:
            options = (request.suffix, request.dtype, request.compress)
            return await self.ask(method, request.scan, *options, output=request.output)
        finally:
            self.waiting -= 1

    async def describe(self, name: str) -> dict[str, Any]:
        method = self.models.options(multiplexed_model_id=name).describe
        about, self.statistics = await self.call(method.remote())
        return about

    async def save_label(self, correction: Correction) -> Reply:
        label = await asyncio.to_thread(pack, ScanFile("label", correction.label, ""))
        image, values = correction.image, (correction.values, correction.num_channels)
        arguments = (label, correction.suffix, *values, image is not None)
        method = self.models.save_label
        return await self.ask(method, correction.scan, *arguments, output=correction.output, image=image)

    async def check_scan(self, scan: ScanFile, num_channels: int, output: Path | None = None) -> Reply:
        suffix = "" if output is None else ".nii.gz"
        return await self.ask(self.models.check_scan, scan, num_channels, suffix, output=output)

    async def ask(
        self, method: Any, scan: ScanFile, *arguments: Any, output: Path | None = None, image: Path | None = None
    ) -> Reply:
        try:
            packed = await asyncio.to_thread(pack, scan)
        except ValueError as error:
            return Reply(error=str(error))
        answer = await self.call(method.remote(packed, *arguments))
        self.statistics = answer.statistics or self.statistics
        for file, content in ((output, answer.content), (image, answer.image)):
            if file is not None and content:
                await asyncio.to_thread(file.write_bytes, content)
        return answer.reply

    async def call(self, answer: Awaitable[Any]) -> Any:
        try:
            return await answer
        except BackPressureError as error:
            raise BusyError("As many requests wait as the server accepts: try again later.") from error
        except (RayActorError, ObjectLostError, DeploymentUnavailableError) as error:
            self.dead.add(str(getattr(error, "actor_id", None)))
            self.restarts = len(self.dead)
            raise WorkerDiedError("The replica stopped with this request: send it again.") from error


@serve.deployment(
    num_replicas=1,
    ray_actor_options={"num_cpus": 0},
    backpressure_config=BackpressureConfig(retry_after_s=5),
    logging_config=QUIET,
)
@serve.ingress()
class Server:
    """The one replica that requests reach: sessions and the datastore are its own."""

    def __init__(self, models: DeploymentHandle, settings: ServerSettings, max_waiting: int, needs_token: bool) -> None:
        # The token comes from the environment, so that Ray doesn't store it.
        self.settings = replace(settings, token=os.environ.get("SAMED_TOKEN") or None)
        if needs_token and self.settings.token is None:
            raise ValueError("SAMED_TOKEN is not set where the server runs: other machines may reach it, set a token.")
        self.engine = RayEngine(models, settings.worker, max_waiting)

    def __serve_build_asgi_app__(self) -> Any:
        return create_app(self.settings, self.engine)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Serve adapters with Ray Serve.")
    add_arguments(parser)
    add = parser.add_argument
    add("--replicas", type=int, default=1, metavar="N", help="the fewest replicas of the models [1]")
    add("--max_replicas", type=int, metavar="N", help="the most, where requests wait [as many as --replicas]")
    add("--cpus", type=float, default=1, metavar="N", help="CPUs, and so threads, of a replica [1]")
    add("--gpus", type=float, default=0, metavar="N", help="GPUs of a replica; 0.5 puts two on one [0]")
    # Replicas that chose by their own free memory would differ in the last bits of their answers.
    parser.set_defaults(batch_size=4)
    return parser


def make_application(args: argparse.Namespace, *, needs_token: bool) -> serve.Application:
    settings = replace(server_settings(args), token=None)
    most = args.max_replicas or args.replicas
    if not 1 <= args.replicas <= most:
        raise ValueError(f"--replicas is {args.replicas} and --max_replicas {most}: expected 1 or more, and no fewer.")
    models = serve.deployment(
        make_models(settings),
        name="Models",
        max_ongoing_requests=2 * args.max_batch,  # a batch that is computed, and the next one
        max_queued_requests=args.max_waiting,
        autoscaling_config=AutoscalingConfig(
            min_replicas=args.replicas, max_replicas=most, target_ongoing_requests=args.max_batch
        ),
        ray_actor_options={"num_cpus": args.cpus, "num_gpus": args.gpus},
        health_check_period_s=2,
        logging_config=QUIET,
    )
    max_waiting = args.max_waiting + 2 * args.max_batch * most
    most_clients = 4 * args.max_waiting
    server = Server.options(max_ongoing_requests=most_clients, max_queued_requests=most_clients)
    return server.bind(models.bind(), settings, max_waiting, needs_token)


def build(args: dict[str, Any]) -> serve.Application:
    """The application for `serve run` and RayService; each argument is an option of the command line."""
    options = dict(args)
    adapters = options.pop("adapters", [])
    command = [f"--{name}" if str(value).lower() == "true" else f"--{name}={value}" for name, value in options.items()]
    command += adapters.split() if isinstance(adapters, str) else adapters
    # Where Serve listens is in its own configuration.
    return make_application(make_parser().parse_args(command), needs_token=True)


def main() -> int:
    args = make_parser().parse_args()
    if args.token:
        os.environ["SAMED_TOKEN"] = args.token
    with open_socket(args.host, args.port) as listening:
        port = listening.getsockname()[1]
    application = make_application(args, needs_token=False)
    ray.init(address="local", include_dashboard=False)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    http = {"host": args.host, "port": port}
    http |= {name: str(file) for name in ("ssl_certfile", "ssl_keyfile") if (file := getattr(args, name))}
    try:
        serve.start(http_options=http, logging_config=QUIET)
        serve.run(application)
        scheme = "https" if args.ssl_certfile else "http"
        print(f"serving     {scheme}://{args.host}:{port}, with {args.replicas} replicas or more", flush=True)
        with suppress(KeyboardInterrupt):
            signal.pause()
    finally:
        serve.shutdown()
        ray.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
