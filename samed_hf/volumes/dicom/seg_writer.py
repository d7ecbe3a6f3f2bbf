"""Label maps as DICOM segmentations, which refer to the series that they were found in."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import highdicom as hd
import numpy as np
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as DicomCode
from pydicom.uid import generate_uid

from ...utils.atomic import write_bytes
from ...utils.text import printable
from ..file_checks import check_labels, check_parent
from ..geometry import Volume
from .headers import brief, quiet
from .seg_sources import source_images
from .series import DicomSeries
from .terminology import Code, term_of

__all__ = ["write_segmentation"]

_DESCRIPTION = "samed_hf segmentation"
_NAME_LENGTH = 64
_HIGHEST = 65535


def write_segmentation(
    path: str | Path,
    array: np.ndarray,
    like: Volume,
    names: Mapping[int, str],
    colors: np.ndarray | None = None,
    *,
    algorithm: str = "samed_hf",
) -> None:
    """Write a label map as a binary DICOM segmentation, in one step: the file is there whole or not at all.

    A segment is written for each label that occurs, numbered from 1 in the order of the labels, with the label's name,
    its SNOMED CT codes where the name is known and its colour. Slices without a label are left out, as usual. Where no
    label occurs at all, every label of `names` gets one empty frame, at the first slice: a valid file that says what
    was looked for. What an anonymiser removed of the patient and the study stays empty; without the source's frame of
    reference the file gets one of its own.

    Args:
        path: File to write, in an existing folder; an older one is replaced.
        array: Integer label map of shape `(x, y, z)` on the grid of `like`, 0 the background.
        like: The scan, read from DICOM.
        names: Name of each label; 0 is passed over.
        colors: RGB in [0, 1] of each label, of shape `(num_labels, 3)`, for viewers; without it they show their own.
        algorithm: Name of what found the labels.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: `like` wasn't read from DICOM, or its files lack what a segmentation has to refer to; the array's
            shape or type is wrong, or it holds labels without a name.
    """
    path, array = Path(path), check_labels(array, like)
    present = _check(path, array, like, names)
    with quiet():
        sources = source_images(like.header, like.path or Path())
        declared = present or sorted(label for label in names if label != 0)
        segments = [
            _segment(number, str(names[label]), _color(colors, label), algorithm)
            for number, label in enumerate(declared, 1)
        ]
        frames = _frames(array if present else array[:, :, :1], declared)
        positions = None if present and not sources.is_multi_frame else sources.positions[: len(frames)]
        try:
            dataset = _segmentation(frames, sources.datasets, segments, positions, algorithm)
        except Exception as error:
            # highdicom knows not every kind of image that can be read, and says so in many ways.
            raise ValueError(
                f"{printable(like.path or 'the scan')} cannot be the source of a DICOM segmentation ({brief(error)}); "
                "write .nii.gz, .nrrd or .mha."
            ) from error
        buffer = BytesIO()
        dataset.save_as(buffer)
    write_bytes(path, buffer.getvalue())


def _check(path: Path, array: np.ndarray, like: Volume, names: Mapping[int, str]) -> list[int]:
    """Refuse what cannot be written; returns the labels that occur."""
    check_parent(path)
    if not isinstance(like.header, DicomSeries):
        raise ValueError(
            f"{printable(path.name)} would be a DICOM segmentation, which refers to a DICOM series, but the scan "
            f"{printable(like.path or '')} is of another format; write .nii.gz, .nrrd or .mha."
        )
    if names is None:
        raise ValueError(f"names is None, expected a name for each label in {printable(path)}, e.g. {{1: 'liver'}}.")
    named = sorted(label for label in names if label != 0)
    if not named or not 0 < named[0] <= named[-1] <= _HIGHEST:
        raise ValueError(f"names is {dict(names)}, expected names of labels from 1 to {_HIGHEST}, at least one.")
    occurs = np.zeros(_HIGHEST + 1, dtype=bool)
    for index in range(array.shape[2]):
        occurs[array[:, :, index]] = True
    present = [int(label) for label in np.flatnonzero(occurs) if label != 0]
    if nameless := [label for label in present if label not in names]:
        raise ValueError(f"array holds the labels {nameless}, for which names {named} has no name; add them.")
    return present


def _frames(array: np.ndarray, declared: list[int]) -> np.ndarray:
    """The label map as `(slices, rows, columns)` of segment numbers, which follow one another whatever the labels."""
    numbers = np.zeros(max(declared) + 1, dtype=np.uint8 if len(declared) < 256 else np.uint16)
    numbers[declared] = np.arange(1, len(declared) + 1)
    frames = np.empty(array.shape[::-1], dtype=numbers.dtype)
    for index in range(len(frames)):
        frames[index] = numbers[array[:, :, index].T]
    return frames


def _segment(number: int, name: str, color: hd.color.CIELabColor | None, algorithm: str) -> hd.seg.SegmentDescription:
    term = term_of(name)
    segment = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=_short(name) or f"label {number}",
        segmented_property_category=_dicom(term.category),
        segmented_property_type=_dicom(term.type),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=_short(algorithm) or "samed_hf",
            family=codes.DCM.ArtificialIntelligence,
            version=_version(),
            source="samed_hf",
        ),
        anatomic_regions=None if term.region is None else [_dicom(term.region)],
        display_color=color,
    )
    # highdicom takes no modifiers.
    if term.modifiers:
        kind = segment.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [_concept(code) for code in term.modifiers]
    if term.region_modifiers:
        region = segment.AnatomicRegionSequence[0]
        region.AnatomicRegionModifierSequence = [_concept(code) for code in term.region_modifiers]
    return segment


def _color(colors: np.ndarray | None, label: int) -> hd.color.CIELabColor | None:
    if colors is None or label >= len(colors):
        return None
    color = np.asarray(colors[label], dtype=np.float64)
    if color.shape != (3,) or not ((color >= 0) & (color <= 1)).all():
        raise ValueError(f"colors is {color.tolist()} for label {label}, expected red, green and blue from 0 to 1.")
    return hd.color.CIELabColor.from_rgb(*(round(255 * part) for part in color.tolist()))


def _segmentation(
    frames: np.ndarray,
    sources: list[Dataset],
    segments: list[hd.seg.SegmentDescription],
    positions: list[tuple[float, ...]] | None,
    algorithm: str,
) -> hd.seg.Segmentation:
    return hd.seg.Segmentation(
        source_images=sources,
        pixel_array=frames,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=segments,
        series_instance_uid=generate_uid(prefix=None),
        # Behind the scanner's own series, and beside the source among several segmentations.
        series_number=1000 + max(0, int(sources[0].SeriesNumber)),
        sop_instance_uid=generate_uid(prefix=None),
        instance_number=1,
        manufacturer="samed_hf",
        manufacturer_model_name="samed_hf",
        software_versions=_version(),
        device_serial_number="samed_hf",
        content_label="SEGMENTATION",
        content_description=_short(f"Segmentation by {algorithm}"),
        series_description=_DESCRIPTION,
        # Names may be in any script.
        specific_character_set="ISO_IR 192",
        plane_positions=None
        if positions is None
        else [hd.PlanePositionSequence(hd.CoordinateSystemNames.PATIENT, position) for position in positions],
    )


def _short(text: str) -> str:
    """Text as DICOM's long strings have it: one line of up to 64 characters, no backslash."""
    return brief(text.replace("\\", "/"), _NAME_LENGTH)


def _dicom(code: Code) -> DicomCode:
    return DicomCode(code.value, code.scheme, code.meaning)


def _concept(code: Code) -> hd.sr.CodedConcept:
    return hd.sr.CodedConcept(code.value, code.scheme, code.meaning)


def _version() -> str:
    return importlib.import_module(__package__.partition(".")[0]).__version__
