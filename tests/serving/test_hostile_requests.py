"""Two hundred requests that no client sends: none gets 500, none runs code, and memory stays where it was."""

from __future__ import annotations

import contextlib
import gzip
import json
import pickle
import socket
import struct
import zipfile
import zlib
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import psutil
import pytest

from .served import make_adapters, serve, write_scan

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("hostile")
    (root / "studies").mkdir()
    write_scan(root / "studies" / "case.nii.gz")
    return root


@pytest.fixture(scope="module")
def server(tiny_sam, root):
    adapter = make_adapters(tiny_sam, root, 1)["adapter-0"]
    limits = {"SAMED_MAX_VOXELS": str(1 << 22), "SAMED_MAX_BYTES": str(1 << 25)}
    options = ["--max_upload_mb", 4, "--rate", "100000/minute", "--body_seconds", 2]
    with serve(adapter, "--studies", root / "studies", *options, **limits) as address:
        yield address


class Exploit:
    """A pickle that would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def nifti(shape: tuple[int, ...], content: bytes = b"", code: int = 4, affine: float = 1.0) -> bytes:
    """A NIfTI file whose header states `shape`, whatever follows."""
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, len(shape), *shape, *[1] * (7 - len(shape)))
    struct.pack_into("<2h", header, 70, code, 16)
    struct.pack_into("<8f", header, 76, 1.0, *[affine] * 7)
    struct.pack_into("<f", header, 108, 352.0)
    header[344:348] = b"n+1\0"
    return bytes(header) + content


def png(width: int, height: int) -> bytes:
    """A PNG whose header states a size, and whose data is short."""
    chunks = [(b"IHDR", struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(64)))]
    chunks.append((b"IEND", b""))
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def files(root: Path) -> list[tuple[str, bytes]]:
    """Names and contents that are none of a scan: bombs, wrong types, references to other files."""
    secret = root / "studies" / "case.nii.gz"
    good = secret.read_bytes()
    noise = np.random.default_rng(0).bytes(5000)
    marker = pickle.dumps(Exploit(root / "executed"))
    nrrd = "NRRD0004\ntype: short\ndimension: 3\nsizes: {0} {0} {0}\nencoding: {1}\n{2}\n"
    mha = "ObjectType = Image\nNDims = 3\nDimSize = {0} {0} {0}\nElementType = MET_SHORT\nElementDataFile = {1}\n"
    archive = root / "bomb.npz"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("a.npy", bytes(1 << 22))
    return [
        ("bomb.nii.gz", gzip.compress(nifti((512, 512, 400), bytes(1 << 26)))),
        ("zeros.nii.gz", gzip.compress(bytes(1 << 26))),
        ("huge.nii", nifti((32767, 32767, 32767))),
        ("negative.nii", nifti((-4, 4, 4), bytes(128))),
        ("empty.nii", b""),
        ("short.nii", nifti((8, 8, 8), bytes(100))),
        ("flat.nii", nifti((8, 8, 0))),
        ("nan.nii", nifti((4, 4, 4), np.full(64, np.nan, np.float32).tobytes(), 16)),
        ("geometry.nii", nifti((4, 4, 4), bytes(128), affine=float("nan"))),
        ("frames.nii", nifti((4, 4, 4, 3), bytes(384))),
        ("complex.nii", nifti((4, 4, 4), bytes(1024), 32)),
        ("cut.nii.gz", good[: len(good) // 2]),
        ("noise.nii.gz", noise),
        ("noise.nrrd", noise),
        ("noise.mha", noise),
        ("noise.dcm", noise),
        ("noise.png", noise),
        ("noise.tif", b"II*\0" + noise),
        ("noise", noise),
        ("huge.png", png(60000, 60000)),
        ("short.png", png(50, 50)),
        ("huge.nrrd", nrrd.format(30000, "raw", "").encode()),
        ("other.nrrd", nrrd.format(4, "raw", f"data file: {secret}").encode()),
        ("list.nrrd", nrrd.format(4, "raw", f"data file: LIST\n{secret}").encode()),
        ("other.mha", mha.format(4, secret).encode()),
        ("relative.mha", mha.format(4, "../../../../etc/passwd").encode()),
        ("list.mha", mha.format(4, f"LIST\n{secret}").encode()),
        ("huge.mha", mha.format(30000, "LOCAL").encode()),
        ("header.mhd", mha.format(4, secret).encode()),
        ("header.nhdr", nrrd.format(4, "raw", f"data file: {secret}").encode()),
        ("weights.pt", marker),
        ("weights.nii", marker),
        ("weights.dcm", bytes(128) + b"DICM" + marker),
        ("bomb.npz", archive.read_bytes()),
        ("../../escape.nii.gz", good[:100]),
        ("/etc/passwd", b"x"),
        ("a\x00b.nii", good),
        (f"{'n' * 5000}.nii.gz", good[:50]),
        ("x.nii.gz.exe", good),
        ("label.svg", b"<svg onload='alert(1)'/>"),
    ]


def test_hostile_requests(server, root):
    http = httpx.Client(base_url=server, timeout=60)
    sent = files(root)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert http.post("/infer/adapter-0?image=case").status_code == 200
    for part in sent:  # the readers of all formats are imported now
        http.post("/infer/adapter-0", files={"file": part})
    processes = _processes()
    resident = [process.memory_info().rss for process in processes]
    statuses: Counter[int] = Counter()
    for name, content in sent:
        # Each as an image, a label, an upload and a session.
        part = (name, content)
        answer = http.post("/infer/adapter-0", files={"file": part})
        assert "/tmp" not in answer.text, answer.text
        assert "samed-" not in answer.text, answer.text
        statuses[answer.status_code] += 1
        statuses[http.put("/datastore/label?image=case", files={"label": part}).status_code] += 1
        statuses[http.put("/datastore/label?image=case&tag=..", files={"label": part}).status_code] += 1
        statuses[http.put("/session/", files={"files": part}).status_code] += 1
    for path in (
        "../../etc/passwd",
        "..",
        "/etc/passwd",
        "%2e%2e%2f",
        "case.nii.gz/../x",
        "a\0b",
        "x" * 10_000,
        "labels",
    ):
        for method, url in (
            ("GET", "/datastore/image"),
            ("GET", "/datastore/image/info"),
            ("POST", "/infer/adapter-0"),
            ("PUT", "/datastore/image"),
        ):
            form = {"file": ("a.nii", b"x")} if method == "PUT" else None
            statuses[http.request(method, url, params={"image": path}, files=form).status_code] += 1
        statuses[http.get("/datastore/label", params={"label": "case", "tag": path}).status_code] += 1
        statuses[http.post("/activelearning/first", json={"label_tag": path}).status_code] += 1
    for params in (
        "[]",
        "{",
        "null",
        "9" * 5000,
        '{"result_extension": ["a"]}',
        '{"result_extension": "/x"}',
        "[" * 100_000,
    ):
        statuses[http.post("/infer/adapter-0?image=case", data={"params": params}).status_code] += 1
    label = (root / "studies" / "case.nii.gz").read_bytes()
    for info in (
        7,
        "x",
        [1],
        [{"name": "a"}, {"name": "b", "idx": 1}],
        [{"idx": "a"}],
        {"a": 1},
        [{"name": "a", "idx": 1e99}],
    ):
        form = {"data": {"params": json.dumps({"label_info": info})}, "files": {"label": ("a.nii.gz", label)}}
        statuses[http.put("/datastore/label?image=case", **form).status_code] += 1
    for url in ("/infer/none", "/infer/..%2f..", "/session/x", "/logs/?lines=-1", "/logs/?lines=1e9", "/wp-login.php"):
        statuses[http.get(url).status_code] += 1
        statuses[http.delete(url).status_code] += 1
    statuses[http.post("/infer/adapter-0", content=b"\0" * 5_000_000).status_code] += 1
    statuses[http.post("/infer/adapter-0", content=iter([b"\0" * 1_000_000] * 6)).status_code] += 1
    statuses[http.post("/train/adapter-0", json={}).status_code] += 1
    for content in (
        b"POST /infer/adapter-0 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nslow",
        b"\x16\x03\x01",
        b"GET",
    ):
        statuses[_raw(server, content)] += 1
    for _ in range(20):  # clients that leave
        with contextlib.suppress(httpx.TimeoutException):
            http.post("/infer/adapter-0?image=case", timeout=0.002)
        statuses[0] += 1
    assert sum(statuses.values()) > 200
    assert statuses[500] == 0, statuses
    assert statuses[400] > 100
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before, "a file was written"
    assert _processes() == processes, "a worker died"
    grown = [process.memory_info().rss - old for process, old in zip(processes, resident, strict=True)]
    assert max(grown) < 24 << 20, grown
    print(dict(statuses), grown)
    assert http.post("/infer/adapter-0?image=case").status_code == 200


def _processes() -> list[psutil.Process]:
    """The server and its worker."""
    server = max(psutil.Process().children(), key=psutil.Process.create_time)
    return [server, max(server.children(), key=lambda child: child.memory_info().rss)]


def _raw(server: str, content: bytes) -> int:
    """The status of the answer to bytes that are no whole request, 0 where the connection is closed."""
    address = urlsplit(server)
    with socket.create_connection((address.hostname, address.port), timeout=15) as connection:
        connection.sendall(content)
        with contextlib.suppress(TimeoutError):
            answer = connection.recv(200)
            return int(answer.split()[1]) if answer.startswith(b"HTTP") else 0
    return 0
