"""Slices through a device in batches: the batch size, reading ahead, and copying results back."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import psutil
import torch
from transformers.utils import logging

from ..model.configuration_samed import SamedConfig
from ..model.modeling_samed import SamedForSemanticSegmentation
from ..utils.text import one_line

__all__ = ["choose_batch_size", "describe_failure", "free_memory", "is_out_of_memory", "run_in_batches", "slice_bytes"]

logger = logging.get_logger(__name__)

# Tokens of the encoder in one batch, beyond which larger batches were no faster: on a CPU those of one slice of 512
# pixels or four of 256. An accelerator has to be filled.
_CPU_TOKENS, _ACCELERATOR_TOKENS, _MAX_SLICES = 1024, 32 * 1024, 64
_MEMORY_SHARE = 0.7  # of the free memory: the need is an estimate
# torch's messages for a GPU, its libraries and the CPU.
_NO_MEMORY = ("out of memory", "ALLOC_FAILED", "not enough memory", "can't allocate memory")


def run_in_batches(
    models: Sequence[SamedForSemanticSegmentation],
    count: int,
    size: tuple[int, int],
    read: Callable[[range], list[np.ndarray]],
    compute: Callable[[list[torch.Tensor]], Sequence[torch.Tensor]],
    batch_size: int | None = None,
) -> Iterator[tuple[slice, list[np.ndarray]]]:
    """Compute `count` slices of `size` (height, width) batch by batch, in order.

    While one batch is computed, a thread reads the next one; on CUDA, copies both ways go through pinned memory and
    block nothing, and each result is yielded while the next batch is computed. At most two batches are in memory.

    `read` is called in another thread with the indices of some slices and returns arrays whose first axis counts them;
    `compute` is called with these as tensors on the device of `models`, and so are its results, which are yielded with
    the indices. A `batch_size` of `None` is chosen by the free memory, and halved if that was too much.
    """
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}: expected at least 1 slice, or None to choose by the memory.")
    current_size = batch_size or choose_batch_size(models, size)
    device = models[0].device
    results: deque[_Results] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="slices") as reader:
        future = reader.submit(_Batch.load, read, range(min(current_size, count)), device) if count else None
        while future is not None:
            batch = future.result()
            first = batch.indices.stop
            following = range(first, min(first + current_size, count))
            future = reader.submit(_Batch.load, read, following, device) if following else None
            while batch.indices:
                part, result = batch.part(slice(current_size)), None
                try:
                    result = _Results(part.indices, compute([one.to(device, non_blocking=True) for one in part.inputs]))
                except Exception as error:
                    if batch_size is not None or len(part.indices) == 1 or not is_out_of_memory(error):
                        raise
                if result is None:  # outside of `except`, where the error would keep tensors alive
                    failed, current_size = len(part.indices), len(part.indices) // 2
                    logger.warning_once(f"Not enough memory for {failed} slices at once: using {current_size}.")
                    if device.type == "cuda":
                        torch.cuda.empty_cache()
                    continue
                results.append(result)
                batch = batch.part(slice(current_size, None))
                while len(results) > (device.type == "cuda"):
                    yield results.popleft().fetch()
        while results:
            yield results.popleft().fetch()


class _Batch(NamedTuple):
    """Some slices, for CUDA in pinned memory."""

    indices: range
    inputs: list[torch.Tensor]

    @classmethod
    def load(cls, read: Callable[[range], list[np.ndarray]], indices: range, device: torch.device) -> _Batch:
        inputs = [torch.from_numpy(array) for array in read(indices)]
        if device.type == "cuda":
            with torch.cuda.device(device):  # a new thread starts on the first device
                inputs = [tensor.pin_memory() for tensor in inputs]
        return cls(indices, inputs)

    def part(self, part: slice) -> _Batch:
        return _Batch(self.indices[part], [tensor[part] for tensor in self.inputs])


class _Results:
    """The results of some slices while they are copied to the host."""

    def __init__(self, indices: range, tensors: Sequence[torch.Tensor]) -> None:
        self.indices = slice(indices.start, indices.stop)
        on_cuda = tensors[0].device.type == "cuda"
        self.tensors = [tensor.to("cpu", non_blocking=on_cuda) for tensor in tensors]  # into pinned memory
        self.copied = torch.cuda.current_stream(tensors[0].device).record_event() if on_cuda else None

    def fetch(self) -> tuple[slice, list[np.ndarray]]:
        """Wait for the copies, and return the indices and the arrays."""
        if self.copied is not None:
            self.copied.synchronize()
        return self.indices, [tensor.numpy() for tensor in self.tensors]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error reports that the memory of a GPU or of the machine was short."""
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in _NO_MEMORY)


def describe_failure(error: BaseException) -> str:
    """The reason why a case failed, in one line; after a lack of memory the device's is freed."""
    reason = one_line(error)
    if is_out_of_memory(error):
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return f"not enough memory ({reason}): give a smaller --batch_size, or use a machine with more."
    if not isinstance(error, ValueError | OSError):
        return f"it failed unexpectedly ({type(error).__name__}: {reason})"
    return reason


def choose_batch_size(models: Sequence[SamedForSemanticSegmentation], size: tuple[int, int]) -> int:
    """The number of slices of `size` pixels in a batch: as many as are useful and fit into most of the free memory."""
    device = models[0].device
    tokens = max(model.config.tokens_per_side**2 for model in models)
    useful = (_CPU_TOKENS if device.type == "cpu" else _ACCELERATOR_TOKENS) // tokens
    needed = max(slice_bytes(model.config, size, model.dtype) for model in models)
    return max(1, min(useful, _MAX_SLICES, int(_MEMORY_SHARE * free_memory(device)) // needed))


def slice_bytes(config: SamedConfig, size: tuple[int, int], dtype: torch.dtype) -> int:
    """Estimate the bytes that a slice of `size` pixels adds to the peak memory of prediction, with eager attention.

    `dtype` is that of the encoder; logits and all that follows are float32.
    """
    vision = config.vision_config
    side = config.tokens_per_side
    windows = -(-side // vision.window_size) if vision.window_size else 1
    tokens, in_windows = side**2, max(side, windows * vision.window_size) ** 2
    features = 4 * in_windows * vision.hidden_size + 2 * tokens * (vision.hidden_size + (vision.mlp_dim or 0))
    encoder = dtype.itemsize * (features + 3 * vision.num_attention_heads * tokens**2)
    # At the model's input size, then five maps at the slice's size: interpolated, softmax, rotated back, summed.
    maps = 4 * config.num_labels * (config.image_size**2 + 5 * size[0] * size[1])
    return max(encoder, maps)


def free_memory(device: torch.device) -> int:
    """Bytes that can be allocated on a device; for accelerators other than CUDA's, on the host."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return psutil.virtual_memory().available
