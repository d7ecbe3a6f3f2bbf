import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.utils.data import DataLoader

from samed_hf import SamedImageProcessor
from samed_hf.data.cache import CaseStore
from samed_hf.data.dataset import CaseDataset, RawCase
from samed_hf.data.sampling import EpochBatchSampler, SliceDataset
from samed_hf.model.losses import IGNORED
from samed_hf.transforms.augmentation import SAMED_AUGMENTATION, Augmentation


class Slices:
    """A source of one case whose slices are given."""

    def __init__(self, images, labels):
        self.images, self.labels = np.asarray(images, np.float32), np.asarray(labels)
        self.reads = 0

    def read(self, processor):
        self.reads += 1
        return RawCase(self.images, self.labels, None, rescaled=True)

    def cache_key(self):
        return [self.images.sum().item(), self.labels.sum().item()]


def make_dataset(directory, images, labels, processor, num_labels=3, augmentation=None, seed=0):
    """The slices of one case as a dataset, decoded into `directory`."""
    id2label = {index: f"label {index}" for index in range(num_labels)}
    data = CaseDataset("test", directory, id2label, {"a": Slices(images, labels)}, ["a"])
    store = CaseStore(data, processor, directory)
    store.prepare(["a"])
    return SliceDataset(store, ["a"], augmentation, seed)


def make_slices(count, size=48, labels=3):
    """Slices whose image is their label over four, so that the two can be compared after an augmentation."""
    generator = np.random.default_rng(0)
    label = generator.integers(0, labels, (count, size // 8, size // 8)).repeat(8, axis=1).repeat(8, axis=2)
    return label / 4, label.astype(np.uint8)


def items_equal(one, other):
    return all(torch.equal(one[key], other[key]) for key in ("pixel_values", "labels"))


# ------------------------------------------------------------------------------------------------------------- dataset


def test_an_item_by_hand(tmp_path):
    image = np.arange(256, dtype=np.float32).reshape(16, 16) / 256
    label = np.arange(256).reshape(16, 16) % 5
    dataset = make_dataset(tmp_path, [image], [label.astype(np.uint8)], SamedImageProcessor(16), num_labels=5)
    item = dataset[7, 0]
    assert len(dataset) == 1
    assert set(item) == {"pixel_values", "labels", "index"}
    assert item["index"] == 0
    assert (item["pixel_values"].dtype, item["labels"].dtype) == (torch.float32, torch.int64)
    assert torch.equal(item["pixel_values"], torch.from_numpy(image).expand(3, 16, 16))
    # An order-0 zoom from 16 to 4 keeps the corners: it samples at 0, 5, 10 and 15.
    assert torch.equal(item["labels"], torch.from_numpy(label[::5, ::5]))
    dataset = SliceDataset(dataset.store, dataset.cases, label_stride=1)
    assert torch.equal(dataset[7, 0]["labels"], torch.from_numpy(label))


@pytest.mark.parametrize("input_size", [None, 24])
def test_an_item_is_zoomed_as_scipy_does(tmp_path, input_size):
    generator = np.random.default_rng(1)
    image, label = generator.random((40, 30)).astype(np.float32), generator.integers(0, 9, (40, 30))
    processor = SamedImageProcessor(64, input_size=input_size)
    item = make_dataset(tmp_path, [image], [label.astype(np.uint8)], processor, num_labels=9)[0, 0]

    def zoom(array, size, order):
        return ndimage.zoom(array, (size / array.shape[0], size / array.shape[1]), order=order)

    expected = zoom(zoom(image, input_size, 3) if input_size else image, 64, 3)
    for channel in item["pixel_values"]:
        np.testing.assert_allclose(channel, expected, atol=1e-5)
    np.testing.assert_array_equal(item["labels"], zoom(zoom(label, 64, 0), 16, 0))


def test_the_key_alone_decides_an_item(tmp_path):
    slices = make_slices(4)
    keys = [(epoch, index) for epoch in range(3) for index in range(4)]

    def dataset(seed=0):
        return make_dataset(tmp_path, *slices, SamedImageProcessor(32), 3, SAMED_AUGMENTATION, seed)

    one, other = dataset(), dataset()
    items = {key: one[key] for key in keys}
    assert all(items_equal(items[key], other[key]) for key in reversed(keys))
    # Half of the slices are turned and mirrored, a quarter rotated: of eight pairs, most differ.
    assert sum(not items_equal(items[0, i], items[e, i]) for e in (1, 2) for i in range(4)) >= 4
    reseeded = dataset(seed=1)
    assert sum(not items_equal(items[key], reseeded[key]) for key in keys) >= 6


def test_slices_of_one_content_vary_by_their_index(tmp_path):
    slices = [array.repeat(8, axis=0) for array in make_slices(1)]
    dataset = make_dataset(tmp_path, *slices, SamedImageProcessor(32), 3, SAMED_AUGMENTATION)
    assert len({dataset[0, index]["labels"].numpy().tobytes() for index in range(8)}) >= 3


def test_without_augmentation_every_epoch_is_the_same(tmp_path):
    dataset = make_dataset(tmp_path, *make_slices(2), SamedImageProcessor(32))
    assert items_equal(dataset[0, 1], dataset[5, 1])
    assert not items_equal(dataset[0, 0], dataset[0, 1])


@pytest.mark.parametrize("augmentation", [Augmentation(flip_rot90=1.0), Augmentation(rotation=1.0, order=0)])
def test_image_and_label_move_together(tmp_path, augmentation):
    # At the slice's own size nothing is interpolated, so the image stays its label over four.
    dataset = make_dataset(tmp_path, *make_slices(2), SamedImageProcessor(48), 3, augmentation)
    plain = SliceDataset(dataset.store, ["a"])
    moved = 0
    for epoch in range(6):
        item = dataset[epoch, 0]
        pixels = (4 * item["pixel_values"][0].numpy()).astype(np.int64)
        np.testing.assert_array_equal(ndimage.zoom(pixels, 0.25, order=0), item["labels"])
        moved += not items_equal(item, plain[epoch, 0])
    assert moved >= 4


def test_workers_make_the_items_of_the_main_process(tmp_path):
    dataset = make_dataset(tmp_path, *make_slices(5), SamedImageProcessor(16), 3, SAMED_AUGMENTATION, seed=4)
    sampler = EpochBatchSampler(5, 2, num_batches=6, seed=4)
    alone = list(DataLoader(dataset, batch_sampler=sampler))
    shared = list(DataLoader(dataset, batch_sampler=sampler, num_workers=2))
    assert [len(batch["labels"]) for batch in alone] == [2, 2, 1, 2, 2, 1]
    assert all(items_equal(one, other) for one, other in zip(alone, shared, strict=True))


def test_three_channels_of_a_slice_move_alike(tmp_path):
    images, labels = make_slices(2)
    stacked = np.stack([images, images / 2, images / 4], axis=1)
    processor = SamedImageProcessor(48, channel_names=["R", "G", "B"])
    dataset = make_dataset(tmp_path, stacked, labels, processor, 3, Augmentation(rotation=1.0))
    red, green, blue = dataset[1, 1]["pixel_values"]
    torch.testing.assert_close(red / 2, green, atol=1e-6, rtol=0)
    torch.testing.assert_close(red / 4, blue, atol=1e-6, rtol=0)


def test_items_run_through_the_cases_in_order(tmp_path):
    sources = {
        name: Slices(np.full((count, 8, 8), count / 4), np.zeros((count, 8, 8), np.uint8))
        for name, count in (("a", 2), ("b", 1), ("c", 3))
    }
    data = CaseDataset("test", tmp_path, {0: "background", 1: "x"}, sources, list(sources))
    store = CaseStore(data, SamedImageProcessor(16), tmp_path)
    store.prepare(data.train)
    dataset = SliceDataset(store, data.train)
    assert [dataset.locate(index) for index in range(6)] == [("a", 0), ("a", 1), ("b", 0), ("c", 0), ("c", 1), ("c", 2)]
    assert [round(float(dataset[0, index]["pixel_values"].mean()), 4) for index in (1, 2, 3)] == [0.5, 0.25, 0.75]


# ------------------------------------------------------------------------------------------------------------- sampler

SIZES = [(12, 2), (13, 2), (7, 3), (5, 8)]


def shares(num_samples, batch_size, processes, epochs, **options):
    """The batches of each process."""
    per_epoch = EpochBatchSampler(num_samples, batch_size, 0, num_processes=processes).batches_per_epoch
    return [
        list(
            EpochBatchSampler(
                num_samples,
                batch_size,
                epochs * per_epoch,
                process_index=index,
                num_processes=processes,
                **options,
            )
        )
        for index in range(processes)
    ]


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize(("num_samples", "batch_size"), SIZES)
def test_every_epoch_covers_every_sample(num_samples, batch_size, processes):
    keys = [key for share in shares(num_samples, batch_size, processes, epochs=3) for batch in share for key in batch]
    for epoch in range(3):
        seen = [index for at, index in keys if at == epoch and index >= 0]
        assert sorted(seen) == list(range(num_samples))
    assert {epoch for epoch, _ in keys} == {0, 1, 2}


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize(("num_samples", "batch_size"), SIZES)
def test_shares_differ_by_one_slice_at_most_and_none_is_empty(num_samples, batch_size, processes):
    sizes = [[len(batch) for batch in share] for share in shares(num_samples, batch_size, processes, epochs=2)]
    assert all(min(step) >= 1 and max(step) - min(step) <= 1 for step in zip(*sizes, strict=True))
    assert all(0 < size <= batch_size for size in sizes[0])
    assert len(sizes[0]) == 2 * -(-num_samples // (batch_size * processes))


def test_a_process_without_a_slice_gets_a_sample_that_counts_for_nothing(tmp_path):
    batches = shares(7, 2, 3, epochs=1)
    order = [index for _, index in next(iter(EpochBatchSampler(7, 7, 1)))]
    together = [[key[1] for share in batches for key in share[step]] for step in range(2)]
    assert sorted(together[0]) == sorted(order[:6])
    assert together[1] == [order[6], -1, -1]
    images, labels = make_slices(3)
    dataset = make_dataset(tmp_path, images, labels, SamedImageProcessor(16), 3)
    filler = dataset[0, -1]
    assert filler["index"] == -1
    assert (filler["labels"] == IGNORED).all()
    assert {key: value.shape for key, value in filler.items()} == {k: v.shape for k, v in dataset[0, 0].items()}


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_batch_that_one_would_have_alone(processes):
    alone = list(EpochBatchSampler(13, 2 * processes, 6, seed=3))
    together = zip(*(share[:6] for share in shares(13, 2, processes, epochs=3, seed=3)), strict=True)
    for batch, parts in zip(alone, together, strict=True):
        assert sorted(batch) == sorted(key for part in parts for key in part if key[1] >= 0)


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("start", [0, 1, 3, 4, 9, 10, 12])
def test_a_restart_goes_on_with_the_tail(processes, start):
    for index in range(processes):
        options = {"seed": 2, "process_index": index, "num_processes": processes}
        whole = EpochBatchSampler(10, 3, 10, **options)
        rest = EpochBatchSampler(10, 3, 10, **options, start=start)
        assert list(rest) == list(whole)[start:]
        assert len(rest) == max(0, 10 - start)
        assert len(whole) == 10


def test_the_order_is_new_in_each_epoch_and_the_same_each_time():
    sampler = EpochBatchSampler(20, 20, 3, seed=1)
    batches = list(sampler)
    assert batches == list(sampler) == list(EpochBatchSampler(20, 20, 3, seed=1))
    orders = [[index for _, index in batch] for batch in batches]
    assert [{epoch for epoch, _ in batch} for batch in batches] == [{0}, {1}, {2}]
    other = [[index for _, index in batch] for batch in EpochBatchSampler(20, 20, 3, seed=2)]
    assert len({tuple(order) for order in [*orders, *other, list(range(20))]}) == 7
