"""The card of an adapter, rendered from `model_card.md` with what the files of its run say."""

from __future__ import annotations

import json
import os
import re
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..utils.atomic import write_text

__all__ = ["PRIVATE_SETTINGS", "is_local_base", "write_card"]

PRIVATE_SETTINGS = frozenset(
    {"data_dir", "dataset_name", "cache_dir", "output_dir", "model_name_or_path", "resume_from_checkpoint", "hub_token"}
    | {"cases"}  # files are called after patients
)
"""Settings that hold places on the user's machine or secrets, which are nobody else's business."""

_UNKNOWN_DATA = "data of its author's"


def write_card(folder: str | os.PathLike, *, name: str | None = None, license_id: str = "apache-2.0") -> None:
    """Write the adapter's `README.md` from the files that lie beside it.

    Read are `config.json`, `preprocessor_config.json`, `adapter_config.json` (here or in the subfolder `adapter`) and,
    where they are, `metrics.json`, `training_settings.json`, `overlay.png`, `training_curve.png` and `examples/*.png`.

    Args:
        folder: the adapter's folder, as a training left it or as it goes onto the Hub.
        name: title, and name of the repository in the snippets; defaults to the folder's.
        license_id: of the adapter's weights, as the Hub names it.

    Raises:
        FileNotFoundError: `config.json` or `adapter_config.json` is missing.
    """
    folder = Path(folder)
    name = name or folder.resolve().name
    config = _read(folder / "config.json")
    places = [folder / "adapter", folder]
    place = next((place for place in places if (place / "adapter_config.json").is_file()), folder)
    adapter = _read(place / "adapter_config.json")
    weights = place / "adapter_model.safetensors"
    metrics = _read(folder / "metrics.json", needed=False)
    settings = _read(folder / "training_settings.json", needed=False)
    run = settings.pop("run", {})
    base = adapter.get("base_model_name_or_path")
    base = None if base is None or is_local_base(base) else base
    examples = sorted(path.relative_to(folder).as_posix() for path in folder.glob("examples/*.png"))
    data = run.get("data", _UNKNOWN_DATA)
    card = ModelCard.from_template(
        _metadata(name, license_id, base, data, metrics, examples),
        template_path=str(_template()),
        name=name,
        license_id=license_id,
        labels=[label for index, label in sorted((int(key), label) for key, label in config["id2label"].items())][1:],
        image_size=config["image_size"],
        processor=_read(folder / "preprocessor_config.json", needed=False),
        adapter=adapter,
        base_model=base,
        data=data,
        run=run,
        settings={key: value for key, value in settings.items() if key in _shown(settings)},
        deviations=settings.get("deviations"),
        metrics=metrics,
        pictures=[path.name for path in folder.glob("*.png")],
        examples=examples,
        megabytes=weights.stat().st_size / 1e6 if weights.is_file() else None,
        adapter_folder=place.name,
    )
    write_text(folder / "README.md", str(card))


def is_local_base(base: str) -> bool:
    """Whether a base model's name is a place on somebody's disk and no name on the Hub."""
    return base.startswith((".", "/", "~")) or "\\" in base or base.count("/") > 1 or Path(base).is_dir()


def _shown(settings: Mapping[str, Any]) -> set[str]:
    """What shaped the training; not what was done with it."""
    hidden = PRIVATE_SETTINGS | {"deviations", "push_to_hub", "push_every", "with_handler", "report_to"}
    hidden |= {"checkpoints_total_limit", "checkpointing_steps", "dataloader_num_workers", "eval_steps"}
    hidden |= {"watched_slices", "save_best", "max_skipped_steps"}
    return {key for key, value in settings.items() if value is not None and key not in hidden and key[:4] != "hub_"}


def _metadata(
    name: str, license_id: str, base: str | None, data: str, metrics: Mapping[str, Any], examples: list[str]
) -> ModelCardData:
    dataset = _slug(data)
    known = {"datasets": [dataset]} if data != _UNKNOWN_DATA else {}
    widget = {"widget": [{"src": path, "example_title": Path(path).stem} for path in examples]} if examples else {}
    return ModelCardData(
        library_name="samed_hf",
        pipeline_tag="image-segmentation",
        license=license_id,
        base_model=base,
        base_model_relation="adapter" if base else None,
        tags=["medical", "segment-anything", "samed", "lora", "peft", "arxiv:2304.13785"],
        model_name=name if metrics else None,
        eval_results=_eval_results(metrics, data, dataset) if metrics else None,
        **known,
        **widget,
    )


def _eval_results(metrics: Mapping[str, Any], data: str, dataset: str) -> list[EvalResult]:
    """Every score of `metrics.json` that is defined, unrounded."""
    unit = metrics.get("distance_unit", "voxel")
    titles = {"dice": "Dice", "hd95": f"HD95 in {unit}"}
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


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "data"


def _read(path: Path, needed: bool = True) -> dict[str, Any]:
    if not needed and not path.is_file():
        return {}
    return json.loads(path.read_text(encoding="utf-8"))


def _template() -> Path:
    """`model_card.md` of the checkout, or of the installed package."""
    places = [Path(__file__).parents[2], Path(sysconfig.get_path("data")) / "share" / "samed_hf"]
    for place in places:
        if (place / "model_card.md").is_file():
            return place / "model_card.md"
    raise FileNotFoundError(f"model_card.md is in none of {', '.join(map(str, places))}: install samed_hf again.")
