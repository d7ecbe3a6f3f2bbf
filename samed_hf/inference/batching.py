"""A scan's slices through a device in batches: how many at once, the next read ahead, results on their way back."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import psutil
import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from ..model.configuration_samed import SamedConfig

__all__ = ["choose_batch_size", "free_memory", "is_out_of_memory", "run_in_batches", "slice_bytes"]

logger = logging.get_logger(__name__)

# Tokens of the encoder in one batch, beyond which more slices at once were no faster: on a CPU those of one slice of
# 512 pixels, of four of 256. An accelerator has to be filled.
_TOKENS = {"cpu": 1024}
_TOKENS_OF_ACCELERATORS, _MOST_SLICES = 32 * 1024, 64
_SHARE = 0.7  # of the free memory: the estimate is none of the last byte
# How torch says it, of a GPU, of its libraries and of the CPU.
_NO_MEMORY = ("out of memory", "ALLOC_FAILED", "not enough memory", "can't allocate memory")


def run_in_batches(
    models: Sequence[PreTrainedModel],
    count: int,
    size: tuple[int, int],
    read: Callable[[range], list[np.ndarray]],
    compute: Callable[[list[torch.Tensor]], Sequence[torch.Tensor]],
    batch_size: int | None = None,
) -> Iterator[tuple[slice, list[np.ndarray]]]:
    """Let slices be computed on, batch by batch, in order.

    While one batch is computed, a thread reads the next one; on CUDA, copies both ways go through pinned memory and
    stall nothing, and each result is handed out while the next batch is computed. At most two batches are in memory.

    Args:
        models: that `compute` uses, all on one device.
        count: how many slices there are.
        size: height and width of the slices in pixels.
        read: called in another thread with the indices of some slices; gives arrays whose first axis counts them.
        compute: called with these arrays as tensors on the models' device; gives tensors whose first axis counts the
            slices.
        batch_size: how many slices at once; `None` chooses by the free memory, and halves it where that was too much.

    Yields:
        Which slices these are, and what `compute` gave for them.

    Raises:
        ValueError: a batch size below 1.
    """
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}: expected at least 1 slice, or None to choose by the memory.")
    at_once = batch_size or choose_batch_size(models, size)
    device = models[0].device
    results: deque[_Results] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="slices") as reader:
        ahead = reader.submit(_Batch.load, read, range(min(at_once, count)), device) if count else None
        while ahead is not None:
            waiting = [ahead.result()]
            first = waiting[0].indices.stop
            following = range(first, min(first + at_once, count))
            ahead = reader.submit(_Batch.load, read, following, device) if following else None
            while waiting:
                batch, *waiting = (*waiting.pop(0).split(at_once), *waiting)
                found = _try(compute, batch, device, may_fail=batch_size is None and len(batch.indices) > 1)
                if found is None:
                    too_many, at_once = len(batch.indices), len(batch.indices) // 2
                    logger.warning_once(f"Not enough memory for {too_many} slices at once: going on with {at_once}.")
                    waiting.insert(0, batch)
                    _make_room(device)
                    continue
                results.append(found)
                while len(results) > (1 if device.type == "cuda" else 0):
                    yield results.popleft().fetch()
        while results:
            yield results.popleft().fetch()


class _Batch(NamedTuple):
    """Some slices, in memory from which the device can fetch them by itself."""

    indices: range
    inputs: list[torch.Tensor]

    @classmethod
    def load(cls, read: Callable[[range], list[np.ndarray]], indices: range, device: torch.device) -> _Batch:
        inputs = [torch.from_numpy(array) for array in read(indices)]
        if device.type == "cuda":
            with torch.cuda.device(device):  # a new thread is on the first one
                inputs = [tensor.pin_memory() for tensor in inputs]
        return cls(indices, inputs)

    def split(self, size: int) -> list[_Batch]:
        return [
            _Batch(self.indices[first : first + size], [tensor[first : first + size] for tensor in self.inputs])
            for first in range(0, len(self.indices), size)
        ]


class _Results:
    """What was computed of some slices, on its way to the host."""

    def __init__(self, indices: range, tensors: Sequence[torch.Tensor]) -> None:
        self.indices = indices
        on_cuda = tensors[0].device.type == "cuda"
        self.tensors = [tensor.to("cpu", non_blocking=on_cuda) for tensor in tensors]  # into pinned memory
        self.copied = torch.cuda.current_stream(tensors[0].device).record_event() if on_cuda else None

    def fetch(self) -> tuple[slice, list[np.ndarray]]:
        """Wait for the copies."""
        if self.copied is not None:
            self.copied.synchronize()
        return slice(self.indices.start, self.indices.stop), [tensor.numpy() for tensor in self.tensors]


def _try(
    compute: Callable[[list[torch.Tensor]], Sequence[torch.Tensor]],
    batch: _Batch,
    device: torch.device,
    may_fail: bool,
) -> _Results | None:
    """The results, or `None` where the memory doesn't suffice and that may be."""
    try:
        return _Results(batch.indices, compute([tensor.to(device, non_blocking=True) for tensor in batch.inputs]))
    except Exception as error:
        if not (may_fail and is_out_of_memory(error)):
            raise
    return None


def _make_room(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory didn't suffice, a GPU's or the machine's."""
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in _NO_MEMORY)


def choose_batch_size(models: Sequence[PreTrainedModel], size: tuple[int, int]) -> int:
    """How many slices to compute at once: as many as help, and fit into most of the memory that is free now.

    Args:
        models: those that compute, one after the other, on one device.
        size: height and width of the slices in pixels.
    """
    device = models[0].device
    tokens = max((model.config.image_size // model.config.vision_config.patch_size) ** 2 for model in models)
    helpful = _TOKENS.get(device.type, _TOKENS_OF_ACCELERATORS) // tokens
    needed = max(slice_bytes(model.config, size, model.dtype) for model in models)
    return max(1, min(helpful, _MOST_SLICES, int(_SHARE * free_memory(device)) // needed))


def slice_bytes(config: SamedConfig, size: tuple[int, int], dtype: torch.dtype) -> int:
    """About how many bytes a slice adds to what prediction needs at its peak, attention computed by its plain formula.

    Args:
        config: the model's.
        size: height and width of the slice in pixels.
        dtype: that the model computes in; logits and all after them are float32.
    """
    vision = config.vision_config
    side = config.image_size // vision.patch_size
    windows = -(-side // vision.window_size) if vision.window_size else 1
    tokens, in_windows = side**2, max(side, windows * vision.window_size) ** 2
    features = 4 * in_windows * vision.hidden_size + 2 * tokens * (vision.hidden_size + vision.mlp_dim)
    encoder = dtype.itemsize * (features + 3 * vision.num_attention_heads * tokens**2)
    # At the model's size, then on the slice's pixels: interpolated, as softmax, turned back, summed up.
    maps = 4 * config.num_labels * (config.image_size**2 + 5 * size[0] * size[1])
    return max(encoder, maps)


def free_memory(device: torch.device) -> int:
    """Bytes that can be had on a device; of accelerators other than CUDA's, which share them or don't tell, the host's.

    Args:
        device: where models are.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return psutil.virtual_memory().available
