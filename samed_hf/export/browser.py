"""A static page that segments scans in its reader's browser, with an exported model."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import logging
import os
import shutil
import subprocess
import tarfile
import tempfile
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import torch
import yaml

from ..hub.card import escape_markdown
from ..inference.onnx_model import OnnxModel
from ..reporting.charts import label_colors
from ..utils.atomic import atomic_directory, write_bytes
from ..utils.text import printable
from .run import export_adapter

__all__ = ["export_page"]

logger = logging.getLogger(__name__)

_CDN = "https://cdn.jsdelivr.net/npm"
_PACKAGES = {  # of npm, with the SHA-512 of the archive
    "@niivue/niivue@0.69.0": "YMjQvJgD1W2b7DuoxkwlC4VxbrgIePRJ5qyQzXKxi2v2MBVg285P/CIQyg46oDDGDIcaNlbd+MhtO/edMbXJkA==",
    "onnxruntime-web@1.30.0": "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3j"
    "L02Vb7QmRMDs1SigqR4CXAfKYQ==",
    "@niivue/dcm2niix@1.2.0": "wGontzVdVvLzeptZvJCcCQfpneoCme+9oCl82USjWMuer048+ZByO3b4FhbG"
    "nyEVQPh7hVgDA7A2+l6vW29bDg==",
}
_LIBRARIES = {  # the name in the page's code: package and file
    "niivue": ("@niivue/niivue@0.69.0", "dist/index.js"),
    "ort": ("onnxruntime-web@1.30.0", "dist/ort.wasm.bundle.min.mjs"),
    "ortWasm": ("onnxruntime-web@1.30.0", "dist/ort-wasm-simd-threaded.wasm"),
    "ortGpu": ("onnxruntime-web@1.30.0", "dist/ort.webgpu.bundle.min.mjs"),
    "ortGpuWasm": ("onnxruntime-web@1.30.0", "dist/ort-wasm-simd-threaded.asyncify.wasm"),
    "dicom": ("@niivue/dcm2niix@1.2.0", "dist/dcm2niix.jpeg.js"),
    "dicomWasm": ("@niivue/dcm2niix@1.2.0", "dist/dcm2niix.jpeg.wasm"),
}
_TOLERANCE = {"float32": 0.001, "float16": 0.02, "int8": 0.1}  # of the logits' range, between runtimes
_SOURCES = ("app.js", "core.js", "correct.js", "worker.js", "style.css")


def export_page(
    adapter: str, output: str | Path, *, precision: str = "float16", vendor: bool = True, **options: Any
) -> dict[str, Any]:
    """Write a static page, also a Hugging Face Space, that segments in the browser; a page in `output` is replaced.

    Args:
        adapter: directory or Hub id.
        output: directory to write: `index.html`, its scripts, `config.json`, `model.onnx` and `README.md`.
        precision: of the model, see [`export_onnx`]; float16 halves what a reader loads.
        vendor: whether copies of the libraries are put beside the page. If not, it loads them from cdn.jsdelivr.net,
            checked by their hashes.
        **options: see [`export_adapter`].

    Returns:
        What [`export_adapter`] returns.

    Raises:
        ConnectionError: a library is neither in the cache nor can be downloaded.
        FileNotFoundError: a library isn't in the cache and npm isn't installed.
        ValueError: `output` has other files, a library isn't what its hash states, the model has more than 256 labels
            or its weights do not fit into one file; else as [`export_adapter`].
    """
    _refuse_other_files(Path(output))
    libraries = _read_libraries()
    with atomic_directory(output) as directory:
        facts = export_adapter(adapter, directory / "model", precision=precision, **options)
        if (directory / "model" / "model.onnx.data").exists():
            raise ValueError(f"The weights exceed 2 GB in {precision}: give --precision float16 or int8 for a browser.")
        (directory / "model" / "model.onnx").replace(directory / "model.onnx")
        shutil.rmtree(directory / "model")
        config = _describe(OnnxModel(directory / "model.onnx", providers=["CPUExecutionProvider"]), precision)
        config["fingerprint"] = facts["fingerprint"]  # of the model that was exported
        config["libraries"] = {
            name: _place_library(directory, name, content, vendor) for name, content in libraries.items()
        }
        write_bytes(directory / "config.json", json.dumps(config, indent=1).encode())
        source = resources.files(__package__) / "browser"
        connect = "'self'" if vendor else f"'self' {_CDN}/"
        title = config["title"].translate({ord("&"): "&amp;", ord("<"): "&lt;", ord('"'): "&quot;"})
        page = Template((source / "index.html").read_text(encoding="utf-8")).substitute(title=title, connect=connect)
        write_bytes(directory / "index.html", page.encode())
        write_bytes(
            directory / "README.md", _readme(config, facts, (source / "README.md").read_text(encoding="utf-8")).encode()
        )
        names = {name: name for name in _SOURCES} | ({"licenses.md": "vendor/LICENSES.md"} if vendor else {})
        for name, target in names.items():
            write_bytes(directory / target, (source / name).read_bytes())
    return facts


def _refuse_other_files(output: Path) -> None:
    own = {"index.html", "config.json", "model.onnx", "README.md", "vendor", *_SOURCES}
    if others := sorted({path.name for path in output.iterdir()} - own if output.is_dir() else ()):
        raise ValueError(f"output is {output}, which has other files, e.g. {others[0]}: give a new directory.")


def _describe(model: OnnxModel, precision: str) -> dict[str, Any]:
    """What the page's scripts need to know, and logits of a fixed pattern by which they check the browser."""
    names, processor = model.config.id2label, model.image_processor
    if len(names) > 256:
        raise ValueError(f"The model has {len(names)} labels: a page can have at most 256.")
    colors = (label_colors(len(names)) * 255).round().astype(int).tolist()
    channels, side = model.config.channel_projection or 3, processor.image_size
    pattern = np.arange(channels * side * side) * 7 % 64 / np.float32(64)
    pixels = torch.from_numpy(pattern.astype(np.float32).reshape(1, channels, side, side))
    logits = model(pixels).logits.numpy().ravel()
    step = max(1, len(logits) // 500)
    check = {"step": step, "values": logits[::step].tolist(), "range": float(np.ptp(logits))}
    settings = processor.to_dict()
    read = ("axis_order", "channel_names", "channels", "context_slices", "image_size", "input_size", "orientation")
    shown = [names[index] for index in sorted(names) if index]
    sha256 = hashlib.sha256(content := model.file.read_bytes()).hexdigest()
    return {
        "title": f"Segmentation of {', '.join(shown[:3])}{f' and {len(shown) - 3} more' if len(shown) > 3 else ''}",
        "labels": [{"name": names[index], "rgb": colors[index]} for index in sorted(names)],
        "preprocessor": {key: settings.get(key) for key in (*read, "intensity_window", "percentiles")},
        "channels": channels,
        "channels_of_scan": processor.num_channels,
        "models": "",  # the directory of the model, ending in "/"
        "model": {"file": "model.onnx", "bytes": len(content), "sha256": sha256, "precision": precision},
        "check": check | {"tolerance": _TOLERANCE[precision]},
    }


def _place_library(directory: Path, name: str, content: bytes, vendor: bool) -> dict[str, Any]:
    package, file = _LIBRARIES[name]
    integrity = f"sha384-{base64.b64encode(hashlib.sha384(content).digest()).decode()}"
    url = f"{_CDN}/{package}/{file}"
    if vendor:
        url = f"vendor/{package.split('/')[-1]}/{Path(file).name}"
        (directory / url).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(directory / url, content)
    return {"url": url, "integrity": integrity, "bytes": len(content)}


def _read_libraries() -> dict[str, bytes]:
    archives = {package: gzip.decompress(_read_package(package, digest)) for package, digest in _PACKAGES.items()}
    libraries = {}
    for name, (package, path) in _LIBRARIES.items():
        with tarfile.open(fileobj=io.BytesIO(archives[package])) as archive:
            member = archive.extractfile(f"package/{path}")
            assert member is not None
            libraries[name] = member.read()
    return libraries


def _read_package(package: str, digest: str) -> bytes:
    """The archive of a package, from the cache or by npm, after its hash was compared."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "samed_hf" / "npm"
    file, npm = cache / f"{package.replace('/', '+')}.tgz", shutil.which("npm")
    if file.is_file() and _digest(content := file.read_bytes()) == digest:
        return content
    if npm is None:
        raise FileNotFoundError(f"npm isn't installed, which fetches {package} for the page once: install Node.js.")
    logger.info(f"download    {package}")
    with tempfile.TemporaryDirectory() as directory:
        command = [npm, "pack", package, "--silent", "--pack-destination", directory]
        done = subprocess.run(command, capture_output=True, text=True, cwd=directory)
        archives = list(Path(directory).glob("*.tgz"))
        if done.returncode or not archives:
            reason = printable(" ".join(done.stderr.split())[:200])
            raise ConnectionError(
                f"{package}, which the page needs, can't be downloaded ({reason}): run the command once with a "
                f"connection; the package is then kept in {cache}."
            )
        content = archives[0].read_bytes()
    if _digest(content) != digest:
        raise ValueError(f"{package} isn't what its SHA-512 states: expected {digest}; npm has another source.")
    cache.mkdir(parents=True, exist_ok=True)
    write_bytes(file, content)
    return content


def _digest(content: bytes) -> str:
    return base64.b64encode(hashlib.sha512(content).digest()).decode()


def _readme(config: dict[str, Any], facts: dict[str, Any], template: str) -> str:
    data = {"title": config["title"][:60]} | {key: facts[key] for key in ("license",) if key in facts}
    data |= {"models": [facts["adapter"]]} if "adapter" in facts else {}
    front = yaml.safe_dump(data, allow_unicode=True, sort_keys=False).rstrip()
    labels = ", ".join(label["name"] for label in config["labels"][1:])
    title, labels = escape_markdown([config["title"], labels])
    return Template(template).substitute(front=front, title=title, labels=labels)
