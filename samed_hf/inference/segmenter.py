"""The models that segment: one adapter or an ensemble, loaded with their image processors."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from ..hub.onnx_file import is_onnx
from ..model.download import describe_access
from ..model.fingerprint import model_fingerprint
from ..model.image_processing_samed import SamedImageProcessor
from ..model.modeling_samed import SamedForSemanticSegmentation
from ..model.precision import default_device, resolve_dtype
from .ensemble import ensemble_members
from .onnx_model import BACKENDS, OnnxModel, as_onnx

__all__ = ["Segmenter", "load_model"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Segmenter:
    """One model, or several with the same labels whose softmax is averaged."""

    models: tuple[SamedForSemanticSegmentation, ...]  # in evaluation mode, on one device
    processors: tuple[SamedImageProcessor, ...]  # of each model
    names: tuple[str, ...] = ()  # directory or Hub id of each model that was loaded

    @classmethod
    def of(cls, model: SamedForSemanticSegmentation, processor: SamedImageProcessor | None = None) -> Segmenter:
        """A segmenter of one model, with its own image processor by default."""
        processor = processor or model.image_processor
        if processor is None:
            raise ValueError("The model has no image processor: give one as `processor`.")
        return cls((model,), (processor,))

    @classmethod
    def load(
        cls,
        adapters: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        dtype: str | torch.dtype = "float32",
        base_model_name_or_path: str | None = None,
        backend: str = "torch",
    ) -> Segmenter:
        """Load adapters or merged models, onto the accelerator if there is one.

        Args:
            adapters: directories or Hub ids, or one of them; the directory of an ensemble stands for its members. An
                adapter that is there twice counts once.
            dtype, base_model_name_or_path, backend: see [`load_model`].

        Raises:
            ValueError: one is no SAMed model, its labels differ from the first one's, or a file of an ensemble has
                changed.
        """
        options: dict[str, Any] = {"dtype": dtype, "backend": backend}
        options["base_model_name_or_path"] = base_model_name_or_path
        given = [adapters] if isinstance(adapters, str | os.PathLike) else adapters
        names = [member for adapter in given for member in ensemble_members(str(adapter))]
        members: dict[str, Segmenter] = {}
        sources: dict[str, str] = {}  # by the fingerprint
        for name in names:
            member = cls.of(load_model(name, **options))
            source = sources.setdefault(member.fingerprints()[0] if len(names) > 1 else "", name)
            if source != name or name in members:
                logger.info("note        %r is the same adapter as %r: it counts once", name, source)
            else:
                members[name] = member
        first, *others = members.items()
        for name, member in others:
            devices = [one.models[0].device for one in (member, first[1])]
            if devices[0] != devices[1]:
                raise ValueError(
                    f"{name!r} runs on {devices[0]}, {first[0]!r} on {devices[1]}: expected one device for all members "
                    "of an ensemble; give exported models only, or adapters only."
                )
            for what in ("id2label", "regions"):
                own, expected = getattr(member, what), getattr(first[1], what)
                if own != expected:
                    raise ValueError(
                        f"{name!r} has the {what} {own}, {first[0]!r} {expected}: expected the same in all members "
                        "of an ensemble."
                    )
        loaded = members.values()
        return cls(tuple(one.models[0] for one in loaded), tuple(one.processor for one in loaded), tuple(members))

    @property
    def id2label(self) -> dict[int, str]:
        """Name of each label."""
        return self.models[0].config.id2label

    @property
    def regions(self) -> dict[int, tuple[str, list[int]]]:
        """Name and labels of each region by the index of the label of its name, if it has one; empty without any."""
        config, regions = self.models[0].config, self.models[0].config.regions or {}
        indices = (config.label2id.get(name, config.num_labels + count) for count, name in enumerate(regions))
        return dict(zip(indices, regions.items(), strict=True))

    @property
    def num_labels(self) -> int:
        """The number of labels, background included."""
        return self.models[0].config.num_labels

    @property
    def processor(self) -> SamedImageProcessor:
        """The first model's image processor."""
        return self.processors[0]

    @property
    def in_planes(self) -> bool:
        """Whether the models cut a scan into different slices."""
        return len({(one.orientation, *one.axis_order) for one in self.processors}) > 1

    def fingerprints(self) -> list[str]:
        """Hash the weights, the labels and the image processor of each model."""
        return [
            model.fingerprint()
            if isinstance(model, OnnxModel)
            else model_fingerprint(model, {"id2label": self.id2label, "processor": processor.to_dict()})
            for model, processor in zip(self.models, self.processors, strict=True)
        ]


def load_model(
    adapter: str,
    *,
    dtype: str | torch.dtype = "float32",
    base_model_name_or_path: str | None = None,
    backend: str = "torch",
) -> SamedForSemanticSegmentation:
    """Load an adapter or a merged model with its image processor, for evaluation, onto the accelerator if there is one.

    Args:
        adapter: directory or Hub id; or what `samed-hf export` wrote, which ONNX Runtime runs unless `backend` is
            "openvino".
        dtype: data type of the encoder: "float32", "bfloat16", or "auto" for bfloat16 if it is computed natively.
            Logits are always float32.
        base_model_name_or_path: directory or Hub id of the adapter's base model, if it isn't the one it names.
        backend: "torch"; or "onnxruntime" or "openvino", for a float32 graph that is written once for each adapter and
            base.

    Raises:
        FileNotFoundError: the model does not exist.
        ConnectionError: the Hub can't be reached or fails.
        ValueError: it is no SAMed model.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}: expected one of {', '.join(BACKENDS)}.")
    exported = is_onnx(adapter)
    if (exported or backend != "torch") and str(dtype) not in ("float32", "torch.float32"):
        raise ValueError(f"dtype is {dtype} with an ONNX model, which has its own precision: leave it out.")
    if exported and base_model_name_or_path is not None:
        raise ValueError(f"base_model_name_or_path is given for {adapter!r}, which contains its base: leave it out.")
    if exported:
        runtime = "onnxruntime" if backend == "torch" else backend
        return cast(SamedForSemanticSegmentation, OnnxModel(adapter, runtime=runtime))
    try:
        if not Path(adapter).exists() and "/" not in str(adapter):  # names on the Hub have a slash
            raise OSError("there is no such directory")
        model = SamedForSemanticSegmentation.from_pretrained(adapter, base_model_name_or_path=base_model_name_or_path)
    except (FileNotFoundError, ConnectionError):
        raise
    except OSError as error:
        advice = (
            describe_access(adapter, error)
            or "Expected the directory of an adapter or of an ensemble (with ensemble.json), or a Hub id USER/NAME."
        )
        raise FileNotFoundError(
            f"ADAPTER {adapter!r} can't be loaded. {advice} ({str(error).splitlines()[0]})"
        ) from error
    if model.image_processor is None:
        raise ValueError(
            f"{adapter!r} is no SAMed model (no preprocessor_config.json of SamedImageProcessor): give an adapter's "
            "directory or Hub id, not a plain SAM."
        )
    if backend != "torch":
        return cast(SamedForSemanticSegmentation, as_onnx(model.eval(), model.image_processor, backend))
    resolved = resolve_dtype(dtype)
    if resolved not in (None, torch.float32):
        # Merging before rounding rounds once and avoids products of two types. In float32, merging would only change
        # the last bits.
        if model._hf_peft_config_loaded:
            model.merge_and_unload()
        nn.Module.to(model.sam.vision_encoder, resolved)
    return model.to(default_device()).eval()
