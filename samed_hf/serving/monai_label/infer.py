"""Models: what they segment, segmentation of an image, and sessions of uploaded images."""

from __future__ import annotations

import asyncio
import json
import secrets
import tempfile
import time
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, File, Form, HTTPException, Query, Request, UploadFile
from fastapi.responses import FileResponse, PlainTextResponse, Response

from ...volumes import ScanFile
from ..engine import BusyError
from ..jobs import Request as Work
from ..service import Service
from ..uploads import find_scan, store
from .common import as_bad_request, as_not_found, find_stored, get_service, parse_options, wait_for
from .datastore import STRATEGIES

__all__ = ["router"]

router = APIRouter(tags=["Models"])

_NO_TRAINING = "This server doesn't train. Run samed-hf train on the data set labels/TAG of its studies."
_BYTES = "application/octet-stream"
_DTYPES = ("uint8", "uint16", "int16", "int32")
_EXTENSIONS = (".nii.gz", ".nii", ".nrrd", ".mha")  # each is one file


class Output(str, Enum):
    """What `infer` answers with."""

    image = "image"
    json = "json"
    all = "all"
    dicom_seg = "dicom_seg"


@router.get("/info/", summary="Models, their labels, and the datastore")
async def info(request: Request) -> dict[str, Any]:
    """Each adapter is a model."""
    service = get_service(request)
    labels = dict.fromkeys(label for about in service.models.values() for label in about["labels"])
    return {
        "name": "samed_hf",
        "description": "SAMed: Segment Anything with LoRA on medical images",
        "version": service.version,
        "labels": list(labels),
        "models": {
            name: {
                "type": "segmentation",
                "labels": about["labels"],
                "dimension": 3,
                "description": f"SAMed adapter of {about['image_size']} pixels, {len(about['labels'])} labels",
                "config": {"result_extension": _EXTENSIONS},
            }
            for name, about in service.models.items()
        },
        "trainers": {},
        "strategies": {name: {"description": text} for name, text in STRATEGIES.items()},
        "scoring": {},
        "train_stats": {},
        "datastore": await asyncio.to_thread(service.studies.count) if service.studies else {},
    }


@router.post("/infer/{model}", summary="Segment an image of the datastore or an uploaded one")
async def infer(
    request: Request,
    background: BackgroundTasks,
    model: str,
    image: str = "",
    session_id: str = "",
    params: Annotated[str, Form()] = "{}",
    file: Annotated[UploadFile | None, File()] = None,
    label: Annotated[UploadFile | None, File()] = None,
    output: Output | None = None,
) -> Response:
    """Answer with a label map and JSON as multipart form, or one of them; `params` may name a `result_extension`."""
    service, options = get_service(request), parse_options(params)
    if model not in service.models:
        raise HTTPException(404, f"There is no model {model!r:.100}: expected one of {', '.join(service.models)}.")
    if label is not None:
        raise HTTPException(400, "A label was sent: this model segments without scribbles or an earlier label.")
    suffix = ".dcm" if output == Output.dicom_seg else options.get("result_extension") or ".nii.gz"
    if suffix != ".dcm" and suffix not in _EXTENSIONS:
        raise HTTPException(400, f"result_extension is {suffix!r:.100}: expected one of {', '.join(_EXTENSIONS)}.")
    encoding = _encoding(options, suffix)
    # A client that leaves while the worker writes is no error.
    directory = tempfile.TemporaryDirectory(prefix="samed-serve-", ignore_cleanup_errors=True)
    background.add_task(directory.cleanup)
    try:
        scan = await _find(service, image, session_id, file, Path(directory.name))
        if suffix == ".dcm" and scan.kind != "dicom":
            raise HTTPException(400, "output is dicom_seg, but the image is no DICOM series: ask for another output.")
        # MONAI Label's client stores the file under this name, beside those of earlier requests.
        target = Path(directory.name) / f"{model}-{secrets.token_hex(8)}{suffix}"
        started = time.monotonic()
        reply = await wait_for(request, service.engine.segment(Work(model, scan, target, **encoding)))
        if output == Output.dicom_seg:
            return FileResponse(target, media_type="application/dicom", filename=target.name)
        about = {
            "label_names": {name: value for value, name in reply.labels.items()},
            "voxels": reply.voxels,
            "centroids": {},  # OHIF's extension reads it
            "latencies": {"total": round(time.monotonic() - started, 3)},
        }
        if output == Output.json:
            return Response(json.dumps(about), media_type="application/json")
        if output == Output.image:
            return FileResponse(target, media_type=_BYTES, filename=target.name)
        return _multipart(about, target)
    except BaseException:
        directory.cleanup()
        raise


@router.put("/session/", summary="Upload an image for several requests")
async def create_session(request: Request, files: Annotated[list[UploadFile], File()]) -> dict[str, Any]:
    """The files of one image, which is not added to the datastore."""
    try:
        with as_bad_request():
            name, about = await asyncio.to_thread(get_service(request).sessions.add, files)
    except BusyError as error:
        raise HTTPException(503, str(error), {"Retry-After": "60"}) from error
    return {"session_id": name, "session_info": about}


@router.get("/session/{session_id}", summary="Describe a session")
async def get_session(request: Request, session_id: str) -> dict[str, Any]:
    """Its kind of image, and the seconds until it ends."""
    with as_not_found("session", session_id):
        return get_service(request).sessions.describe(session_id)


@router.delete("/session/{session_id}", summary="End a session")
async def remove_session(request: Request, session_id: str) -> dict[str, Any]:
    """Its files are removed."""
    with as_not_found("session", session_id):
        about = get_service(request).sessions.describe(session_id)
        get_service(request).sessions.remove(session_id)
    return about


@router.get("/train/", summary="Whether a training runs")
async def train_status() -> None:
    """404 as in MONAI Label where none runs."""
    raise HTTPException(404, f"No training runs. {_NO_TRAINING}")


@router.post("/train/", include_in_schema=False)
@router.post("/train/{model}", summary="Train")
async def train(model: str = "") -> None:
    """Training takes a machine for hours: it is a command of its own."""
    raise HTTPException(501, _NO_TRAINING)


@router.delete("/train/", summary="Stop a training")
async def stop_training() -> dict[str, Any]:
    """Nothing to stop."""
    return {}


@router.get("/logs/", summary="The last lines of the log")
async def logs(request: Request, lines: Annotated[int, Query(ge=1, le=10_000)] = 300) -> Response:
    """Routes, statuses and seconds; no names of images."""
    return PlainTextResponse("\n".join(get_service(request).log.lines(lines)) + "\n")


def _encoding(options: Mapping[str, Any], suffix: str) -> dict[str, Any]:
    """How the voxels of an NRRD or MetaImage file are written: OHIF's extension reads uncompressed files."""
    dtype, compress = options.get("result_dtype"), options.get("result_compress", True)
    if (dtype is None or dtype == "uint8") and compress is True:
        return {}
    if suffix not in (".nrrd", ".mha") or dtype not in (None, *_DTYPES) or not isinstance(compress, bool):
        raise HTTPException(
            400,
            f"result_dtype is {dtype!r:.50} and result_compress {compress!r:.50} for {suffix}: expected one of "
            f"{', '.join(_DTYPES)}, and true or false, for .nrrd and .mha only.",
        )
    return {"dtype": dtype, "compress": compress}


async def _find(service: Service, image: str, session_id: str, file: UploadFile | None, directory: Path) -> ScanFile:
    """The scan of a request: an uploaded one, a session's, or one of the datastore."""
    if file is not None:
        with as_bad_request():
            return find_scan([await asyncio.to_thread(store, file, directory)])
    if session_id:
        with as_not_found("session", session_id):
            return service.sessions.scan(session_id)
    if not image:
        raise HTTPException(400, "Neither image nor file nor session_id is given: expected one of them.")
    return await find_stored(service, image)


def _multipart(about: Mapping[str, Any], file: Path) -> Response:
    """The form that MONAI Label's clients read: `params` and the file `image`."""
    boundary = secrets.token_hex(16)
    parts = [
        ('name="params"', "application/json", json.dumps(about).encode()),
        (f'name="image"; filename="{file.name}"', _BYTES, file.read_bytes()),
    ]
    body = b"".join(
        f"--{boundary}\r\nContent-Disposition: form-data; {what}\r\nContent-Type: {kind}\r\n\r\n".encode()
        + content
        + b"\r\n"
        for what, kind, content in parts
    )
    content_type = f"multipart/form-data; boundary={boundary}"
    return Response(body + f"--{boundary}--\r\n".encode(), media_type=content_type)
