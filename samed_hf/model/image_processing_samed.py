"""From an image to `pixel_values`, and from logits to a segmentation at the image's own size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

from ..transforms.augmentation import window_intensity
from ..transforms.slicing import SliceStack, image_bounds
from ..transforms.zoom import Array, spline_zoom
from ..volumes.geometry import check_orientation
from ..volumes.images import image_array, luminance

__all__ = ["SamedImageProcessor", "resize_logits", "upsample_logits"]


class SamedImageProcessor(BaseImageProcessor):
    r"""Makes `pixel_values`: intensities in [0, 1], zoomed to the model's input size, three channels.

    Args:
        image_size: height and width of `pixel_values` in pixels.
        intensity_window: bounds in the unit of the scan (HU for CT) that become 0 and 1; a list with one entry (bounds
            or `None`) for each channel if the channels differ. `None`: the scan's own `percentiles` are the bounds.
            8-bit images are divided by 255 whatever the window is.
        input_size: side in pixels to which a slice is zoomed first, as the model's training slices were (224 in SAMed).
        axis_order: the axes of a scan's array `(x, y, z)` that become slices, rows and columns. The default cuts axial
            slices with rows along y, as SAMed does.
        orientation: of the axes, e.g. "LPS", to which a scan is brought before it is cut. `None` keeps the file's.
        percentiles: of a channel of the whole scan, in [0, 100], that become 0 and 1 if there is no window. `None`:
            8-bit intensities are divided by 255, 16-bit ones by 65535, others are in [0, 1] already.
        channel_names: names of the scan's channels, one to three, for the model's red, green and blue; one channel
            fills all three, of two channels the third is the mean.
        context_slices: fill the three channels with the slice before, the slice itself and the slice after; for scans
            of one channel.
    """

    model_input_names = ["pixel_values"]  # noqa: RUF012 - transformers reads it as a plain class attribute

    def __init__(
        self,
        image_size: int = 512,
        intensity_window: Sequence[float] | None = (-125.0, 275.0),
        input_size: int | None = None,
        axis_order: Sequence[int] = (2, 1, 0),
        orientation: str | None = None,
        percentiles: Sequence[float] | None = (0.5, 99.5),
        channel_names: Sequence[str] | None = None,
        context_slices: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if image_size <= 0 or (input_size is not None and input_size <= 1):
            raise ValueError(f"image_size is {image_size}, input_size {input_size}: expected positive sizes in pixels.")
        if sorted(axis_order) != [0, 1, 2]:
            raise ValueError(f"axis_order is {axis_order}: expected 0, 1 and 2 in some order, e.g. (2, 1, 0).")
        self.image_size = image_size
        self.intensity_window = _checked_window(intensity_window)
        self.input_size = input_size
        self.axis_order = list(axis_order)
        self.orientation = None if orientation is None else check_orientation(orientation)
        if percentiles is not None:
            low, high = percentiles = [float(percentile) for percentile in percentiles]
            if not 0 <= low < high <= 100:
                raise ValueError(f"percentiles is ({low}, {high}): expected two increasing numbers from 0 to 100.")
        self.percentiles = percentiles
        self.channel_names = None if channel_names is None else [str(name) for name in channel_names]
        self.context_slices = bool(context_slices)
        if not 1 <= self.num_channels <= 3 or (self.context_slices and self.num_channels > 1):
            raise ValueError(
                f"channel_names is {channel_names}, context_slices {context_slices}: expected one to three channels, "
                "and one where the neighbouring slices fill the others."
            )
        windows = self.intensity_window
        if windows is not None and _is_nested(windows) and len(windows) != self.num_channels:
            raise ValueError(f"intensity_window has {len(windows)} windows for {self.num_channels} channels.")

    def to_dict(self) -> dict[str, Any]:
        """The content of `preprocessor_config.json`; transformers omits `None` and would load the default."""
        return super().to_dict() | {"intensity_window": self.intensity_window, "percentiles": self.percentiles}

    @property
    def num_channels(self) -> int:
        """The number of channels of a scan, 1 to 3."""
        return len(self.channel_names or [""])

    def preprocess(
        self, images: Any, *, rescaled: bool = False, return_tensors: str | None = "pt", **kwargs: Any
    ) -> BatchFeature:
        """Prepare images or slices for the model.

        Args:
            images: one image or a list: a PIL image, or an array or tensor of shape `(height, width)`, `(height,
                width, 3)` or `(3, height, width)`. uint8 counts from 0 to 255; other types are intensities in the
                window's unit. For a model of one channel, colours become grey (ITU-R 601 luminance); for a model of
                three, grey is repeated.
            rescaled: whether intensities other than uint8 are in [0, 1] already (as in the Synapse layout).
            return_tensors: "pt" for a tensor, "np" for an array.
            **kwargs: ignored; transformers passes its own.

        Returns:
            `pixel_values` of shape `(batch_size, 3, image_size, image_size)`, float32. A cubic spline overshoots at
            edges, so values can be slightly outside [0, 1].
        """
        batch = images if isinstance(images, list | tuple) else [images]
        pixel_values = np.stack([self._prepare(image, rescaled) for image in batch])
        return BatchFeature({"pixel_values": pixel_values}, tensor_type=return_tensors)

    def _prepare(self, image: Any, rescaled: bool) -> np.ndarray:
        slices = self.image_slices(image)
        rescaled = rescaled and slices.dtype != np.uint8
        bounds = None if rescaled else image_bounds(slices, self)
        pixels = self.resize_slices(SliceStack(slices, self, bounds=bounds, rescaled=rescaled).read([0])[0])
        return np.repeat(pixels, 3, axis=0) if len(pixels) == 1 else pixels

    def image_slices(self, image: Any) -> np.ndarray:
        """One of the images that [`preprocess`] accepts as a slice with the processor's channels, of the image's type.

        Its shape is `(1, height, width)`, or `(1, channels, height, width)` for several channels.
        """
        if isinstance(image, Image.Image):
            image = image_array(image, self.num_channels, "images")
        array = image.detach().cpu().numpy() if isinstance(image, torch.Tensor) else np.asarray(image)
        if array.ndim == 3 and array.shape[0] not in (1, 3) and array.shape[-1] in (1, 3):
            array = np.moveaxis(array, -1, 0)
        channels = [array] if array.ndim == 2 else list(array)
        if array.ndim not in (2, 3) or len(channels) not in (1, 3, self.num_channels) or min(array.shape[-2:]) < 2:
            raise ValueError(
                f"images holds an array of shape {array.shape}: expected (height, width), (height, width, 3) or "
                "(3, height, width), at least 2 pixels each way."
            )
        if not (finite := np.isfinite(array)).all():
            raise ValueError(
                f"images holds {np.count_nonzero(~finite)} NaN or infinite values: expected finite intensities; "
                "replace them, e.g. by the background's, first."
            )
        if self.num_channels == 1:
            return (channels[0] if len(channels) == 1 else luminance(channels))[None]
        return np.stack(channels * 3 if len(channels) == 1 and self.num_channels == 3 else channels)[None]

    def intensity_bounds(self, scan: np.ndarray) -> list[list[float]]:
        """The intensities of a scan `(slices, [channels,] height, width)` that become 0 and 1, for each channel.

        Values of scans are in the window's unit whatever their type, 8-bit ones too.
        """
        channels = [scan] if scan.ndim == 3 else [scan[:, index] for index in range(scan.shape[1])]
        windows = self.intensity_window
        windows = windows if windows is not None and _is_nested(windows) else [windows] * len(channels)
        return [self._bounds_of(channel, window) for channel, window in zip(channels, windows, strict=True)]

    def _bounds_of(self, image: np.ndarray, window: list[float] | None) -> list[float]:
        if window is not None:
            return window
        if self.percentiles is None:
            return [0.0, {1: 255.0, 2: 65535.0}[image.dtype.itemsize] if image.dtype in (np.uint8, np.uint16) else 1.0]
        low, high = (float(bound) for bound in np.percentile(image, self.percentiles))
        return [low, high if high > low else low + 1.0]

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
        self, outputs: Any, target_sizes: Sequence[tuple[int, int]] | None = None
    ) -> list[torch.Tensor]:
        """Convert logits to the label of every pixel.

        Args:
            outputs: the model's output, with `logits` of shape `(batch_size, num_labels, height, width)`.
            target_sizes: height and width of each image in pixels; by default the model's input size.

        Returns:
            One int64 tensor `(height, width)` for each image, values in [0, num_labels).
        """
        masks = upsample_logits(outputs.logits, self.image_size)
        sizes = [(self.image_size, self.image_size)] * len(masks) if target_sizes is None else target_sizes
        if len(sizes) != len(masks):
            raise ValueError(
                f"target_sizes has {len(sizes)} entries for {len(masks)} images: expected one for each image."
            )
        # On a CPU argmax takes seven times as long as max.
        return [
            resize_logits(mask[None], (int(height), int(width)))[0].max(dim=0).indices
            for mask, (height, width) in zip(masks, sizes, strict=True)
        ]


def upsample_logits(logits: torch.Tensor, image_size: int) -> torch.Tensor:
    """Interpolate logits `(batch_size, num_labels, S / 4, S / 4)` to the input's size S, bilinear, in float32."""
    return F.interpolate(logits.float(), size=(image_size, image_size), mode="bilinear", align_corners=False)


def resize_logits(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Interpolate logits `(batch_size, num_labels, S, S)` to `(batch_size, num_labels, *size)`, bilinear.

    Corner pixels are mapped to corner pixels, as in the zoom of the image.
    """
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=True)


def _is_nested(windows: Sequence[Any]) -> bool:
    return any(window is None or isinstance(window, list | tuple) for window in windows)


def _checked_window(window: Sequence[Any] | None) -> list[Any] | None:
    """The window or windows as lists of floats, their order checked."""
    if window is None:
        return None
    if _is_nested(window):
        return [_checked_window(one) for one in window]
    window_intensity(np.zeros(1), window)
    return [float(bound) for bound in window]
