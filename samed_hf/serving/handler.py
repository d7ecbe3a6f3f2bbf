"""An adapter behind Hugging Face Inference Endpoints: bytes in, labels, scores and masks out."""

from __future__ import annotations

import base64
import io
import re
import reprlib
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..inference.batching import choose_batch_size
from ..inference.segmenter import Segmenter, load_model
from ..inference.volumes import predict_image, segment_volume
from ..transforms.slicing import cut_slices
from ..volumes import InputLimits, Volume, read_volume
from ..volumes.images import check_depth

__all__ = ["EndpointHandler"]

_EXPECTED = "expected a PNG or JPEG image, or a NIfTI volume (.nii, .nii.gz), as bytes or base64"
_FORMATS = (None, "PNG", "JPEG", "MPO")  # of open images; Pillow's other decoders may start programs, e.g. for EPS
_SUFFIXES = {b"\x89PNG\r\n\x1a\n": ".png", b"\xff\xd8\xff": ".jpg", b"\x1f\x8b": ".nii.gz"}
# A NIfTI file starts with the length of its header, in either byte order.
_SUFFIXES |= {size.to_bytes(4, order): ".nii" for size in (348, 540) for order in ("little", "big")}


class EndpointHandler:
    """The class that a repository's `handler.py` gives to Inference Endpoints.

    Args:
        path: directory or Hub id of an adapter or a merged model.
        limits: of a request; by default `InputLimits.served()`, which environment variables can raise.
    """

    def __init__(self, path: str = "", limits: InputLimits | None = None) -> None:
        self.limits = limits or InputLimits.served()
        self.model = load_model(path)
        self.segmenter = Segmenter.of(self.model)

    def __call__(self, data: dict[str, Any]) -> list[dict[str, Any]]:
        """Segment an image or every slice of a volume.

        Args:
            data: "inputs" holds an image (PNG or JPEG) or a NIfTI volume as bytes or base64, or a PIL image;
                "parameters" may hold "labels", the names of the labels to return, and "batch_size", slices through the
                model at once, chosen by the free memory if missing, null or too many. 16-bit images hold intensities in
                the unit of the processor's window.

        Returns:
            For each label found except the background: "label", "score" (the mean softmax of its pixels, in [0, 1]) and
            "mask" (base64 of an 8-bit PNG, 0 and 255, of the image's own size). For a volume the same for every slice,
            with its index as "slice"; rows and columns are those of the slices that the model receives.

        Raises:
            ValueError: the input is neither an image nor a volume, damaged or too large, or a parameter is unknown.
        """
        if not isinstance(data, dict) or "inputs" not in data:
            raise ValueError(f"The request has no 'inputs': {_EXPECTED}.")
        names, batch_size = self._parameters(data.get("parameters"))
        if isinstance(data["inputs"], Image.Image):
            return list(self._found(*predict_image(self.model, self._decoded(data["inputs"])), names))
        volume = self._read(data["inputs"])
        height, width = size = cut_slices(volume, self.segmenter.processor).shape[-2:]
        if min(size) < 2:
            raise ValueError(f"'inputs' has {height}×{width} pixels: expected at least 2 pixels each way.")
        fitting = choose_batch_size([self.model], size)
        most = min(fitting, max(1, self.limits.pixels // (height * width)))  # as many pixels as an image may have
        if batch_size is not None or most < fitting:
            batch_size = min(batch_size or most, most)
        labels, confidence, _ = segment_volume(
            self.segmenter,
            volume,
            batch_size=batch_size,
            confidence_dtype=torch.float32,
            limits=self.limits,
        )
        maps = [replace(volume, array=array) for array in (labels, confidence)]
        labels, confidence = (cut_slices(one, self.segmenter.processor) for one in maps)
        if volume.is_image:
            return list(self._found(labels[0], confidence[0], names))
        return [
            {"slice": index} | found
            for index in range(len(labels))
            for found in self._found(labels[index], confidence[index], names)
        ]

    def _parameters(self, parameters: Any) -> tuple[set[str], int | None]:
        """The names of the labels to return, and the batch size."""
        names = [name for index, name in sorted(self.segmenter.id2label.items()) if index]
        names = [name for name, _ in self.segmenter.regions.values()] or names
        parameters = {} if parameters is None else parameters
        if not isinstance(parameters, dict) or not parameters.keys() <= {"labels", "batch_size"}:
            raise ValueError(
                f"parameters is {reprlib.repr(parameters)}: expected a dictionary of labels and batch_size."
            )
        requested, batch_size = parameters.get("labels", names), parameters.get("batch_size")
        if not isinstance(requested, list) or not requested or any(name not in names for name in requested):
            raise ValueError(f"labels is {reprlib.repr(requested)}: expected a list of some of {', '.join(names)}.")
        if batch_size is not None and (type(batch_size) is not int or batch_size < 1):  # True is an int too
            raise ValueError(f"batch_size is {reprlib.repr(batch_size)}: expected a whole number of at least 1.")
        return set(requested), batch_size

    def _read(self, inputs: Any) -> Volume:
        """The volume, read as the file that the bytes are."""
        content = _as_bytes(inputs)
        self.limits.check("'inputs'", bytes=len(content))
        suffix = next((suffix for start, suffix in _SUFFIXES.items() if content.startswith(start)), None)
        if suffix is None:
            raise ValueError(f"'inputs' is neither an image nor a volume: {_EXPECTED}.")
        with tempfile.TemporaryDirectory() as directory:
            (path := Path(directory) / f"inputs{suffix}").write_bytes(content)
            try:
                volume = read_volume(path, num_channels=self.segmenter.processor.num_channels, limits=self.limits)
            except ValueError as error:
                kind = "The image" if suffix in (".png", ".jpg") else "The volume"
                raise ValueError(str(error).replace(str(path), kind)) from error
        return replace(volume, path=None)

    def _decoded(self, image: Image.Image) -> Image.Image:
        """The image with its pixels decoded, once its format and size are known to be acceptable."""
        if image.format not in _FORMATS:
            raise ValueError(f"'inputs' is an image of the format {image.format}: expected PNG or JPEG.")
        self.limits.check_slices("'inputs'", (1, image.height, image.width))
        check_depth(image, "'inputs'")
        try:
            image.load()
        except (OSError, SyntaxError, ValueError) as error:
            raise ValueError(f"'inputs' is a damaged image ({error}): send the whole file again.") from error
        return image

    def _found(self, labels: np.ndarray, confidence: np.ndarray, names: set[str]) -> Iterator[dict[str, Any]]:
        present = np.unique(labels[labels > 0]).tolist()
        found = {index: (self.segmenter.id2label[index], [index]) for index in present}
        for name, members in (self.segmenter.regions or found).values():
            if name in names and not set(members).isdisjoint(present):
                mask = np.isin(labels, members)
                Image.fromarray(mask.astype(np.uint8) * 255).save(png := io.BytesIO(), format="PNG")
                encoded = base64.b64encode(png.getvalue()).decode()
                yield {"label": name, "score": float(confidence[mask].mean()), "mask": encoded}


def _as_bytes(inputs: Any) -> bytes:
    if isinstance(inputs, str):
        try:
            inputs = base64.b64decode(re.sub(r"^data:[^,]*;base64,|\s+", "", inputs), validate=True)
        except ValueError as error:
            raise ValueError(f"'inputs' is a text that is no base64 ({error}): {_EXPECTED}.") from error
    if not isinstance(inputs, bytes | bytearray) or not inputs:
        received = "empty" if isinstance(inputs, bytes | bytearray) else f"of type {type(inputs).__name__}"
        raise ValueError(f"'inputs' is {received}: {_EXPECTED}.")
    return bytes(inputs)
