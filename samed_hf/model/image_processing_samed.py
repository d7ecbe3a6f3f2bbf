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
from ..transforms.zoom import Array, spline_zoom
from ..volumes.geometry import check_orientation

__all__ = ["SamedImageProcessor"]


class SamedImageProcessor(BaseImageProcessor):
    r"""Makes what a SAMed model reads: intensities in [0, 1], zoomed to the model's size, three equal channels.

    Args:
        image_size (`int`, defaults to 512):
            Height and width of `pixel_values` in pixels.
        intensity_window (`tuple[float, float]`, *optional*, defaults to (-125, 275)):
            Bounds in the unit of the scan (HU for CT) that become 0 and 1; a list of them, some perhaps `None`, where
            the channels differ. `None`: the scan's own `percentiles` are the bounds. 8-bit pictures are divided by 255
            whatever the window is.
        input_size (`int`, *optional*):
            Side in pixels to which a slice is zoomed first, as the model's training slices were (224 in SAMed).
        axis_order (`tuple[int, int, int]`, defaults to (2, 1, 0)):
            The axes of a scan's array `(x, y, z)` that become slices, rows and columns. The default cuts axial slices
            of a scan in that order, with rows along y, as SAMed's were.
        orientation (`str`, *optional*):
            Where the axes of a scan run to before it is cut, e.g. "LPS", however the file has them. `None`: they are
            taken as they lie.
        percentiles (`tuple[float, float]`, *optional*, defaults to (0.5, 99.5)):
            The percentiles of a whole scan's channel, in [0, 100], that become 0 and 1 where there is no window.
            `None`: intensities as they are, 8-bit ones over 255, 16-bit ones over 65535, others in [0, 1] already.
        channel_names (`list[str]`, *optional*):
            What the scan's channels are, up to three, for the model's red, green and blue; one channel fills all three,
            of two the third is the mean.
        context_slices (`bool`, defaults to `False`):
            Fill the three channels with the slice before, the slice itself and the one after, of scans of one channel.
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
        self.percentiles = _checked_percentiles(percentiles)
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
        """What `preprocessor_config.json` holds; transformers leaves out `None`, which would come back as a default."""
        return super().to_dict() | {"intensity_window": self.intensity_window, "percentiles": self.percentiles}

    @property
    def num_channels(self) -> int:
        """Channels of a scan: 1 to 3."""
        return len(self.channel_names or [""])

    def preprocess(
        self, images: Any, *, rescaled: bool = False, return_tensors: str | None = "pt", **kwargs: Any
    ) -> BatchFeature:
        """Prepare pictures or slices for the model.

        Args:
            images: one image or a list: a PIL image, or an array or tensor of shape `(height, width)`, `(height,
                width, 3)` or `(3, height, width)`. uint8 is read as a picture (0 to 255); any other dtype as
                intensities in the window's unit.
            rescaled: the intensities are in [0, 1] already (as in the Synapse layout): no window.
            return_tensors: "pt" for a tensor, "np" for an array.

        Returns:
            `pixel_values` of shape `(batch_size, 3, image_size, image_size)`, float32. A cubic spline overshoots at
            edges, so values can lie slightly outside [0, 1].

        Raises:
            ValueError: a shape that is no image, or NaN or infinite intensities.
        """
        batch = images if isinstance(images, list | tuple) else [images]
        pixel_values = np.stack([self._prepare(image, rescaled) for image in batch])
        return BatchFeature({"pixel_values": pixel_values}, tensor_type=return_tensors)

    def _prepare(self, image: Any, rescaled: bool) -> np.ndarray:
        array = self.normalize_intensity(_to_array(image), rescaled=rescaled)
        return self.resize_slices(array) if array.ndim == 3 else np.repeat(self.resize_slices(array[None]), 3, axis=0)

    def normalize_intensity(self, image: np.ndarray, *, rescaled: bool = False) -> np.ndarray:
        """Intensities of any array as float32 in [0, 1]; see [`preprocess`] for how its dtype is read."""
        if image.dtype == np.uint8:
            return image.astype(np.float32) / 255.0
        if not np.isfinite(image).all():
            raise ValueError(
                f"images holds {np.count_nonzero(~np.isfinite(image))} NaN or infinite values: expected finite "
                "intensities; replace them, e.g. by the background's, first."
            )
        if rescaled:
            return image.astype(np.float32)
        window = self.intensity_window
        if window is not None and _is_nested(window):
            window = window[0]
        return window_intensity(image, self._bounds_of(image, window))

    def intensity_bounds(self, scan: np.ndarray) -> list[list[float]]:
        """The intensities of a whole scan that become 0 and 1, for each of its channels.

        A scan's values are in the window's unit whatever their type, 8-bit ones too.

        Args:
            scan: of shape `(slices, height, width)` or `(slices, channels, height, width)`, any real dtype; finite.

        Returns:
            The lower and the upper bound of each channel.
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

        They pass `input_size` (or else the processor's own) on the way, so that they have the training slices' detail.
        A tensor is zoomed where it is.
        """
        input_size = input_size or self.input_size
        if input_size is not None:
            slices = spline_zoom(slices, (input_size, input_size))
        slices = spline_zoom(slices, (self.image_size, self.image_size))
        return slices.astype(np.float32) if isinstance(slices, np.ndarray) else slices.float()

    def post_process_semantic_segmentation(
        self, outputs: Any, target_sizes: Sequence[tuple[int, int]] | None = None
    ) -> list[torch.Tensor]:
        """The class of every pixel.

        Args:
            outputs: the model's output, with `logits` of shape `(batch_size, num_labels, height, width)`.
            target_sizes: the height and width of each image's segmentation in pixels, e.g. those of the images.
                Without it the segmentations have the model's input size.

        Returns:
            One int64 tensor `(height, width)` for each image, values in [0, num_labels).

        Raises:
            ValueError: as many target sizes as images are needed.
        """
        logits = outputs.logits
        if target_sizes is None:
            target_sizes = [(self.image_size, self.image_size)] * len(logits)
        if len(target_sizes) != len(logits):
            raise ValueError(
                f"target_sizes has {len(target_sizes)} entries for {len(logits)} images: expected one for each image."
            )
        masks = upsample_logits(logits, self.image_size)
        sizes = [(int(size[0]), int(size[1])) for size in target_sizes]
        resized = (resize_logits(mask[None], size)[0] for mask, size in zip(masks, sizes, strict=True))
        return [mask.max(dim=0).indices for mask in resized]  # on a CPU argmax takes seven times as long


def upsample_logits(logits: torch.Tensor, image_size: int) -> torch.Tensor:
    """Low-resolution logits `(batch_size, num_labels, S/4, S/4)` at the input's size S, bilinear, as SAMed does."""
    return F.interpolate(logits.float(), size=(image_size, image_size), mode="bilinear", align_corners=False)


def resize_logits(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Logits at the input's size brought onto the image's own pixels.

    The zooms of the image map corner pixel to corner pixel, so the way back does.
    """
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=True)


def _is_nested(windows: Sequence[Any]) -> bool:
    return any(window is None or isinstance(window, list | tuple) for window in windows)


def _checked_window(window: Sequence[Any] | None) -> list[Any] | None:
    """The window or windows as lists of floats; bounds that are no window are refused."""
    if window is None:
        return None
    if _is_nested(window):
        return [_checked_window(one) for one in window]
    window_intensity(np.zeros(1), window)
    return [float(bound) for bound in window]


def _checked_percentiles(percentiles: Sequence[float] | None) -> list[float] | None:
    if percentiles is None:
        return None
    low, high = (float(percentile) for percentile in percentiles)
    if not 0 <= low < high <= 100:
        raise ValueError(f"percentiles is ({low}, {high}): expected two increasing numbers from 0 to 100.")
    return [low, high]


def _to_array(image: Any) -> np.ndarray:
    """The image as an array `(height, width)` or `(3, height, width)`."""
    if isinstance(image, Image.Image):
        image = image if image.mode in ("L", "RGB", "F", "I", "I;16") else image.convert("RGB")
    array = image.detach().cpu().numpy() if isinstance(image, torch.Tensor) else np.asarray(image)
    if array.ndim == 3 and array.shape[0] != 3 and array.shape[-1] == 3:
        array = np.moveaxis(array, -1, 0)
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[-1]):
        array = array.squeeze(0 if array.shape[0] == 1 else -1)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[0] != 3) or min(array.shape[-2:]) < 2:
        raise ValueError(
            f"images holds an array of shape {array.shape}: expected (height, width), (height, width, 3) or "
            "(3, height, width), at least 2 pixels each way."
        )
    return array
