"""From an image to `pixel_values`, and from logits to a segmentation at the image's own size."""

from __future__ import annotations

import os
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature
from transformers.image_processing_outputs import SemanticSegmentationPostProcessorOutput
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_transforms import group_images_by_shape, reorder_images
from transformers.image_utils import ChannelDimension, SizeDict
from transformers.processing_utils import Unpack

from ..transforms.intensity import check_percentiles, check_windows
from ..transforms.settings import SliceSettings
from ..transforms.slicing import SliceStack, image_bounds, is_8_bit
from ..transforms.zoom import Array, nearest_zoom, spline_zoom
from ..volumes.geometry import check_orientation
from .image_inputs import label_maps, list_images, open_image, stack_images
from .image_processing_kwargs import (
    KEYWORDS,
    SETTINGS,
    SamedImageProcessorKwargs,
    check_call,
    check_channels,
    check_fixed,
    check_names,
    replaced,
    square_side,
)
from .post_processing import image_scores

__all__ = ["SamedImageProcessor", "SamedImageProcessorKwargs"]


class SamedImageProcessor(SliceSettings, BaseImageProcessor):
    r"""Makes `pixel_values`: intensities in [0, 1], zoomed to the model's input size, three channels.

    It computes in PyTorch without torchvision, tensors on their own device, and is transformers' backend "pil" as well
    as "torchvision". All arguments can be replaced in a call.

    Args:
        image_size: height and width of `pixel_values` in pixels, 512 by default; transformers' `size` is the same.
        intensity_window: bounds in the unit of the scan (HU for CT) that become 0 and 1; a list with one entry (bounds
            or `None`) for each channel if the channels differ. `None`: the scan's own `percentiles` are the bounds.
            8-bit images are divided by 255 whatever the window is.
        input_size: side in pixels to which a slice is zoomed first, as the model's training slices were (224 in SAMed).
        axis_order: the axes of a scan's array `(x, y, z)` that become slices, rows and columns. The default cuts axial
            slices with rows along y, as SAMed does.
        orientation: of the axes, e.g. "LPS", to which a scan is brought before it is cut. `None` keeps the file's.
        percentiles: of a channel of the whole scan, in [0, 100], that become 0 and 1 if there is no window. `None`:
            8-bit intensities are divided by 255, other integers by the highest number of the 8, 10, 12, 14 or 16 bits
            that the image reaches, floating point intensities are in [0, 1] already.
        channel_names: names of the scan's channels, for the model's red, green and blue; one channel fills all three,
            of two channels the third is the mean. More than three are for a model with a channel projection, or for
            `channels`.
        context_slices: fill the three channels with the slice before, the slice itself and the slice after; for scans
            of one channel, or one of `channels`.
        channels: indices from 0 of the one to three channels of the scan that the model sees, in this order; by default
            all.
        **kwargs: transformers' own (`ImagesKwargs`), as defaults of a call.

    Raises:
        ValueError: an argument is out of range, or contradicts another one or the model's training.
    """

    valid_kwargs = SamedImageProcessorKwargs
    model_input_names = ["pixel_values"]  # noqa: RUF012 - transformers reads it as a plain class attribute
    backend = "torchvision"  # transformers' name of the one that computes in PyTorch
    do_resize = do_rescale = do_convert_rgb = True
    do_normalize = False
    return_tensors = "pt"

    def __init__(
        self,
        image_size: int | None = None,
        intensity_window: Sequence[float] | None = (-125.0, 275.0),
        input_size: int | None = None,
        axis_order: Sequence[int] = (2, 1, 0),
        orientation: str | None = None,
        percentiles: Sequence[float] | None = (0.5, 99.5),
        channel_names: Sequence[str] | None = None,
        context_slices: bool = False,
        channels: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        image_size = square_side(image_size, kwargs.pop("size", None))
        super().__init__(**kwargs)
        check_fixed(kwargs)
        for name, side, least in (("image_size", image_size, 1), ("input_size", input_size, 2)):
            if not (isinstance(side, Integral) and side >= least) and not (name == "input_size" and side is None):
                raise ValueError(f"{name} is {side!r}: expected a size in pixels, at least {least}.")
        if not isinstance(axis_order, list | tuple) or sorted(map(str, axis_order)) != ["0", "1", "2"]:
            raise ValueError(f"axis_order is {axis_order}: expected 0, 1 and 2 in some order, e.g. (2, 1, 0).")
        self.image_size = image_size
        self.intensity_window = check_windows(intensity_window)
        self.input_size = input_size
        self.axis_order = list(axis_order)
        self.orientation = None if orientation is None else check_orientation(orientation)
        self.percentiles = check_percentiles(percentiles)
        self.channel_names = check_names(channel_names)
        self.context_slices = bool(context_slices)
        self.channels = check_channels(channels, self.channel_names, self.context_slices)
        if len(self.channel_windows) != self.num_channels:
            raise ValueError(
                f"intensity_window has {len(self.channel_windows)} windows for {self.num_channels} channels."
            )

    @classmethod
    def from_dict(cls, image_processor_dict: dict[str, Any], **kwargs: Any) -> SamedImageProcessor:
        """As transformers'; a new `image_size` or `size` replaces both."""
        if any(kwargs.get(name) is not None for name in ("image_size", "size")):
            image_processor_dict = {k: v for k, v in image_processor_dict.items() if k not in ("image_size", "size")}
        return super().from_dict(image_processor_dict, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """The content of `preprocessor_config.json`; transformers omits `None` and would load the default."""
        own = {"size": dict(self.size), "intensity_window": self.intensity_window, "percentiles": self.percentiles}
        return super().to_dict() | own

    @property
    def size(self) -> SizeDict:
        """`image_size` as transformers has it: height and width."""
        return SizeDict(height=self.image_size, width=self.image_size)

    @size.setter
    def size(self, size: Any) -> None:
        self.image_size = square_side(None, size)

    @property
    def num_projected(self) -> int | None:
        """The number of channels that the model's channel projection reduces to three; `None` if it needs none."""
        return self.num_channels if self.channels is None and self.num_channels > 3 else None

    def fetch_images(self, image_url_or_urls: Any) -> Any:
        """Open paths and addresses, with all their bits; anything else is returned as it is."""
        if isinstance(image_url_or_urls, list | tuple):
            return [self.fetch_images(one) for one in image_url_or_urls]
        is_name = isinstance(image_url_or_urls, str | os.PathLike)
        return open_image(image_url_or_urls) if is_name else image_url_or_urls

    def preprocess(
        self, images: Any, segmentation_maps: Any = None, **kwargs: Unpack[SamedImageProcessorKwargs]
    ) -> BatchFeature:
        """Prepare images or slices for the model.

        Args:
            images: one image or a list, also nested: a PIL image, a path or address, or an array or tensor of shape
                `(height, width)` or with 1, 3 or 4 channels as the first or the last dimension, of which alpha is
                dropped; or a batch of them, of four dimensions. uint8 counts from 0 to 255; other types are intensities
                in the window's unit. For a model of one channel, colours become grey (ITU-R 601 luminance); for a model
                of three, grey is repeated.
            segmentation_maps: one map of integer labels for each image and of its size, as a PIL image, path, array or
                tensor, or a batch of them, of three dimensions.
            **kwargs: those of the constructor, and of transformers' image processors:

                - rescaled: whether intensities other than uint8 are in [0, 1] already (as in the Synapse layout).
                - do_rescale, do_resize: `False` takes intensities, or heights and widths, as they are.
                - input_data_format, data_format: "channels_first" or "channels_last", of arrays and tensors in `images`
                  and of `pixel_values`.
                - device: where to compute; by default, tensors are on theirs and all else is on the CPU.
                - disable_grouping: `False` zooms images of one size at once, `True` one by one, as on a CPU.
                - return_tensors: "pt" (the default) or "np"; `None` is "np", or a list if images differ in size.

                Those that would change what the model was trained on (`do_normalize`, `resample`, …) are refused, and
                `do_convert_rgb` has no effect: there are three channels.

        Returns:
            `pixel_values` of shape `(batch_size, 3, image_size, image_size)`, float32, with more channels if the model
            projects them. A cubic spline overshoots at
            edges, so values can be slightly outside [0, 1]. With maps also `labels` of shape `(batch_size, image_size,
            image_size)`, int64, zoomed by order 0.

        Raises:
            ValueError: an unknown argument, or one, an image or a map that can't be used.
        """
        if unknown := [name for name in kwargs if name not in KEYWORDS]:
            raise ValueError(f"{unknown[0]} is no argument of an image processor, expected: {', '.join(KEYWORDS)}.")
        options = {name: getattr(self, name, None) for name in KEYWORDS if name not in SETTINGS} | kwargs
        if changed := replaced(vars(self), options):
            return type(self)(**changed).preprocess(images, segmentation_maps, **options)
        check_call(options)
        pixels: Any = [self._scaled(image, options) for image in list_images(self.fetch_images(images))]
        if len({one.device for one in pixels}) > 1:
            raise ValueError("images holds tensors on several devices: expected one; move them with `device`.")
        sizes, is_resized = [tuple(one.shape[-2:]) for one in pixels], options["do_resize"] is not False
        if is_resized:
            groups, index = group_images_by_shape(pixels, disable_grouping=options["disable_grouping"])
            pixels = reorder_images({key: self.resize_slices(group) for key, group in groups.items()}, index)
        pixels = [one.expand(max(3, len(one)), -1, -1) for one in pixels]
        if ChannelDimension(options["data_format"] or "channels_first") == ChannelDimension.LAST:
            pixels = [one.permute(1, 2, 0) for one in pixels]
        data = {"pixel_values": stack_images(pixels, options["return_tensors"])}
        if segmentation_maps is not None:
            side = (self.image_size, self.image_size)
            maps = [nearest_zoom(one, side) if is_resized else one for one in label_maps(segmentation_maps, sizes)]
            labels = [torch.as_tensor(one, dtype=torch.int64, device=pixels[0].device) for one in maps]
            data["labels"] = stack_images(labels, options["return_tensors"])
        return BatchFeature(data, tensor_type=options["return_tensors"])

    def _scaled(self, image: Any, options: dict[str, Any]) -> torch.Tensor:
        """An image as float32 `(channels, height, width)` in [0, 1], of one channel, three, or those to project."""
        slices: Any = self.image_slices(image, options["input_data_format"])
        rescaled = options["do_rescale"] is False or (bool(options["rescaled"]) and not is_8_bit(slices))
        stack = SliceStack(slices, self, bounds=None if rescaled else image_bounds(slices, self), rescaled=rescaled)
        raw: Any = slices[:, None] if slices.ndim == 3 else slices
        raw = raw if self.channels is None else raw[:, self.channels]
        raw = raw.float() if isinstance(raw, torch.Tensor) else np.ascontiguousarray(raw, np.float32)
        if options["device"] is not None:
            raw = torch.as_tensor(raw).to(options["device"])
        return torch.as_tensor(stack.scale(raw)[0])

    def resize_slices(self, slices: Array, input_size: int | None = None) -> Array:
        """Zoom slices `(..., height, width)` to `(..., image_size, image_size)` float32 by cubic spline.

        First to `input_size` pixels, the processor's by default, to show as much detail as the training slices.
        """
        input_size = input_size or self.input_size
        if input_size is not None:
            slices = spline_zoom(slices, (input_size, input_size))
        slices = spline_zoom(slices, (self.image_size, self.image_size))
        return slices.astype(np.float32) if isinstance(slices, np.ndarray) else slices.float()

    def post_process_semantic_segmentation(
        self, outputs: Any, target_sizes: Any = None, return_segmentation_scores: bool = False
    ) -> list[torch.Tensor] | list[SemanticSegmentationPostProcessorOutput]:
        """Convert logits to the label of every pixel.

        Args:
            outputs: the model's output, with `logits` of shape `(batch_size, num_labels, height, width)`.
            target_sizes: height and width of each image in pixels, as a list or a tensor `(batch_size, 2)`; by default
                the model's input size.
            return_segmentation_scores: whether to return the logits at the image's size too.

        Returns:
            One int64 tensor `(height, width)` for each image, values in [0, num_labels). With the scores, an object of
            `segmentation` and `segmentation_scores`, float32 `(num_labels, height, width)`.

        Raises:
            ValueError: `target_sizes` isn't one height and width for each image.
        """
        results = []
        for scores in image_scores(outputs.logits, self.image_size, target_sizes):
            found = {"segmentation": scores.max(dim=0).indices}  # on a CPU argmax takes seven times as long
            if return_segmentation_scores:
                found["segmentation_scores"] = scores
            results.append(SemanticSegmentationPostProcessorOutput(found))
        return results if return_segmentation_scores else [one.segmentation for one in results]
