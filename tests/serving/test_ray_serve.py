"""`examples/serve/ray_serve.py` on this machine: two replicas, one of which is killed under load."""

from __future__ import annotations

import concurrent.futures
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import nibabel as nib
import numpy as np
import psutil
import pytest

from ..dicom_files import write_series
from .served import labels_of, make_adapters, predicted, serve, smooth, write_scan

pytestmark = pytest.mark.slow
pytest.importorskip("ray.serve", reason="Ray Serve is not installed")

MODULE = "examples.serve.ray_serve"
SCANS = ("case-0.nii.gz", "case-1.nii.gz", "case-2.nii.gz")


@pytest.fixture(scope="module")
def adapters(tiny_sam, tmp_path_factory) -> dict[str, Path]:
    return make_adapters(tiny_sam, tmp_path_factory.mktemp("adapters"), 2)


@pytest.fixture(scope="module")
def studies(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("studies")
    for number, name in enumerate(SCANS):
        write_scan(root / name, seed=number)
    write_series(root / "series", smooth((20, 24, 9)).astype(np.uint16))
    return root


@pytest.fixture(scope="module")
def http(adapters, studies) -> Iterator[httpx.Client]:
    own = tempfile.mkdtemp(prefix="ray-")  # the paths of sockets have to be short
    environment = {"RAY_TMPDIR": own, "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    environment |= {"SAMED_TOKEN": "a-long-secret"}
    options = ["--studies", studies, "--rate", "100000/minute", "--replicas", "2"]
    started: list[psutil.Process] = []
    try:
        with serve(*adapters.values(), *options, command=(MODULE,), **environment) as address:
            yield httpx.Client(base_url=address, headers={"Authorization": "Bearer a-long-secret"}, timeout=60)
            started = processes()
    finally:
        _, left = psutil.wait_procs(started, timeout=10)
        for process in left:
            process.kill()
        shutil.rmtree(own, ignore_errors=True)
        assert not left, "processes of Ray outlived the server"


def processes() -> list[psutil.Process]:
    """The server's process and those below it."""
    (server,) = [child for child in psutil.Process().children() if MODULE in child.cmdline()]
    return [server, *server.children(recursive=True)]


def replicas() -> dict[int, psutil.Process]:
    return {one.pid: one for one in processes() if one.cmdline()[:1] == ["ray::ServeReplica:default:Models"]}


def ask(http: httpx.Client, adapter: str, file: Path) -> httpx.Response:
    form = {"file": (file.name, file.read_bytes())}
    params = json.dumps({"result_extension": ".nii"})
    return http.post(f"/infer/{adapter}?output=image", files=form, data={"params": params})


def test_labels_are_those_of_predict(http, adapters, studies, tmp_path):
    for name, adapter in adapters.items():
        (tmp_path / "served.nii").write_bytes(ask(http, name, studies / SCANS[0]).content)
        expected = labels_of(predicted(adapter, studies / SCANS[0], tmp_path / name))
        np.testing.assert_array_equal(labels_of(tmp_path / "served.nii"), expected)


def test_a_series_answers_with_a_dicom_segmentation(http, adapters, studies, tmp_path):
    image = next(name for name in http.get("/datastore/?output=all").json()["objects"] if name.startswith("2.25."))
    answer = http.post(f"/infer/adapter-0?image={image}&output=dicom_seg")
    assert answer.content == predicted(adapters["adapter-0"], studies / "series", tmp_path).read_bytes()


def test_labels_and_scans_are_stored(http, studies, tmp_path):
    scan = nib.load(studies / SCANS[1])
    label = (np.indices(scan.shape).sum(0) % 3).astype(np.uint8)
    nib.save(nib.Nifti1Image(label, scan.affine), tmp_path / "label.nii.gz")
    params = json.dumps({"label_info": [{"name": "label-0-1", "idx": 1}, {"name": "label-0-2", "idx": 2}]})
    files = {"label": ("label.nii.gz", (tmp_path / "label.nii.gz").read_bytes())}
    http.put("/datastore/label?image=case-1", files=files, data={"params": params}).raise_for_status()
    np.testing.assert_array_equal(labels_of(studies / "labels" / "final" / SCANS[1]), label)
    damaged = http.put("/datastore/?image=new", files={"file": ("scan.nii.gz", b"damaged")})
    assert damaged.status_code == 400
    assert "/" not in damaged.json()["detail"]


def test_the_token_is_needed(http):
    assert httpx.get(f"{http.base_url}/info/").status_code == 401
    assert httpx.get(f"{http.base_url}/health").status_code == 200


def test_a_killed_replica_fails_no_answer(http, adapters, studies):
    pairs = [(adapter, studies / name) for adapter in adapters for name in SCANS]
    alone = {pair: ask(http, *pair).content for pair in pairs}
    assert len(set(alone.values())) == len(pairs)
    killed, *_ = before = replicas()
    assert len(before) == 2
    order = pairs * 17
    refused: list[int] = []

    def retry(number: int) -> bytes:
        if number == 30:
            os.kill(killed, signal.SIGKILL)
        while (answer := ask(http, *order[number])).status_code == 503:
            assert int(answer.headers["retry-after"]) > 0
            refused.append(number)
            assert len(refused) < len(order), "more requests were refused than are sent"
            time.sleep(0.1)
        assert answer.status_code == 200, answer.text
        return answer.content

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for pair, answer in zip(order, pool.map(retry, range(len(order))), strict=True):
            assert answer == alone[pair]
    deadline = time.monotonic() + 60
    while len(found := set(replicas()) - {killed}) < 2:
        assert time.monotonic() < deadline, "no other replica was started"
        time.sleep(0.5)
    assert len(found & set(before)) == 1
    for pair in pairs:
        assert ask(http, *pair).content == alone[pair]


def test_only_loopback_needs_no_token(adapters):
    command = [sys.executable, "-m", MODULE, str(adapters["adapter-0"]), "--host", "0.0.0.0"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert "--token" in done.stderr
