"""The files of an adapter's repository on the Hub: which ones of a run it gets, and what they contain."""

from __future__ import annotations

import csv
import io
import json
import logging
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import yaml_dump
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..utils.source import package_source
from .card import AUTO_MAPPING, PRIVATE_SETTINGS, is_local_base, named_base, read_json, split_card, write_card
from .space import MODEL

__all__ = ["ADAPTER_DIRECTORY", "ADAPTER_FILES", "OUTDATED", "check_adapter", "check_source"]
__all__ += ["lay_out_repository", "public_settings", "refuse_links"]

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
ADAPTER_DIRECTORY = "adapter"
"""Directory of the adapter's files in repositories of an older layout."""

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# Read if they exist; checkpoints, logs and data of a run are not uploaded.
_READ = ("config.json", "preprocessor_config.json", "metrics.json", "training_settings.json", "README.md")
_METRICS = ("protocol", "distance_unit", "split", "nsd_tolerance_mm", "lesion_min_iou", "mean", "intervals")
_PATH = re.compile(r"~|\.{0,2}/|[A-Za-z]:[\\/]|\\\\|file:")
OUTDATED = [f"{ADAPTER_DIRECTORY}/*", "model*.safetensors*", "pytorch_model*.bin*", "metrics.json", "metrics.csv"]
OUTDATED += [
    "training_settings.json",
    "training_curve.png",
    "overlay.png",
    "examples/*-slice-*.png",
    "examples/example-*.png",
    MODEL,
]
"""Patterns of the files of earlier uploads, which this one replaces or removes."""
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
    names = (*ADAPTER_FILES, *_READ, "training_curve.png", "overlay.png")
    refuse_links(directory, [*(directory / name for name in names), *directory.glob("examples/*.png")])


def check_source(source: str | None, *, required: bool) -> None:
    """Check the URL from which others install this package, or that one is known where it is required."""
    if source is not None and not re.fullmatch(r"git\+https://[^@\s]+@[\w./-]+", source):
        raise ValueError(f"source is {source!r}: expected git+https://HOST/PATH@REVISION, a tag or commit.")
    if required and (source or package_source()) is None:
        raise ValueError(
            "with_handler is given, but the source of this installation of samed_hf is unknown, and the name alone "
            "installs another package: give source, git+https://HOST/PATH@REVISION with a tag or commit."
        )


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
    source: str | None = None,
    with_handler: bool = False,
    licenses: Mapping[str, str | None] | None = None,
    dataset: str | None = None,
    card: str | None = None,
) -> Path:
    """Write the files of a repository into `target` and return it; what others must not see is left out here.

    Cases are numbered, as their names are often those of patients. Paths of the machine and names of its directories
    are left out of every file.

    Args:
        directory: of the adapter, as a training left it.
        target: directory to create.
        repo_id: "user/name"; the adapter's config names it, as [`AUTO_MAPPING`] explains.
        dtype: data type of the weights: "float32", "float16" or "bfloat16".
        base: name of the base model on the Hub and its revision; (`None`, `None`) keeps those of the adapter.
        images: include overlay and example slices; `None` includes those of synthetic data only.
        source: git URL at a tag or commit to install this package from; see [`package_source`].
        with_handler: include `handler.py` and `requirements.txt` for Inference Endpoints.
        licenses: as in [`write_card`].
        dataset: Hub id of the data set, if it is a public one.
        card: the present `README.md` of the repository; see [`write_card`].
    """
    target.mkdir(parents=True)
    config, adapter = (read_json(directory / name) for name in ("config.json", ADAPTER_FILES[0]))
    settings = read_json(directory / "training_settings.json")
    name, commit = _public_base(directory, named_base(adapter, config), base)
    adapter |= {"base_model_name_or_path": repo_id, "revision": None, "auto_mapping": AUTO_MAPPING, "task_type": None}
    _write_json(target / ADAPTER_FILES[0], _without_paths(adapter))
    _write_weights(directory / ADAPTER_FILES[1], target / ADAPTER_FILES[1], dtype)
    _write_reports(directory, target, settings, dataset)
    if processor := read_json(directory / "preprocessor_config.json"):
        _write_json(target / "preprocessor_config.json", _without_paths(processor))
    _copy_images(directory, target, _images_to_upload(directory, settings, images))
    if with_handler:
        (target / "handler.py").write_text(_HANDLER, encoding="utf-8")
        (target / "requirements.txt").write_text(f"samed_hf @ {source or package_source()}\n", encoding="utf-8")
    if not config:
        logger.warning("%s has no config.json: the repository gets no card, and loading it needs id2label", directory)
        return target
    config.pop("_name_or_path", None)
    bases = {"base_model_name_or_path": name, "base_model_revision": commit}
    _write_json(target / "config.json", _without_paths(config) | bases)
    if card or (card := _local_card(directory / "README.md")):
        (target / "README.md").write_text(card, encoding="utf-8")
    write_card(target, name=repo_id, licenses=licenses, source=source)
    return target


def _write_reports(directory: Path, target: Path, settings: dict[str, Any], dataset: str | None) -> None:
    """Write settings and scores, with the same number for a case in each."""
    metrics = read_json(directory / "metrics.json")
    named = [case for split in settings.get("cases", {}).values() for case in split]
    numbers = {case: f"case {n}" for n, case in enumerate(dict.fromkeys([*named, *metrics.get("per_case", {})]), 1)}
    if settings:
        _write_json(target / "training_settings.json", public_settings(settings, numbers, dataset))
    if metrics:
        _write_metrics(target, metrics, numbers)


def public_settings(settings: dict[str, Any], numbers: dict[str, str], dataset: str | None) -> dict[str, Any]:
    """The settings of a run without what is private."""
    public = {key: value for key, value in settings.items() if key not in PRIVATE_SETTINGS}
    if "cases" in settings:
        public["cases"] = {split: [numbers[case] for case in names] for split, names in settings["cases"].items()}
    if dataset:
        public["dataset_name"] = dataset
    run = dict(settings.get("run", {}))
    given = [settings.get(key) for key in ("data_dir", "dataset_name")]
    texts = [text for value in given for text in (value if isinstance(value, list) else [value])]
    paths = [Path(text) for text in texts if text and text != dataset]
    paths += [path.resolve().parent for path in paths if path.suffix]  # a listing's directory
    names = {name for path in paths for name in (path.name, path.resolve().name)}
    if names & {"", "..", *str(run.get("data", "")).split(" and ")}:  # of several data sets
        run.pop("data", None)  # the directory's name: the data set states none
    return _without_paths(public | ({"run": run} if run else {}))


def _write_metrics(target: Path, metrics: dict[str, Any], numbers: dict[str, str]) -> None:
    """Write `metrics.json` and `metrics.csv` with numbered cases, in the order of the numbers."""
    rows = {numbers[case]: scores for case, scores in metrics["per_case"].items()}
    public = {key: metrics[key] for key in (*_METRICS, "per_class") if key in metrics}
    _write_json(target / "metrics.json", public | {"per_case": rows})
    writer = csv.writer(table := io.StringIO(), lineterminator="\n")
    writer.writerow(["case", "label", *metrics["mean"]])
    for case, labels in rows.items():
        writer.writerows([case, label, *score.values()] for label, score in labels.items())
    (target / "metrics.csv").write_text(table.getvalue(), encoding="utf-8")


def _without_paths(value: Any) -> Any:
    """`value` without the texts in it that are paths of a file system."""
    if isinstance(value, dict):
        return {key: _without_paths(item) for key, item in value.items() if not _is_path(item) and not _is_path(key)}
    return [_without_paths(item) for item in value if not _is_path(item)] if isinstance(value, list) else value


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and bool(_PATH.match(value))


def _local_card(file: Path) -> str | None:
    """The card that the user may have edited, without its data sets: only public ones are named on the Hub."""
    if not file.is_file():
        return None
    metadata, text = split_card(file.read_text(encoding="utf-8"))
    metadata.pop("datasets", None)
    return f"---\n{yaml_dump(metadata)}---\n{text}"


def _copy_images(directory: Path, target: Path, images: list[Path]) -> None:
    """Copy the training's curve and the images of cases, whose names are replaced by numbers."""
    if (curve := directory / "training_curve.png").is_file():
        shutil.copyfile(curve, target / curve.name)
    examples = [path for path in images if path.parent != directory]
    for path in images:
        name = f"examples/example-{examples.index(path) + 1}.png" if path in examples else path.name
        (target / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target / name)


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


def _public_base(
    directory: Path, own: tuple[str | None, str | None], given: tuple[str | None, str | None]
) -> tuple[str | None, str | None]:
    """A base model that others can load, and its revision, or none."""
    if given[0] is not None:
        return given
    if own[0] is None or is_local_base(own[0]) or (directory / own[0]).is_dir():
        logger.warning(
            "the base model is a local directory: others can load the adapter only with a copy of it as "
            "base_model_name_or_path. If it is on the Hub, push again with --base_model USER/NAME."
        )
        return None, None
    return own


def _write_weights(source: Path, target: Path, dtype: str) -> None:
    try:
        weights = load_file(source)
    except SafetensorError as error:
        raise ValueError(f"{source} is damaged ({error}): nothing was uploaded.") from error
    save_file({key: value.to(_DTYPES[dtype]) for key, value in weights.items()}, target, metadata={"format": "pt"})
    logger.info("adapter     %.1f MB in %s", target.stat().st_size / 1e6, dtype)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
