"""A server of the tests, started as its command, and the adapters and scans that it serves."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from samed_hf import SamedForSemanticSegmentation, SamedImageProcessor, samed_lora_config
from samed_hf.cli import main

SIZE = 64


@contextmanager
def serve(*arguments: object, command: tuple[str, ...] = ("samed_hf", "serve"), **environment: str) -> Iterator[str]:
    """Run `samed-hf serve`, or another module, on a free port, and yield its address once it is ready."""
    command = [sys.executable, "-m", *command, *map(str, arguments), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | environment)
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if found := re.search(r"serving +(\S+),", line):
                # A server whose output nobody reads stops when the pipe is full.
                threading.Thread(target=deque, args=(process.stdout, 0), daemon=True).start()
                yield found[1]
                return
        raise AssertionError(f"the server ended: {''.join(lines)}")
    finally:
        process.terminate()
        process.wait(30)


def make_adapters(base: Path, root: Path, count: int) -> dict[str, Path]:
    """Adapters of one base with other weights and other labels each."""
    made = {}
    for number in range(count):
        torch.manual_seed(number)
        names = {0: "background"} | {index: f"label-{number}-{index}" for index in range(1, 3 + number % 2)}
        model = SamedForSemanticSegmentation.from_pretrained(base, image_size=SIZE, id2label=names)
        model.add_adapter(samed_lora_config(rank=2))
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    weight.normal_(std=0.2)
        made[f"adapter-{number}"] = root / f"adapter-{number}"
        processor = SamedImageProcessor(SIZE, (-125, 275), input_size=48)
        model.save_pretrained(made[f"adapter-{number}"], image_processor=processor)
    return made


def smooth(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """Blocks of random intensities from 0 to 400."""
    coarse = np.random.default_rng(seed).uniform(0, 400, tuple(max(2, -(-side // 6)) for side in shape))
    return np.kron(coarse, np.ones((6, 6, 6)))[tuple(slice(side) for side in shape)]


def write_scan(path: Path, shape: tuple[int, int, int] = (40, 44, 5), seed: int = 0) -> Path:
    """A scan of blocks of random intensities, in HU."""
    array = smooth(shape, seed) - 125
    nib.save(nib.Nifti1Image(array.astype(np.float32), np.diag([-2.0, -2.0, 5.0, 1.0])), path)
    return path


def predicted(adapter: Path, scan: Path, output: Path) -> Path:
    """The label map that `samed-hf predict` writes."""
    assert main(["predict", str(adapter), str(scan), "--output", str(output), "--no_preview", "--no_report"]) == 0
    return next(path for path in output.iterdir() if path.is_file() and path.name.startswith(scan.name.split(".")[0]))


def labels_of(path: Path) -> np.ndarray:
    """The values of a NIfTI label map."""
    return np.asarray(nib.load(path).dataobj)
