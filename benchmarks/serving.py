"""Load on `samed-hf serve`: throughput, latency and memory of many adapters of one base.

    python -m benchmarks.serving --adapters 8 --requests 100

Each client sends slices of 512×512 pixels, one after the other, and chooses an adapter at random for each. One server
of all adapters, with and without shared batches, is compared with a server for each adapter.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import nibabel as nib
import numpy as np
import psutil
import torch

from samed_hf import SamedForSemanticSegmentation, SamedImageProcessor, samed_lora_config
from samed_hf.utils.packaged import SMALL_SAM

_SIDE, _CLIENTS = 512, (1, 4, 16)


@dataclass(frozen=True)
class Server:
    """A running server."""

    address: str
    process: psutil.Process

    def resident(self) -> float:
        """Resident memory with its worker, in MB."""
        family = [self.process, *self.process.children(recursive=True)]
        return sum(one.memory_info().rss for one in family) / 2**20


@contextmanager
def serve(*arguments: object) -> Iterator[Server]:
    """Run `samed-hf serve` on a free port."""
    options = ["--port", 0, "--rate", "1000000/minute"]
    command = [sys.executable, "-m", "samed_hf", "serve", *map(str, [*arguments, *options])]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert started.stdout is not None
        address = next(found[1] for line in started.stdout if (found := re.search(r"serving +(\S+),", line)))
        # A server whose output nobody reads stops when the pipe is full.
        threading.Thread(target=deque, args=(started.stdout, 0), daemon=True).start()
        yield Server(address, psutil.Process(started.pid))
    finally:
        started.terminate()
        started.wait()


def make_adapters(root: Path, count: int) -> list[Path]:
    """Adapters of the packaged small base, rank 4, with other weights each."""
    made = []
    for number in range(count):
        torch.manual_seed(number)
        names = {0: "background"} | {index: f"organ {index}" for index in range(1, 9)}
        model = SamedForSemanticSegmentation.from_pretrained(SMALL_SAM, id2label=names)
        model.add_adapter(samed_lora_config(rank=4))
        made.append(root / f"adapter-{number}")
        model.save_pretrained(made[-1], image_processor=SamedImageProcessor(model.config.image_size, (-125, 275)))
    return made


def load(
    servers: Sequence[Server], adapters: Sequence[Path], slices: Sequence[bytes], clients: int, requests: int
) -> Any:
    """Send `requests` from each of some clients; seconds of each answer, errors, and memory before and after."""
    address = {path.name: server.address for path, server in zip(adapters, _spread(servers, adapters), strict=True)}
    before = sum(server.resident() for server in servers)

    def client(number: int) -> list[tuple[float, bool]]:
        generator, answers = np.random.default_rng(number), []
        with httpx.Client(timeout=600) as http:
            for _ in range(requests):
                name = adapters[generator.integers(len(adapters))].name
                content = slices[generator.integers(len(slices))]
                started = time.monotonic()
                form = {"files": {"file": ("slice.nii", content)}, "data": {"params": '{"result_extension": ".nii"}'}}
                answer = http.post(f"{address[name]}/infer/{name}?output=image", **form)
                answers.append((time.monotonic() - started, answer.status_code != 200))
        return answers

    started = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        answers = [answer for answers in pool.map(client, range(clients)) for answer in answers]
    seconds = time.monotonic() - started
    p50, p95, p99 = np.percentile([answer[0] for answer in answers], [50, 95, 99])
    return {
        "clients": clients,
        "requests": len(answers),
        "per_second": len(answers) / seconds,
        "p50": p50,
        "p95": p95,
        "p99": p99,
        "errors": sum(failed for _, failed in answers),
        "mb_before": before,
        "mb_after": sum(server.resident() for server in servers),
    }


def _spread(servers: Sequence[Server], adapters: Sequence[Path]) -> Sequence[Server]:
    return servers if len(servers) == len(adapters) else [servers[0]] * len(adapters)


def main() -> None:
    """Measure, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--requests", type=int, default=100, help="of each client [100]")
    parser.add_argument("--output", type=Path, help="write the results to this JSON file")
    arguments = parser.parse_args()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as directory:
        adapters = make_adapters(Path(directory), arguments.adapters)
        slices = [_slice(Path(directory), seed) for seed in range(8)]
        several = [[adapter] for adapter in adapters]
        ways = {
            "one server, shared batches": [adapters],
            "one server, each request alone": [[*adapters, "--max_batch", 1]],
            "a server for each adapter": several,
        }
        print("| way | clients | requests | per second | p50 | p95 | p99 | errors | memory before → after |")
        print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
        for way, commands in ways.items():
            with ExitStack() as stack:
                servers = [stack.enter_context(serve(*command)) for command in commands]
                load(servers, adapters, slices, 1, 2 * len(adapters))  # every adapter is loaded and warm
                results[way] = []
                for clients in _CLIENTS:
                    row = load(servers, adapters, slices, clients, arguments.requests)
                    results[way].append(row)
                    times = " | ".join(f"{1000 * row[name]:.0f} ms" for name in ("p50", "p95", "p99"))
                    counts = f"{clients} | {row['requests']} | {row['per_second']:.1f}"
                    memory = f"{row['mb_before']:.0f} → {row['mb_after']:.0f} MB"
                    print(f"| {way} | {counts} | {times} | {row['errors']} | {memory} |", flush=True)
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=2) + os.linesep)


def _slice(directory: Path, seed: int) -> bytes:
    coarse = np.random.default_rng(seed).uniform(-125, 275, (_SIDE // 16, _SIDE // 16, 1))
    array = np.kron(coarse, np.ones((16, 16, 1))).astype(np.int16)
    nib.save(nib.Nifti1Image(array, np.diag([-0.8, -0.8, 3.0, 1.0])), directory / "slice.nii")
    return (directory / "slice.nii").read_bytes()


if __name__ == "__main__":
    main()
