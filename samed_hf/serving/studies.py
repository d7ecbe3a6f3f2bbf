"""The scans that a server offers, and the corrected label maps that become a data set for training."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydicom import dcmread

from ..utils.atomic import atomic_file, write_text
from ..volumes import InputLimits, ScanFile
from ..volumes.dicom.headers import is_usable_uid
from ..volumes.dicom.web import Archive, ArchivedSeries, parse_address
from ..volumes.discovery import search_scans
from ..volumes.itk_voxel_data import find_voxels
from ..volumes.registry import suffix_of

__all__ = ["DATALIST", "LABELS", "ArchiveStudies", "Studies", "check_name"]

logger = logging.getLogger(__name__)

DATALIST, LABELS, IMAGES = "datalist.json", "labels.json", "images"
_REFUSED = 600.0  # seconds for which a series that can't be read is not downloaded again


def check_name(what: str, name: str) -> str:
    """Return a name that is safe as that of a file of any case; else a `ValueError`."""
    if not _is_name(name):
        raise ValueError(
            f"{what} is {name!r:.100}: expected a name of at most 200 bytes without '/', '\\' and unprintable "
            "characters, which begins with neither '.' nor '-'."
        )
    return name


def _is_name(name: str) -> bool:
    bad = any(letter in name for letter in "/\\") or not name.isprintable() or name != name.strip()
    return not bad and 0 < len(name.encode()) <= 200 and name[0] not in ".-"


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
        self._searched: set[tuple[Path, int, int]] | None = None

    def list_scans(self) -> dict[str, ScanFile]:
        """Search the directory, if it has changed, and return the scans by their ids; unreadable ones are left out."""
        if (found := self._list_files()) != self._searched:
            self._scans = self._search()
            self._searched = found
        return self._scans

    def _list_files(self) -> set[tuple[Path, int, int]]:
        """Every file below the directory but labels, with the time of its change and its size."""
        found, visited = set(), {self.labels_root.resolve()}
        for directory, inner, files in os.walk(self.root, followlinks=True):
            if (real := Path(directory).resolve()) in visited:
                inner.clear()  # a link to a directory above it
                continue
            visited.add(real)
            for file in files:
                path = Path(directory, file)
                with suppress(FileNotFoundError):  # removed meanwhile
                    found.add((path, (stat := path.stat()).st_mtime_ns, stat.st_size))
        return found

    def _search(self) -> dict[str, ScanFile]:
        scans: list[ScanFile] = []
        if any(self.root.iterdir()):
            failed: dict[Path, str] = {}
            scans, _ = search_scans([self.root], num_channels=self.num_channels, failed=failed)
        scans = [scan for scan in scans if self.labels_root not in scan.path.parents]
        uids = {scan.name: _series_uid(scan) for scan in scans}
        counts = Counter(uids.values())

        def id_of(scan: ScanFile) -> str:
            uid = uids[scan.name]
            alone = counts[uid] == 1 and (uid == scan.name or uid not in uids)
            return uid if uid and alone else scan.name

        return {id_of(scan): scan for scan in scans}

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
        files = set(scan.files or (scan.path,))
        if scan.kind == "itk":  # a header may have its voxels in another file
            files.update(*[find_voxels(file).files for file in files])
        for file in files:
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
        name = self._label_name(image)
        directories = sorted(self.labels_root.iterdir()) if self.labels_root.is_dir() else []
        return [one.name for one in directories if _is_name(one.name) and (one / name).exists()]

    def label_names(self, tag: str) -> dict[int, str]:
        """Names of the values of a tag's label maps, background included; empty before the first is saved.

        Raises:
            ValueError: there are label maps, but not the names of their values.
        """
        file = self.labels_root / check_name("tag", tag) / LABELS
        if file.exists():
            return {int(value): name for value, name in json.loads(file.read_text()).items()}
        if any(one.is_file() and suffix_of(one) for one in file.parent.glob("*")):
            raise ValueError(
                f"labels/{tag} holds label maps without {LABELS}, so that the names of their values are unknown: add "
                'this file, e.g. {"0": "background", "1": "spleen"}, or choose another tag.'
            )
        return {}

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
        for image, scan in list(self._scans.items()):  # others may be added meanwhile
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
    """The series of a DICOMweb archive, which are downloaded when they are first used, and when they have grown.

    Args:
        address: see [`~samed_hf.volumes.dicom.web.parse_address`], without study and series.
        directory: for the downloads and for label maps; created if it doesn't exist.
        most: of the series without a label map that are kept; those unused for longest are removed.
        fresh: seconds after which the archive is asked again whether a series has grown.
    """

    def __init__(self, address: str, directory: Path, *, most: int = 128, fresh: float = 10.0) -> None:
        url, study, series = parse_address(address)
        if study is not None or series is not None:
            raise ValueError(f"--studies is {address!r}: expected the archive's address, without /studies/….")
        directory.mkdir(parents=True, exist_ok=True)
        super().__init__(directory)
        self.archive, self.most, self.fresh = Archive(url, retries=1, limits=InputLimits.served()), most, fresh
        self._lock = threading.Lock()  # of downloads
        self._asked: dict[str, float] = {}  # when the archive was asked for each series, monotonic
        self._refused: dict[str, tuple[int, float, str]] = {}  # number of objects, when, and why

    def ids(self) -> list[str]:
        """The SeriesInstanceUIDs of all series of images."""
        return [series.uid for series in self.archive.find_series()]

    def list_scans(self) -> dict[str, ScanFile]:
        """The series that are downloaded, by their UIDs."""
        for directory in sorted(self.root.iterdir()):
            if is_usable_uid(directory.name) and directory.name not in self._scans:
                with suppress(ValueError):
                    self._scans[directory.name] = self._read(directory)
        return self._scans

    def scan(self, image: str) -> ScanFile:
        """The series of a SeriesInstanceUID, downloaded if it isn't there or has grown.

        Raises:
            KeyError: the archive has no such series of images.
            ValueError: it holds several scans, or none that can be read, or is too large.
            ConnectionError: the archive can't be reached, or fails.
        """
        now = time.monotonic()
        if image not in self._scans or now - self._asked.get(image, -math.inf) >= self.fresh:
            try:
                self._update(image)
            except ConnectionError:
                if image not in self._scans:
                    raise
                logger.warning("the archive can't be reached, or fails: a series is used as it was downloaded")
            self._asked[image] = now
        scan = self._scans[image]
        with suppress(FileNotFoundError):  # another download has just removed it; reading it says so
            os.utime(self.root / image)
        return scan

    def _update(self, image: str) -> None:
        """Download a series that isn't there or has grown."""
        found = self.archive.find_series(SeriesInstanceUID=image) if is_usable_uid(image) else []
        if len(found) != 1:
            raise KeyError(image)
        series = self.archive.counted(found[0])
        with self._lock:
            if image not in self._scans or series.instances > len(list((self.root / image).iterdir())):
                self._download(series)

    def _download(self, series: ArchivedSeries) -> None:
        """Fetch what is missing of a series; what is no scan is removed, and refused for a while or until it grows."""
        count, since, reason = self._refused.get(series.uid, (-1, 0.0, ""))
        if count == series.instances and time.monotonic() - since < _REFUSED:
            raise ValueError(reason)
        directory = self.root / series.uid
        # Its name is hidden until the series is complete.
        target = directory if directory.exists() else self.root / f".{series.uid}"
        try:
            self.archive.fetch(series, target).rename(directory)
            scan = self._read(directory)
        except ValueError as error:
            self._refused[series.uid] = (series.instances, time.monotonic(), str(error))
            self._scans.pop(series.uid, None)
            if not self.tags(series.uid):
                shutil.rmtree(target, ignore_errors=True)
                shutil.rmtree(directory, ignore_errors=True)
            raise
        self._scans[series.uid] = scan
        self._remove_oldest(series.uid)

    def _read(self, directory: Path) -> ScanFile:
        scans, _ = search_scans([directory], num_channels=self.num_channels, failed={})
        if len(scans) != 1:
            raise ValueError(
                f"The series {directory.name} is not one scan: it holds several, e.g. echoes or phases, or none that "
                "can be read."
            )
        return scans[0]

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
        unlabelled = [image for image in list(self._scans) if image != kept and not self.tags(image)]
        unlabelled.sort(key=lambda image: (self.root / image).stat().st_mtime)
        for image in unlabelled[: max(0, len(unlabelled) - self.most)]:
            del self._scans[image]
            shutil.rmtree(self.root / image, ignore_errors=True)


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
    uid = str(header.get("SeriesInstanceUID", ""))
    return uid if is_usable_uid(uid) else ""
