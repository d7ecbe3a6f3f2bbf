"""Loading a SAMed model from a plain SAM, an adapter or a merged checkpoint, and saving it again."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedConfig
from transformers.models.sam.modeling_sam import SamPreTrainedModel
from transformers.utils import find_adapter_config_file

from .adapter import freeze_unused, merge_adapter
from .checkpoint_conversion import PLAIN_SAM_PREFIX
from .configuration_samed import SamedConfig
from .image_processing_samed import SamedImageProcessor

__all__ = ["SamedPreTrainedModel"]

_DOWNLOAD = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
_GEOMETRY = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "patch_size",
    "output_channels",
    "window_size",
    "global_attn_indexes",
    "mlp_dim",
    "attention_downsample_rate",
)
_ALIGNMENT = 64  # bytes; that of torch's own memory on a CPU
_CONFIG = ("image_size", "id2label", "label2id", "num_labels", "dice_weight")


class SamedPreTrainedModel(SamPreTrainedModel):
    """What every SAMed model shares: its config class, and how it is loaded and saved with or without an adapter."""

    config: SamedConfig
    config_class = SamedConfig
    base_model_prefix = "sam"
    main_input_name = "pixel_values"
    _no_split_modules = ["SamedVisionLayer"]  # noqa: RUF012 - transformers reads plain class attributes
    # The decoder's label-dependent parts start fresh here: those of a plain SAM are no news to the user.
    _keys_to_ignore_on_load_unexpected = [rf"^{re.escape(PLAIN_SAM_PREFIX)}"]  # noqa: RUF012
    _keys_to_ignore_on_load_missing = [  # noqa: RUF012
        r"mask_decoder\.(mask_tokens|output_hypernetworks_mlps|iou_prediction_head)\."
    ]
    # Angles of the positional encoding reach hundreds of radians: half precision would scramble them.
    _keep_in_fp32_modules_strict = ["positional_embedding"]  # noqa: RUF012

    image_processor: SamedImageProcessor | None = None

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        *model_args: Any,
        config: PreTrainedConfig | None = None,
        base_model_name_or_path: str | os.PathLike | None = None,
        adapter_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> SamedPreTrainedModel:
        """Load from a folder or the Hub: a plain SAM, a SAMed adapter (its base is fetched), or a merged model.

        Args:
            pretrained_model_name_or_path: folder or Hub id.
            *model_args: as in transformers.
            config: a config instead of the checkpoint's own.
            base_model_name_or_path: the adapter's base model, where it isn't where the adapter's
                `adapter_config.json` says.
            adapter_kwargs: as in transformers; the Auto classes pass the adapter's place in it.
            **kwargs: values over the config's (`image_size`, `id2label`, `num_labels`, `dice_weight`) and the arguments
                of [`~transformers.PreTrainedModel.from_pretrained`]: `revision`, `token`, `cache_dir`, `subfolder`,
                `local_files_only`, `dtype`, `device_map`, `attn_implementation`, …

        Returns:
            The model in evaluation mode. With an adapter or a merged model, `image_processor` is its own.

        Raises:
            ValueError: the checkpoint isn't of SAM, a value of the config is out of range, or the adapter is damaged.
            FileNotFoundError: the adapter's base model can't be found.
            OSError: no checkpoint at this place.
        """
        download = {key: kwargs[key] for key in _DOWNLOAD if key in kwargs}
        overrides = {key: kwargs.pop(key) for key in _CONFIG if key in kwargs}
        adapter_kwargs = dict(adapter_kwargs or {})
        place = adapter_kwargs.pop("_adapter_model_path", None)
        if place is not None:
            download |= {key: adapter_kwargs[key] for key in ("revision", "token") if adapter_kwargs.get(key)}
        place = place or pretrained_model_name_or_path
        adapter_file = find_adapter_config_file(str(place), **download)
        if adapter_file is None:
            config = _samed_config(place, config, overrides, download)
            model = super().from_pretrained(pretrained_model_name_or_path, *model_args, config=config, **kwargs)
        else:
            # The label-dependent parts can't load into a model built for other labels: the adapter's config it is.
            config = _samed_config(place, config if isinstance(config, SamedConfig) else None, overrides, download)
            base = base_model_name_or_path or _base_of(adapter_file, place)
            model = cls._load_base(base, place, model_args, config, kwargs)
            model._load_trained_adapter(str(place), download)
        _align(model)
        model.image_processor = _find_image_processor(place, download)
        return model

    @classmethod
    def _load_base(
        cls, base: str | os.PathLike, place: str | os.PathLike, model_args: tuple, config: SamedConfig, kwargs: dict
    ) -> SamedPreTrainedModel:
        # Revision and subfolder are the adapter's.
        kwargs = {key: value for key, value in kwargs.items() if key not in ("revision", "subfolder")}
        download = {key: kwargs[key] for key in _DOWNLOAD if key in kwargs}
        try:
            _check_geometry(SamedConfig.from_pretrained(str(base), **download), config, str(base), str(place))
            return super().from_pretrained(str(base), *model_args, config=config, **kwargs)
        except OSError as error:
            raise FileNotFoundError(
                f"The adapter {str(place)!r} needs the base model {str(base)!r}, which can't be found as a folder "
                "or on the Hub. Give its place with base_model_name_or_path, or mend it in adapter_config.json. "
                f"({str(error).splitlines()[0]})"
            ) from error

    def _load_trained_adapter(self, place: str, download: dict[str, Any]) -> None:
        try:
            loading_info = self.load_adapter(place, adapter_kwargs=download)
        except (SafetensorError, RuntimeError) as error:
            raise ValueError(
                f"The adapter {place!r} can't be loaded into its base model: {str(error).splitlines()[0]} The file "
                "may be damaged, or adapter and base belong to different models."
            ) from error
        if loading_info.missing_keys or loading_info.unexpected_keys:
            raise ValueError(
                f"The adapter {place!r} doesn't fit: {len(loading_info.missing_keys)} tensors are missing "
                f"({', '.join(sorted(loading_info.missing_keys)[:3])}), {len(loading_info.unexpected_keys)} unknown "
                f"({', '.join(sorted(loading_info.unexpected_keys)[:3])})."
            )
        # PEFT freezes the LoRA of a loaded adapter but not what is saved beside it.
        self.requires_grad_(False)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        *,
        image_processor: SamedImageProcessor | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """Save the adapter alone, or the whole model where it has none, with its configs.

        The files are written aside and moved into place when all of them are whole.

        Args:
            save_directory: folder, made where it is missing.
            image_processor: written as `preprocessor_config.json`; defaults to the model's own, or one of its image
                size with the CT window.
            push_to_hub: upload the folder afterwards, to `repo_id` of `kwargs`.
            **kwargs: arguments of [`~transformers.PreTrainedModel.save_pretrained`].
        """
        folder = Path(save_directory)
        if folder.is_file():
            raise ValueError(f"save_directory is the file {str(folder)!r}: expected a folder.")
        folder.mkdir(parents=True, exist_ok=True)
        processor = image_processor or self.image_processor or SamedImageProcessor(self.config.image_size)
        hub = {key: kwargs.pop(key) for key in ("repo_id", "commit_message", "private", "token") if key in kwargs}
        aside = Path(tempfile.mkdtemp(prefix=".saving-", dir=folder))
        try:
            super().save_pretrained(aside, **kwargs)
            self.config.save_pretrained(aside)
            processor.save_pretrained(aside)
            if self._hf_peft_config_loaded:
                _make_base_relative(aside / "adapter_config.json", folder)
            # What loads first is moved last: an adapter_config.json always stands beside whole weights.
            for file in sorted(aside.iterdir(), key=lambda file: file.suffix == ".json"):
                file.chmod(0o644)  # safetensors writes for the owner alone
                os.replace(file, folder / file.name)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        if push_to_hub:
            self.push_to_hub(hub.pop("repo_id", folder.name), **hub)

    def add_adapter(self, adapter_config: Any, adapter_name: str | None = None) -> None:
        """Add a fresh adapter and make it the only thing that trains; see [`samed_lora_config`]."""
        super().add_adapter(adapter_config, adapter_name)
        freeze_unused(self)

    def set_adapter(self, adapter_name: str | list[str]) -> None:
        """Use the adapter of this name."""
        super().set_adapter(adapter_name)
        freeze_unused(self)

    def merge_and_unload(self) -> SamedPreTrainedModel:
        """Merge the active adapter into the weights, in place, and return the model, now without any adapter.

        Raises:
            ValueError: no adapter, or several active at once.
        """
        merge_adapter(self)
        del self.peft_config
        self._hf_peft_config_loaded = False
        # The weights are a whole model's again: saving must use the model's own conversions, not the adapter's.
        self._weight_conversions = None
        return self


def _samed_config(
    place: str | os.PathLike, config: PreTrainedConfig | None, overrides: dict[str, Any], download: dict[str, Any]
) -> SamedConfig:
    if config is None:
        return SamedConfig.from_pretrained(str(place), **download, **overrides)
    if isinstance(config, SamedConfig) and not overrides:
        return config
    return SamedConfig.from_dict(config.to_dict(), **overrides)


def _check_geometry(base_config: SamedConfig, config: SamedConfig, base: str, place: str) -> None:
    """Refuse a base whose layers have other sizes than those of the one the adapter was trained on."""
    differences = [
        f"{part}.{key} {theirs[key]} instead of {value}"
        for part in ("vision_config", "prompt_encoder_config", "mask_decoder_config")
        if (theirs := getattr(base_config, part).to_dict())
        for key, value in getattr(config, part).to_dict().items()
        if key in _GEOMETRY and theirs.get(key) != value
    ]
    if differences:
        raise ValueError(f"The base model {base!r} isn't the one of the adapter {place!r}: {', '.join(differences)}.")


def _align(model: nn.Module) -> None:
    """Copy weights that lie in memory as their file had them, at any address.

    Matrix products take other paths at unaligned addresses, with other rounding: a reloaded model would differ from the
    saved one in the last bits.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device.type == "cpu" and tensor.data_ptr() % _ALIGNMENT:
            tensor.data = tensor.data.clone()


def _base_of(adapter_file: str | os.PathLike, place: str | os.PathLike) -> str:
    """The base model an adapter names. A relative path of a local adapter starts at the adapter's own folder."""
    base = json.loads(Path(adapter_file).read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not base:
        raise ValueError(f"{adapter_file} names no base_model_name_or_path: give it as an argument.")
    beside = Path(place) / base
    return str(beside) if beside.is_dir() else base


def _make_base_relative(adapter_config: Path, folder: Path) -> None:
    """Write a base that lies inside the adapter's folder relative to it, so that the folder can be moved."""
    content = json.loads(adapter_config.read_text(encoding="utf-8"))
    base = content.get("base_model_name_or_path")
    if base and Path(base).is_dir() and Path(base).resolve().is_relative_to(folder.resolve()):
        content["base_model_name_or_path"] = str(Path(base).resolve().relative_to(folder.resolve()))
        adapter_config.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _find_image_processor(place: str | os.PathLike, download: dict[str, Any]) -> SamedImageProcessor | None:
    """The checkpoint's own SAMed processor; `None` where there is none, as beside a plain SAM."""
    try:
        content, _ = SamedImageProcessor.get_image_processor_dict(str(place), **download)
    except OSError:
        return None
    if content.get("image_processor_type") != SamedImageProcessor.__name__:
        return None
    return SamedImageProcessor.from_dict(content)
