"""Adapters in a model: loading, adding, switching, deleting and merging them."""

from __future__ import annotations

import copy
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftConfig, inject_adapter_in_model, set_peft_model_state_dict
from torch import nn
from transformers.integrations.peft import PeftAdapterMixin

from .adapter_files import AdapterFiles, check_same_base, find_image_processor, report_damage
from .configuration_samed import SamedConfig
from .download import DOWNLOAD_OPTIONS, pin_revision
from .image_processing_samed import SamedImageProcessor
from .lora import freeze_unused, merge_adapter
from .mask_decoder import replace_label_heads
from .vision_encoder import SamedVisionAttention

if TYPE_CHECKING:
    from typing_extensions import Self

    from .modeling_samed import SamedModel

__all__ = ["SamedAdapterMixin"]


class SamedAdapterMixin(nn.Module, PeftAdapterMixin):
    """transformers' PEFT methods for a model whose adapters each have their own labels and image processor."""

    image_processor: SamedImageProcessor | None = None
    if TYPE_CHECKING:  # transformers evaluates the annotations of a class
        config: SamedConfig
        sam: SamedModel

    # A plain dict in `__dict__`: transformers creates models without calling every `__init__`.
    @property
    def _adapters(self) -> dict[str, tuple[SamedConfig, SamedImageProcessor | None]]:
        """Config and image processor of each adapter."""
        return self.__dict__.setdefault("_samed_adapters", {})

    def load_adapter(  # type: ignore[override]  # fewer options: weights come from safetensors files alone
        self,
        peft_model_id: str | os.PathLike[str],
        adapter_name: str | None = None,
        *,
        is_trainable: bool = False,
        adapter_kwargs: dict[str, Any] | None = None,
        **download: Any,
    ) -> None:
        """Load an adapter from a directory or the Hub, in addition to the model's other adapters, and activate it.

        Its labels may differ from the model's: `config.id2label` and `image_processor` are always those of the active
        adapter, also after [`set_adapter`].

        Args:
            peft_model_id: directory or Hub id.
            adapter_name: its name in the model; defaults to "default".
            is_trainable: whether its weights can be trained.
            adapter_kwargs: as in transformers: the same as `download`.
            **download: `revision`, `token`, `cache_dir`, `subfolder`, `local_files_only`, `force_download`, `proxies`.

        Raises:
            ValueError: the adapter is damaged, of another base model, input size or variant, or its name is in use.
        """
        source, name = str(peft_model_id), adapter_name or "default"
        download = (adapter_kwargs or {}) | download
        if unknown := set(download) - set(DOWNLOAD_OPTIONS):
            raise TypeError(
                f"load_adapter got {', '.join(sorted(unknown))}: expected some of {', '.join(DOWNLOAD_OPTIONS)}."
            )
        download = pin_revision(source, download)
        files = AdapterFiles.find(source, download)
        if files is None:
            raise FileNotFoundError(
                f"{source!r} holds no adapter (no adapter_config.json): give its directory or Hub id."
            )
        config = SamedConfig.from_pretrained(source, **download)
        self._check_compatible(config, files, name)
        self._fuse_projections(False)
        with report_damage(f"The adapter {source!r}"):
            weights = files.read_weights(download)
            frozen = not any(parameter.requires_grad for parameter in self.parameters())
            self._inject_layers(files, download, name, config, is_trainable)
            try:
                _load_weights(self, weights, source, name)
            except (ValueError, RuntimeError):
                self._remove_incomplete(name, frozen)
                raise
        self._adapters[name] = (config, find_image_processor(source, download))
        self.set_adapter(name)
        if not is_trainable:
            # PEFT freezes the LoRA of a loaded adapter but not its fully trained modules.
            self.requires_grad_(False)

    def _check_compatible(self, config: SamedConfig, files: AdapterFiles, name: str) -> None:
        """Refuse an adapter that can't work in this model."""
        source = files.source
        check_same_base(self.config, config, "the model's", source)
        if config.image_size != self.config.image_size:
            raise ValueError(
                f"The adapter {source!r} was trained at {config.image_size} pixels, the model is built for "
                f"{self.config.image_size}: load it by from_pretrained into a model of its own."
            )
        present: dict[str, Any] = self.peft_config if self._hf_peft_config_loaded else {}
        if name in present:
            raise ValueError(f"adapter_name {name!r} is in use; the model has {', '.join(present)}: give another name.")
        for other, peft_config in present.items():
            if set(peft_config.modules_to_save or ()) != set(files.content.get("modules_to_save") or ()):
                raise ValueError(
                    f"The adapter {source!r} is of another variant (samed, samed_s) than {other!r}: load it by "
                    "from_pretrained into a model of its own."
                )

    def _inject_layers(
        self,
        files: AdapterFiles,
        download: dict[str, Any],
        name: str,
        config: SamedConfig,
        is_trainable: bool,
    ) -> None:
        """Add the adapter's layers to the model; modules trained whole get the shapes that its labels need."""
        peft_config = PeftConfig.from_pretrained(str(files.config_file.parent))
        peft_config.inference_mode = not is_trainable
        # The base in use, a directory by a path that is valid wherever the adapter is saved.
        named, revision = files.named_base(download)
        used = self.config.name_or_path or named
        peft_config.revision = revision if used == named else None
        peft_config.base_model_name_or_path = str(Path(used).resolve()) if used and Path(used).is_dir() else used
        if files.is_published:
            peft_config.auto_mapping = None
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Already found a `peft_config`", category=UserWarning)
            inject_adapter_in_model(peft_config, self, name)
        if config.num_labels != self.config.num_labels:
            replace_label_heads(self.sam.mask_decoder, self.config, config.num_labels, name)
        self._hf_peft_config_loaded = True

    def _remove_incomplete(self, name: str, frozen: bool) -> None:
        """Remove an adapter whose weights could not be loaded; `frozen`: no parameter was trainable before."""
        others = [other for other in self.peft_config if other != name]
        if others:  # else the model was created for this adapter and is discarded with it
            super().set_adapter(name)  # PEFT deletes from wrappers that have an active adapter only
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*was active which is now deleted", category=UserWarning)
                self.delete_adapter(name)
            self.set_adapter(others[0])
            if frozen:
                self.requires_grad_(False)

    def add_adapter(self, adapter_config: Any, adapter_name: str | None = None) -> None:
        """Add a fresh adapter and make it the only trainable part; see [`samed_lora_config`]."""
        self._fuse_projections(False)
        super().add_adapter(adapter_config, adapter_name)
        self._adapters[adapter_name or "default"] = (copy.deepcopy(self.config), self.image_processor)
        freeze_unused(self)

    def set_adapter(self, adapter_name: str | list[str]) -> None:
        """Activate the adapter of this name, with its labels and its image processor.

        If no parameter of the model is trainable, activating another adapter keeps it frozen. Activating the active
        adapter again makes it trainable.
        """
        names = [adapter_name] if isinstance(adapter_name, str) else list(adapter_name)
        switches = self._hf_peft_config_loaded and self.active_adapters() != names
        frozen = not any(parameter.requires_grad for parameter in self.parameters())
        super().set_adapter(adapter_name)
        freeze_unused(self)
        if len(names) == 1 and names[0] in self._adapters:
            config, self.image_processor = self._adapters[names[0]]
            self.config.id2label, self.config.dice_weight = dict(config.id2label), config.dice_weight
            self.config.sync_subconfigs()
        if frozen and switches:
            # PEFT makes it trainable, which selects other kernels and changes the last bits of the results.
            self.requires_grad_(False)

    def delete_adapter(self, adapter_names: list[str] | str) -> None:
        """Delete adapters from the model."""
        super().delete_adapter(adapter_names)
        for name in [adapter_names] if isinstance(adapter_names, str) else adapter_names:
            self._adapters.pop(name, None)

    def merge_and_unload(self) -> Self:
        """Merge the active adapter into the weights, in place, and return the model, now without any adapter.

        The encoder's q, k and v become one projection again, until another adapter is added.
        """
        merge_adapter(self)
        del self.peft_config
        self._adapters.clear()
        self._hf_peft_config_loaded = False
        # The weights are those of a whole model again: saving must use the model's own conversions, not the adapter's.
        self._weight_conversions = None
        self._fuse_projections(True)
        return self

    def _fuse_projections(self, fused: bool) -> None:
        """Fuse q, k and v of the encoder, or split them: adapters adapt q and v alone."""
        for module in self.sam.vision_encoder.modules():
            if isinstance(module, SamedVisionAttention):
                module.fuse_projections() if fused else module.split_projections()


def _load_weights(model: nn.Module, weights: dict[str, torch.Tensor], source: str, name: str) -> None:
    result: Any = set_peft_model_state_dict(model, weights, adapter_name=name)
    missing = sorted(key for key in result.missing_keys if name in key.split("."))
    unknown = sorted(result.unexpected_keys)
    if missing or unknown:
        raise ValueError(
            f"The adapter {source!r} doesn't fit: {len(missing)} tensors are missing ({', '.join(missing[:3])}), "
            f"{len(unknown)} unknown ({', '.join(unknown[:3])})."
        )
