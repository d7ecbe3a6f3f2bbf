"""Synthetic DICOM series, as scanners, archives and careless exporters write them."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
)

SHAPE = (7, 6, 5)
SPACING = (0.7, 0.8, 2.5)
ORIGIN = (-100.5, -80.25, 50.0)
AXIAL = (1, 0, 0, 0, 1, 0)
SAGITTAL = (0, 1, 0, 0, 0, -1)
CORONAL = (1, 0, 0, 0, 0, -1)
# Columns run to the right, rows to the front: the patient lay on the belly, say.
FLIPPED = (-1, 0, 0, 0, -1, 0)
_A, _B = np.deg2rad(20), np.deg2rad(10)
OBLIQUE = (
    *(np.cos(_A), np.sin(_A), 0),
    *(-np.sin(_A) * np.cos(_B), np.cos(_A) * np.cos(_B), np.sin(_B)),
)
ORIENTATIONS = {"axial": AXIAL, "sagittal": SAGITTAL, "coronal": CORONAL, "flipped": FLIPPED, "oblique": OBLIQUE}
_BY_ITK = {JPEGLosslessSV1: "JPEG", JPEG2000Lossless: "JPEG2000"}
_CLASSES = {"CT": CTImageStorage, "MR": MRImageStorage, "PT": PositronEmissionTomographyImageStorage}


def uid(*words: object) -> str:
    """The same UID for the same words."""
    return f"2.25.{int.from_bytes(hashlib.sha256(repr(words).encode()).digest()[:12], 'big')}"


def stored_scan(shape: tuple[int, int, int] = SHAPE, dtype: type = np.uint16) -> np.ndarray:
    """Stored values of shape `(columns, rows, slices)`, all different along each axis."""
    columns, rows, slices = np.indices(shape)
    return (1000 + columns + 11 * rows + 97 * slices).astype(dtype)


def series_affine(
    orientation: Sequence[float] = AXIAL,
    spacing: Sequence[float] = SPACING,
    origin: Sequence[float] = ORIGIN,
    shift: Sequence[float] = (0.0, 0.0, 0.0),
) -> np.ndarray:
    """The affine of the series that `write_series` writes with these arguments: indices to mm, RAS+."""
    row, column = np.array(orientation[:3], float), np.array(orientation[3:], float)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = row * spacing[0], column * spacing[1]
    affine[:3, 2] = np.cross(row, column) * spacing[2] + shift
    affine[:3, 3] = origin
    return np.diag([-1, -1, 1, 1]) @ affine


def write_series(
    directory: Path,
    stored: np.ndarray | None = None,
    *,
    modality: str = "CT",
    orientation: Sequence[float] = AXIAL,
    spacing: Sequence[float] = SPACING,
    origin: Sequence[float] = ORIGIN,
    shift: Sequence[float] = (0.0, 0.0, 0.0),
    rescale: tuple[float, float] | Sequence[tuple[float, float]] = (1, -1024),
    syntax: str = ExplicitVRLittleEndian,
    preamble: bool = True,
    name: Callable[[int], str] = "IM{:04d}.dcm".format,
    series: str = "one",
    study: str = "study",
    number: int = 1,
    change: Callable[[Dataset, int], object] | None = None,
    leave_out: Sequence[int] = (),
) -> list[Path]:
    """Write a series of single-frame files.

    Args:
        directory: Created if it does not exist.
        stored: Stored values `(columns, rows, slices)`; [`stored_scan`] by default.
        modality: "CT", "MR" or "PT".
        orientation: ImageOrientationPatient.
        spacing: Between columns, rows and slices, in mm.
        origin: ImagePositionPatient of the first slice.
        shift: Sideways shift of each slice in mm, as of a tilted gantry.
        rescale: Slope and intercept, of all slices or of each.
        syntax: How the files are encoded.
        preamble: Whether they begin with a preamble and the file's meta information.
        name: File name of a slice's number.
        series, study: Words from which the UIDs are made.
        number: SeriesNumber.
        change: Called with each dataset before it is written, and its slice's number.
        leave_out: Slices that are not written.

    Returns:
        The files, in the order of the slices.
    """
    directory.mkdir(parents=True, exist_ok=True)
    stored = stored_scan() if stored is None else stored
    row, column = np.array(orientation[:3], float), np.array(orientation[3:], float)
    step = np.cross(row, column) * spacing[2] + shift
    files = []
    for index in range(stored.shape[2]):
        if index in leave_out:
            continue
        dataset = _header(modality, series, study, number, index)
        dataset.ImageOrientationPatient = [round(float(x), 10) for x in orientation]
        dataset.ImagePositionPatient = [round(float(x), 6) for x in np.array(origin) + index * step]
        dataset.PixelSpacing = [spacing[1], spacing[0]]
        dataset.SliceThickness = spacing[2]
        slope, intercept = rescale[index] if isinstance(rescale[0], Sequence) else rescale
        dataset.RescaleSlope, dataset.RescaleIntercept = slope, intercept
        if modality == "CT":
            dataset.RescaleType, dataset.KVP, dataset.AcquisitionNumber = "HU", "120", 1
        set_pixels(dataset, stored[:, :, index].T)
        if change is not None:
            change(dataset, index)
        files.append(save(dataset, directory / name(index), syntax, preamble))
    return files


def write_enhanced(
    path: Path,
    stored: np.ndarray | None = None,
    *,
    orientation: Sequence[float] = AXIAL,
    spacing: Sequence[float] = SPACING,
    origin: Sequence[float] = ORIGIN,
    rescale: tuple[float, float] = (1, 0),
    order: Sequence[int] | None = None,
    change: Callable[[Dataset], object] | None = None,
) -> Path:
    """Write one enhanced MR file; `order` says which slice each frame shows."""
    stored = stored_scan() if stored is None else stored
    order = range(stored.shape[2]) if order is None else order
    step = np.cross(orientation[:3], orientation[3:]) * spacing[2]
    dataset = _header("MR", "enhanced", "study", 7, 0)
    dataset.SOPClassUID = EnhancedMRImageStorage
    dataset.NumberOfFrames = len(order)
    shared = Dataset()
    shared.PlaneOrientationSequence = [_item(ImageOrientationPatient=[float(x) for x in orientation])]
    shared.PixelMeasuresSequence = [_item(PixelSpacing=[spacing[1], spacing[0]], SliceThickness=spacing[2])]
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.PerFrameFunctionalGroupsSequence = []
    for frame, index in enumerate(order):
        own = Dataset()
        position = [float(x) for x in np.array(origin) + index * step]
        own.PlanePositionSequence = [_item(ImagePositionPatient=position)]
        own.FrameContentSequence = [
            _item(StackID="1", InStackPositionNumber=index + 1, TemporalPositionIndex=frame + 1)
        ]
        own.PixelValueTransformationSequence = [
            _item(RescaleSlope=rescale[0], RescaleIntercept=rescale[1], RescaleType="US")
        ]
        dataset.PerFrameFunctionalGroupsSequence.append(own)
    set_pixels(dataset, np.stack([stored[:, :, index].T for index in order]))
    if change is not None:
        change(dataset)
    path.parent.mkdir(parents=True, exist_ok=True)
    return save(dataset, path)


def set_pixels(dataset: Dataset, image: np.ndarray) -> None:
    """Give a dataset its pixels, `(rows, columns)` or `(frames, rows, columns)` integers."""
    dataset.Rows, dataset.Columns = image.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8 * image.dtype.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(image.dtype.kind == "i")
    dataset.PixelData = np.ascontiguousarray(image).astype(image.dtype.newbyteorder("<")).tobytes()
    dataset["PixelData"].VR = "OW" if image.dtype.itemsize > 1 else "OB"


def save(dataset: Dataset, path: Path, syntax: str = ExplicitVRLittleEndian, preamble: bool = True) -> Path:
    """Write a dataset, compressed if the syntax says so."""
    syntax = UID(syntax)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", CTImageStorage)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID", "1.2.3")
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if syntax in (RLELossless, JPEGLSLossless) else syntax
    if syntax in (RLELossless, JPEGLSLossless):
        dataset.compress(syntax, generate_instance_uid=False)
    elif syntax in _BY_ITK:
        dataset.PixelData = encapsulate([_compressed(image, _BY_ITK[syntax]) for image in _images(dataset)])
        dataset["PixelData"].VR = "OB"
    elif not syntax.is_little_endian:
        dataset.PixelData = _images(dataset).byteswap().tobytes()
    if preamble:
        dataset.save_as(path, enforce_file_format=True)
    else:
        del dataset.file_meta
        dataset.save_as(path, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian)
    return path


def _images(dataset: Dataset) -> np.ndarray:
    kind = f"{'ui'[dataset.PixelRepresentation]}{dataset.BitsAllocated // 8}"
    return np.frombuffer(dataset.PixelData, kind).reshape(-1, dataset.Rows, dataset.Columns)


def _compressed(image: np.ndarray, compressor: str) -> bytes:
    """An image as GDCM compresses it."""
    writer = SimpleITK.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.UseCompressionOn()
    writer.SetCompressor(compressor)
    with tempfile.TemporaryDirectory() as directory:
        file = str(Path(directory, "image.dcm"))
        writer.SetFileName(file)
        writer.Execute(SimpleITK.GetImageFromArray(image[None]))
        return get_frame(pydicom.dcmread(file).PixelData, 0, number_of_frames=1)


def _item(**values: object) -> Dataset:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


def _header(modality: str, series: str, study: str, number: int, index: int) -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID = _CLASSES[modality]
    dataset.SOPInstanceUID = uid(study, series, index)
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uid(study), uid(study, series)
    dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator = uid(study, "frame of reference"), ""
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate, dataset.PatientSex = "Doe^Jane", "4711", "", "F"
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID, dataset.AccessionNumber = "20240131", "101500", "1", ""
    dataset.ReferringPhysicianName = ""
    dataset.Modality, dataset.SeriesNumber, dataset.InstanceNumber = modality, number, index + 1
    dataset.SeriesDescription = f"{series} {modality}"
    dataset.Manufacturer, dataset.PatientPosition, dataset.Laterality = "Phantom", "HFS", ""
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    return dataset


def write_image(
    path: Path,
    pixels: np.ndarray,
    *,
    modality: str = "OT",
    kind: str = SecondaryCaptureImageStorage,
    syntax: str = ExplicitVRLittleEndian,
    **values: object,
) -> Path:
    """Write an image without positions.

    Args:
        path: In an existing directory.
        pixels: Stored integers `(frames, rows, columns)`, or with three values per pixel on a fourth axis.
        modality, kind: Modality and SOPClassUID.
        syntax: How the file is encoded; a compression is that of [`save`].
        values: Elements that are set in the end, by their keywords; `None` removes one.
    """
    dataset = _header("CT", path.name, "images", 1, 0)
    dataset.Modality, dataset.SOPClassUID = modality, kind
    set_pixels(dataset, pixels[..., 0] if pixels.ndim == 4 else pixels)
    if pixels.ndim == 4:
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
        dataset.PixelData = np.ascontiguousarray(pixels).tobytes()
    if len(pixels) > 1:
        dataset.NumberOfFrames = len(pixels)
    for keyword, value in values.items():
        if value is None:
            dataset.pop(keyword, None)
        else:
            setattr(dataset, keyword, value)
    return save(dataset, path, syntax)
