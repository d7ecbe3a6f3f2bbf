"""A choice of channels, and scans of more channels than SAM has."""

import numpy as np
import pytest
import torch

from samed_hf import SamedImageProcessor
from samed_hf.data import make_processor
from samed_hf.data.layouts import read_data
from samed_hf.data.processor import choose_channels
from samed_hf.training.arguments import SamedTrainingArguments
from samed_hf.transforms.slicing import SliceStack

from ..data_folders import make_scans, write_decathlon

NAMES = ("T1", "T1ce", "T2", "2")


@pytest.mark.parametrize(
    ("text", "expected"), [("T2,T1", [2, 0]), ("t1CE", [1]), ("0, 3,T1ce", [0, 3, 1]), ("3", [3]), ("T1,T1ce,1", None)]
)
def test_names_and_numbers(text, expected):
    if expected is None:
        with pytest.raises(ValueError, match="expected one to three different channels"):
            choose_channels(text, NAMES, "data")
    else:
        assert choose_channels(text, NAMES, "data") == expected


@pytest.mark.parametrize(
    ("text", "part"), [("2", "'2' is the name or number of several"), ("T1,PD", "'PD' is no channel")]
)
def test_ambiguous_and_unknown_names(text, part):
    with pytest.raises(ValueError, match=f"channels is '{text}': {part} .*0 T1, 1 T1ce, 2 T2, 3 2"):
        choose_channels(text, NAMES, "data")


@pytest.fixture
def four_channels(tmp_path):
    scans = {
        name: (np.stack([image + 1000 * index for index in range(4)], -1), label)
        for name, (image, label) in make_scans(count=1).items()
    }
    return write_decathlon(tmp_path / "data", scans, modality={str(index): name for index, name in enumerate("ABCD")})


def test_four_channels_need_a_choice_or_a_projection(four_channels):
    data = read_data(four_channels)
    with pytest.raises(ValueError, match=r"4 channels \(A, B, C, D\).*--channels A,B,C.*--channel_projection"):
        make_processor(SamedTrainingArguments(data_dir=str(four_channels)), data, 32)
    with pytest.raises(ValueError, match="channels and channel_projection are both given"):
        SamedTrainingArguments(data_dir=str(four_channels), channels="A", channel_projection=True)


def test_the_choice_is_what_the_model_sees(four_channels):
    data = read_data(four_channels)
    args = SamedTrainingArguments(data_dir=str(four_channels), channels="D,1", image_size=32)
    processor = SamedImageProcessor.from_dict(make_processor(args, data, 32).to_dict())
    assert (processor.channels, processor.num_channels, processor.num_projected) == ([3, 1], 4, None)
    case = data.read_case("case_00", processor)
    assert case.image.shape[1] == 4
    seen = SliceStack(case.image, processor, rescaled=True).read([2])
    assert seen.shape[1] == 3
    np.testing.assert_array_equal(seen[0, :2], case.image[2, [3, 1]])
    raw = data.read_raw("case_00", processor).image
    np.testing.assert_array_equal(SliceStack(raw, processor).read([2]), seen)
    assert raw[2, 3].min() >= 3000


def test_one_channel_can_have_its_neighbours(four_channels):
    data = read_data(four_channels)
    args = SamedTrainingArguments(data_dir=str(four_channels), channels="C", context_slices=True, image_size=32)
    processor = make_processor(args, data, 32)
    stack = SliceStack(data.read_raw("case_00", processor).image, processor)
    pixels = stack.read([0, 2])
    assert pixels.shape[:2] == (2, 3)
    np.testing.assert_array_equal(stack.read_raw([2])[0], stack.array[1:4, 2])
    np.testing.assert_array_equal(pixels[0, 0], pixels[0, 1])


def test_an_image_of_all_channels_in_a_call():
    image = torch.rand(4, 8, 8)
    names = list("ABCD")
    projected = SamedImageProcessor(16, channel_names=names, percentiles=None, intensity_window=None)
    assert projected(image).pixel_values.shape == (1, 4, 16, 16)
    chosen = SamedImageProcessor(16, channel_names=names, channels=[3, 0, 1], percentiles=None, intensity_window=None)
    assert torch.equal(chosen(image).pixel_values, projected(image).pixel_values[:, [3, 0, 1]])


@pytest.mark.parametrize("channels", [[], [0, 0], [4], [0, 1, 2, 3]])
def test_impossible_choices(channels):
    with pytest.raises(ValueError, match="expected one to three different indices of the 4 channels"):
        SamedImageProcessor(16, channel_names=list("ABCD"), channels=channels)
