"""Loading a SAMed model from a plain SAM, an adapter or a merged checkpoint, and saving it again."""

from __future__ import annotations

import copy
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedConfig
from transformers.models.sam.modeling_sam import SamPreTrainedModel
from transformers.utils import CONFIG_NAME
from transformers.utils.hub import PushToHubMixin

from ..hub.push import push_adapter
from ..utils.atomic import atomic_update
from .adapter_files import (
    AdapterFiles,
    check_same_base,
    find_image_processor,
    report_damage,
    write_base_path,
)
from .adapters import SamedAdapterMixin
from .checkpoint_conversion import PLAIN_SAM_PREFIX
from .configuration_samed import OVERRIDES, SamedConfig
from .download import DOWNLOAD_OPTIONS, describe_access, fetch_file, fetch_weights, pin_revision
from .image_processing_samed import SamedImageProcessor
from .lora import freeze_unused
from .mask_decoder import LABEL_HEADS
from .precision import resolve_dtype

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["SamedPreTrainedModel"]

_ALIGNMENT = 64  # bytes; that of torch's own memory on a CPU


class SamedPreTrainedModel(SamedAdapterMixin, SamPreTrainedModel):
    """What every SAMed model shares: its config class, and how it is loaded and saved with or without an adapter."""

    config: SamedConfig
    config_class = SamedConfig
    base_model_prefix = "sam"
    main_input_name = "pixel_values"
    _no_split_modules = ["SamedVisionLayer"]  # noqa: RUF012 - transformers reads plain class attributes
    # The decoder's label-dependent parts start fresh: ignoring those of a plain SAM is no news to the user.
    _keys_to_ignore_on_load_unexpected = [rf"^{re.escape(PLAIN_SAM_PREFIX)}"]  # noqa: RUF012
    _keys_to_ignore_on_load_missing = [rf"mask_decoder\.({'|'.join(LABEL_HEADS)})\."]  # noqa: RUF012
    # Angles of the positional encoding reach hundreds of radians, too many for half precision. Prompt encoder and mask
    # decoder cost little and decide about every pixel: in bfloat16 they would change more labels than the encoder.
    _keep_in_fp32_modules_strict = ["positional_embedding", "prompt_encoder", "mask_decoder"]  # noqa: RUF012

    if not hasattr(SamPreTrainedModel, "activation_checkpointing_enable"):  # before 5.23, thus with Python 3.10
        activation_checkpointing_enable = SamPreTrainedModel.gradient_checkpointing_enable  # type: ignore[assignment]

    if TYPE_CHECKING:  # transformers wraps it in a decorator that hides its type

        def to(self, *args: Any, **kwargs: Any) -> Self:  # type: ignore[override]
            """Move or convert the weights."""

    @classmethod
    def from_pretrained(  # type: ignore[override]  # adds the adapter's arguments
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *model_args: Any,
        config: PreTrainedConfig | None = None,
        base_model_name_or_path: str | os.PathLike[str] | None = None,
        adapter_name: str = "default",
        adapter_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Load from a directory or the Hub: a plain SAM, a SAMed adapter (its base is fetched), or a merged model.

        Args:
            pretrained_model_name_or_path: directory or Hub id.
            *model_args: as in transformers.
            config: a config instead of the checkpoint's own.
            base_model_name_or_path: the adapter's base model, if it isn't the one in `adapter_config.json`.
            adapter_name: the adapter's name in the model.
            adapter_kwargs: as in transformers; the Auto classes pass the adapter's directory or Hub id in it.
            **kwargs: values over the config's (`image_size`, `id2label`, `num_labels`, `dice_weight`) and the arguments
                of [`~transformers.PreTrainedModel.from_pretrained`]: `revision`, `token`, `dtype`, `device_map`, …
                Revision and subfolder are the adapter's; the base model's revision is in `adapter_config.json`.
                `dtype="auto"` is bfloat16 if the machine computes it natively, else float32 (with a `config`, and so in
                pipelines and the Auto classes, it is the checkpoint's); it is the image encoder's, the mask decoder
                stays in float32.

        Returns:
            The model in evaluation mode. With an adapter or a merged model, `image_processor` is its own.

        Raises:
            ValueError: the checkpoint isn't one of SAM, a value of the config is out of range, or the adapter is
                damaged or names no base model.
            FileNotFoundError: the adapter's base model can't be found.
            ConnectionError: the Hub can't be reached or fails, and the cache doesn't have the files.
        """
        download = {key: kwargs[key] for key in DOWNLOAD_OPTIONS if key in kwargs}
        overrides = {key: kwargs.pop(key) for key in OVERRIDES if key in kwargs}
        # Every pipeline requests "auto" through the Auto classes, which pass a config: there it keeps transformers'
        # meaning, the data type of the checkpoint.
        if isinstance(kwargs.get("dtype"), str) and (config is None or kwargs["dtype"] != "auto"):
            kwargs["dtype"] = resolve_dtype(kwargs["dtype"])
        adapter_kwargs = dict(adapter_kwargs or {})
        adapter_path = adapter_kwargs.pop("_adapter_model_path", None)
        if adapter_path is not None:
            download |= {key: adapter_kwargs[key] for key in ("revision", "token") if adapter_kwargs.get(key)}
        source = str(adapter_path or pretrained_model_name_or_path)
        download = pin_revision(source, download)
        adapter = AdapterFiles.find(source, download)
        if adapter is None:
            fetch_weights(source, download, kwargs.get("variant"))
            kwargs |= {key: download[key] for key in ("revision",) if key in download}
            config = _load_config(source, config, overrides, download)
            with report_damage(f"The checkpoint {source!r}"):
                model = super().from_pretrained(pretrained_model_name_or_path, *model_args, config=config, **kwargs)
        else:
            # The label-dependent parts don't load into a model of other labels: the adapter's own config counts.
            config = _load_config(source, config if isinstance(config, SamedConfig) else None, overrides, download)
            base = (str(base_model_name_or_path), None) if base_model_name_or_path else adapter.base_model(download)
            model = cls._load_base(*base, source, model_args, config, kwargs)
        # Parts missing from the checkpoint are created in half precision.
        model.sam.prompt_encoder.float()
        model.sam.mask_decoder.float()
        freeze_unused(model)  # loading makes all parameters trainable
        if adapter is None:
            model.image_processor = find_image_processor(source, download)
        else:
            model.load_adapter(source, adapter_name, adapter_kwargs=download)
        # Weights mapped from their file may be at unaligned addresses, where matrix products use other kernels, with
        # other rounding: a reloaded model would differ from the saved one in the last bits.
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.device.type == "cpu" and tensor.data_ptr() % _ALIGNMENT:
                tensor.data = tensor.data.clone()
        return model

    @classmethod
    def _load_base(
        cls, base: str, revision: str | None, adapter: str, model_args: Any, config: SamedConfig, kwargs: dict[str, Any]
    ) -> Self:
        """Load the base model of an adapter with the adapter's config."""
        kwargs = {key: value for key, value in kwargs.items() if key not in ("revision", "subfolder")}
        download = {key: kwargs[key] for key in DOWNLOAD_OPTIONS if key in kwargs}
        download = pin_revision(base, download | {"revision": revision})
        kwargs["revision"] = download["revision"]
        try:
            fetch_weights(base, download, kwargs.get("variant"))
            check_same_base(SamedConfig.from_pretrained(base, **download), config, base, adapter)
            with report_damage(f"The base model {base!r} of the adapter {adapter!r}"):
                return super().from_pretrained(base, *model_args, config=config, **kwargs)
        except ConnectionError:
            raise
        except OSError as error:
            advice = describe_access(base, error) or "Give it as base_model_name_or_path, or correct the adapter's."
            raise FileNotFoundError(
                f"The adapter {adapter!r} needs the base model {base!r}"
                f"{f' at revision {revision!r}' if revision else ''}, which can't be found as a directory "
                f"or on the Hub. {advice} ({str(error).splitlines()[0]})"
            ) from error

    def save_pretrained(  # type: ignore[override]  # adds image_processor; the others are passed on
        self,
        save_directory: str | os.PathLike[str],
        *,
        image_processor: SamedImageProcessor | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """Save the adapter alone, or the whole model if it has none, with its configs.

        The files are moved into the directory when all of them are complete.

        Args:
            save_directory: created if missing.
            image_processor: defaults to the model's own, or one of its image size with the CT window.
            push_to_hub: upload the directory afterwards, to `repo_id` of `kwargs`.
            **kwargs: arguments of [`~transformers.PreTrainedModel.save_pretrained`].
        """
        directory = Path(save_directory)
        if directory.is_file():
            raise ValueError(f"save_directory is the file {str(directory)!r}: expected a directory.")
        processor = image_processor or self.image_processor or SamedImageProcessor(self.config.image_size)
        hub = {key: kwargs.pop(key) for key in ("repo_id", "commit_message", "private", "token") if key in kwargs}
        # The file that is loaded first is moved last: adapter_config.json never exists without complete weights.
        with atomic_update(directory) as temporary:
            super().save_pretrained(temporary, **kwargs)
            config = copy.deepcopy(self.config)
            if self._hf_peft_config_loaded:
                config.dtype = torch.float32  # the adapter's; the base model's in this process doesn't matter
            config.save_pretrained(temporary)
            processor.save_pretrained(temporary)
            if self._hf_peft_config_loaded:
                write_base_path(temporary / "adapter_config.json", directory)
        if push_to_hub:
            self.push_to_hub(hub.pop("repo_id", directory.name), **hub)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> str:  # type: ignore[override]  # options go to push_adapter
        """Upload the active adapter for every way of loading, or a model without one whole, and return the address.

        Args:
            repo_id: "user/name", or "name" in one's own namespace.
            **kwargs: with an adapter those of [`~samed_hf.hub.push.push_adapter`] (`private`, `token`, `dtype`,
                `base_model`, …), else those of [`~transformers.PreTrainedModel.push_to_hub`].
        """
        if not self._hf_peft_config_loaded:
            return PushToHubMixin.push_to_hub(self, repo_id, **kwargs)
        with tempfile.TemporaryDirectory() as directory:
            self.save_pretrained(directory)
            return push_adapter(directory, repo_id, **kwargs)


def _load_config(
    source: str, config: PreTrainedConfig | None, overrides: dict[str, Any], download: dict[str, Any]
) -> SamedConfig:
    if config is None:
        fetch_file(source, CONFIG_NAME, download)  # tells a failed connection
        return SamedConfig.from_pretrained(source, **download, **overrides)
    if isinstance(config, SamedConfig) and not overrides:
        return config
    return SamedConfig.from_dict(config.to_dict(), **overrides)
