"""The files of an adapter's repository on the Hub: which ones of a run it gets, and what they contain."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .card import PRIVATE_SETTINGS, is_local_base, read_json, write_card

__all__ = ["ADAPTER_DIRECTORY", "ADAPTER_FILES", "check_adapter", "lay_out_repository", "refuse_links"]

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
ADAPTER_DIRECTORY = "adapter"
"""Directory of the adapter's files in a repository.

With an `adapter_config.json` at the root, transformers' Auto classes and pipelines would load config and image
processor from the base model, and at the adapter's revision.
"""

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# Copied if they exist; checkpoints, logs and data of a run are not uploaded.
_COPIED = ("config.json", "preprocessor_config.json", "metrics.csv", "metrics.json", "training_curve.png")
_HANDLER = '''"""The module that Hugging Face Inference Endpoints load from a repository."""

from samed_hf.serving import EndpointHandler

__all__ = ["EndpointHandler"]
'''

logger = logging.getLogger(__name__)


def check_adapter(directory: Path, dtype: str) -> None:
    """Check what an upload needs before anything is created on the Hub."""
    if missing := [name for name in ADAPTER_FILES if not (directory / name).is_file()]:
        raise FileNotFoundError(
            f"{directory} is no adapter: {', '.join(missing)} missing. Give the output directory of a training."
        )
    if dtype not in _DTYPES:
        raise ValueError(f"dtype is {dtype!r}: expected one of {', '.join(_DTYPES)}.")
    names = (*ADAPTER_FILES, *_COPIED, "training_settings.json", "overlay.png")
    refuse_links(directory, [*(directory / name for name in names), *directory.glob("examples/*.png")])


def refuse_links(directory: Path, paths: Iterable[Path]) -> None:
    """Raise a `ValueError` if files to upload are outside of `directory`, through symbolic links or `..`."""
    outside = [path for path in paths if not path.resolve().is_relative_to(directory.resolve())]
    if outside:
        raise ValueError(
            f"{', '.join(map(str, outside))} would be uploaded from outside of {directory}: nothing was uploaded. If "
            "you may publish what the link leads to, replace it by a copy (`cp -rL` copies a directory so)."
        )


def lay_out_repository(
    directory: Path,
    target: Path,
    *,
    repo_id: str,
    dtype: str = "float32",
    base: tuple[str | None, str | None] = (None, None),
    images: bool | None = None,
    with_handler: bool = False,
) -> Path:
    """Write the files of a repository into `target` and return it.

    Args:
        directory: of the adapter, as a training left it.
        target: directory to create.
        repo_id: "user/name", for the card.
        dtype: data type of the weights: "float32", "float16" or "bfloat16".
        base: name of the base model on the Hub and its revision; (`None`, `None`) keeps those of the adapter.
        images: include overlay and example slices; `None` includes those of synthetic data only.
        with_handler: include `handler.py` and `requirements.txt` for Inference Endpoints.
    """
    config, weights = ADAPTER_FILES
    adapter = target / ADAPTER_DIRECTORY
    adapter.mkdir(parents=True)
    _write_json(adapter / config, _hub_config(directory, base))
    _write_weights(directory / weights, adapter / weights, dtype)
    settings = read_json(directory / "training_settings.json")
    if settings:
        public = {key: value for key, value in settings.items() if key not in PRIVATE_SETTINGS}
        _write_json(target / "training_settings.json", public)
    copied = [path for path in (directory / name for name in _COPIED) if path.is_file()]
    for path in copied + _images_to_upload(directory, settings, images):
        copy = target / path.relative_to(directory)
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, copy)
    if with_handler:
        (target / "handler.py").write_text(_HANDLER, encoding="utf-8")
        (target / "requirements.txt").write_text("samed_hf\n", encoding="utf-8")
    if (target / "config.json").is_file():
        write_card(target, name=repo_id)
    else:
        logger.warning("%s has no config.json: the repository gets no card, and loading it needs id2label", directory)
    return target


def _images_to_upload(directory: Path, settings: dict[str, Any], images: bool | None) -> list[Path]:
    """The images of the data to upload."""
    existing = [*directory.glob("overlay.png"), *sorted(directory.glob("examples/*.png"))]
    if images or (images is None and settings.get("run", {}).get("synthetic")):
        return existing
    if existing and images is None:
        logger.warning(
            "overlay and example slices show patients and are not uploaded; if you may publish them, push with "
            "--pictures"
        )
    return []


def _hub_config(directory: Path, base: tuple[str | None, str | None]) -> dict[str, Any]:
    """The adapter's config with a base model that others can load, or none."""
    content = read_json(directory / ADAPTER_FILES[0])
    own = content.get("base_model_name_or_path")
    if base[0] is not None:
        content |= {"base_model_name_or_path": base[0], "revision": base[1]}
    elif own is None or is_local_base(own) or (directory / own).is_dir():
        logger.warning(
            "the base model is a local directory: by from_pretrained, pipeline and PEFT, others can load the adapter "
            "only with a copy of it as base_model_name_or_path. If it is on the Hub, push again with "
            "--base_model USER/NAME."
        )
        content |= {"base_model_name_or_path": None, "revision": None}
    return content


def _write_weights(source: Path, target: Path, dtype: str) -> None:
    try:
        weights = load_file(source)
    except SafetensorError as error:
        raise ValueError(f"{source} is damaged ({error}): nothing was uploaded.") from error
    save_file({key: value.to(_DTYPES[dtype]) for key, value in weights.items()}, target, metadata={"format": "pt"})
    logger.info("adapter     %.1f MB in %s", target.stat().st_size / 1e6, dtype)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
