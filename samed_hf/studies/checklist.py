"""The draft of a reporting checklist: what a run and its evaluation record, and what only an author can say."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import safe_open

from ..data.dataset import CaseDataset
from ..diagnostics.machine import find_accelerators, find_processor
from ..hub.card import AUTO_MAPPING, BASE_LICENSES, escape_markdown, is_hub_id, is_local_base
from ..hub.repository import public_settings
from ..inference import Segmenter
from ..model.adapter_files import AdapterFiles
from ..model.download import fetch_file, fetch_json, pin_revision
from ..model.fingerprint import base_fingerprint
from ..reporting.formatting import format_count, format_duration, format_score, plural
from ..training.checkpointing.provenance import code_revision, package_versions
from ..utils.atomic import write_text

__all__ = ["write_checklist"]


def write_checklist(
    run: Mapping[str, Any], metrics: Mapping[str, Any], *, segmenter: Segmenter, data: CaseDataset, options: dict
) -> Path:
    """Write `checklist.md`, a draft of what a paper has to report, after CLAIM, TRIPOD+AI and Metrics Reloaded.

    What isn't recorded is called unknown; paths and names of cases are left out. The template cites the guidelines.

    Args:
        run: "method" of the scores, and "cases" with the "labels" of each.
        metrics: the content of `metrics.json`.
        segmenter: the adapter, loaded.
        data: the data set of the scored cases.
        options: of `samed-hf evaluate`, by name.
    """
    adapter, folder, name = options["adapter"], Path(options["adapter"]), "training_settings.json"
    model, download = _model(adapter, segmenter), pin_revision(adapter, {})
    is_best = (folder / "validation.json").is_file() and not (folder / name).is_file()  # a run's directory `best`
    settings = fetch_json(str(folder.resolve().parent) if is_best else adapter, name, download)
    known = settings.pop("cases", {})  # a published adapter's are numbered
    cases = _count_cases(metrics, {} if model["published"] else known, data)
    place = {"data_dir": list(options["data"]), "run": {"data": data.about.get("name")}}
    context = {"metrics": metrics, "method": run["method"], "options": options, "cases": cases, "is_best": is_best}
    context |= {"model": model, "config": segmenter.models[0].config, "processor": segmenter.processor, "data": data}
    context["settings"] = public = _publish(settings)
    context |= {"trained": defaultdict(lambda: None, public["run"]), "data_name": _publish(place)["run"].get("data")}
    context["hub_data"] = [name for name in options["data"] if is_hub_id(name)]
    context["labels"] = Counter(label for case in run["cases"] for label in case.get("labels", ()))
    context |= {"machine": (find_accelerators() or [find_processor()])[0], "versions": package_versions()}
    context |= {"code": code_revision(), "has_splits_file": settings.get("splits") is not None}
    path = Path(options["output"]) / "checklist.md"
    write_text(path, _environment().get_template("checklist.md.j2").render(context) + "\n")
    return path


def _environment() -> Environment:
    """Jinja for Markdown: every text that isn't the template's own is escaped."""

    def escape(value: Any) -> Any:
        return Markup(escape_markdown(value)) if type(value) is str else "unknown" if value is None else value

    options: dict[str, Any] = {"undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    loader = PackageLoader("samed_hf.studies")
    environment = Environment(loader=loader, autoescape=True, finalize=escape, **options)
    environment.filters |= {"count": format_count, "duration": format_duration, "plural": plural}
    environment.globals["score"] = format_score
    return environment


def _publish(settings: Mapping[str, Any]) -> defaultdict[str, Any]:
    """Settings without what is private; `None` for those that an older version didn't record."""
    dataset = settings.get("dataset_name")
    public = public_settings(dict(settings), {}, dataset if dataset and is_hub_id(dataset) else None)
    return defaultdict(lambda: None, {"run": {}} | public)


def _model(adapter: str, segmenter: Segmenter) -> dict[str, Any]:
    """What the files and the weights of the adapter say; "trained" is `None` for a model without adapter."""
    model, download = segmenter.models[0], pin_revision(adapter, {})
    about: dict[str, Any] = {"hub_id": None if Path(adapter).exists() else adapter, "trained": None, "base": None}
    about |= {"revision": download.get("revision"), "base_revision": None, "base_license": None, "published": False}
    if (files := AdapterFiles.find(adapter, download)) is not None:
        file = fetch_file(adapter, SAFETENSORS_WEIGHTS_NAME, download | {"subfolder": files.subfolder})
        with safe_open(file, "pt") as weights:
            sizes = {key: math.prod(weights.get_slice(key).get_shape()) for key in weights.keys()}  # noqa: SIM118
        names = [re.sub(r"^base_model\.model\.(sam\.)?|\.\d+\b", "", key) for key in sizes]
        about |= {"trained": sum(sizes.values()), "rank": files.content.get("r")}
        about["lora"] = sorted({name.split(".lora_")[0] for name in names if ".lora_" in name})
        about["whole"] = sorted({name.split(".")[0] for name in names if ".lora_" not in name})
        base, about["base_revision"] = files.named_base(download)
        about["base"] = None if base is None or is_local_base(base) else base
        about["base_license"] = BASE_LICENSES.get(about["base"])
        about["published"] = files.content.get("auto_mapping") == AUTO_MAPPING
    total = sum(one.numel() for name, one in model.named_parameters() if ".original_module." not in name)
    return about | {"total": total, "hash": segmenter.fingerprints()[0], "base_hash": base_fingerprint(model)}


def _count_cases(metrics: Mapping[str, Any], known: Mapping[str, Any], data: CaseDataset) -> dict[str, Any]:
    """Numbers of cases that training and evaluation have in common, `None` if those of the training are unknown."""
    done, train, held_out = {*metrics["per_case"]}, {*known.get("train", ())}, {*known.get("validation", ())}
    patients = {data.groups[name] for name in train & data.groups.keys()}
    counts = {
        "trained_on": len(done & train),
        "selected_on": len(done & held_out),
        "same_patients": sum(data.groups.get(name) in patients for name in done - train),
        "known": len(train | held_out),
        "in_data": len((train | held_out) & data.sources.keys()),
        "declared": len(held_out & {*data.validation}),
    }
    return counts if known else dict.fromkeys(counts)
