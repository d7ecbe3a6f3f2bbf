"""Label maps as DICOM segmentations that refer to their source series."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path

import highdicom as hd
import numpy as np
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from ...utils.atomic import write_bytes
from ...utils.text import printable
from ..file_checks import check_labels, check_parent
from ..geometry import Volume
from .headers import brief, quiet
from .identity import encode_derived
from .seg_frames import refer_to_frames, renumber_frames, single_image
from .seg_sources import image_source, source_images
from .series import DicomSeries
from .terminology import term_of

__all__ = ["VERSION", "check_arguments", "short_text", "write_segmentation"]

_HIGHEST = 65535
# Importing it by name would make `volumes` depend on all that `samed_hf/__init__.py` imports.
VERSION = importlib.import_module(__package__.partition(".")[0]).__version__


def write_segmentation(
    path: str | Path,
    array: np.ndarray,
    like: Volume,
    names: Mapping[int, str],
    colors: np.ndarray | None = None,
    *,
    algorithm: str = "samed_hf",
) -> None:
    """Write a label map as a binary DICOM segmentation, atomically.

    A segment is written for each label that occurs, numbered from 1 in the order of the labels, with the label's name,
    its SNOMED CT codes if the name is known, and its colour. Slices without a label are left out, as usual. If no label
    occurs, every label of `names` gets one empty frame at the first slice: a valid file that lists what was segmented.
    Attributes of the patient and the study that an anonymiser removed stay empty; a missing frame of reference is
    replaced by a new one. Of images without positions, such as radiographs and cines, each frame of the segmentation
    refers to a frame of the file. The same labels of the same series give the same file: its UIDs follow from its
    content, and its dates are the source's.

    Args:
        path: File in an existing directory, which is replaced.
        array: Integer label map of shape `(x, y, z)`, values in [0, 65535], 0 the background.
        like: The scan, read from DICOM.
        names: Name of each label; 0 is ignored.
        colors: RGB in [0, 1] of each label, of shape `(num_labels, 3)`.
        algorithm: Name of the model.

    Raises:
        FileNotFoundError: If the directory does not exist.
        ValueError: If `like` was not read from DICOM, its files lack what a segmentation refers to, the shape or type
            of `array` is wrong, or it holds labels without a name.
    """
    path, array = Path(path), check_labels(array, like)
    present = check_arguments(path, array, like, names)
    declared = present or sorted(label for label in names if label != 0)
    frames = _frames(array if present else array[:, :, :1], declared)
    with quiet():
        source = image_source(like.header, like.path or Path()) if like.is_image else None
        sources, planes = ([single_image(source)], []) if source else source_images(like.header, like.path or Path())
        segments = [
            _segment(number, str(names[label]), _color(colors, label), algorithm)
            for number, label in enumerate(declared, 1)
        ]
        # By default highdicom uses the positions of the sources; its search for the source of each position is slow.
        is_default = source or (bool(present) and "NumberOfFrames" not in sources[0])
        own = None if is_default else planes[: len(frames)]
        try:
            dataset = _segmentation(frames[:1] if source else frames, sources, segments, own, algorithm)
            if source:
                refer_to_frames(dataset, frames, source)
            if "NumberOfFrames" in (source or sources[0]):
                renumber_frames(dataset, like.header.frames)
        except Exception as error:
            # highdicom doesn't support every kind of image that can be read, and raises many errors.
            raise ValueError(
                f"{printable(like.path or 'the scan')} cannot be the source of a DICOM segmentation ({brief(error)}); "
                "write .nii.gz, .nrrd or .mha."
            ) from error
        content = encode_derived(dataset, like.header.datasets[0])
    write_bytes(path, content)


def check_arguments(path: Path, array: np.ndarray, like: Volume, names: Mapping[int, str]) -> list[int]:
    """Check the arguments, and return the labels that occur."""
    check_parent(path)
    if not isinstance(like.header, DicomSeries):
        raise ValueError(
            f"{printable(path.name)} would refer to a DICOM series, but the scan "
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
    """Return the label map as `(slices, rows, columns)` of consecutive segment numbers."""
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
        segment_label=short_text(name) or f"label {number}",
        segmented_property_category=term.category,
        segmented_property_type=term.type,
        algorithm_type="AUTOMATIC",
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=short_text(algorithm) or "samed_hf",
            family=codes.DCM.ArtificialIntelligence,
            version=VERSION,
            source="samed_hf",
        ),
        anatomic_regions=None if term.region is None else [term.region],
        display_color=color,
    )
    # highdicom has no parameter for modifiers.
    if term.modifiers:
        kind = segment.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = list(map(hd.sr.CodedConcept.from_code, term.modifiers))
    if term.region_modifiers:
        region = segment.AnatomicRegionSequence[0]
        region.AnatomicRegionModifierSequence = list(map(hd.sr.CodedConcept.from_code, term.region_modifiers))
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
    planes: list[hd.PlanePositionSequence] | None,
    algorithm: str,
) -> hd.seg.Segmentation:
    return hd.seg.Segmentation(
        source_images=sources,
        pixel_array=frames,
        segmentation_type="BINARY",
        segment_descriptions=segments,
        series_instance_uid=generate_uid(prefix=None),
        # After the scanner's own series, and next to the source among several segmentations.
        series_number=1000 + int(sources[0].SeriesNumber),
        sop_instance_uid=generate_uid(prefix=None),
        instance_number=1,
        manufacturer="samed_hf",
        manufacturer_model_name="samed_hf",
        software_versions=VERSION,
        device_serial_number="samed_hf",
        content_label="SEGMENTATION",
        content_description=short_text(f"Segmentation by {algorithm}"),
        series_description="samed_hf segmentation",
        # Names may be in any script.
        specific_character_set="ISO_IR 192",
        plane_positions=planes,
    )


def short_text(text: str) -> str:
    """Return text as a DICOM long string: one line of up to 64 characters without backslashes."""
    return brief(text.replace("\\", "/"), 64)
