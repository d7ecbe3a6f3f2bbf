"""Slices in batches: the result for any batch size, reading ahead, and halving when memory is short."""

import threading
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch

from samed_hf import SamedConfig, SamedForSemanticSegmentation
from samed_hf.diagnostics.fake_step import LiveBytes
from samed_hf.inference import batching
from samed_hf.inference.batching import (
    choose_batch_size,
    free_memory,
    is_out_of_memory,
    run_in_batches,
    slice_bytes,
)
from samed_hf.model.post_processing import resize_logits, upsample_logits

CPU = torch.device("cpu")


def model_of(image_size=512, num_labels=9, dtype=torch.float32, device=CPU, **vision):
    config = SamedConfig(vision_config=vision, image_size=image_size, id2label={i: str(i) for i in range(num_labels)})
    return SimpleNamespace(config=config, dtype=dtype, device=device)


def read_indices(indices):
    return [np.array(indices), np.array(indices, dtype=np.float32)[:, None]]


def run(count, batch_size, compute=None, read=read_indices):
    """Compute 2x and -x of slices whose value is their index; also return the batch sizes."""
    sizes = []

    def double(inputs):
        sizes.append(len(inputs[0]))
        return [inputs[0] * 2, -inputs[1]]

    doubled, negated = np.full(count, -1), np.full((count, 1), np.nan)
    for part, (two, minus) in run_in_batches([model_of()], count, (8, 8), read, compute or double, batch_size):
        doubled[part], negated[part] = two, minus
    return doubled, negated, sizes


@pytest.mark.parametrize(("count", "batch_size"), [(1, 1), (5, 2), (6, 3), (3, 8), (0, 4), (7, None)])
def test_each_slice_is_computed_once_in_order(count, batch_size):
    doubled, negated, sizes = run(count, batch_size)
    assert doubled.tolist() == [2 * index for index in range(count)]
    assert negated[:, 0].tolist() == [-index for index in range(count)]
    assert sum(sizes) == count
    assert all(size <= (batch_size or count) for size in sizes)


def test_the_next_batch_is_read_while_one_is_computed():
    begun, main = threading.Event(), threading.current_thread()

    def read(indices):
        assert threading.current_thread() is not main
        if indices.start == 2:
            begun.set()
        return read_indices(indices)

    def compute(inputs):
        assert begun.wait(10)
        return inputs

    run(4, 2, compute, read)


@pytest.mark.parametrize("batch_size", [0, -3])
def test_batch_sizes_below_one_are_refused(batch_size):
    with pytest.raises(ValueError, match=f"batch_size is {batch_size}: expected at least 1 slice"):
        run(4, batch_size)


def test_errors_of_reading_are_raised():
    def read(indices):
        if indices.stop > 4:
            raise OSError("unreadable")
        return read_indices(indices)

    with pytest.raises(OSError, match="unreadable"):
        run(8, 2, read=read)


def short_of_memory(most, sizes, error=None):
    def compute(inputs):
        sizes.append(len(inputs[0]))
        if sizes[-1] > most:
            raise error or RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return [inputs[0] * 2, -inputs[1]]

    return compute


@pytest.fixture
def warnings(monkeypatch):
    lines = []
    monkeypatch.setattr(batching.logger, "warning_once", lines.append)
    return lines


def test_a_batch_too_large_is_halved_until_it_fits(monkeypatch, warnings):
    monkeypatch.setattr(batching, "choose_batch_size", lambda models, size: 8)
    sizes = []
    doubled, negated, _ = run(19, None, short_of_memory(2, sizes))
    assert doubled.tolist() == [2 * index for index in range(19)]
    assert negated[:, 0].tolist() == [-index for index in range(19)]
    assert sizes[:3] == [8, 4, 2]
    assert max(sizes[2:]) == 2  # a larger batch isn't tried again, not even one that was read ahead
    assert warnings == [
        "Not enough memory for 8 slices at once: using 4.",
        "Not enough memory for 4 slices at once: using 2.",
    ]


def test_a_given_batch_size_and_single_slices_are_not_halved(monkeypatch, warnings):
    with pytest.raises(RuntimeError, match="out of memory"):
        run(19, 8, short_of_memory(2, []))
    monkeypatch.setattr(batching, "choose_batch_size", lambda models, size: 4)
    sizes = []
    with pytest.raises(RuntimeError, match="out of memory"):
        run(19, None, short_of_memory(0, sizes))
    assert sizes == [4, 2, 1]
    with pytest.raises(RuntimeError, match="shapes"):
        run(19, None, short_of_memory(0, [], RuntimeError("mat1 and mat2 shapes")))


def test_out_of_memory_errors_are_recognised():
    for error in (MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")):
        assert is_out_of_memory(error)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes"))


# ---------------------------------------------------------------------------------------------------------- batch size


def test_the_batch_size_on_a_cpu(monkeypatch):
    monkeypatch.setattr(batching, "free_memory", lambda device: 2**40)
    assert [choose_batch_size([model_of(size)], (512, 512)) for size in (1024, 512, 256, 128, 64)] == [1, 1, 4, 16, 64]
    assert choose_batch_size([model_of(256), model_of(512)], (512, 512)) == 1


def test_the_batch_size_on_an_accelerator_depends_on_its_memory(monkeypatch):
    cuda = torch.device("cuda", 0)
    models = [model_of(device=cuda)]
    needed = slice_bytes(models[0].config, (512, 512), torch.float32)
    for free, expected in ((0, 1), (needed, 1), (10 * needed, 7), (2**50, 32)):
        monkeypatch.setattr(batching, "free_memory", lambda device, free=free: free)
        assert choose_batch_size(models, (512, 512)) == expected
    monkeypatch.setattr(batching, "free_memory", lambda device: 10 * needed)
    assert choose_batch_size([model_of(device=cuda, dtype=torch.bfloat16)], (512, 512)) == 14
    assert choose_batch_size(models, (2048, 2048)) < 7


def test_free_memory(monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=5))
    assert free_memory(CPU) == 5
    for name, value in (("mem_get_info", (100, 900)), ("memory_reserved", 70), ("memory_allocated", 40)):
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert free_memory(torch.device("cuda", 0)) == 130  # includes the memory that torch has reserved but not allocated


@pytest.mark.slow
@pytest.mark.parametrize(
    ("image_size", "vision", "labels", "size"),
    [
        (512, {}, 9, (512, 512)),
        (128, {"hidden_size": 192, "num_hidden_layers": 2, "num_attention_heads": 6}, 9, (600, 400)),
        (512, {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3}, 100, (512, 512)),
    ],
)
def test_the_estimate_of_memory_is_an_upper_bound_within_a_factor_of_3(image_size, vision, labels, size):
    config = model_of(image_size, labels, **vision).config
    config._attn_implementation = "eager"
    with torch.device("meta"):
        model = SamedForSemanticSegmentation(config).eval()
    peaks = []
    for batch_size in (1, 2):
        with LiveBytes() as live, torch.inference_mode():
            logits = model(torch.empty(batch_size, 3, image_size, image_size, device="meta")).logits
            resize_logits(upsample_logits(logits, image_size), size).softmax(dim=1).max(dim=1)
        peaks.append(live.peak)
    estimate = slice_bytes(config, size, torch.float32)
    assert peaks[1] - peaks[0] <= estimate <= 3 * (peaks[1] - peaks[0])
