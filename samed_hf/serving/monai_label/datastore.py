"""The datastore: images, and corrected labels that become a data set."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import tempfile
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, File, Form, HTTPException, Request, UploadFile
from fastapi.responses import FileResponse, Response

from ...utils.text import printable
from ...volumes import ScanFile
from ...volumes.registry import suffix_of
from ..jobs import Correction
from ..service import Service
from ..studies import Studies, check_name
from ..uploads import find_scan, store
from .common import as_bad_request, as_not_found, find_stored, get_service, get_studies, parse_options, wait_for

__all__ = ["STRATEGIES", "router"]

logger = logging.getLogger(__name__)
router = APIRouter(tags=["Datastore"])

STRATEGIES = {"first": "The first image without a label", "random": "A random image without a label"}
_BYTES = "application/octet-stream"


class Listing(str, Enum):
    """What `datastore` answers with."""

    train = "train"
    stats = "stats"
    all = "all"


@router.get("/datastore/", summary="Images and labels")
async def datastore(request: Request, output: Listing = Listing.stats) -> Any:
    """Numbers, all objects, or the data set of the tag "final"."""
    studies = get_studies(request)
    calls = {Listing.all: studies.describe, Listing.stats: studies.count, Listing.train: lambda: _final(studies)}
    return await asyncio.to_thread(calls[output])


@router.put("/datastore/", include_in_schema=False)
@router.put("/datastore/image", summary="Upload an image")
async def add_image(
    request: Request, file: Annotated[UploadFile, File()], image: str = "", params: Annotated[str, Form()] = "{}"
) -> dict[str, Any]:
    """An image of one file, which is kept under the id `image`, by default its file's name."""
    service, studies = get_service(request), get_studies(request)
    parse_options(params)
    suffix = suffix_of(file.filename or "")
    name = image or Path(file.filename or "").name.removesuffix(suffix)
    async with service.writing:
        with _temporary() as directory, as_bad_request():
            check_name("image", name)
            path = await asyncio.to_thread(store, file, Path(directory))
            await wait_for(request, service.engine.check_scan(find_scan([path]), studies.num_channels))
            try:
                await asyncio.to_thread(studies.add_scan, name, path, suffix_of(path))
            except FileExistsError as error:
                raise HTTPException(409, str(error)) from error
    return {"image": name}


@router.head("/datastore/image", include_in_schema=False)
@router.get("/datastore/image", summary="Download an image")
async def get_image(request: Request, background: BackgroundTasks, image: str) -> Response:
    """The image's own file, or a DICOM series as NIfTI."""
    service, scan = get_service(request), await find_stored(get_service(request), image)
    files, name = scan.files or (scan.path,), _file_name(image, scan)
    if scan.kind != "dicom" and len(files) == 1:
        return FileResponse(files[0], media_type=_BYTES, filename=name)
    directory = _temporary()
    background.add_task(directory.cleanup)
    try:
        target = Path(directory.name) / "image.nii.gz"
        await wait_for(request, service.engine.check_scan(scan, get_studies(request).num_channels, target))
        return FileResponse(target, media_type=_BYTES, filename=name)
    except BaseException:
        directory.cleanup()
        raise


@router.get("/datastore/image/info", summary="What is known of an image")
async def image_info(request: Request, image: str) -> dict[str, Any]:
    """Its kind and its labels."""
    scan, studies = await find_stored(get_service(request), image), get_studies(request)
    return {"name": scan.name, "kind": scan.kind, "tags": await asyncio.to_thread(studies.tags, image)}


@router.delete("/datastore/", include_in_schema=False)
@router.delete("/datastore/image", summary="Remove an image and its labels")
async def remove_image(request: Request, id: str) -> dict[str, Any]:
    """Only where the server was started to allow it."""
    service, studies = get_service(request), get_studies(request)
    if not service.allow_delete:
        raise HTTPException(403, "Images are not removed by this server: start it with --allow_delete.")
    async with service.writing:
        with as_not_found("image", id), as_bad_request():
            await asyncio.to_thread(studies.remove_scan, id)
    return {}


@router.put("/datastore/label", summary="Save a corrected label")
async def save_label(
    request: Request,
    image: str,
    label: Annotated[UploadFile, File()],
    tag: str = "final",
    params: Annotated[str, Form()] = "{}",
) -> dict[str, Any]:
    """A label map on the image's grid; `params` names its values: by Slicer's `label_info`, or as those of `model`."""
    service, studies, options = get_service(request), get_studies(request), parse_options(params)
    scan, tag = await find_stored(service, image), tag or "final"
    async with service.writing:
        with _temporary() as directory, as_bad_request():
            target = studies.label_file(image, tag)
            file = await asyncio.to_thread(store, label, Path(directory))
            given = _value_names(service, options)
            # The data set of a model has the model's numbers.
            names = studies.label_names(tag) or _dataset_names(service, options)
            names, values = _renumber(names, given)
            # The suffix of the data set's file names the format.
            written = Path(directory) / f"label{suffix_of(target)}"
            # A series is stored as one file beside its label: readers of data sets take files.
            volume = Path(directory) / "image.nii.gz" if scan.kind == "dicom" else None
            correction = Correction(scan, file, written, values, studies.num_channels, volume)
            reply = await wait_for(request, service.engine.save_label(correction))
            await asyncio.to_thread(studies.add_label, image, tag, written, names, volume)
    return {"image": image, "label": image, "tag": tag, "voxels": reply.voxels}


@router.head("/datastore/label", include_in_schema=False)
async def has_label(request: Request, image: str, tag: str = "final") -> Response:
    """200 if the image has a label map of the tag, else 404."""
    await _label_file(request, image, tag)
    return Response()


@router.get("/datastore/label", summary="Download a label")
async def get_label(request: Request, label: str, tag: str = "final") -> Response:
    """The label map of the image whose id is `label`."""
    file = await _label_file(request, label, tag)
    return FileResponse(file, media_type=_BYTES, filename=file.name)


@router.delete("/datastore/label", summary="Remove a label")
async def remove_label(request: Request, id: str, tag: str) -> dict[str, Any]:
    """From the data set of its tag."""
    async with get_service(request).writing:
        await _label_file(request, id, tag)
        await asyncio.to_thread(get_studies(request).remove_label, id, tag)
    return {}


@router.post("/activelearning/{strategy}", summary="Choose the next image")
async def next_sample(request: Request, strategy: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
    """An image without a label of the tag "final", or of `label_tag`; empty if there is none."""
    studies = get_studies(request)
    if strategy not in STRATEGIES:
        raise HTTPException(404, f"There is no strategy {strategy!r:.100}: expected one of {', '.join(STRATEGIES)}.")
    with as_bad_request():
        tag = check_name("label_tag", str((params or {}).get("label_tag") or "final"))
        left = await asyncio.to_thread(studies.unlabelled, tag)
    if strategy == "random":
        random.shuffle(left)
    for image in left:
        try:
            scan = await find_stored(get_service(request), image)
            break
        except HTTPException as error:
            logger.warning("an image without a label is passed over: status %d", error.status_code)
    else:
        return {}
    found = {"id": image, "name": _file_name(image, scan)}
    if scan.kind != "dicom" and not scan.files:
        # Slicer keeps downloaded files by their names, and reads one again whose sum is the same.
        digest = await asyncio.to_thread(lambda: hashlib.sha256(scan.path.read_bytes()).hexdigest())
        found["checksum"] = f"SHA256:{digest}"
    return found


def _temporary() -> tempfile.TemporaryDirectory[str]:
    """A directory of one request; the worker may still write into it when the client has left."""
    return tempfile.TemporaryDirectory(prefix="samed-serve-", ignore_cleanup_errors=True)


def _file_name(image: str, scan: ScanFile) -> str:
    """The name under which clients store an image; viewers choose the reader by its suffix."""
    single = scan.kind != "dicom" and not scan.files
    return f"{image}{suffix_of(scan.path) if single else '.nii.gz'}"


def _final(studies: Studies) -> list[dict[str, Any]]:
    studies.list_scans()
    pairs: list[dict[str, Any]] = studies.datalist("final")
    return pairs


async def _label_file(request: Request, image: str, tag: str) -> Path:
    await find_stored(get_service(request), image)
    with as_bad_request():
        file: Path = await asyncio.to_thread(get_studies(request).label_file, image, tag)
    if not file.exists():
        raise HTTPException(404, f"The image has no label of the tag {tag!r:.100}.")
    return file


def _value_names(service: Service, options: Mapping[str, Any]) -> dict[int, str]:
    """The name of each value of a label map: by `label_info`, or of the model's labels.

    Raises:
        ValueError: neither tells it.
    """
    info, model = options.get("label_info"), options.get("model")
    if info is not None:
        try:
            pairs = [(int(entry.get("idx", number)), str(entry["name"])) for number, entry in enumerate(info, 1)]
            if not all(name and 0 < value <= 65535 for value, name in pairs) or len(dict(pairs)) < len(pairs):
                raise ValueError(info)
            if len({name for _, name in pairs}) < len(pairs):
                raise ValueError(info)
        except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
            raise ValueError(
                f"label_info is {printable(repr(info))!s:.200}: expected a list of name and idx, each of them once."
            ) from error
        return dict(pairs)
    labels = {name: about["labels"] for name, about in service.models.items()}
    if model is not None and not (isinstance(model, str) and model in labels):
        raise ValueError(f"model is {model!r:.100}: expected one of {', '.join(labels)}.")
    if model is None and any(one != next(iter(labels.values())) for one in labels.values()):
        raise ValueError("params has neither label_info nor model: expected one, as the models have different labels.")
    return {value: name for name, value in labels[model or next(iter(labels))].items()}


def _dataset_names(service: Service, options: Mapping[str, Any]) -> dict[int, str]:
    """The labels with which a data set begins: of the model that is named, or of all if they have the same."""
    labels = {name: about["labels"] for name, about in service.models.items()}
    model, first = options.get("model"), next(iter(labels.values()))
    if isinstance(model, str) and model in labels:
        first = labels[model]
    elif any(one != first for one in labels.values()):
        first = {}
    return {0: "background"} | {value: name for name, value in first.items()}


def _renumber(names: Mapping[int, str], values: Mapping[int, str]) -> tuple[dict[int, str], dict[int, int]]:
    """Match the values of a file to the labels of a data set by their names; a new name gets the next number.

    Returns:
        The names of the data set's labels, and the label of each value.
    """
    numbers = {name: value for value, name in (names or {0: "background"}).items()}
    matched = {0: 0}
    for value, name in sorted(values.items()):
        matched[value] = numbers.setdefault(name, max(numbers.values()) + 1)
    return {value: name for name, value in numbers.items()}, matched
