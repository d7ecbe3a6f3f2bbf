"""Training samples from slices, reproducible item by item, and the order in which a run visits them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from ..model.losses import IGNORED
from ..transforms.augmentation import Augmentation, augment
from ..transforms.zoom import nearest_zoom
from .cache import CaseStore

__all__ = ["EpochBatchSampler", "SliceDataset"]


class SliceDataset(Dataset):
    """Slices as the model trains on them.

    The key of an item is `(epoch, index)`. Its augmentation depends on the seed, the epoch and the index alone: every
    worker and every process makes the same sample. An index below 0 makes a sample whose labels are all `IGNORED`.

    Args:
        store: the decoded cases.
        cases: names of the cases, in order; every slice of each is an item.
        augmentation: random changes of the slices; `None` for none.
        seed: of the augmentation.
        label_stride: pixels of the input for each pixel of the labels: 4 as of SAM's logits, or 1.
    """

    def __init__(
        self,
        store: CaseStore,
        cases: Sequence[str],
        augmentation: Augmentation | None = None,
        seed: int = 0,
        label_stride: int = 4,
    ) -> None:
        self.store, self.cases = store, list(cases)
        self.augmentation, self.seed, self.label_stride = augmentation, seed, label_stride
        self.ends = np.cumsum([store.num_slices(name) for name in self.cases])

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def locate(self, index: int) -> tuple[str, int]:
        """Return the case of an item and its slice in the case."""
        case = int(np.searchsorted(self.ends, index, side="right"))
        return self.cases[case], index - (int(self.ends[case - 1]) if case else 0)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, torch.Tensor]:
        """`pixel_values` (C ≥ 3, S, S) float32, `labels` (S / stride, S / stride) int64 and `index` () int64.

        The labels are zoomed to S and on to S / stride, each by order 0, as SAMed does with 4.
        """
        epoch, index = key
        if index < 0:
            filler = self[epoch, 0]
            return filler | {"labels": torch.full_like(filler["labels"], IGNORED), "index": torch.tensor(index)}
        name, number = self.locate(index)
        image = self.store.slices(name).read([number])[0]
        label = np.asarray(self.store.label(name)[number])
        if self.augmentation is not None:
            generator = np.random.default_rng((self.seed, epoch, index))
            image, label = augment(image, label, self.augmentation, generator)
        size = self.store.processor.image_size
        pixels = self.store.processor.resize_slices(torch.from_numpy(image))
        labels = nearest_zoom(label, (size, size), (size // self.label_stride,) * 2)
        return {
            "pixel_values": pixels.expand(max(3, len(pixels)), -1, -1).contiguous(),
            "labels": torch.from_numpy(labels.astype(np.int64)),
            "index": torch.tensor(index),
        }


class EpochBatchSampler(Sampler):
    """The batches of one process through a whole run, epoch after epoch, from any batch on.

    Every epoch is a new permutation of all samples, made from the seed and the epoch's number, cut into global batches
    of `batch_size · num_processes`, of which each process takes its share. The last batch of an epoch can be smaller,
    and its shares can differ by one slice; a process without any gets a sample with `IGNORED` labels. So the global
    batches do not depend on the number of processes.

    Args:
        num_samples: number of samples.
        batch_size: samples in one batch of one process.
        num_batches: batches of the whole run.
        seed: of the permutations.
        process_index, num_processes: the share of this process.
        start: number of batches to skip, done before an interruption.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        num_batches: int,
        *,
        seed: int = 0,
        process_index: int = 0,
        num_processes: int = 1,
        start: int = 0,
    ) -> None:
        self.num_samples, self.batch_size, self.num_batches = num_samples, batch_size, num_batches
        self.seed, self.process_index, self.num_processes, self.start = seed, process_index, num_processes, start

    @property
    def batches_per_epoch(self) -> int:
        """Batches of one process in one epoch."""
        return -(-self.num_samples // (self.batch_size * self.num_processes))

    def __len__(self) -> int:
        return max(0, self.num_batches - self.start)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Lists of `(epoch, index)`, none empty; index -1 is a sample with `IGNORED` labels."""
        epoch, order = -1, np.empty(0, dtype=np.int64)
        for batch in range(self.start, self.num_batches):
            if batch // self.batches_per_epoch != epoch:
                epoch = batch // self.batches_per_epoch
                order = np.random.default_rng((self.seed, epoch)).permutation(self.num_samples)
            size = self.batch_size * self.num_processes
            first = batch % self.batches_per_epoch * size
            share = order[first : first + size][self.process_index :: self.num_processes]
            yield [(epoch, int(index)) for index in share] or [(epoch, -1)]
