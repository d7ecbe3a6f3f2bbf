"""The card of an adapter, rendered from `templates/model_card.md` and the files of its run."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..utils.atomic import write_text

__all__ = ["PRIVATE_SETTINGS", "is_local_base", "read_json", "write_card"]

PRIVATE_SETTINGS = frozenset(
    {"data_dir", "dataset_name", "cache_dir", "output_dir", "model_name_or_path", "resume_from_checkpoint", "hub_token"}
    | {"cases"}  # the names of files are often those of patients
)
"""Settings with paths of the user's machine, names of patients or secrets, which are never published."""

# Settings that don't affect the trained weights; neither do those that start with "hub_".
_NOT_ON_CARD = frozenset(
    {"deviations", "push_to_hub", "push_every", "with_handler", "report_to", "checkpoints_total_limit", "save_best"}
    | {"checkpointing_steps", "dataloader_num_workers", "eval_steps", "watched_slices", "max_skipped_steps"}
)
_UNKNOWN_DATA = "data of its author's"


def write_card(directory: str | os.PathLike[str], *, name: str | None = None, license_id: str = "apache-2.0") -> None:
    """Write an adapter's `README.md` from the other files in its directory.

    These are `config.json`, `preprocessor_config.json`, `adapter_config.json` (here or in the subdirectory `adapter`)
    and, if they exist, `metrics.json`, `training_settings.json`, `overlay.png`, `training_curve.png` and
    `examples/*.png`.

    Args:
        directory: of the adapter, as a training left it or in the layout of a repository.
        name: title, and name of the repository in the snippets; defaults to the directory's.
        license_id: the Hub's identifier of the licence of the adapter's weights.

    Raises:
        FileNotFoundError: `config.json` or `adapter_config.json` is missing.
    """
    directory = Path(directory)
    name = name or directory.resolve().name
    metrics = read_json(directory / "metrics.json")
    settings = read_json(directory / "training_settings.json")
    run = settings.pop("run", {})
    data = run.get("data", _UNKNOWN_DATA)
    adapter = _describe_adapter(directory)
    examples = sorted(path.relative_to(directory).as_posix() for path in directory.glob("examples/*.png"))
    card = ModelCard.from_template(
        _metadata(name, license_id, adapter["base_model"], data, metrics, examples),
        template_str=resources.files(__package__).joinpath("templates/model_card.md").read_text(encoding="utf-8"),
        name=name,
        license_id=license_id,
        processor=read_json(directory / "preprocessor_config.json"),
        data=data,
        run=run,
        settings={
            key: value
            for key, value in settings.items()
            if value is not None and key not in PRIVATE_SETTINGS | _NOT_ON_CARD and not key.startswith("hub_")
        },
        deviations=settings.get("deviations"),
        metrics=metrics,
        images=[path.name for path in directory.glob("*.png")],
        **adapter,
    )
    write_text(directory / "README.md", str(card))


def read_json(path: Path, *, required: bool = False) -> dict[str, Any]:
    """The content of a file; empty if it does not exist and is not required."""
    return json.loads(path.read_text(encoding="utf-8")) if required or path.is_file() else {}


def _describe_adapter(directory: Path) -> dict[str, Any]:
    """The template's variables that describe the adapter itself."""
    config = read_json(directory / "config.json", required=True)
    if (directory / "adapter" / "adapter_config.json").is_file():
        directory /= "adapter"
    adapter = read_json(directory / "adapter_config.json", required=True)
    base, weights = adapter.get("base_model_name_or_path"), directory / "adapter_model.safetensors"
    return {
        "labels": [config["id2label"][index] for index in sorted(config["id2label"], key=int)][1:],
        "image_size": config["image_size"],
        "adapter": adapter,
        "adapter_directory": directory.name,
        "base_model": None if base is None or is_local_base(base) else base,
        "megabytes": weights.stat().st_size / 1e6 if weights.is_file() else None,
    }


def is_local_base(base: str) -> bool:
    """Whether a base model's name is a path of a file system rather than a name on the Hub."""
    return base.startswith((".", "/", "~")) or "\\" in base or base.count("/") > 1 or Path(base).is_dir()


def _metadata(
    name: str, license_id: str, base: str | None, data: str, metrics: Mapping[str, Any], examples: list[str]
) -> ModelCardData:
    dataset = re.sub(r"[^a-z0-9]+", "-", data.lower()).strip("-") or "data"
    optional: dict[str, Any] = {}
    if data != _UNKNOWN_DATA:
        optional["datasets"] = [dataset]
    if examples:
        optional["widget"] = [{"src": path, "example_title": Path(path).stem} for path in examples]
    return ModelCardData(
        library_name="samed_hf",
        pipeline_tag="image-segmentation",
        license=license_id,
        base_model=base,
        base_model_relation="adapter" if base else None,
        tags=["medical", "segment-anything", "samed", "lora", "peft", "arxiv:2304.13785"],
        model_name=name if metrics else None,
        eval_results=_eval_results(metrics, data, dataset) if metrics else None,
        **optional,
    )


def _eval_results(metrics: Mapping[str, Any], data: str, dataset: str) -> list[EvalResult]:
    """Every score of `metrics.json` that is defined, unrounded."""
    titles = {"dice": "Dice", "hd95": f"HD95 in {metrics.get('distance_unit', 'voxel')}"}
    return [
        EvalResult(
            task_type="image-segmentation",
            task_name="Semantic segmentation",
            dataset_type=dataset,
            dataset_name=data,
            dataset_split=metrics.get("split", "test"),
            metric_type=key,
            metric_name=f"{title}, {label}",
            metric_value=row[key],
            metric_args={"protocol": metrics["protocol"], "cases": len(metrics["per_case"])},
        )
        for label, row in (("mean", metrics["mean"]), *metrics["per_class"].items())
        for key, title in titles.items()
        if row.get(key) is not None
    ]
