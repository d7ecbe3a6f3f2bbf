"""Stored values of an image without a unit, e.g. an X-ray or a photograph, as a viewer displays them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, apply_windowing

from ...utils.text import printable
from .headers import brief, items, text

__all__ = ["describe_window", "display_header", "display_values", "has_window"]

_TOP = 65535


def display_header(dataset: Dataset, index: int, path: Path) -> Dataset:
    """Return the elements that describe the pixels of image `index`, those of its functional groups included."""
    header = Dataset()
    try:
        header.update(dataset.group_dataset(0x0028))
        header.file_meta = dataset.file_meta
        for keyword, place in (("SharedFunctionalGroupsSequence", 0), ("PerFrameFunctionalGroupsSequence", index)):
            for group in items(dataset, keyword, path)[place : place + 1]:
                for element in group:
                    if element.VR == "SQ" and element.value:
                        header.update(element.value[0].group_dataset(0x0028))
        for tag in [element.tag for element in header if element.is_empty]:
            del header[tag]
    except Exception as error:  # pydicom decodes a value when it is accessed
        raise ValueError(
            f"{printable(path)} cannot be read as DICOM: the description of its pixels is damaged ({brief(error)}); "
            "copy or export the file again."
        ) from error
    header.PhotometricInterpretation = text(header, "PhotometricInterpretation")
    return header


def has_window(header: Dataset) -> bool:
    """Whether an image says which of its values are black and white."""
    return "VOILUTSequence" in header or _window(header) is not None


def describe_window(header: Dataset) -> str:
    """Describe the table or window that [`display_values`] applies, the first of several; empty without one."""
    if "VOILUTSequence" in header:
        count, what = len(header.VOILUTSequence), "its table (VOILUTSequence)"
    elif (window := _window(header)) is not None:
        function = text(header, "VOILUTFunction") or "LINEAR"
        count, what = len(np.atleast_1d(header.WindowCenter)), f"its window ({window[0]:g}, {window[1]:g}, {function})"
    elif "ModalityLUTSequence" in header:
        count, what = 1, "its table (ModalityLUTSequence)"
    else:
        return ""
    return f"displayed by {what}{f', the first of {count}' if count > 1 else ''}"


def display_values(stored: np.ndarray, header: Dataset, bounds: tuple[float, float], path: Path) -> np.ndarray:
    """Return an image as a viewer displays it, uint8, or uint16 if it needs more than 8 bits; 0 is black.

    Args:
        stored: `(rows, columns)`, or RGB `(rows, columns, 3)`.
        header: The image's [`display_header`].
        bounds: The lowest and highest stored value, which are black and white if the image has no window.
        path: For messages.
    """
    try:
        if stored.ndim == 3:
            return _scaled(stored, bounds)
        if header.PhotometricInterpretation == "PALETTE COLOR":
            return _palette_colours(stored, header, bounds)
        values = _windowed(stored, header, bounds)
        return np.iinfo(values.dtype).max - values if header.PhotometricInterpretation == "MONOCHROME1" else values
    except Exception as error:  # pydicom raises errors of many types for odd tables
        raise ValueError(
            f"{printable(path)} has a table or window that cannot be applied ({brief(error) or type(error).__name__}); "
            "export the image again, e.g. as PNG."
        ) from error


def _palette_colours(stored: np.ndarray, header: Dataset, bounds: tuple[float, float]) -> np.ndarray:
    """Return the RGB colours of palette indices; uint16 if there are more than 256 of them."""
    low, high = int(bounds[0]), int(bounds[1])
    if high - low > _TOP:
        raise ValueError(f"a palette of {high - low + 1} colours, expected at most {_TOP + 1}")
    table = apply_color_lut(np.arange(low, high + 1), header)
    if table.dtype == np.uint16 and (table.max() < 256 or len(table) <= 256):
        # Tables of 16 bits mostly hold 8, and in the upper or the lower byte.
        table = (table >> (0 if table.max() < 256 else 8)).astype(np.uint8)
    return np.asarray(table[stored.astype(np.int64) - low])


def _windowed(stored: np.ndarray, header: Dataset, bounds: tuple[float, float]) -> np.ndarray:
    """Apply the modality's table or scale and the first window of a grey image."""
    values = apply_modality_lut(stored, header)
    if "ModalityLUTSequence" in header:
        bounds = 0, 2 ** header.ModalityLUTSequence[0].LUTDescriptor[2] - 1
        limits = np.array(bounds)
    else:
        limits = apply_modality_lut(np.array(bounds), header)
    is_narrow = stored.dtype.kind != "f" and bounds[1] - bounds[0] < 256
    if "VOILUTSequence" in header:
        header.pop("WindowCenter", None)
        values = apply_voi_lut(np.rint(values).astype(np.int64), header)
        return _scaled(values, (0, 2 ** header.VOILUTSequence[0].LUTDescriptor[2] - 1))
    if (window := _window(header)) is not None:
        plain = Dataset()  # of unsigned 16 bits, which become the range of the result
        plain.WindowCenter, plain.WindowWidth = window
        plain.VOILUTFunction = text(header, "VOILUTFunction") or "LINEAR"
        plain.PhotometricInterpretation, plain.BitsStored, plain.PixelRepresentation = "MONOCHROME2", 16, 0
        values, limits = apply_windowing(values, plain), np.array([0, _TOP])
    return _scaled(values, (limits[0], limits[1]), np.uint8 if is_narrow else np.uint16)


def _window(header: Dataset) -> tuple[float, float] | None:
    """Return the centre and width of the first window; `None` if there is none that has any width."""
    try:
        pair = [float(np.atleast_1d(header[keyword].value)[0]) for keyword in ("WindowCenter", "WindowWidth")]
    except (KeyError, TypeError, ValueError):
        return None
    is_linear = text(header, "VOILUTFunction").upper() in ("", "LINEAR")
    return (pair[0], pair[1]) if np.isfinite(pair).all() and pair[1] >= (1 if is_linear else 1e-9) else None


def _scaled(values: np.ndarray, limits: tuple[float, float], dtype: type | None = None) -> np.ndarray:
    """Scale limits to the whole range of a type: uint8 if they are less than 256 apart, else uint16."""
    low, high = float(limits[0]), float(limits[1])
    dtype = dtype or (np.uint8 if abs(high - low) < 256 else np.uint16)
    top = np.iinfo(dtype).max
    if (low, high, values.dtype) == (0.0, top, dtype):
        return values
    share = (values.astype(np.float64) - low) / ((high - low) or 1.0)
    return np.rint(np.clip(share, 0, 1) * top).astype(dtype)
