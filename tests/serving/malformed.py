"""Requests that no honest client sends, and a program that gives all of them to one handler and reports what happened.

Usage: python -m tests.serving.malformed ADAPTER DIRECTORY; the directory is for files that a request must not reach.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import pickle
import re
import resource
import struct
import sys
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image

from samed_hf.serving import EndpointHandler

from ..damage import damaged, png

Payloads = Iterator[tuple[str, Any]]
GREY = np.random.default_rng(0).integers(0, 255, (20, 24), dtype=np.uint8)
SCAN = np.random.default_rng(1).normal(50, 90, (20, 24, 3)).astype(np.int16)
# Audit events of code that runs; "open" is looked at for its path.
FORBIDDEN = ("os.exec", "os.fork", "os.posix_spawn", "os.system", "pickle.find_class", "subprocess.Popen")
FORBIDDEN += ("socket.connect",)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, format=kind, **options)
    return content.getvalue()


def nifti(array: np.ndarray = SCAN, kind: type = nib.Nifti1Image, **fields: Any) -> bytes:
    """A file in whose header some fields are replaced after it was made."""
    content = kind(array, np.diag([2, 2, 5, 1.0]), dtype=array.dtype).to_bytes()
    header = kind.header_class(content[: kind.header_class.sizeof_hdr], check=False)
    for field, value in fields.items():
        header[field] = value
    return header.binaryblock + content[len(header.binaryblock) :]


def dims(*shape: int, axes: int | None = None) -> list[int]:
    return [len(shape) if axes is None else axes, *shape, *[1] * (7 - len(shape))]


def damaged_files() -> Payloads:
    """Every kind of damage to every kind of file; some of it is harmless."""
    files = {
        "png": encoded(Image.fromarray(GREY)),
        "deep.png": encoded(Image.fromarray(GREY.astype(np.uint16) * 257)),
        "palette.png": encoded(Image.fromarray(GREY).convert("P")),
        "jpg": encoded(Image.fromarray(GREY), "JPEG"),
        "progressive.jpg": encoded(Image.fromarray(GREY).convert("RGB"), "JPEG", progressive=True),
        "nii": nifti(),
        "two.nii": nifti(kind=nib.Nifti2Image),
        "nii.gz": gzip.compress(nifti()),
    }
    for name, content in files.items():
        for word, changed in damaged(content, seed=len(name), flips=6):
            yield f"{name} {word}", changed


def images() -> Payloads:
    for width, height in ((0, 0), (0, 5), (5, 0), (1, 1), (1, 5), (2, 30_000), (30_000, 2), (12_000, 12_000)):
        rows = b"" if width == 12_000 else bytes((width + 1) * height)
        yield f"png of {width}x{height}", png(width, height, rows=rows)
    for side in (1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1):
        yield f"png of {side} squared", png(side, side)
    for depth, color in ((1, 0), (16, 0), (8, 2), (16, 2), (4, 3), (8, 4), (16, 6), (3, 0), (8, 1), (255, 255)):
        yield f"99 bytes of depth {depth}, color {color}", png(5000, 5000, depth, color)
    yield "png of zeros", png(8000, 8000, rows=bytes(8001 * 8000))
    bomb = zlib.compress(bytes(1 << 26), 9)
    for kind, start in ((b"zTXt", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0"), (b"iCCP", b"a\0\0")):
        yield f"{kind.decode()} bomb", png(20, 24, 8, 0, bytes(21 * 24), (kind, start + bomb))
        yield f"{kind.decode()} bombs", png(20, 24, 8, 0, bytes(21 * 24), *[(kind, start + bomb)] * 20)
    yield "acTL of a billion frames", png(20, 24, 8, 0, bytes(21 * 24), (b"acTL", struct.pack(">2I", 10**9, 0)))
    for options in ({}, {"progressive": True}):
        jpeg = encoded(Image.fromarray(GREY).convert("RGB"), "JPEG", **options)
        for height, width in ((0, 0), (0, 9), (65_500, 65_500), (5000, 5000), (60_000, 2), (1, 1)):
            head, marker, rest = re.split(rb"(\xff[\xc0\xc2]\0\x11\x08)", jpeg, maxsplit=1)
            sized = head + marker + struct.pack(">2H", height, width) + rest[4:]
            yield f"jpeg of {height}x{width} {options}", sized


def volumes() -> Payloads:
    shapes = [(32_767,) * 3, (2000, 1500, 1000), (0, 24, 3), (-20, 24, 3), (20, 24, -3), (1, 1, 1440), (1440, 1, 1)]
    for shape in shapes:
        yield f"dim {shape}", nifti(dim=dims(*shape))
        yield f"gzip of dim {shape}", gzip.compress(nifti(dim=dims(*shape)))
    for axes in (-1, 0, 1, 2, 8, 300):
        yield f"{axes} axes", nifti(dim=dims(20, 24, 3, axes=axes))
    for shape in ((2, 2, 32_767), (32_767, 2, 2), (1, 1, 400), (2, 2, 513), (10_001, 2, 2), (5001, 5000, 1)):
        yield f"few bytes for {shape}", gzip.compress(nifti(np.zeros(shape, np.uint8)))
    for offset in (np.nan, np.inf, -1.0, 0.0, 100.0, 1e9, 1e30):
        yield f"vox_offset {offset}", nifti(vox_offset=offset)
        yield f"gzip of vox_offset {offset}", gzip.compress(nifti(vox_offset=offset))
    for datatype in (0, 1, 16, 32, 128, 512, 1536, 2304, 9999):
        yield f"datatype {datatype}", nifti(datatype=datatype, bitpix=16)
    for value in (np.nan, np.inf, -np.inf, 3e38):
        yield f"slope {value}", nifti(scl_slope=value, scl_inter=value)
        yield f"voxels of {value}", nifti(np.full((4, 4, 2), value, np.float32))
        yield f"sform of {value}", nifti(sform_code=1, srow_x=[value] * 4)
        yield f"spacing of {value}", nifti(sform_code=0, qform_code=0, pixdim=[value] * 8)
    yield "flat sform", nifti(sform_code=1, srow_x=[0] * 4)
    yield "pair of files", nifti(magic=b"ni1")
    yield "no magic", nifti(magic=b"zzz")
    yield "extension", nifti()[:348] + b"\1\0\0\0" + struct.pack("<2i", 2**31 - 1, 6) + nifti()[352:]
    yield "two axes", nifti(SCAN[:, :, 0])
    yield "five axes", nifti(SCAN.reshape(20, 24, 1, 1, 3))


def archives() -> Payloads:
    zeros = gzip.compress(bytes(1 << 24))  # 16 MB; a gzip file may have many members
    head = gzip.compress(nifti(np.zeros((64, 64, 2), np.uint8)))
    yield "4 GB after the voxels", head + zeros * 256
    yield "voxels that end early", gzip.compress(nifti(dim=dims(512, 512, 256))[:352]) + zeros * 8 + b"\0" * 500_000
    yield "0.4 MB for a slice of 400 MB", gzip.compress(nifti(dim=dims(20_000, 20_000, 1))[:352]) + zeros * 48
    yield "2 GB of voxels", gzip.compress(nifti(dim=dims(1024, 1024, 1000))[:352]) + zeros * 128
    yield "2 GB before the voxels", gzip.compress(nifti(vox_offset=2e9)[:352]) + zeros * 128
    yield "zeros", zeros
    for name, inner in (("gzip", zeros), ("png", png(20, 24)), ("text", b"patient" * 99), ("nothing", b"")):
        yield f"gzip of {name}", gzip.compress(inner)
    yield "gzip magic", b"\x1f\x8b"
    yield "gzip with flags", b"\x1f\x8b\x08\xff" + bytes(99)
    with zipfile.ZipFile(content := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("inputs.nii", bytes(1 << 26))
        file.writestr("../../../../tmp/escaped", b"x")
    yield "zip", content.getvalue()


class Malicious:
    """A pickle of it writes a file when it is loaded."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"open({str(self.canary)!r}, 'w').close()",)


def other_formats(directory: Path) -> Payloads:
    canary, secret = directory / "canary", directory / "secret.nii"
    for protocol in range(6):
        yield f"pickle {protocol}", pickle.dumps(Malicious(canary), protocol)
    np.save(content := io.BytesIO(), np.array([Malicious(canary)], dtype=object), allow_pickle=True)
    yield "npy of a pickle", content.getvalue()
    script = f"({canary}) (w) file closefile showpage".encode()
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n" + script + b"\n%%EOF\n"
    yield "eps", eps
    yield "eps with a header of DOS", struct.pack("<7IH", 0xC6D3D0C5, 30, len(eps), 0, 0, 0, 0, 0xFFFF) + eps
    yield "png before eps", b"\x89PNG\r\n\x1a\n" + eps
    entities = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 12))
    svg = f'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY a0 SYSTEM "file://{secret}">{entities}]><svg>&a11;</svg>'
    yield "svg", svg.encode()
    yield "svg as text", svg
    yield "nrrd that names a file", f"NRRD0004\ntype: uchar\ndimension: 1\nsizes: 9\ndata file: {secret}\n".encode()
    yield "mha that names a file", f"NDims = 1\nDimSize = 9\nElementDataFile = {secret}\n".encode()
    yield "dicom", bytes(128) + b"DICM" + bytes(99)
    for kind in ("TIFF", "BMP", "GIF", "WEBP", "ICO", "PPM", "TGA"):
        yield kind, encoded(Image.fromarray(GREY), kind)
    for name, start in (
        ("elf", b"\x7fELF"),
        ("sh", b"#!/bin/sh\nid\n"),
        ("pdf", b"%PDF-1.7\n"),
        ("hdf5", b"\x89HDF\r\n"),
    ):
        yield name, start + bytes(99)
    for name in (str(secret), f"file://{secret}", "/etc/passwd", "../secret.nii", "http://127.0.0.1:9/a.nii", "\0"):
        yield f"the name {name!r}", name
        yield f"the bytes of the name {name!r}", name.encode()
    yield "a path", secret
    yield "a dictionary with a path", {"path": str(secret), "url": f"file://{secret}"}
    yield "an eps opened", Image.open(io.BytesIO(eps))
    for kind in ("TIFF", "GIF", "PPM"):
        yield f"a {kind} opened", Image.open(io.BytesIO(encoded(Image.fromarray(GREY), kind)))
    yield "a png bomb opened", Image.open(io.BytesIO(png(12_000, 12_000)))
    yield "a short png opened", Image.open(io.BytesIO(png(20, 24)))


def types() -> Payloads:
    nested: Any = []
    for _ in range(5000):
        nested = [nested]
    values = (
        None,
        0,
        1.5,
        True,
        [],
        [b"x"],
        {},
        {"inputs": {"inputs": b"x"}},
        nested,
        SCAN,
        object(),
        iter([]),
        range(9),
    )
    for index, value in enumerate(
        (*values, memoryview(b"x"), io.BytesIO(b"x"), json.loads('[{"a":' * 400 + "1" + "}]" * 400))
    ):
        yield f"type {index}, {type(value).__name__}", value
    good = base64.b64encode(encoded(Image.fromarray(GREY))).decode()
    texts = ("", " ", "=", "====", "A", good[:-1], good[:-3] + "=", good + "!", f"{good}é", "\ud800", "-_-_", "\0" * 9)
    texts += (
        f"data:image/png,{good}",
        f"data:;base64{good}",
        "data:image/png;base64,",
        base64.b64encode(good.encode()).decode(),
    )
    for index, text in enumerate(texts):
        yield f"text {index}", text
    for mode, size in (
        ("L", (0, 0)),
        ("L", (1, 9)),
        ("RGB", (9, 0)),
        ("CMYK", (9, 9)),
        ("LAB", (9, 9)),
        ("HSV", (9, 9)),
    ):
        yield f"image {mode} {size}", Image.new(mode, size)
    for value in (np.nan, np.inf, -3e38):
        yield f"image of {value}", Image.fromarray(np.full((9, 9), value, np.float32))


def requests(directory: Path) -> Iterator[tuple[str, Any]]:
    """Yield whole requests, each with a name."""
    for payloads in (damaged_files(), images(), volumes(), archives(), other_formats(directory), types()):
        for name, inputs in payloads:
            yield name, {"inputs": inputs}
    for request in (None, 5, "text", [], {}, {"input": b"x"}, {None: None}, [{"inputs": b"x"}]):
        yield f"the request {request!r}", request
    good = encoded(Image.fromarray(GREY))
    batches = (0, -1, 1.0, "8", True, [], {}, float("nan"), 10**30)
    labels = ("disc", [], {}, [None], [[]], ["disc"] * 9999 + ["no"], 5, {"disc": 1}, ["background"])
    parameters = [{"batch_size": one} for one in batches] + [{"labels": one} for one in labels]
    for one in (*parameters, [], "labels", 5, {"path": "/etc/passwd"}, {1: 2}, {"labels": None}):
        yield f"parameters {str(one)[:40]}", {"inputs": good, "parameters": one}


def main(adapter: str, folder: str) -> None:
    """Print what became of every request, and the peak memory before and after them."""
    directory = Path(folder)
    (directory / "secret.nii").write_bytes(nifti())
    handler = EndpointHandler(adapter)
    assert handler({"inputs": encoded(Image.fromarray(GREY))})
    assert handler({"inputs": nifti()})
    seen: list[str] = []

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event in FORBIDDEN or (event == "open" and str(arguments[0]).startswith((folder, "/etc/passwd"))):
            seen.append(f"{event} {arguments!r}"[:200])

    results = []
    malformed = list(requests(directory))
    idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sys.addaudithook(audit)
    for name, request in malformed:
        start = time.perf_counter()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            outcome, message = "result", f"{len(handler(request))} labels"
        except Exception as error:
            outcome, message = type(error).__name__, str(error)
        kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        results.append([name, outcome, message, kilobytes, round(time.perf_counter() - start, 2), seen[:]])
        seen.clear()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report = {"idle": idle, "peak": peak, "results": results, "canary": (directory / "canary").exists()}
    print(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
