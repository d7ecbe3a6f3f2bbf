"""Loading a SAMed model from a plain SAM, an adapter or a merged checkpoint."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedConfig

from ..utils.packaged import SMALL_SAM, locate
from .adapter_checks import check_same_base
from .adapter_files import (
    AdapterFiles,
    LoadedAdapter,
    find_image_processor,
    label_count,
    report_damage,
)
from .channel_projection import CHANNEL_PROJECTION
from .checkpoint_conversion import PLAIN_SAM_HEADS, PLAIN_SAM_PREFIX
from .configuration_samed import OVERRIDES, SamedConfig
from .download import DOWNLOAD_OPTIONS, describe_access, fetch_weights, pin_revision
from .lora import freeze_unused
from .mask_decoder import LABEL_HEADS
from .precision import align_weights
from .saving import SavedPreTrainedModel

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["SamedPreTrainedModel"]

# Arguments of loading that are attributes of a config too.
_NOT_OF_THE_CONFIG = ("dtype", "torch_dtype", "quantization_config", "name_or_path")


class SamedPreTrainedModel(SavedPreTrainedModel):
    """What every SAMed model shares: its config class, and how it is loaded and saved with or without an adapter."""

    config: SamedConfig
    config_class = SamedConfig
    base_model_prefix = "sam"
    main_input_name = "pixel_values"
    _no_split_modules = ["SamedVisionLayer"]  # noqa: RUF012 - transformers reads plain class attributes
    # The decoder's label-dependent parts start fresh: ignoring those of a plain SAM is no news to the user.
    _keys_to_ignore_on_load_unexpected = [rf"^{re.escape(PLAIN_SAM_PREFIX)}"]  # noqa: RUF012
    _keys_to_ignore_on_load_missing = [  # noqa: RUF012
        rf"mask_decoder\.({'|'.join(LABEL_HEADS)})\.",
        rf"^{CHANNEL_PROJECTION}\.",
    ]
    # Angles of the positional encoding reach hundreds of radians, too many for half precision. Prompt encoder and mask
    # decoder cost little and decide about every pixel: in bfloat16 they would change more labels than the encoder.
    _keep_in_fp32_modules_strict = ["positional_embedding", "prompt_encoder", "mask_decoder"]  # noqa: RUF012

    if not hasattr(SavedPreTrainedModel, "activation_checkpointing_enable"):  # before 5.23, thus with Python 3.10
        activation_checkpointing_enable = SavedPreTrainedModel.gradient_checkpointing_enable  # type: ignore[assignment]

    if TYPE_CHECKING:  # transformers wraps it in a decorator that hides its type

        def to(self, *args: Any, **kwargs: Any) -> Self:  # type: ignore[override]
            """Move or convert the weights."""

    @classmethod
    def from_pretrained(  # adds the adapter's arguments
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str] | None,
        *model_args: Any,
        config: PreTrainedConfig | str | os.PathLike[str] | None = None,
        base_model_name_or_path: str | os.PathLike[str] | None = None,
        adapter_name: str = "default",
        adapter_kwargs: dict[str, Any] | None = None,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Load from a directory or the Hub: a plain SAM, a SAMed adapter (its base is fetched), or a merged model.

        Args:
            pretrained_model_name_or_path: directory or Hub id; `None` with `config` and `state_dict`.
            *model_args: as in transformers.
            config: a config instead of the checkpoint's own.
            base_model_name_or_path: the adapter's base model, if it isn't the one in `adapter_config.json`.
            adapter_name: the adapter's name in the model.
            adapter_kwargs: as in transformers; the Auto classes pass the adapter's directory or Hub id in it.
            output_loading_info: also return a dictionary with `missing_keys` and the like, of an adapter's base model.
            **kwargs: values over the config's (`image_size`, `id2label`, `num_labels`, `dice_weight`,
                `loss_resolution`, `vision_config`, `output_hidden_states`, …) and the arguments of
                [`~transformers.PreTrainedModel.from_pretrained`]: `revision`, `token`, `dtype`, `device_map`, …
                Revision and subfolder are the adapter's; the base model's revision is in `adapter_config.json`.
                `dtype` is the image encoder's, the mask decoder stays in float32.

        Returns:
            The model in evaluation mode. With an adapter or a merged model, `image_processor` is its own.

        Raises:
            ValueError: the checkpoint isn't one of SAM or has other shapes than the config asks for, a value of the
                config is out of range, or the adapter is damaged or names no base model.
            FileNotFoundError: the adapter's base model can't be found.
            ConnectionError: the Hub can't be reached or fails, and the cache doesn't have the files.
        """
        download = {key: kwargs[key] for key in DOWNLOAD_OPTIONS if key in kwargs}
        adapter_kwargs = dict(adapter_kwargs or {})
        name = adapter_kwargs.pop("_adapter_model_path", None) or pretrained_model_name_or_path
        download |= {key: adapter_kwargs[key] for key in DOWNLOAD_OPTIONS if adapter_kwargs.get(key)}
        kwargs["key_mapping"] = PLAIN_SAM_HEADS | (kwargs.get("key_mapping") or {})
        source, files, adapter = str(name), None, None
        if name is not None:
            files = AdapterFiles.find(source, download := pin_revision(source, download))
        if files is None:
            if name is not None:
                fetch_weights(source, download, kwargs.get("variant"))
                kwargs |= {"revision": download["revision"]} if "revision" in download else {}
            if isinstance(config, PreTrainedConfig):
                config, kwargs = _update_config(config, kwargs)
            what = f"The checkpoint {source!r}"
            model, info = cls._load_whole(pretrained_model_name_or_path, what, *model_args, config=config, **kwargs)
        else:
            base = (str(base_model_name_or_path), None) if base_model_name_or_path else files.base_model(download)
            model, info, adapter = cls._load_base(files, base, config, download, model_args, kwargs)
        for part in (model.sam.prompt_encoder, model.sam.mask_decoder):
            part.float()  # what is missing from the checkpoint is created in half precision
        freeze_unused(model)  # loading makes all parameters trainable
        if adapter is not None:
            model._add_loaded(adapter, adapter_name)
        elif name is not None:
            model.image_processor = find_image_processor(source, download)
        align_weights(model)
        model.eval()
        return (model, info) if output_loading_info else model  # type: ignore[return-value]  # as in transformers

    @classmethod
    def _load_whole(
        cls, path: str | os.PathLike[str] | None, what: str, *model_args: Any, any_labels: bool = False, **kwargs: Any
    ) -> tuple[Self, dict[str, Any]]:
        """Load a model without adapter, and what transformers tells of the loading.

        Other shapes than the model's are refused, except those of the label heads if `any_labels`.
        """
        ignored = kwargs.pop("ignore_mismatched_sizes", False)
        kwargs |= {"ignore_mismatched_sizes": True, "output_loading_info": True}
        with report_damage(what):
            loaded: Any = super().from_pretrained(path and locate(path), *model_args, **kwargs)
        model, info = loaded
        if path == SMALL_SAM:
            model.config.name_or_path = model.name_or_path = SMALL_SAM  # not where the package is
        if not ignored:
            _check_shapes(what, {key: shapes for key, *shapes in info["mismatched_keys"]}, any_labels)
        return model, info

    @classmethod
    def _load_base(
        cls,
        files: AdapterFiles,
        base: tuple[str, str | None],
        given: PreTrainedConfig | str | os.PathLike[str] | None,
        download: dict[str, Any],
        model_args: Any,
        kwargs: dict[str, Any],
    ) -> tuple[Self, dict[str, Any], LoadedAdapter]:
        """Load the base model of an adapter with its config, or the given one; the adapter is read first."""
        weights = files.read_weights(download)
        base_kwargs = {key: value for key, value in kwargs.items() if key != "subfolder"}
        name, revision = base
        with _report_missing_base(files.source, name, revision):
            options = {key: base_kwargs[key] for key in DOWNLOAD_OPTIONS if key in base_kwargs}
            options = pin_revision(name, options | {"revision": revision})
            base_kwargs["revision"] = options["revision"]
            base_config = SamedConfig.from_pretrained(name, **options)
            fetch_weights(name, options, kwargs.get("variant"))
        config = given if isinstance(given, SamedConfig) else None
        if config is None:
            values = {key: base_kwargs.pop(key) for key in OVERRIDES if key in base_kwargs}
            config = files.load_config(weights, base_config, download, **values)
        config, base_kwargs = _update_config(config, base_kwargs)
        adapter = files.load(weights, config, download)
        check_same_base(base_config, config, name, files.source)
        what = f"The base model {name!r} of the adapter {files.source!r}"
        base_kwargs["any_labels"] = label_count(weights) is not None
        with _report_missing_base(files.source, name, revision):
            model, info = cls._load_whole(name, what, *model_args, config=config, **base_kwargs)
        return model, info, adapter


def _check_shapes(what: str, others: dict[str, Any], any_labels: bool) -> None:
    """Raise a `ValueError` if tensors have `others`, pairs of their shapes in the checkpoint and in the model."""
    heads = {key for key in others if any(f".{head}." in key for head in LABEL_HEADS)}
    tokens = [shapes for key, shapes in others.items() if key.endswith("mask_tokens.weight")]
    if tokens and others.keys() == heads:
        if not any_labels:
            raise ValueError(
                f"{what} predicts {tokens[0][0][0]} labels, but id2label or num_labels asks for {tokens[0][1][0]}: "
                "leave them out, or give ignore_mismatched_sizes=True for fresh, untrained label heads."
            )
    elif others:
        key = min(others.keys() - heads or heads)
        own, expected = map(tuple, others[key])
        raise ValueError(
            f"{what} doesn't fit the config: {key} has the shape {own} instead of {expected}, and {len(others) - 1} "
            "other tensors don't fit either."
        )


def _update_config(config: PreTrainedConfig, kwargs: dict[str, Any]) -> tuple[SamedConfig, dict[str, Any]]:
    """Replace values of a config by those of `kwargs`, and return it with the arguments that are none of its values."""
    values = {
        key: value
        for key, value in kwargs.items()
        if key in OVERRIDES or (hasattr(config, key) and key not in _NOT_OF_THE_CONFIG)
    }
    if values or not isinstance(config, SamedConfig):
        config = SamedConfig.from_dict(config.to_dict(), **values)
    return config, {key: value for key, value in kwargs.items() if key not in values}


@contextmanager
def _report_missing_base(adapter: str, base: str, revision: str | None) -> Iterator[None]:
    try:
        yield
    except ConnectionError:
        raise
    except OSError as error:
        advice = describe_access(base, error) or "Give it as base_model_name_or_path, or correct the adapter's."
        raise FileNotFoundError(
            f"The adapter {adapter!r} needs the base model {base!r}{f' at revision {revision!r}' if revision else ''}, "
            f"which can't be found as a directory or on the Hub. {advice} ({str(error).splitlines()[0]})"
        ) from error
