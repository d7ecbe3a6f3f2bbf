"""Loading a SAMed model from a plain SAM, an adapter or a merged checkpoint, and saving it again."""

from __future__ import annotations

import copy
import json
import os
import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, inject_adapter_in_model, set_peft_model_state_dict
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedConfig
from transformers.models.sam.modeling_sam import SamPreTrainedModel
from transformers.utils import cached_file, find_adapter_config_file

from ..hub.layout import ADAPTER_DIRECTORY
from ..hub.push import push_adapter
from ..utils.atomic import atomic_update
from .checkpoint_conversion import PLAIN_SAM_PREFIX
from .configuration_samed import SamedConfig
from .image_processing_samed import SamedImageProcessor
from .lora import freeze_unused, merge_adapter, swapped_label_heads
from .precision import resolve_dtype

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
_PEFT_PREFIX = "base_model.model."
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
    # Angles of the positional encoding reach hundreds of radians: half precision would scramble them. Prompt encoder
    # and mask decoder cost little and decide about every pixel: in bfloat16 they'd change more labels than the encoder.
    _keep_in_fp32_modules_strict = ["positional_embedding", "prompt_encoder", "mask_decoder"]  # noqa: RUF012

    image_processor: SamedImageProcessor | None = None

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        *model_args: Any,
        config: PreTrainedConfig | None = None,
        base_model_name_or_path: str | os.PathLike | None = None,
        adapter_name: str = "default",
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
            adapter_name: the adapter's name in the model.
            adapter_kwargs: as in transformers; the Auto classes pass the adapter's place in it.
            **kwargs: values over the config's (`image_size`, `id2label`, `num_labels`, `dice_weight`) and the arguments
                of [`~transformers.PreTrainedModel.from_pretrained`]: `revision`, `token`, `cache_dir`, `subfolder`,
                `local_files_only`, `dtype`, `device_map`, `attn_implementation`, … Revision and subfolder are the
                adapter's; the base model's revision stands in `adapter_config.json`. `dtype="auto"` is bfloat16 where
                the machine computes it natively and float32 elsewhere (with a `config`, and so in pipelines and the
                Auto classes, it is the checkpoint's); it is the image encoder's, the mask decoder stays in float32.

        Returns:
            The model in evaluation mode. With an adapter or a merged model, `image_processor` is its own.

        Raises:
            ValueError: the checkpoint isn't of SAM, a value of the config is out of range, or the adapter is damaged.
            FileNotFoundError: the adapter's base model can't be found.
            OSError: no checkpoint at this place.
        """
        download = {key: kwargs[key] for key in _DOWNLOAD if key in kwargs}
        overrides = {key: kwargs.pop(key) for key in _CONFIG if key in kwargs}
        # Every pipeline asks for "auto", unasked, through the Auto classes, which come with a config: there it stays
        # transformers' own, the data type of the checkpoint.
        if isinstance(kwargs.get("dtype"), str) and (config is None or kwargs["dtype"] != "auto"):
            kwargs["dtype"] = resolve_dtype(kwargs["dtype"])
        adapter_kwargs = dict(adapter_kwargs or {})
        place = adapter_kwargs.pop("_adapter_model_path", None)
        if place is not None:
            download |= {key: adapter_kwargs[key] for key in ("revision", "token") if adapter_kwargs.get(key)}
        place = str(place or pretrained_model_name_or_path)
        adapter = _find_adapter(place, download)
        if adapter is None:
            config = _samed_config(place, config, overrides, download)
            with _naming_damage(f"The checkpoint {place!r}"):
                model = super().from_pretrained(pretrained_model_name_or_path, *model_args, config=config, **kwargs)
            model._keep_decoder_in_float32()
        else:
            # The label-dependent parts can't load into a model built for other labels: the adapter's config it is.
            config = _samed_config(place, config if isinstance(config, SamedConfig) else None, overrides, download)
            base, revision = _base_of(adapter, place)
            if base_model_name_or_path is not None:
                base, revision = str(base_model_name_or_path), None
            if base is None:
                raise ValueError(
                    f"The adapter {place!r} names no base model: give the place of the one that it was trained on as "
                    "base_model_name_or_path."
                )
            model = cls._load_base(base, revision, place, model_args, config, kwargs)
            model._keep_decoder_in_float32()
            model.load_adapter(place, adapter_name, adapter_kwargs=download)
        _align(model)
        model.image_processor = _find_image_processor(place, download)
        return model

    @classmethod
    def _load_base(
        cls, base: str, revision: str | None, place: str, model_args: tuple, config: SamedConfig, kwargs: dict
    ) -> SamedPreTrainedModel:
        kwargs = {key: value for key, value in kwargs.items() if key not in ("revision", "subfolder")}
        kwargs |= {"revision": revision} if revision else {}
        download = {key: kwargs[key] for key in _DOWNLOAD if key in kwargs}
        try:
            _check_geometry(SamedConfig.from_pretrained(base, **download), config, base, place)
            with _naming_damage(f"The base model {base!r} of the adapter {place!r}"):
                return super().from_pretrained(base, *model_args, config=config, **kwargs)
        except OSError as error:
            raise FileNotFoundError(
                f"The adapter {place!r} needs the base model {base!r}"
                f"{f' at revision {revision!r}' if revision else ''}, which can't be found as a folder "
                "or on the Hub. Give its place with base_model_name_or_path, or mend it in adapter_config.json. "
                f"({str(error).splitlines()[0]})"
            ) from error

    def load_adapter(
        self,
        peft_model_id: str | os.PathLike,
        adapter_name: str | None = None,
        *,
        is_trainable: bool = False,
        adapter_kwargs: dict[str, Any] | None = None,
        **download: Any,
    ) -> None:
        """Load an adapter from a folder or the Hub beside those the model has, and use it.

        Its labels may be others than the model's: `config.id2label` and `image_processor` are those of the adapter in
        use, here and after [`set_adapter`].

        Args:
            peft_model_id: folder or Hub id.
            adapter_name: its name in the model; defaults to "default".
            is_trainable: leave its weights trainable.
            adapter_kwargs: as in transformers: the same as `download`.
            **download: `revision`, `token`, `cache_dir`, `subfolder`, `local_files_only`, `force_download`, `proxies`.

        Raises:
            FileNotFoundError: no adapter at this place.
            ValueError: the adapter is damaged, of another base model, input size or variant, or its name is taken.
        """
        place, name = str(peft_model_id), adapter_name or "default"
        download = (adapter_kwargs or {}) | download
        if unknown := set(download) - set(_DOWNLOAD):
            raise TypeError(f"load_adapter got {', '.join(sorted(unknown))}: expected some of {', '.join(_DOWNLOAD)}.")
        adapter = _find_adapter(place, download)
        if adapter is None:
            raise FileNotFoundError(f"{place!r} holds no adapter (no adapter_config.json): give its folder or Hub id.")
        config = _samed_config(place, None, {}, download)
        self._check_beside(config, adapter, place, name)
        self._split_projections()
        with _naming_damage(f"The adapter {place!r}"):
            weights = adapter.weights(place, download)
            frozen = not any(parameter.requires_grad for parameter in self.parameters())
            self._inject(adapter, name, config, is_trainable)
            try:
                _load_weights(self, weights, place, name)
            except (ValueError, RuntimeError):
                self._forget(name, frozen)
                raise
        self._adapters[name] = (config, _find_image_processor(place, download))
        self.set_adapter(name)
        if not is_trainable:
            # PEFT freezes the LoRA of a loaded adapter but not what is saved beside it.
            self.requires_grad_(False)

    def _inject(self, adapter: _Adapter, name: str, config: SamedConfig, is_trainable: bool) -> None:
        """Give the model the adapter's layers, its whole modules in the shapes that its labels need."""
        peft_config = PeftConfig.from_pretrained(str(adapter.file.parent))
        peft_config.inference_mode = not is_trainable
        if Path(self.name_or_path).is_dir():
            # The base in use, by a name that holds wherever this is saved again; a folder has no revision.
            peft_config.base_model_name_or_path, peft_config.revision = str(Path(self.name_or_path).resolve()), None
        others = self.config.num_labels != config.num_labels
        parts = (
            swapped_label_heads(self.sam.mask_decoder, self._label_parts(config.num_labels))
            if others
            else nullcontext()
        )
        with parts, warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Already found a `peft_config`", category=UserWarning)
            inject_adapter_in_model(peft_config, self, name)
        self._hf_peft_config_loaded = True

    @property
    def _adapters(self) -> dict[str, tuple[SamedConfig, SamedImageProcessor | None]]:
        """Config and image processor of each adapter; those of a fresh one are the model's own."""
        return self.__dict__.setdefault("_samed_adapters", {})

    def _label_parts(self, num_labels: int) -> dict[str, nn.Module]:
        """Fresh parts of the mask decoder for so many labels, by name, of the model's device and data type."""
        raise NotImplementedError

    def _check_beside(self, config: SamedConfig, adapter: _Adapter, place: str, name: str) -> None:
        """Refuse an adapter that can't work in this model."""
        _check_geometry(self.config, config, "the model's", place)
        if config.image_size != self.config.image_size:
            raise ValueError(
                f"The adapter {place!r} was trained at {config.image_size} pixels, the model is built for "
                f"{self.config.image_size}: load it by from_pretrained into a model of its own."
            )
        taken = self.peft_config if self._hf_peft_config_loaded else {}
        if name in taken:
            raise ValueError(f"adapter_name {name!r} is taken; the model has {', '.join(taken)}: give another name.")
        for other, present in taken.items():
            if set(present.modules_to_save or ()) != set(adapter.content.get("modules_to_save") or ()):
                raise ValueError(
                    f"The adapter {place!r} is of another variant (samed, samed_s) than {other!r}: load it by "
                    "from_pretrained into a model of its own."
                )

    def _forget(self, name: str, frozen: bool) -> None:
        """Take a half-loaded adapter out again; `frozen`: nothing trained before."""
        others = [other for other in self.peft_config if other != name]
        if others:  # else the model was made for this adapter and goes with it
            super().set_adapter(name)  # PEFT deletes from wrappers that have an active adapter only
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*was active which is now deleted", category=UserWarning)
                self.delete_adapter(name)
            self.set_adapter(others[0])
            if frozen:
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
        processor = image_processor or self.image_processor or SamedImageProcessor(self.config.image_size)
        hub = {key: kwargs.pop(key) for key in ("repo_id", "commit_message", "private", "token") if key in kwargs}
        # What loads first is moved last: an adapter_config.json always stands beside whole weights.
        with atomic_update(folder) as temporary:
            super().save_pretrained(temporary, **kwargs)
            config = copy.deepcopy(self.config)
            if self._hf_peft_config_loaded:
                # How the base model's weights were kept here is no matter of the adapter's, which is in float32.
                config.dtype = torch.float32
            config.save_pretrained(temporary)
            processor.save_pretrained(temporary)
            if self._hf_peft_config_loaded:
                _write_base(temporary / "adapter_config.json", folder)
        if push_to_hub:
            self.push_to_hub(hub.pop("repo_id", folder.name), **hub)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> str:
        """Upload the adapter in use, laid out so that every way of loading finds it; a merged model goes up whole.

        Args:
            repo_id: "user/name", or "name" in one's own namespace.
            **kwargs: with an adapter those of [`~samed_hf.hub.push.push_adapter`] (`private`, `token`, `dtype`,
                `base_model`, …), else those of [`~transformers.PreTrainedModel.push_to_hub`].

        Returns:
            The repository's address.
        """
        if not self._hf_peft_config_loaded:
            return super().push_to_hub(repo_id, **kwargs)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return push_adapter(folder, repo_id, **kwargs)

    def add_adapter(self, adapter_config: Any, adapter_name: str | None = None) -> None:
        """Add a fresh adapter and make it the only thing that trains; see [`samed_lora_config`]."""
        self._split_projections()
        super().add_adapter(adapter_config, adapter_name)
        self._adapters[adapter_name or "default"] = (copy.deepcopy(self.config), self.image_processor)
        freeze_unused(self)

    def set_adapter(self, adapter_name: str | list[str]) -> None:
        """Use the adapter of this name, with its labels and its image processor.

        A model in which nothing trains stays so when another adapter takes over; naming the one in use again lets it
        train.
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
            # PEFT would let it train; even unused, that changes which kernels run, and with them the last bits.
            self.requires_grad_(False)

    def delete_adapter(self, adapter_names: list[str] | str) -> None:
        """Take adapters out of the model."""
        super().delete_adapter(adapter_names)
        for name in [adapter_names] if isinstance(adapter_names, str) else adapter_names:
            self._adapters.pop(name, None)

    def merge_and_unload(self) -> SamedPreTrainedModel:
        """Merge the active adapter into the weights, in place, and return the model, now without any adapter.

        The encoder's q, k and v become one product again, until another adapter is added.

        Raises:
            ValueError: no adapter, or several active at once.
        """
        merge_adapter(self)
        del self.peft_config
        self._adapters.clear()
        self._hf_peft_config_loaded = False
        # The weights are a whole model's again: saving must use the model's own conversions, not the adapter's.
        self._weight_conversions = None
        for layer in self.sam.vision_encoder.layers:
            layer.attn.fuse()
        return self

    def _keep_decoder_in_float32(self) -> None:
        """Bring what no checkpoint held, and transformers made in half precision, to the type of what it kept."""
        self.sam.prompt_encoder.float()
        self.sam.mask_decoder.float()

    def _split_projections(self) -> None:
        """Undo what merging fused: adapters adapt q and v alone."""
        for layer in self.sam.vision_encoder.layers:
            layer.attn.split()


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


@dataclass(frozen=True)
class _Adapter:
    """Where an adapter lies: the subfolder of its files, the path and the content of its `adapter_config.json`."""

    subfolder: str
    file: Path
    content: dict[str, Any]

    def weights(self, place: str, download: dict[str, Any]) -> dict[str, torch.Tensor]:
        """The tensors under the model's own names; safetensors alone, since a pickle could execute code."""
        if Path(place).is_dir():
            file = self.file.parent / SAFETENSORS_WEIGHTS_NAME
        else:
            file = cached_file(place, SAFETENSORS_WEIGHTS_NAME, **(download | {"subfolder": self.subfolder}))
        return {key.removeprefix(_PEFT_PREFIX): tensor for key, tensor in load_file(file).items()}


def _find_adapter(place: str, download: dict[str, Any]) -> _Adapter | None:
    """The adapter of a folder or repository, at its root or in the subfolder of the Hub's layout; `None` without."""
    root = download.get("subfolder") or ""
    for subfolder in (root, f"{root}/{ADAPTER_DIRECTORY}".lstrip("/")):
        file = find_adapter_config_file(place, **(download | {"subfolder": subfolder}))
        if file is not None:
            try:
                return _Adapter(subfolder, Path(file), json.loads(Path(file).read_text(encoding="utf-8")))
            except ValueError as error:
                raise ValueError(f"{file} is no JSON ({error}): the adapter is damaged; fetch it again.") from error
    return None


def _base_of(adapter: _Adapter, place: str) -> tuple[str | None, str | None]:
    """The base model an adapter names and its revision. A relative path starts at the adapter's own folder."""
    base = adapter.content.get("base_model_name_or_path")
    if not base:
        return None, None
    beside = adapter.file.parent / base
    if Path(place).is_dir() and (beside / "config.json").is_file():
        return str(beside), None
    if base.startswith("."):
        raise FileNotFoundError(
            f"The adapter {place!r} needs the base model {base!r}, a folder that belongs beside it and isn't there: "
            "copy it there too, or give its place with base_model_name_or_path."
        )
    return base, adapter.content.get("revision")


def _write_base(adapter_config: Path, folder: Path) -> None:
    """Write a local base so that it is found from elsewhere: relative where it goes with the adapter's folder."""
    content = json.loads(adapter_config.read_text(encoding="utf-8"))
    base = content.get("base_model_name_or_path")
    if not base or not Path(base).is_dir():
        return
    base, folder = Path(base).resolve(), folder.resolve()
    if base.is_relative_to(folder) or base.parent == folder.parent:
        relative = os.path.relpath(base, folder)
        content["base_model_name_or_path"] = relative if relative.startswith(".") else f"./{relative}"
    else:
        content["base_model_name_or_path"] = str(base)
    adapter_config.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@contextmanager
def _naming_damage(what: str) -> Iterator[None]:
    """Turn the errors of damaged or unfitting weights into one that names them."""
    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(
            f"{what} can't be loaded: {str(error).splitlines()[0]} The file may be damaged, or adapter and base belong "
            "to different models: fetch it again, or check which base the adapter names."
        ) from error


def _load_weights(model: nn.Module, weights: dict[str, torch.Tensor], place: str, name: str) -> None:
    result = set_peft_model_state_dict(model, weights, adapter_name=name)
    missing = sorted(key for key in result.missing_keys if name in key.split("."))
    unknown = sorted(result.unexpected_keys)
    if missing or unknown:
        raise ValueError(
            f"The adapter {place!r} doesn't fit: {len(missing)} tensors are missing ({', '.join(missing[:3])}), "
            f"{len(unknown)} unknown ({', '.join(unknown[:3])})."
        )


def _find_image_processor(place: str | os.PathLike, download: dict[str, Any]) -> SamedImageProcessor | None:
    """The checkpoint's own SAMed processor; `None` where there is none, as beside a plain SAM."""
    try:
        content, _ = SamedImageProcessor.get_image_processor_dict(str(place), **download)
    except OSError:
        return None
    if content.get("image_processor_type") != SamedImageProcessor.__name__:
        return None
    return SamedImageProcessor.from_dict(content)
