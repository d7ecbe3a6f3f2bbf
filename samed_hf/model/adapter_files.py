"""The files of an adapter in a directory or on the Hub: fetching them, and which base model they name."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft.utils import CONFIG_NAME as ADAPTER_CONFIG_NAME
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers.utils import CONFIG_NAME, IMAGE_PROCESSOR_NAME

from ..hub.card import AUTO_MAPPING, named_base
from ..hub.repository import ADAPTER_DIRECTORY
from .configuration_samed import SamedConfig
from .download import fetch_file, fetch_json
from .image_processing_samed import SamedImageProcessor

__all__ = ["AdapterFiles", "check_same_base", "find_image_processor", "report_damage", "write_base_path"]

_PEFT_PREFIX = "base_model.model."
# Settings of SAM's sub-configs that determine the shapes and the structure of its layers.
_STRUCTURE = frozenset(
    {"hidden_size", "num_hidden_layers", "num_attention_heads", "patch_size", "output_channels", "window_size"}
    | {"global_attn_indexes", "mlp_dim", "attention_downsample_rate"}
)


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
                return cls(source, subfolder, file, fetch_json(source, ADAPTER_CONFIG_NAME, options))
        return None

    def read_weights(self, download: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Read the tensors under the model's own names, from safetensors alone: a pickle could execute code."""
        file = fetch_file(self.source, SAFETENSORS_WEIGHTS_NAME, download | {"subfolder": self.subfolder})
        if file is None:
            raise FileNotFoundError(
                f"The adapter {self.source!r} has no {SAFETENSORS_WEIGHTS_NAME}: fetch it again, or save it so."
            )
        return {key.removeprefix(_PEFT_PREFIX): tensor for key, tensor in load_file(file).items()}

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


def write_base_path(adapter_config: Path, directory: Path) -> None:
    """Write the path of a local base into `adapter_config`: relative if the base is in `directory` or its parent."""
    content = json.loads(adapter_config.read_text(encoding="utf-8"))
    name = content.get("base_model_name_or_path")
    if not name or not Path(name).is_dir():
        return
    base, directory = Path(name).resolve(), directory.resolve()
    path = str(base)
    if base.is_relative_to(directory) or base.parent == directory.parent:
        path = os.path.relpath(base, directory)
        path = path if path.startswith(".") else f"./{path}"
    content["base_model_name_or_path"] = path
    adapter_config.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def check_same_base(base_config: SamedConfig, config: SamedConfig, base: str, adapter: str) -> None:
    """Raise a `ValueError` with the differences if the adapter was trained on a base model with other layers."""
    differences = [
        f"{part}.{key} {theirs[key]} instead of {value}"
        for part in ("vision_config", "prompt_encoder_config", "mask_decoder_config")
        if (theirs := getattr(base_config, part).to_dict())
        for key, value in getattr(config, part).to_dict().items()
        if key in _STRUCTURE and theirs.get(key) != value
    ]
    if differences:
        raise ValueError(f"The base model {base!r} isn't the one of the adapter {adapter!r}: {', '.join(differences)}.")


@contextmanager
def report_damage(what: str) -> Iterator[None]:
    """Turn the errors of damaged or unsuitable weights into a `ValueError` that names `what`."""
    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(
            f"{what} can't be loaded: {str(error).splitlines()[0]} The file may be damaged, or adapter and base belong "
            "to different models: fetch it again, or check which base the adapter names."
        ) from error


def find_image_processor(source: str, download: dict[str, Any]) -> SamedImageProcessor | None:
    """Return the checkpoint's SAMed processor, or `None` if it has none, like a plain SAM."""
    content = fetch_json(source, IMAGE_PROCESSOR_NAME, download)
    is_samed = content.get("image_processor_type") == SamedImageProcessor.__name__
    return SamedImageProcessor.from_dict(content) if is_samed else None
