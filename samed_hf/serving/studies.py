"""The scans that a server offers, and the corrected label maps that become a data set for training."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydicom import dcmread

from ..utils.atomic import atomic_file, write_text
from ..volumes import InputLimits, ScanFile
from ..volumes.dicom.headers import is_usable_uid
from ..volumes.dicom.web import Archive, parse_address
from ..volumes.discovery import search_scans
from ..volumes.registry import suffix_of

__all__ = ["DATALIST", "LABELS", "ArchiveStudies", "Studies", "check_name"]

DATALIST, LABELS, IMAGES = "datalist.json", "labels.json", "images"


def check_name(what: str, name: str) -> str:
    """Return a name that is safe as that of a file of any case; else a `ValueError`."""
    bad = any(letter in name for letter in "/\\") or not name.isprintable() or name != name.strip()
    if bad or not 0 < len(name.encode()) <= 200 or name[0] in ".-":
        raise ValueError(
            f"{what} is {name!r:.100}: expected a name of at most 200 bytes without '/', '\\' and unprintable "
            "characters, which begins with neither '.' nor '-'."
        )
    return name


class Studies:
    """A directory of scans in any known format, with label maps below `labels/TAG/`.

    A scan's id is its name without suffix, or the SeriesInstanceUID of a DICOM series. `labels/TAG` is a data set for
    `samed-hf train`: a datalist, the names of its labels, and a NIfTI file for each scan.

    Args:
        root: existing directory.
        num_channels: number of images of a scan, see [`~samed_hf.volumes.find_scans`].
    """

    def __init__(self, root: str | Path, *, num_channels: int = 1) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise FileNotFoundError(f"--studies {str(root)!r} is no directory: expected one of scans, or one to fill.")
        self.num_channels = num_channels
        self.labels_root = self.root / "labels"
        self._scans: dict[str, ScanFile] = {}

    def list_scans(self) -> dict[str, ScanFile]:
        """Search the directory, and return the scans by their ids; what can't be read is left out."""
        scans: list[ScanFile] = []
        if any(self.root.iterdir()):
            failed: dict[Path, str] = {}
            scans, _ = search_scans([self.root], num_channels=self.num_channels, failed=failed)
        scans = [scan for scan in scans if self.labels_root not in scan.path.parents]
        uids = {scan.name: _series_uid(scan) for scan in scans}
        counts = Counter(uids.values())
        ids = [uid if (uid := uids[scan.name]) and counts[uid] == 1 else scan.name for scan in scans]
        self._scans = dict(zip(ids, scans, strict=True))
        return self._scans

    def scan(self, image: str) -> ScanFile:
        """The scan of an id; a `KeyError` if there is none."""
        return self._scans[image] if image in self._scans else self.list_scans()[image]

    def add_scan(self, image: str, file: Path, suffix: str) -> None:
        """Copy a file into the directory as a scan.

        Raises:
            FileExistsError: there is one of this id, or others would get other ids.
        """
        name = check_name("image", image)
        before = set(self.list_scans())
        target = self.root / f"{name}{suffix}"
        if name.casefold() in {one.casefold() for one in before} or target.exists():
            raise FileExistsError(f"image {name!r} is there already: choose another name, or remove it first.")
        _copy(file, target)
        if set(self.list_scans()) != before | {name}:
            target.unlink()
            self.list_scans()
            raise FileExistsError(
                f"image {name!r} can't be added: beside it, scans in subdirectories or of other formats would get "
                "other names. Add it to the directory by hand, or give it another name."
            )

    def remove_scan(self, image: str) -> None:
        """Remove a scan's files, and its label maps from the data sets."""
        scan = self.scan(image)
        for tag in self.tags(image):
            self.remove_label(image, tag)
        for file in scan.files or (scan.path,):
            file.unlink()
        self.list_scans()

    def ids(self) -> list[str]:
        """The ids of all scans."""
        return list(self.list_scans())

    def label_file(self, image: str, tag: str) -> Path:
        """The file of a scan's label map, which may not exist."""
        return self.labels_root / check_name("tag", tag) / self._label_name(image)

    def _label_name(self, image: str) -> str:
        scan = self.scan(image)
        return f"{image}{scan.suffix if scan.kind == 'image' else '.nii.gz'}"

    def tags(self, image: str) -> list[str]:
        """The tags of which a scan has a label map."""
        directories = sorted(self.labels_root.iterdir()) if self.labels_root.is_dir() else []
        return [one.name for one in directories if one.is_dir() and self.label_file(image, one.name).exists()]

    def label_names(self, tag: str) -> dict[int, str]:
        """Names of the values of a tag's label maps, background included; empty before the first is saved."""
        file = self.labels_root / check_name("tag", tag) / LABELS
        return {int(value): name for value, name in json.loads(file.read_text()).items()} if file.exists() else {}

    def add_label(
        self, image: str, tag: str, label: Path, names: Mapping[int, str], volume: Path | None = None
    ) -> None:
        """Copy a label map on the scan's grid into the data set of a tag.

        `names` are those of all its values; `volume` is the scan of a DICOM series as one file.
        """
        target = self.label_file(image, tag)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_text(target.parent / LABELS, json.dumps({str(value): name for value, name in names.items()}, indent=2))
        if volume is not None:
            (target.parent / IMAGES).mkdir(exist_ok=True)
            _copy(volume, target.parent / IMAGES / target.name)
        _copy(label, target)
        self._write_datalist(tag)

    def remove_label(self, image: str, tag: str) -> None:
        """Remove a label map; a `FileNotFoundError` if there is none."""
        file = self.label_file(image, tag)
        file.unlink()
        (file.parent / IMAGES / file.name).unlink(missing_ok=True)
        self._write_datalist(tag)

    def datalist(self, tag: str) -> list[dict[str, Any]]:
        """Image and label map of each scan that has one of this tag, absolute paths; several images as a list."""
        pairs = []
        for image, scan in self._scans.items():
            if (label := self.label_file(image, tag)).exists():
                copy = label.parent / IMAGES / label.name
                files = [copy] if copy.exists() else [*(scan.files or [scan.path])]
                images = [str(file.resolve()) for file in files]
                pairs.append({"image": images if len(images) > 1 else images[0], "label": str(label.resolve())})
        return pairs

    def _write_datalist(self, tag: str) -> None:
        """Write the tag's data set; paths are relative, so that the directory can be moved."""
        directory = self.labels_root / tag

        def relative(image: str | list[str]) -> str | list[str]:
            start = directory.resolve()
            if isinstance(image, str):
                return os.path.relpath(image, start)
            return [os.path.relpath(one, start) for one in image]

        pairs = [{"image": relative(one["image"]), "label": Path(one["label"]).name} for one in self.datalist(tag)]
        write_text(directory / DATALIST, json.dumps({"training": pairs}, indent=2) + "\n")

    def describe(self) -> dict[str, Any]:
        """The datastore as MONAI Label's `GET /datastore/?output=all` describes it."""
        objects = {}
        for image in self.ids():
            labels = {tag: {"ext": ".nii.gz", "info": {}} for tag in self.tags(image)}
            objects[image] = {"image": {"ext": self._suffix(image), "info": {}}, "labels": labels}
        return {"name": "samed_hf", "description": "", "images_dir": "", "labels_dir": "labels", "objects": objects}

    def count(self) -> dict[str, Any]:
        """The numbers of scans and label maps as MONAI Label's `GET /datastore/` gives them."""
        images = self.ids()
        tags = Counter(tag for image in images for tag in self.tags(image))
        return {"total": len(images), "completed": tags["final"], "label_tags": dict(tags)}

    def unlabelled(self, tag: str) -> list[str]:
        """Ids of the scans without a label map of a tag, sorted."""
        return sorted(image for image in self.ids() if not self.label_file(image, tag).exists())

    def _suffix(self, image: str) -> str:
        """The suffix of an image's file, "" for DICOM."""
        scan = self.scan(image)
        return "" if scan.kind == "dicom" else suffix_of(scan.path)


class ArchiveStudies(Studies):
    """The series of a DICOMweb archive, which are downloaded when they are first used.

    Args:
        address: see [`~samed_hf.volumes.dicom.web.parse_address`], without study and series.
        directory: for the downloads and for label maps; created if it doesn't exist.
        most: of the series without a label map that are kept; those unused for longest are removed.
    """

    def __init__(self, address: str, directory: Path, *, most: int = 128) -> None:
        url, study, series = parse_address(address)
        if study is not None or series is not None:
            raise ValueError(f"--studies is {address!r}: expected the archive's address, without /studies/….")
        directory.mkdir(parents=True, exist_ok=True)
        super().__init__(directory)
        self.archive, self.most = Archive(url, retries=1, limits=InputLimits.served()), most
        self._lock = threading.RLock()

    def ids(self) -> list[str]:
        """The SeriesInstanceUIDs of all series of images."""
        return [series.uid for series in self.archive.find_series()]

    def scan(self, image: str) -> ScanFile:
        """The series of a SeriesInstanceUID, downloaded if it isn't there.

        Raises:
            KeyError: the archive has no such series of images.
            ValueError: it holds several scans, or none that can be read.
            ConnectionError: the archive can't be reached, or fails.
        """
        with self._lock:
            if image not in self._scans and image not in self.list_scans():
                found = self.archive.find_series(SeriesInstanceUID=image) if is_usable_uid(image) else []
                if len(found) != 1:
                    raise KeyError(image)
                if not (self.root / image).exists():  # its name is hidden until the series is complete
                    self.archive.fetch(found[0], self.root / f".{image}").rename(self.root / image)
                if image not in self.list_scans():
                    raise ValueError(
                        f"The series {image} is not one scan: it holds several, e.g. echoes or phases, or none that "
                        "can be read."
                    )
                self._remove_oldest(image)
            os.utime(self.root / image)
            return self._scans[image]

    def add_scan(self, image: str, file: Path, suffix: str) -> None:
        """Refused: scans are stored in the archive."""
        raise ValueError("The images are those of an archive: store the image there.")

    def remove_scan(self, image: str) -> None:
        """Refused: scans are removed in the archive."""
        raise ValueError("The images are those of an archive: remove the image there.")

    def _label_name(self, image: str) -> str:
        if not is_usable_uid(image):
            raise KeyError(image)
        return f"{image}.nii.gz"

    def _suffix(self, image: str) -> str:
        return ""

    def _remove_oldest(self, kept: str) -> None:
        unlabelled = [image for image in self._scans if image != kept and not self.tags(image)]
        unlabelled.sort(key=lambda image: (self.root / image).stat().st_mtime)
        for image in unlabelled[: max(0, len(unlabelled) - self.most)]:
            shutil.rmtree(self.root / image, ignore_errors=True)
            del self._scans[image]


def _copy(source: Path, target: Path) -> None:
    """Copy a file, perhaps from another file system; the target exists whole or not at all."""
    with atomic_file(target) as temporary:
        shutil.copyfile(source, temporary)


def _series_uid(scan: ScanFile) -> str:
    if scan.kind != "dicom":
        return ""
    try:
        header = dcmread(scan.files[0], stop_before_pixels=True, specific_tags=["SeriesInstanceUID"])
    except Exception:  # pydicom raises many kinds; reading the scan names the file
        return ""
    return str(header.get("SeriesInstanceUID", ""))
