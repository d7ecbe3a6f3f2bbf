"""The layout of an adapter's repository on the Hub: which files of a run it gets, and what they contain."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .card import PRIVATE_SETTINGS, is_local_base, write_card
from .run_layout import RunLayout, read_json

__all__ = ["ADAPTER_DIRECTORY", "DTYPES", "check_adapter", "lay_out_repository"]

ADAPTER_DIRECTORY = "adapter"
"""Directory of the adapter's files in a repository.

With an `adapter_config.json` at the root, transformers' Auto classes and pipelines would load config and image
processor from the base model, and at the adapter's revision.
"""

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_HANDLER = '''"""The module that Hugging Face Inference Endpoints load from a repository."""

from samed_hf.serving import EndpointHandler

__all__ = ["EndpointHandler"]
'''

logger = logging.getLogger(__name__)


def check_adapter(directory: Path, dtype: str) -> None:
    """Check what an upload needs before anything is created on the Hub.

    Raises:
        FileNotFoundError: `directory` has no adapter.
        ValueError: unknown `dtype`.
    """
    run = RunLayout(directory)
    if missing := [path.name for path in (run.adapter_config, run.adapter_weights) if not path.is_file()]:
        raise FileNotFoundError(
            f"{directory} is no adapter: {', '.join(missing)} missing. Give the output directory of a training."
        )
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}: expected one of {', '.join(DTYPES)}.")


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
    """Write the files of a repository.

    Args:
        directory: of the adapter, as a training left it.
        target: directory to create.
        repo_id: "user/name", for the card.
        dtype: data type of the weights: "float32", "float16" or "bfloat16".
        base: name of the base model on the Hub and its revision; (`None`, `None`) keeps those of the adapter.
        images: include overlay and example slices; `None` includes those of synthetic data only.
        with_handler: include `handler.py` and `requirements.txt` for Inference Endpoints.

    Returns:
        `target`.

    Raises:
        ValueError: damaged weights.
    """
    run, files, adapter = RunLayout(directory), RunLayout(target), RunLayout(target / ADAPTER_DIRECTORY)
    adapter.directory.mkdir(parents=True)
    _write_json(adapter.adapter_config, _hub_config(run, base))
    _write_weights(run.adapter_weights, adapter.adapter_weights, dtype)
    settings = read_json(run.settings)
    if settings:
        _write_json(files.settings, {key: value for key, value in settings.items() if key not in PRIVATE_SETTINGS})
    # Checkpoints, logs and data of the run are not uploaded.
    copied = [run.config, run.processor_config, run.metrics_table, run.metrics, run.curve]
    for path in copied + _images_to_upload(run, settings, images):
        if path.is_file():
            copy = target / path.relative_to(directory)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, copy)
    if with_handler:
        (target / "handler.py").write_text(_HANDLER, encoding="utf-8")
        (target / "requirements.txt").write_text("samed_hf\n", encoding="utf-8")
    if files.config.is_file():
        write_card(target, name=repo_id)
    else:
        logger.warning("%s has no config.json: the repository gets no card, and loading it needs id2label", directory)
    return target


def _images_to_upload(run: RunLayout, settings: dict[str, Any], images: bool | None) -> list[Path]:
    """The images of the data to upload."""
    existing = [path for path in (run.overlay, *sorted(run.examples.glob("*.png"))) if path.is_file()]
    if images or (images is None and settings.get("run", {}).get("synthetic")):
        return existing
    if existing and images is None:
        logger.warning(
            "overlay and example slices show patients and are not uploaded; if you may publish them, push with "
            "--pictures"
        )
    return []


def _hub_config(run: RunLayout, base: tuple[str | None, str | None]) -> dict[str, Any]:
    """The adapter's config with a base model that others can load, or none."""
    content = read_json(run.adapter_config)
    own = content.get("base_model_name_or_path")
    if base[0] is not None:
        content |= {"base_model_name_or_path": base[0], "revision": base[1]}
    elif own is None or is_local_base(own) or (run.directory / own).is_dir():
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
    converted = {key: value.to(DTYPES[dtype]) for key, value in weights.items()}
    save_file(converted, target, metadata={"format": "pt"})
    logger.info("adapter     %.1f MB in %s", target.stat().st_size / 1e6, dtype)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
