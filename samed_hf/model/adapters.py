"""Adapters in a model: loading, adding, switching, deleting and merging them."""

from __future__ import annotations

import copy
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftConfig, inject_adapter_in_model
from peft.functional import cast_adapter_dtype
from torch import nn
from transformers.integrations.peft import PeftAdapterMixin
from transformers.utils import logging

from ..utils.packaged import is_directory
from .adapter_checks import check_device_map, check_fits, check_not_offloaded
from .adapter_files import AdapterFiles, LoadedAdapter, load_weights, report_damage
from .configuration_samed import SamedConfig, report_wrong_types
from .download import DOWNLOAD_OPTIONS, pin_revision
from .fingerprint import base_fingerprint
from .image_processing_samed import SamedImageProcessor
from .lora import (
    active_adapters,
    freeze_unused,
    merge_adapter,
    remove_adapter,
    remove_wrappers,
    with_projection,
    wrapped_modules,
)
from .mask_decoder import replace_label_heads
from .precision import align_weights
from .vision_encoder import fuse_projections, is_fused

if TYPE_CHECKING:
    from typing_extensions import Self

    from .modeling_samed import SamedModel

__all__ = ["SamedAdapterMixin"]

logger = logging.get_logger(__name__)

_INJECTION_OPTIONS = ("low_cpu_mem_usage", "autocast_adapter_dtype", "ephemeral_gpu_offload")
# Of a model on several devices; an adapter is where the layers that it adapts are.
_DISPATCH_OPTIONS = ("device_map", "max_memory", "offload_folder", "offload_dir", "offload_index", "offload_buffers")


class SamedAdapterMixin(nn.Module, PeftAdapterMixin):
    """transformers' PEFT methods for a model whose adapters each have their own labels and image processor."""

    image_processor: SamedImageProcessor | None = None
    if TYPE_CHECKING:  # transformers evaluates the annotations of a class
        config: SamedConfig
        sam: SamedModel

    # A plain dict in `__dict__`: transformers creates models without calling every `__init__`.
    @property
    def _adapters(self) -> dict[str | None, tuple[SamedConfig, SamedImageProcessor | None]]:
        """Config and image processor of each adapter, and under `None` those of the model without adapters."""
        return self.__dict__.setdefault("_samed_adapters", {})

    def load_adapter(  # type: ignore[override]  # fewer options: weights come from safetensors files alone
        self,
        peft_model_id: str | os.PathLike[str] | None = None,
        adapter_name: str | None = None,
        *,
        peft_config: PeftConfig | dict[str, Any] | None = None,
        adapter_state_dict: dict[str, torch.Tensor] | None = None,
        is_trainable: bool = False,
        torch_device: str | torch.device | None = None,
        hotswap: bool | str = False,
        adapter_kwargs: dict[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Load an adapter from a directory or the Hub, in addition to the model's other adapters, and activate it.

        Its labels may differ from the model's: `config.id2label` and `image_processor` are always those of the active
        adapter, also after [`set_adapter`]. Nothing is changed if an error is raised.

        Args:
            peft_model_id: directory or Hub id.
            adapter_name: its name in the model; defaults to "default".
            peft_config, adapter_state_dict: config and tensors of an adapter, instead of `peft_model_id`.
            is_trainable: whether its weights can be trained; otherwise the model is put into evaluation mode.
            torch_device: where the file is read to; the weights end on the devices of the layers that they adapt.
            hotswap: not possible with modules that are trained whole; load a second adapter and [`set_adapter`].
            adapter_kwargs: as in transformers: the same as `options`.
            **options: `revision`, `token`, `cache_dir`, `subfolder`, `local_files_only`, `force_download`, `proxies`;
                PEFT's `low_cpu_mem_usage`, `ephemeral_gpu_offload` and `autocast_adapter_dtype` (by default the adapter
                has the data type of the layers that it adapts); `device_map` and its like, which don't move the model:
                they are those of `from_pretrained`.

        Returns:
            PEFT's result with `missing_keys` of the whole model and `unexpected_keys`, which is empty.

        Raises:
            ValueError: the adapter is damaged, of another base model, input size or variant, or its name is in use.
            TypeError: an unknown option.
        """
        options = (adapter_kwargs or {}) | options
        known = (*DOWNLOAD_OPTIONS, *_INJECTION_OPTIONS, *_DISPATCH_OPTIONS)
        if unknown := set(options) - set(known):
            raise TypeError(f"load_adapter got {', '.join(sorted(unknown))}: expected some of {', '.join(known)}.")
        if hotswap is True:
            raise ValueError(
                "hotswap is True, but modules trained whole can't be exchanged in place: load the adapter under "
                "another name, call set_adapter, and delete_adapter for the old one."
            )
        check_device_map(options.get("device_map"), self)
        if peft_model_id is None:
            adapter = LoadedAdapter.of(peft_config, adapter_state_dict, self.config, self.image_processor)
        else:
            source = str(peft_model_id)
            download = pin_revision(source, {key: options[key] for key in DOWNLOAD_OPTIONS if key in options})
            files = AdapterFiles.find(source, download)
            if files is None:
                raise FileNotFoundError(
                    f"{source!r} holds no adapter (no adapter_config.json): give its directory or Hub id."
                )
            weights = files.read_weights(download, torch_device or "cpu")
            adapter = files.load(weights, files.load_config(weights, self.config, download), download)
        injection = {key: options[key] for key in _INJECTION_OPTIONS if key in options}
        return self._add_loaded(adapter, adapter_name or "default", is_trainable, **injection)

    def _add_loaded(
        self,
        adapter: LoadedAdapter,
        name: str,
        is_trainable: bool = False,
        *,
        low_cpu_mem_usage: bool = False,
        autocast_adapter_dtype: bool = False,
        ephemeral_gpu_offload: bool = False,
    ) -> Any:
        """Add an adapter with its weights and activate it, or raise an error and leave the model as it was."""
        present: dict[str, Any] = self.peft_config if self._hf_peft_config_loaded else {}
        with report_wrong_types(f"The adapter_config.json of {adapter.source!r}"):
            check_fits(adapter, name, self.config, present, self)
        adapter.config.base_fingerprint = self._compare_base(adapter)
        frozen = not any(parameter.requires_grad for parameter in self.parameters())
        active, fused = self.active_adapters() if present else [], is_fused(self.sam.vision_encoder)
        wrappers = [module for _, module in wrapped_modules(self)]
        self._adapters.setdefault(None, (copy.deepcopy(self.config), self.image_processor))
        fuse_projections(self.sam.vision_encoder, False)
        if ephemeral_gpu_offload and hasattr(adapter.peft_config, "runtime_config"):
            adapter.peft_config.runtime_config.ephemeral_gpu_offload = True
        try:
            self._inject_layers(adapter, name, is_trainable, low_cpu_mem_usage)
            with report_damage(f"The adapter {adapter.source!r}"):
                result = load_weights(self, adapter, name, low_cpu_mem_usage)
        except BaseException:
            self._remove_incomplete(name, wrappers, active, frozen)
            fuse_projections(self.sam.vision_encoder, fused)
            raise
        cast_adapter_dtype(self, name, autocast_adapter_dtype)
        align_weights(self)
        self._adapters[name] = (adapter.config, adapter.image_processor)
        self.set_adapter(name)
        if not is_trainable:
            # PEFT freezes the LoRA of a loaded adapter but not its fully trained modules.
            self.requires_grad_(False)
        self.train(self.training and is_trainable)  # new dropouts are in training mode
        return result

    def _compare_base(self, adapter: LoadedAdapter) -> str | None:
        """Warn if the adapter was trained on other weights than those of this model, and return the model's hash."""
        own, trained = base_fingerprint(self), adapter.config.base_fingerprint
        if own and isinstance(trained, str) and own != trained:
            logger.warning(
                f"The adapter {adapter.source!r} was trained on a base model with other weights: on "
                f"{adapter.peft_config.base_model_name_or_path!r} ({trained[:19]}), and is now used on "
                f"{self.config.name_or_path!r} ({own[:19]}). Its predictions may be wrong; give the base model that it "
                "was trained on as base_model_name_or_path of from_pretrained."
            )
        return own

    def _inject_layers(self, adapter: LoadedAdapter, name: str, is_trainable: bool, low_cpu_mem_usage: bool) -> None:
        """Add the adapter's layers to the model; modules trained whole get the shapes that its labels need."""
        peft_config, base = adapter.peft_config, self.config.name_or_path or ""
        peft_config.inference_mode = not is_trainable
        if base and is_directory(base):
            # The base in use, by a path that is valid wherever the adapter is saved.
            base = str(Path(base).resolve())
        if base != peft_config.base_model_name_or_path:
            peft_config.base_model_name_or_path, peft_config.revision = base, None
        with warnings.catch_warnings(), report_wrong_types(f"The adapter_config.json of {adapter.source!r}"):
            warnings.filterwarnings("ignore", message="Already found a `peft_config`", category=UserWarning)
            inject_adapter_in_model(peft_config, self, name, low_cpu_mem_usage=low_cpu_mem_usage)
        if adapter.config.num_labels != self.config.num_labels:
            replace_label_heads(self.sam.mask_decoder, self.config, adapter.config.num_labels, name)
        self._hf_peft_config_loaded = True

    def _remove_incomplete(self, name: str, wrappers: list[Any], active: list[str], frozen: bool) -> None:
        """Remove an adapter that could not be added; `frozen`: no parameter was trainable before."""
        remove_wrappers(self, keep=wrappers)
        if not active:
            self._unload()
            return
        remove_adapter(wrappers, name, active)
        self.peft_config.pop(name, None)
        self.set_adapter(active)
        if frozen:
            self.requires_grad_(False)

    def add_adapter(self, adapter_config: Any, adapter_name: str | None = None) -> None:
        """Add a fresh adapter, of which a channel projection is a part, and make it the only trainable part."""
        name = adapter_name or "default"
        if hasattr(self, "hf_device_map"):
            check_not_offloaded(self)
        base = base_fingerprint(self)
        self._adapters.setdefault(None, (copy.deepcopy(self.config), self.image_processor))
        fuse_projections(self.sam.vision_encoder, False)
        super().add_adapter(with_projection(adapter_config, self.config), adapter_name)
        config = copy.deepcopy(self.config)
        config.base_fingerprint = base
        self._adapters[name] = (config, self.image_processor)
        freeze_unused(self)
        self.train(self.training)  # new dropouts are in training mode

    def active_adapters(self) -> list[str]:
        """The names of the active adapters."""
        return active_adapters(self) if self._hf_peft_config_loaded else super().active_adapters()

    def set_adapter(self, adapter_name: str | list[str]) -> None:
        """Activate the adapter of this name, with its labels and its image processor.

        If no parameter of the model is trainable, activating another adapter keeps it frozen. Activating the active
        adapter again makes it trainable.
        """
        names = [adapter_name] if isinstance(adapter_name, str) else list(adapter_name)
        switches = self._hf_peft_config_loaded and self.active_adapters() != names
        frozen = not any(parameter.requires_grad for parameter in self.parameters())
        super().set_adapter(adapter_name)
        freeze_unused(self, set(self.peft_config) - set(names))
        self._use_labels(names)
        if frozen and switches:
            # PEFT makes it trainable, which selects other kernels and changes the last bits of the results.
            self.requires_grad_(False)

    def _use_labels(self, names: list[str] | list[None]) -> None:
        """Take over labels and image processor of the one active adapter."""
        if len(names) == 1 and names[0] in self._adapters:
            config, self.image_processor = self._adapters[names[0]]
            self.config.id2label, self.config.dice_weight = dict(config.id2label), config.dice_weight
            self.config.loss_resolution = config.loss_resolution
            self.config.regions = copy.copy(config.regions)
            self.config.sync_subconfigs()

    def delete_adapter(self, adapter_names: list[str] | str) -> None:
        """Delete adapters from the model; without the last one it is the base model again, with its own labels."""
        super().delete_adapter(adapter_names)
        for name in [adapter_names] if isinstance(adapter_names, str) else adapter_names:
            self._adapters.pop(name, None)
        self._use_labels(self.active_adapters()) if self._hf_peft_config_loaded else self._unload()

    def merge_and_unload(
        self, progressbar: bool = False, safe_merge: bool = True, adapter_names: list[str] | None = None
    ) -> Self:
        """Merge the active adapter into the weights, in place, and return the model, now without any adapter.

        The encoder's q, k and v become one projection again, until another adapter is added.

        Args:
            progressbar: show the progress.
            safe_merge: refuse values that are NaN or infinite.
            adapter_names: the adapters to merge instead of the active one; several only if none trains modules whole.

        Raises:
            ValueError: there is no such adapter, or it can't be merged; the model is unchanged.
        """
        names = list(adapter_names or (self.active_adapters() if self._hf_peft_config_loaded else []))
        if missing := [name for name in names if name not in self.peft_config]:
            raise ValueError(f"adapter_names has {missing}: the model has {list(self.peft_config)}.")
        merge_adapter(self, names, safe_merge=safe_merge, progressbar=progressbar)
        self._use_labels(names)
        self._adapters.clear()
        self._unload()
        # An adapter that is added now was not trained on the weights that this name stands for.
        self.name_or_path = self.config.name_or_path = ""
        fuse_projections(self.sam.vision_encoder, True)
        return self

    def _unload(self) -> None:
        """Make the model one without adapters, with the labels of the base model."""
        remove_wrappers(self)
        self.__dict__.pop("peft_config", None)
        self._hf_peft_config_loaded = False
        # The weights are those of a whole model again: saving must use the model's own conversions, not the adapter's.
        self._weight_conversions = None
        self._use_labels([None])
        self._adapters.clear()

    def _base_model(self) -> Self:
        """The model without its adapters; the weights are shared."""
        weights = {id(tensor): tensor for tensor in (*self.parameters(), *self.buffers())}
        base = copy.deepcopy(self, weights)
        base._unload()
        return base
