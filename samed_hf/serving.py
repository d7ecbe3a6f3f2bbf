"""An adapter behind Hugging Face Inference Endpoints: bytes in, labels, scores and masks out."""

from __future__ import annotations

import base64
import binascii
import gzip
import io
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from .inference import predict_confidence, predict_picture
from .modeling_samed import SamedForSemanticSegmentation
from .volumes import read_volume

__all__ = ["EndpointHandler"]

MAX_BYTES = 1_000_000_000
"""Of a volume, uncompressed; a small file can hold far more."""

MAX_PIXELS = 64_000_000
"""Of a picture."""

_EXPECTED = "expected a PNG or JPEG picture, or a NIfTI volume (.nii, .nii.gz), as bytes or base64"
_GZIP = b"\x1f\x8b"
# A NIfTI header starts with its own length, in either byte order, and tells its kind at a fixed place.
_NIFTI = {(348).to_bytes(4, "little"), (348).to_bytes(4, "big"), (540).to_bytes(4, "little"), (540).to_bytes(4, "big")}


class EndpointHandler:
    """What a repository's `handler.py` offers Inference Endpoints.

    Args:
        path: folder or Hub id of an adapter or a merged model.

    Raises:
        ValueError: it is no SAMed model.
    """

    def __init__(self, path: str = "") -> None:
        model = SamedForSemanticSegmentation.from_pretrained(path)
        if model.image_processor is None:
            raise ValueError(f"{path!r} has no SamedImageProcessor: expected a SAMed adapter or merged model.")
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
        self.model = model.to(device).eval()

    def __call__(self, data: dict[str, Any]) -> list[dict[str, Any]]:
        """Segment a picture or every slice of a volume.

        Args:
            data: "inputs" holds a picture (PNG, JPEG, …) or a NIfTI volume as bytes or base64, or a PIL image;
                "parameters" may hold "labels", the names wanted, and "batch_size", slices through the model at once.

        Returns:
            For each label found, background apart: "label", "score" (the mean softmax of its pixels, in [0, 1]) and
            "mask" (base64 of an 8-bit PNG, 0 and 255, of the picture's own size). For a volume these of every slice,
            with its index as "slice"; rows and columns are those that the model cuts.

        Raises:
            ValueError: neither a picture nor a volume, a damaged or too large one, or unknown parameters.
        """
        if not isinstance(data, dict) or "inputs" not in data:
            raise ValueError(f"The request has no 'inputs': {_EXPECTED}.")
        wanted, batch_size = self._parameters(data.get("parameters") or {})
        inputs = data["inputs"]
        if isinstance(inputs, Image.Image):
            return list(self._found(*predict_picture(self.model, inputs), wanted))
        content = _as_bytes(inputs)
        volume = _nifti(content)
        if volume is None:
            return list(self._found(*predict_picture(self.model, _picture(content)), wanted))
        slices = self._slices(volume)
        labels, confidence = predict_confidence(self.model, slices, self.model.image_processor, batch_size=batch_size)
        return [
            {"slice": index} | found
            for index in range(len(labels))
            for found in self._found(labels[index], confidence[index], wanted)
        ]

    def _parameters(self, parameters: Any) -> tuple[set[str], int]:
        names = [name for index, name in sorted(self.model.config.id2label.items()) if index]
        unknown = set(parameters) - {"labels", "batch_size"} if isinstance(parameters, dict) else {repr(parameters)}
        if unknown:
            raise ValueError(f"parameters holds {', '.join(sorted(unknown))}: expected labels, batch_size or nothing.")
        wanted, batch_size = parameters.get("labels") or names, parameters.get("batch_size", 8)
        if not isinstance(wanted, list) or not all(name in names for name in wanted):
            raise ValueError(f"labels is {wanted!r}: expected a list of some of {', '.join(names)}.")
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size is {batch_size!r}: expected a whole number of at least 1.")
        return set(wanted), batch_size

    def _slices(self, content: bytes) -> np.ndarray:
        """A volume's slices `(slices, rows, columns)` in [0, 1], cut as for [`predict_volume`]."""
        processor = self.model.image_processor
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "volume.nii"
            path.write_bytes(content)
            try:
                array = read_volume(path).array
            except ValueError as error:
                raise ValueError(str(error).replace(str(path), "The volume")) from error
        slices = np.transpose(array, processor.axis_order)
        if slices.dtype == np.uint8 and processor.intensity_window is not None:
            slices = slices.astype(np.float32)
        return processor.normalize_intensity(slices)

    def _found(self, labels: np.ndarray, confidence: np.ndarray, wanted: set[str]) -> Iterator[dict[str, Any]]:
        for index in np.unique(labels[labels > 0]):
            name = self.model.config.id2label[int(index)]
            if name in wanted:
                mask = labels == index
                yield {"label": name, "score": float(confidence[mask].mean()), "mask": _png(mask)}


def _as_bytes(inputs: Any) -> bytes:
    if isinstance(inputs, bytes | bytearray) and inputs:
        return bytes(inputs)
    if not isinstance(inputs, str) or not inputs:
        raise ValueError(f"'inputs' is {'empty' if not inputs else f'of type {type(inputs).__name__}'}: {_EXPECTED}.")
    text = inputs.partition(";base64,")[2] if inputs.startswith("data:") else inputs
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"'inputs' is a text that is no base64 ({error}): {_EXPECTED}.") from error


def _nifti(content: bytes) -> bytes | None:
    """The uncompressed NIfTI file, or `None` where it is none."""
    if content[:2] == _GZIP:
        try:
            with gzip.open(io.BytesIO(content)) as file:
                content = file.read(MAX_BYTES + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"'inputs' is a damaged gzip file ({error}): send the whole file again.") from error
        if content[:4] not in _NIFTI:
            raise ValueError(f"'inputs' is a gzip file of something else than NIfTI: {_EXPECTED}.")
    if content[:4] not in _NIFTI:
        return None
    if len(content) > MAX_BYTES:
        raise ValueError(f"'inputs' is a volume of more than {MAX_BYTES:,} bytes: send a part of it.")
    return content


def _picture(content: bytes) -> Image.Image:
    try:
        picture = Image.open(io.BytesIO(content))
        if picture.width * picture.height > MAX_PIXELS:
            raise ValueError(
                f"'inputs' is a picture of {picture.width}×{picture.height} pixels: expected at most {MAX_PIXELS:,}."
            )
        picture.load()
    except UnidentifiedImageError as error:
        raise ValueError(f"'inputs' is neither a picture nor a volume: {_EXPECTED}.") from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"'inputs' is a damaged or too large picture ({error}): send the whole file again.") from error
    return picture


def _png(mask: np.ndarray) -> str:
    content = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(content, format="PNG")
    return base64.b64encode(content.getvalue()).decode()
