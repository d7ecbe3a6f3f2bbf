"""The memory of a training step, told by the model itself: run on tensors without content, nothing computed."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from ..model.configuration_samed import SamedConfig
from ..model.lora import cast_frozen, samed_lora_config
from ..model.losses import segmentation_loss
from ..model.modeling_samed import SamedForSemanticSegmentation

__all__ = ["LiveBytes", "StepSettings", "TrainingMemory", "estimate_training", "make_meta_model", "read_base_config"]

_FLOAT = 4
_SMALL, _BLOCK = 4096, 256  # bitsandbytes: smaller tensors keep moments of 32 bits; a scale for each block of the rest
_ALIGNED = 8  # keys to which the fused kernel fills up its bias
_ALMOST_NONE = 1e-9


@dataclass(frozen=True)
class StepSettings:
    """What the memory of a training step depends on, beside the model's sizes.

    Attributes:
        image_size: side of the model's input in pixels.
        num_labels: how many labels there are, the background counted.
        rank, variant: of the adapter.
        batch_size: slices that go through the model at once.
        mixed_precision: whether activations are of 16 bits, bf16 or fp16 alike.
        frozen_bfloat16: whether the encoder's frozen weights are kept in bfloat16.
        gradient_checkpointing: whether the encoder's activations are computed again.
        optimizer: "adamw" or "adamw_8bit".
        ema: whether an average of the trained weights is kept.
        fused: attention as accelerators compute it, by one kernel; else as this package does on a processor.
        num_processes: that train together.
    """

    image_size: int = 512
    num_labels: int = 9
    rank: int = 4
    variant: str = "samed"
    batch_size: int = 1
    mixed_precision: bool = False
    frozen_bfloat16: bool = False
    gradient_checkpointing: bool = False
    optimizer: str = "adamw"
    ema: bool = False
    fused: bool = True
    num_processes: int = 1


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes that tensors take in a training step, each part at its most.

    What isn't in it: the libraries and the accelerator's context (about half a gigabyte each), what allocators keep in
    reserve, and kernels' work spaces.

    Attributes:
        parameters, trained: how many numbers the model has, and how many of them are trained.
        weights: bytes of all weights, each in its own type.
        optimizer: bytes of AdamW's two moments, and of the average where there is one.
        step: bytes of activations and gradients at the moment when they are most.
    """

    parameters: int
    trained: int
    weights: int
    optimizer: int
    step: int

    @property
    def total(self) -> int:
        """Bytes of all of it."""
        return self.weights + self.optimizer + self.step


def read_base_config(model_name_or_path: str | None, **options: Any) -> dict[str, Any]:
    """The content of a base model's config.json; of `None` that of facebook/sam-vit-base, which is SAM's default.

    Args:
        model_name_or_path: folder or Hub id of a plain SAM.
        **options: `revision`, `token`, as for transformers' loading.

    Raises:
        FileNotFoundError: no such model.
        ValueError: it is no SAM.
    """
    if model_name_or_path is None:
        return {"model_type": "sam"}
    try:
        content, _ = SamedConfig.get_config_dict(model_name_or_path, **options)
        SamedConfig.from_dict(dict(content), id2label={0: "background", 1: "label"})
    except OSError as error:
        raise FileNotFoundError(
            f"model_name_or_path {model_name_or_path!r} can't be loaded: expected a folder or Hub id of a plain SAM, "
            f"e.g. facebook/sam-vit-base. ({str(error).splitlines()[0]})"
        ) from error
    return content


def estimate_training(base: dict[str, Any], settings: StepSettings) -> TrainingMemory:
    """The memory of a training step, by running one on tensors without content; a few seconds.

    Args:
        base: content of the base model's config.json; see [`read_base_config`].
        settings: of the training.
    """
    # In a thread of its own: a processor's attention keeps memory for its thread, which must have content.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_estimate, base, settings).result()


def make_meta_model(base: dict[str, Any], settings: StepSettings) -> SamedForSemanticSegmentation:
    """The model with its adapter, as these settings train it, without content."""
    config = SamedConfig.from_dict(dict(base), image_size=settings.image_size, num_labels=settings.num_labels)
    with torch.device("meta"):
        model = SamedForSemanticSegmentation(config)
        model.add_adapter(samed_lora_config(settings.rank, variant=settings.variant))
    if settings.frozen_bfloat16:
        cast_frozen(model, torch.bfloat16)
    if settings.gradient_checkpointing:
        model.activation_checkpointing_enable()
    return model


def _estimate(base: dict[str, Any], settings: StepSettings) -> TrainingMemory:
    model = make_meta_model(base, settings)
    # PEFT keeps the parts that train whole twice: as they were, and as they are trained.
    parameters = list(model.parameters())
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    count = sum(parameter.numel() for parameter in trained)
    optimizer = sum(_moments(parameter.numel(), settings.optimizer) for parameter in trained)
    step = _step(model, settings)
    if settings.num_processes > 1:
        step += _FLOAT * count  # DistributedDataParallel's buckets of gradients
    return TrainingMemory(
        parameters=sum(parameter.numel() for parameter in parameters),
        trained=count,
        weights=sum(parameter.numel() * parameter.element_size() for parameter in parameters),
        optimizer=optimizer + (_FLOAT * count if settings.ema else 0),
        step=step,
    )


def _moments(count: int, optimizer: str) -> int:
    if optimizer == "adamw" or count < _SMALL:
        return 2 * _FLOAT * count
    return 2 * (count + _FLOAT * -(-count // _BLOCK))


def _step(model: SamedForSemanticSegmentation, settings: StepSettings) -> int:
    side, batch_size = settings.image_size, settings.batch_size
    with FakeTensorMode():
        _fill_with_nothing(model)
        model.train()
        if settings.fused:
            _attend_as_accelerators_do(model)
        with LiveBytes() as live:
            pixels = torch.empty(batch_size, 3, side, side)
            labels = torch.empty(batch_size, side // 4, side // 4, dtype=torch.long)
            # A processor's types stand for an accelerator's: what is cast where differs little, and fp16 is as large.
            with torch.autocast("cpu", torch.bfloat16, enabled=settings.mixed_precision):
                logits = model(pixels).logits
            segmentation_loss(logits.float(), labels, model.config.dice_weight).loss.backward()
    return live.peak


def _fill_with_nothing(model: nn.Module) -> None:
    """Weights that say they are on a processor, so that all goes its way there, and have no content."""
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                empty = torch.empty(weight.shape, dtype=weight.dtype)
                module._parameters[name] = nn.Parameter(empty, requires_grad=weight.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def _attend_as_accelerators_do(model: SamedForSemanticSegmentation) -> None:
    for layer in model.sam.vision_encoder.layers:
        # With dropout, the encoder leaves its way of processors for that of accelerators; so little drops nothing.
        layer.attn.dropout = _ALMOST_NONE
        layer.attn.forward = _in_one_kernel(layer.attn.forward)


def _in_one_kernel(forward: Callable[..., Any]) -> Callable[..., Any]:
    def inside(*args: Any, **options: Any) -> Any:
        with _FusedKernel():
            return forward(*args, **options)

    return inside


class _FusedKernel(TorchFunctionMode):
    """Puts tensors of the sizes that a fused kernel makes in the place of attention's."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        query, key, value, *rest = args
        bias = rest[0] if rest else kwargs.get("attn_mask")
        tensors = [query, key, value] if bias is None else [query, key, value, bias]
        if torch.is_autocast_enabled("cpu"):
            tensors = [tensor.to(torch.get_autocast_dtype("cpu")) for tensor in tensors]
        if bias is not None and (rest := -tensors[3].shape[-1] % _ALIGNED):
            tensors[3] = F.pad(tensors[3], (0, rest))
        return _FusedSizes.apply(*tensors)


class _FusedSizes(torch.autograd.Function):
    """What the memory-efficient kernel allocates and keeps: the result and a row's sum, never the weights."""

    @staticmethod
    def forward(ctx, *tensors):
        query, value = tensors[0], tensors[2]
        context = query.new_empty(*query.shape[:-1], value.shape[-1])
        sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(*tensors, context, sums)
        return context

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        *tensors, _, _ = ctx.saved_tensors
        return tuple(torch.empty_like(tensor) for tensor in tensors)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors made under it that are alive, and the most there ever were.

    Tensors that are older don't count, nor do views of them, e.g. a transposed weight.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now, self.peak = 0, 0
        self.sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        for tensor in tree_iter((args, kwargs)):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage(), is_older=True)
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage, is_older: bool = False) -> None:
        key = storage._cdata
        if key in self.sizes:
            return
        self.sizes[key] = 0 if is_older else storage.nbytes()
        self.now += self.sizes[key]
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.now -= self.sizes.pop(key, 0)
