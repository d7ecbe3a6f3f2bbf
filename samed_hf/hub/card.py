"""The card of an adapter, rendered from `templates/model_card.md` and the files of its run."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.utils import yaml_dump

from ..utils.atomic import write_text
from ..utils.packaged import SMALL_SAM, is_directory
from ..utils.source import package_source

__all__ = ["AUTO_MAPPING", "BASE_LICENSES", "LICENSES", "PRIVATE_SETTINGS", "escape_markdown", "is_hub_id"]
__all__ += ["is_local_base", "merge_cards", "named_base", "read_json", "split_card", "write_card"]

PRIVATE_SETTINGS = frozenset(
    {"data_dir", "dataset_name", "cache_dir", "output_dir", "model_name_or_path", "resume_from_checkpoint", "hub_token"}
    | {"splits", "cases"}  # the names of files are often those of patients
)
"""Settings with paths of the user's machine, names of patients or secrets, which are never published as they are."""

AUTO_MAPPING = {"base_model_class": "SamedForSemanticSegmentation", "parent_library": "samed_hf"}
"""`auto_mapping` in the `adapter_config.json` of a repository.

Its `base_model_name_or_path` is the repository itself: transformers' Auto classes and pipelines load config and image
processor from there, at the adapter's own revision. The base model and its revision are in `config.json`.
"""

LICENSES = ("license", "base_license", "data_license")
"""Settings that name the licences of the adapter's weights, of the base model and of the data."""

BASE_LICENSES = dict.fromkeys(
    [*(f"facebook/sam-vit-{size}" for size in ("base", "large", "huge")), "wanglab/medsam-vit-base", SMALL_SAM]
    + [f"nielsr/slimsam-{share}-uniform" for share in (50, 77)],
    "apache-2.0",
)
"""Licences of well-known base models, as their pages on the Hub state them, and of the packaged one."""

# Settings that don't affect the trained weights; neither do those that start with "hub_".
_NOT_ON_CARD = frozenset(
    {"deviations", "push_to_hub", "push_every", "with_handler", "report_to", "checkpoints_total_limit", "save_best"}
    | {"checkpointing_steps", "dataloader_num_workers", "eval_steps", "watched_slices", "max_skipped_steps"}
    | {"metrics", "nsd_tolerance_mm", "lesion_min_iou", *LICENSES}
)
# Metadata that describe the files of the repository, and are renewed with them.
_RENEWED = frozenset({"base_model", "base_model_relation", "model-index", "models", "widget"})
_MARKED = re.compile(r"<!-- samed_hf: begin.*?<!-- samed_hf: end -->", re.DOTALL)
# The whole text of cards from before there were marks.
_UNMARKED = re.compile(
    r"(# [^\n]*\n\n)?A \[SAMed\]\(https://arxiv.org/abs/2304.13785\) adapter: .*```bibtex.*?```", re.DOTALL
)
_ENTITIES = {ord(char): f"&#{ord(char)};" for char in "&<>|`*[]\\"}
# Layers of the image encoder's blocks that LoRA can adapt.
_LAYERS = {"q": "attn.q_proj", "k": "attn.k_proj", "v": "attn.v_proj", "o": "attn.proj", "the MLP": "mlp.lin1"}
_UNKNOWN_DATA = "data of its author's"


def write_card(
    directory: str | os.PathLike[str],
    *,
    name: str | None = None,
    licenses: Mapping[str, str | None] | None = None,
    source: str | None = None,
    page: str | None = None,
) -> None:
    """Write an adapter's `README.md` from the other files in its directory.

    These are `config.json`, `preprocessor_config.json`, `adapter_config.json` (here or in the subdirectory `adapter`)
    and, if they exist, `metrics.json`, `training_settings.json`, `overlay.png`, `training_curve.png` and
    `examples/*.png`. If there is a `README.md`, its text outside of the marked block and its other metadata stay.

    Args:
        directory: of the adapter, as a training left it or in the layout of a repository.
        name: title, and name of the repository in the snippets; defaults to the directory's.
        licenses: the Hub's identifiers of the licences of the adapter's weights ("license"), of the base model
            ("base_license") and of the data ("data_license"); defaults to those in `training_settings.json`, of a base
            model then to `BASE_LICENSES`. The card says which are unknown.
        source: git URL at a tag or commit to install this package from; see [`package_source`].
        page: address of a page that runs the adapter in its reader's browser.

    Raises:
        FileNotFoundError: `config.json` or `adapter_config.json` is missing.
        ValueError: a licence is no identifier, or the metadata of the present `README.md` are no YAML.
    """
    directory = Path(directory)
    name = name or directory.resolve().name
    context = _context(directory, licenses or {}) | {"name": name, "source": source or package_source(), "page": page}
    card = ModelCard.from_template(
        _metadata(context),
        template_str=resources.files(__package__).joinpath("templates/model_card.md").read_text(encoding="utf-8"),
        **escape_markdown(context),
    )
    file = directory / "README.md"
    present = file.read_text(encoding="utf-8") if file.is_file() else ""
    write_text(file, merge_cards(str(card), present, is_licensed=bool(context["license"])))


def _context(directory: Path, licenses: Mapping[str, str | None]) -> dict[str, Any]:
    """The template's variables, but for name and source."""
    metrics, settings = (read_json(directory / f"{name}.json") for name in ("metrics", "training_settings"))
    run, dataset = settings.pop("run", {}), settings.get("dataset_name")
    adapter = _describe_adapter(directory)
    known = {"base_license": BASE_LICENSES.get(adapter["base_model"])}
    trained_on = settings.get("cases", {}).get("train")
    shown = {
        key: value
        for key, value in settings.items()
        if value is not None and key not in PRIVATE_SETTINGS | _NOT_ON_CARD and not key.startswith("hub_")
    }
    return {
        "processor": read_json(directory / "preprocessor_config.json"),
        "data": run.get("data", _UNKNOWN_DATA),
        "dataset": dataset if dataset and is_hub_id(dataset) else None,
        "run": run,
        "settings": shown,
        "deviations": settings.get("deviations"),
        "metrics": metrics,
        "seen": len({*trained_on} & {*metrics["per_case"]}) if trained_on and metrics else None,
        "images": [path.name for path in directory.glob("*.png")],
        "examples": sorted(path.relative_to(directory).as_posix() for path in directory.glob("examples/*.png")),
        **_check_licenses({key: licenses.get(key) or settings.get(key) or known.get(key) for key in LICENSES}),
        **adapter,
    }


def read_json(path: Path, *, required: bool = False) -> dict[str, Any]:
    """The content of a file; empty if it does not exist and is not required."""
    if not required and not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is no JSON object ({error}): write the file again, or remove it.") from error


def split_card(text: str) -> tuple[dict[str, Any], str]:
    """The metadata of a card and the text after them."""
    text = text.replace("\r\n", "\n")
    match = re.match(r"---[ \t]*\n(.*?\n)??---[ \t]*(?:\n|\Z)", text, re.DOTALL)
    try:
        metadata = yaml.safe_load(match[1] or "") if match else None
    except yaml.YAMLError as error:
        raise ValueError(
            f"The metadata of the present README.md are no YAML ({' '.join(str(error).split())}): correct them."
        ) from error
    return metadata if isinstance(metadata, dict) else {}, text[match.end() :] if match else text


def merge_cards(card: str, present: str, is_licensed: bool) -> str:
    """The card with the text and the metadata that others wrote into the present one."""
    if not present.strip():
        return card
    (ours, block), (theirs, text) = split_card(card), split_card(present)
    block, unmarked = block.strip(), None
    marked = _MARKED.search(text)
    if marked is None and (unmarked := _UNMARKED.search(text)):  # its metadata were generated too
        theirs = {key: value for key, value in theirs.items() if key not in {*ours, "license", "datasets"}}
    place = marked or unmarked
    before, after = (text[: place.start()], text[place.end() :]) if place else (f"{text.strip()}\n\n", "\n")
    lists = {key: _as_list(theirs.get(key)) + _as_list(ours.get(key)) for key in ("tags", "datasets")}
    own_examples = [one for one in _as_list(theirs.get("widget")) if "examples/" not in str(one)]
    widget = own_examples + _as_list(ours.get("widget"))
    merged = ours | {key: value for key, value in theirs.items() if key not in _RENEWED}
    merged |= {key: list(dict.fromkeys(values)) for key, values in lists.items() if values}
    merged |= {"widget": widget} if widget else {}
    merged |= {"license": ours["license"]} if is_licensed else {}
    return f"---\n{yaml_dump(merged)}---\n\n{before.lstrip()}{block}{after}"


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]


def escape_markdown(value: Any) -> Any:
    """`value` with texts that Markdown and HTML show as they are, in one line."""
    if isinstance(value, str):
        return re.sub(r"\s+", " ", value).translate(_ENTITIES)
    if isinstance(value, Mapping):
        return {escape_markdown(key): escape_markdown(item) for key, item in value.items()}
    return [escape_markdown(item) for item in value] if isinstance(value, list | tuple) else value


def _check_licenses(licenses: dict[str, str | None]) -> dict[str, str | None]:
    for key, value in licenses.items():
        if value and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", value):
            raise ValueError(
                f"{key} is {value!r}: expected an identifier of the Hub, e.g. apache-2.0, cc-by-nc-4.0 or other."
            )
    return licenses


def _describe_adapter(directory: Path) -> dict[str, Any]:
    """The template's variables that describe the adapter itself."""
    config = read_json(directory / "config.json", required=True)
    if (directory / "adapter" / "adapter_config.json").is_file():
        directory /= "adapter"
    adapter = read_json(directory / "adapter_config.json", required=True)
    (base, revision), weights = named_base(adapter, config), directory / "adapter_model.safetensors"
    return {
        "labels": [config["id2label"][index] for index in sorted(config["id2label"], key=int)][1:],
        "image_size": config["image_size"],
        "adapter": adapter,
        "lora": _describe_lora(adapter.get("target_modules") or ""),
        "adapter_directory": directory.name,
        "base_model": None if base is None or is_local_base(base) else base,
        "base_revision": revision,
        "base_is_packaged": base == SMALL_SAM,
        "megabytes": weights.stat().st_size / 1e6 if weights.is_file() else None,
    }


def _describe_lora(targets: str | list[str]) -> str:
    """Where `target_modules`, a regular expression or a list of endings, puts LoRA; empty for nowhere."""

    def adapts(name: str) -> bool:
        endings = () if isinstance(targets, str) else tuple(f".{target}" for target in targets)
        return f".{name}".endswith(endings) if endings else bool(re.fullmatch(str(targets), name))

    layers = [name for name, layer in _LAYERS.items() if adapts(f"vision_encoder.layers.0.{layer}")]
    listed = " and ".join(filter(None, [", ".join(layers[:-1]), *layers[-1:]]))
    places = [f"{listed} of the image encoder"] if layers else []
    if adapts("mask_decoder.transformer.layers.0.self_attn.q_proj"):
        places.append("q and v of the mask decoder" if isinstance(targets, str) else "the mask decoder")
    return " and on ".join(places)


def named_base(adapter: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """The base model and its revision that `adapter_config.json` names, or `config.json` in a repository."""
    if adapter.get("auto_mapping") == AUTO_MAPPING:
        return config.get("base_model_name_or_path"), config.get("base_model_revision")
    return adapter.get("base_model_name_or_path"), adapter.get("revision")


def is_local_base(base: str) -> bool:
    """Whether a base model's name is a path of a file system rather than a name on the Hub."""
    return base.startswith((".", "/", "~")) or "\\" in base or base.count("/") > 1 or is_directory(base)


def is_hub_id(name: str) -> bool:
    """Whether a data set's name can be one on the Hub, rather than a directory."""
    return bool(re.fullmatch(r"(?:[\w-][\w.-]*/)?[\w-][\w.-]*", name)) and not Path(name).exists()


def _metadata(context: Mapping[str, Any]) -> ModelCardData:
    metrics, dataset = context["metrics"], context["dataset"]
    base = None if context["base_is_packaged"] else context["base_model"]  # the Hub has no such repository
    optional: dict[str, Any] = {}
    if dataset:
        optional["datasets"] = [dataset]
    if context["examples"]:
        optional["widget"] = [{"src": path, "example_title": Path(path).stem} for path in context["examples"]]
    return ModelCardData(
        library_name="samed_hf",
        pipeline_tag="image-segmentation",
        license=context["license"],
        base_model=base,
        base_model_relation="adapter" if base else None,
        tags=["medical", "segment-anything", "samed", "lora", "peft", "arxiv:2304.13785"],
        model_name=context["name"] if metrics else None,
        eval_results=_eval_results(metrics, context["data"], dataset) if metrics else None,
        **optional,
    )


def _eval_results(metrics: Mapping[str, Any], data: str, dataset: str | None) -> list[EvalResult]:
    """Every score of `metrics.json` that is defined, unrounded."""
    titles = {key: key for key in metrics["mean"]}
    titles |= {"dice": "Dice", "hd95": f"HD95 in {metrics.get('distance_unit', 'voxel')}"}
    return [
        EvalResult(
            task_type="image-segmentation",
            task_name="Semantic segmentation",
            dataset_type=dataset or re.sub(r"[^a-z0-9]+", "-", data.lower()).strip("-") or "data",
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
