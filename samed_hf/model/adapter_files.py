"""The files of an adapter in a directory or on the Hub: fetching them, and which base model they name."""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, get_peft_model_state_dict, set_peft_model_state_dict
from peft.utils import CONFIG_NAME as ADAPTER_CONFIG_NAME
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers.utils import CONFIG_NAME, IMAGE_PROCESSOR_NAME, logging

from ..hub.card import AUTO_MAPPING, named_base
from ..hub.repository import ADAPTER_DIRECTORY
from ..utils.packaged import SMALL_SAM, SMALL_SAM_VERSION, is_directory
from .configuration_samed import SamedConfig, report_wrong_types
from .download import fetch_file, fetch_json
from .image_processing_samed import SamedImageProcessor

__all__ = ["BASE_DIRECTORY", "AdapterFiles", "LoadedAdapter", "find_image_processor", "label_count"]
__all__ += ["load_weights", "report_damage", "write_base_path"]

logger = logging.get_logger(__name__)

BASE_DIRECTORY = "base_model"
"""Directory beside an adapter with its base model, if that is nowhere else."""
_PEFT_PREFIX = "base_model.model."
# What transformers, PEFT and torch say of tensors that don't fit the model.
_UNSUITABLE = re.compile("mismatch|loading state_dict|conversion of the weights")


@dataclass(frozen=True)
class AdapterFiles:
    """An adapter in a directory or on the Hub."""

    source: str  # directory or Hub id
    subfolder: str  # of the adapter's files in it
    config_file: Path  # of `adapter_config.json`
    content: dict[str, Any]  # of that file

    @classmethod
    def find(cls, source: str, download: dict[str, Any]) -> AdapterFiles | None:
        """Find the adapter of a directory or Hub id: at the root, or in the subfolder of an older repository."""
        root = download.get("subfolder") or ""
        for subfolder in (root, f"{root}/{ADAPTER_DIRECTORY}".lstrip("/")):
            options = download | {"subfolder": subfolder}
            file = fetch_file(source, ADAPTER_CONFIG_NAME, options)
            if file is not None:
                content = fetch_json(source, ADAPTER_CONFIG_NAME, options)
                if not isinstance(content.get("base_model_name_or_path"), str | None):
                    raise ValueError(f"{file}: base_model_name_or_path is no directory or Hub id: correct it.")
                return cls(source, subfolder, file, content)
        return None

    def read_weights(self, download: dict[str, Any], device: str | torch.device = "cpu") -> dict[str, torch.Tensor]:
        """Read the tensors under the model's own names, from safetensors alone: a pickle could execute code."""
        file = fetch_file(self.source, SAFETENSORS_WEIGHTS_NAME, download | {"subfolder": self.subfolder})
        if file is None:
            raise FileNotFoundError(
                f"The adapter {self.source!r} has no {SAFETENSORS_WEIGHTS_NAME}: fetch it again, or save it so."
            )
        with report_damage(f"The adapter {self.source!r}"):
            return strip_prefix(load_file(file, device=str(device)))

    def load(self, weights: dict[str, torch.Tensor], config: SamedConfig, download: dict[str, Any]) -> LoadedAdapter:
        """The adapter with its PEFT config, which names the base model itself, and its image processor."""
        with report_wrong_types(str(self.config_file)):
            peft_config = PeftConfig.from_pretrained(str(self.config_file.parent))
        peft_config.base_model_name_or_path, peft_config.revision = self.named_base(download)
        if self.is_published:
            peft_config.auto_mapping = None
        return LoadedAdapter(self.source, peft_config, weights, config, find_image_processor(self.source, download))

    def load_config(
        self, weights: dict[str, torch.Tensor], base_config: SamedConfig, download: dict[str, Any], **values: Any
    ) -> SamedConfig:
        """The adapter's own config, with `values` instead of its own, or that of the base: PEFT saves none."""
        if fetch_file(self.source, CONFIG_NAME, download) is not None:
            return SamedConfig.from_pretrained(self.source, **download, **values)
        processor = find_image_processor(self.source, download)
        known = {"num_labels": label_count(weights), "image_size": processor.image_size if processor else None}
        if values.get("id2label") is not None:
            known.pop("num_labels")
        config = SamedConfig.from_dict(base_config.to_dict(), **(known | values))
        if processor is None and "image_size" not in values:
            logger.warning(
                f"The adapter {self.source!r} has no config.json: it is used at {config.image_size} pixels, the base "
                f"model's image size, with the labels {list(config.id2label.values())}. Give image_size and id2label "
                "to from_pretrained, then save_pretrained keeps them."
            )
        return config

    @property
    def is_published(self) -> bool:
        """Whether `adapter_config.json` names its own repository as base, and `config.json` the base model."""
        return self.content.get("auto_mapping") == AUTO_MAPPING

    def named_base(self, download: dict[str, Any]) -> tuple[str | None, str | None]:
        """The base model that the adapter names, if any, and its revision; a relative path starts at the adapter's."""
        if self.is_published:
            return named_base(self.content, fetch_json(self.source, CONFIG_NAME, download))
        base = self.content.get("base_model_name_or_path")
        relative = self.config_file.parent / (base or "")
        if base and Path(self.source).is_dir() and (relative / CONFIG_NAME).is_file():
            return str(relative), None
        return base, self.content.get("revision")

    def base_model(self, download: dict[str, Any]) -> tuple[str, str | None]:
        """[`named_base`], or an error if the adapter names none or a directory that is not there."""
        base, revision = self.named_base(download)
        if not base:
            raise ValueError(
                f"The adapter {self.source!r} names no base model: give the directory or Hub id of the one that it was "
                "trained on as base_model_name_or_path."
            )
        if base.startswith("."):
            raise FileNotFoundError(
                f"The adapter {self.source!r} needs the base model {base!r}, a directory relative to its own, which "
                "does not exist: copy it there too, or give its path as base_model_name_or_path."
            )
        return base, revision


@dataclass
class LoadedAdapter:
    """An adapter in memory."""

    source: str  # for messages
    peft_config: Any  # PEFT's, of any method
    weights: dict[str, torch.Tensor]
    config: SamedConfig
    image_processor: SamedImageProcessor | None

    @property
    def num_labels(self) -> int | None:
        """The number of labels of the weights."""
        return label_count(self.weights)

    @classmethod
    def of(
        cls,
        peft_config: PeftConfig | dict[str, Any] | None,
        weights: dict[str, torch.Tensor] | None,
        base_config: SamedConfig,
        image_processor: SamedImageProcessor | None,
    ) -> LoadedAdapter:
        """An adapter from PEFT's config and tensors, with the labels of the base if they are as many."""
        if peft_config is None or weights is None:
            raise ValueError("Give peft_model_id, or both peft_config and adapter_state_dict.")
        if isinstance(peft_config, dict):
            peft_config = PeftConfig.from_peft_type(**peft_config)
        weights = strip_prefix(weights)
        config = SamedConfig.from_dict(base_config.to_dict(), num_labels=label_count(weights), base_fingerprint=None)
        return cls("adapter_state_dict", copy.copy(peft_config), weights, config, image_processor)


def load_weights(model: nn.Module, adapter: LoadedAdapter, name: str, low_cpu_mem_usage: bool) -> Any:
    """Load an adapter's tensors; all must be there, with the right shapes, and no others."""
    weights = adapter.weights
    expected = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    problems = [f"{key} is missing" for key in expected.keys() - weights.keys()]
    problems += [f"{key} is unknown" for key in weights.keys() - expected.keys()]
    problems += [
        f"{key} has the shape {tuple(weights[key].shape)} instead of {tuple(tensor.shape)}"
        for key, tensor in expected.items()
        if key in weights and weights[key].shape != tensor.shape
    ]
    if problems:
        some = ", ".join(sorted(problems)[:3]) + (f" and {len(problems) - 3} more" if len(problems) > 3 else "")
        raise ValueError(
            f"The adapter {adapter.source!r} doesn't fit: {some}. It is damaged or belongs to another base model: "
            "fetch it again, or check which base it names."
        )
    return set_peft_model_state_dict(model, weights, adapter_name=name, low_cpu_mem_usage=low_cpu_mem_usage)


def strip_prefix(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Remove PEFT's prefix from the names of an adapter's tensors."""
    return {key.removeprefix(_PEFT_PREFIX): tensor for key, tensor in weights.items()}


def label_count(weights: Mapping[str, torch.Tensor]) -> int | None:
    """The number of labels that an adapter predicts; `None` if it leaves the label heads of its base unchanged."""
    return next((len(tensor) for key, tensor in weights.items() if key.endswith("mask_tokens.weight")), None)


def write_base_path(adapter_config: Path, directory: Path) -> None:
    """Write the path of a local base into `adapter_config`: relative if the base is in `directory` or its parent.

    Of the packaged base its version is written. `directory` is where `adapter_config` will be.
    """
    content = json.loads(adapter_config.read_text(encoding="utf-8"))
    name, has_own = content.get("base_model_name_or_path"), (adapter_config.parent / BASE_DIRECTORY).is_dir()
    if has_own:  # saved with the adapter
        name = str(directory / BASE_DIRECTORY)
    if name == SMALL_SAM:
        content["revision"] = SMALL_SAM_VERSION
    elif not name or not (has_own or is_directory(name)):
        return
    else:
        base, directory = Path(name).resolve(), directory.resolve()
        path = str(base)
        if base.is_relative_to(directory) or base.parent == directory.parent:
            path = os.path.relpath(base, directory)
            path = path if path.startswith(".") else f"./{path}"
        content["base_model_name_or_path"] = path
    adapter_config.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@contextmanager
def report_damage(what: str) -> Iterator[None]:
    """Turn the errors of damaged or unsuitable weights into a `ValueError` that names `what`; others pass."""
    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        # Out of memory or a meta device are no fault of the file.
        if isinstance(error, RuntimeError) and not _UNSUITABLE.search(str(error)):
            raise
        raise ValueError(
            f"{what} can't be loaded: {str(error).splitlines()[0]} The file may be damaged, or adapter and base belong "
            "to different models: fetch it again, or check which base the adapter names."
        ) from error


def find_image_processor(source: str, download: dict[str, Any]) -> SamedImageProcessor | None:
    """Return the checkpoint's SAMed processor, or `None` if it has none, like a plain SAM."""
    with report_wrong_types(f"The {IMAGE_PROCESSOR_NAME} of {source!r}"):
        content = fetch_json(source, IMAGE_PROCESSOR_NAME, download)
        is_samed = content.get("image_processor_type") == SamedImageProcessor.__name__
        return SamedImageProcessor.from_dict(content) if is_samed else None
