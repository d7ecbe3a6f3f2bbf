"""An adapter behind Hugging Face Inference Endpoints: bytes in, labels, scores and masks out."""

from __future__ import annotations

import base64
import gzip
import io
import math
import re
import reprlib
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from nibabel.spatialimages import HeaderDataError
from PIL import Image, UnidentifiedImageError

from ..inference.slices import predict_confidence, predict_image
from ..model.modeling_samed import SamedForSemanticSegmentation
from ..transforms.slicing import SliceStack, cut_slices
from ..volumes import read_volume

__all__ = ["EndpointHandler"]

MAX_BYTES = 1_000_000_000  # of a volume, uncompressed: a small file can hold far more
MAX_PIXELS = 64_000_000  # of a picture
_EXPECTED = "expected a PNG or JPEG picture, or a NIfTI volume (.nii, .nii.gz), as bytes or base64"
_FORMATS = ("PNG", "JPEG")  # of all that Pillow knows, some start other programs: EPS runs Ghostscript
# A NIfTI file starts with its header's length, in either byte order.
_HEADERS = (nib.Nifti1Header, nib.Nifti2Header)
_NIFTI = {kind.sizeof_hdr.to_bytes(4, order): kind for kind in _HEADERS for order in ("little", "big")}


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
            data: "inputs" holds a picture (PNG or JPEG) or a NIfTI volume as bytes or base64, or a PIL image;
                "parameters" may hold "labels", the names wanted, and "batch_size", slices through the model at once,
                chosen by the free memory where it is missing or null. 16-bit pictures hold intensities in the unit of
                the processor's window.

        Returns:
            For each label found, background apart: "label", "score" (the mean softmax of its pixels, in [0, 1]) and
            "mask" (base64 of an 8-bit PNG, 0 and 255, of the picture's own size). For a volume these of every slice,
            with its index as "slice"; rows and columns are those that the model cuts.

        Raises:
            ValueError: neither a picture nor a volume, a damaged or too large one, or unknown parameters.
        """
        if not isinstance(data, dict) or "inputs" not in data:
            raise ValueError(f"The request has no 'inputs': {_EXPECTED}.")
        wanted, batch_size = self._parameters(data.get("parameters"))
        content = data["inputs"] if isinstance(data["inputs"], Image.Image) else _as_bytes(data["inputs"])
        if isinstance(content, Image.Image) or (volume := _nifti(content)) is None:
            return list(self._found(*predict_image(self.model, _picture(content)), wanted))
        processor = self.model.image_processor
        labels, confidence = predict_confidence(self.model, self._slices(volume), processor, batch_size=batch_size)
        return [
            {"slice": index} | found
            for index in range(len(labels))
            for found in self._found(labels[index], confidence[index], wanted)
        ]

    def _parameters(self, parameters: Any) -> tuple[set[str], int | None]:
        names = [name for index, name in sorted(self.model.config.id2label.items()) if index]
        parameters = {} if parameters is None else parameters
        if not isinstance(parameters, dict) or not parameters.keys() <= {"labels", "batch_size"}:
            raise ValueError(f"parameters is {reprlib.repr(parameters)}: expected labels, batch_size or nothing.")
        wanted, batch_size = parameters.get("labels", names), parameters.get("batch_size")
        if not isinstance(wanted, list) or not wanted or any(name not in names for name in wanted):
            raise ValueError(f"labels is {reprlib.repr(wanted)}: expected a list of some of {', '.join(names)}.")
        if batch_size is not None and (type(batch_size) is not int or batch_size < 1):  # True is an int too
            raise ValueError(f"batch_size is {reprlib.repr(batch_size)}: expected a whole number of at least 1.")
        return set(wanted), batch_size

    def _slices(self, content: bytes) -> SliceStack:
        """A volume's slices, cut as for [`predict_volume`]."""
        processor = self.model.image_processor
        _check_claimed_size(content)
        with tempfile.TemporaryDirectory() as folder:
            (path := Path(folder) / "volume.nii").write_bytes(content)
            try:
                volume = read_volume(path, num_channels=processor.num_channels)
            except ValueError as error:
                raise ValueError(str(error).replace(str(path), "The volume")) from error
        return SliceStack(cut_slices(volume, processor), processor)

    def _found(self, labels: np.ndarray, confidence: np.ndarray, wanted: set[str]) -> Iterator[dict[str, Any]]:
        for index in np.unique(labels[labels > 0]):
            name = self.model.config.id2label[int(index)]
            if name in wanted:
                mask = labels == index
                yield {"label": name, "score": float(confidence[mask].mean()), "mask": _png(mask)}


def _as_bytes(inputs: Any) -> bytes:
    if isinstance(inputs, str):
        try:
            inputs = base64.b64decode(re.sub(r"^data:[^,]*;base64,|\s+", "", inputs), validate=True)
        except ValueError as error:
            raise ValueError(f"'inputs' is a text that is no base64 ({error}): {_EXPECTED}.") from error
    if not isinstance(inputs, bytes | bytearray) or not inputs:
        came = "empty" if isinstance(inputs, bytes | bytearray) else f"of type {type(inputs).__name__}"
        raise ValueError(f"'inputs' is {came}: {_EXPECTED}.")
    return bytes(inputs)


def _nifti(content: bytes) -> bytes | None:
    """The uncompressed NIfTI file, or `None` where it is none."""
    if content[:2] == b"\x1f\x8b":  # gzip's mark
        try:
            with gzip.open(io.BytesIO(content)) as file:
                if file.read(4) not in _NIFTI:
                    raise ValueError(f"'inputs' is a gzip file of something else than NIfTI: {_EXPECTED}.")
                file.seek(0)
                content = file.read(MAX_BYTES + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"'inputs' is a damaged gzip file ({error}): send the whole file again.") from error
    if content[:4] not in _NIFTI:
        return None
    if len(content) > MAX_BYTES:
        raise ValueError(f"'inputs' is a volume of more than {MAX_BYTES:,} bytes: send a part of it.")
    return content


def _check_claimed_size(content: bytes) -> None:
    """Refuse a header that claims more voxels than came: nibabel takes the memory before it looks for them."""
    kind = _NIFTI[content[:4]]
    try:
        header = kind(content[: kind.sizeof_hdr].ljust(kind.sizeof_hdr, b"\0"), check=False)
        claimed = math.prod(header.get_data_shape()) * header.get_data_dtype().itemsize
    except (HeaderDataError, KeyError):
        return  # a damaged header is named by read_volume
    if claimed > len(content):
        came = f"{len(content):,} bytes came, its header tells of {claimed:,}"
        raise ValueError(f"'inputs' is a damaged volume: {came}; send the whole file again.")


def _picture(inputs: bytes | Image.Image) -> Image.Image:
    """The picture with its pixels loaded, once its size is known to be bearable."""
    try:
        picture = inputs if isinstance(inputs, Image.Image) else Image.open(io.BytesIO(inputs), formats=_FORMATS)
        if picture.width * picture.height <= MAX_PIXELS:
            picture.load()
            return picture
    except UnidentifiedImageError as error:
        raise ValueError(f"'inputs' is neither a picture nor a volume: {_EXPECTED}.") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"'inputs' is a damaged or too large picture ({error}): send the whole file again.") from error
    size = f"{picture.width}×{picture.height}"
    raise ValueError(f"'inputs' is a picture of {size} pixels: expected at most {MAX_PIXELS:,}; scale it down first.")


def _png(mask: np.ndarray) -> str:
    Image.fromarray(mask.astype(np.uint8) * 255).save(content := io.BytesIO(), format="PNG")
    return base64.b64encode(content.getvalue()).decode()
