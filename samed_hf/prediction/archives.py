"""Scans fetched from a DICOMweb archive, and their segmentations stored in it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..utils.text import one_line, printable
from ..volumes.dicom.web import Archive, ArchivedSeries, is_address, parse_address

__all__ = ["Download", "discard_download", "fetch_inputs", "fetch_series", "remove_downloads", "store_results"]

logger = logging.getLogger(__name__)

_DOWNLOADS = ".dicomweb"  # directory in that of the predictions


@dataclass(frozen=True)
class Download:
    """A series of an archive and the directory of its files."""

    url: str
    series: ArchivedSeries
    directory: Path


def fetch_inputs(inputs: Iterable[str], output: Path, failed: dict[Path, str]) -> tuple[list[str], list[Download]]:
    """Download the series that addresses `dicomweb+http://…` name into a hidden directory of `output`.

    What an interrupted run has downloaded is kept. `failed` gets the error of each series that can't be fetched.

    Returns:
        The inputs with a directory in place of each series, and the downloads.

    Raises:
        ValueError: An address has another form, or names no series of images.
        ConnectionError: The archive can't be reached, or fails.
    """
    local: list[str] = []
    downloads: list[Download] = []
    for given in inputs:
        if not is_address(given):
            local.append(given)
            continue
        url, study, uid = parse_address(given)
        archive = Archive(url)
        found = [one for one in archive.find_series(study) if uid in (None, one.uid)]
        if not found:
            raise ValueError(f"{printable(given)} names no series of images: the archive has none there.")
        for series in found:
            try:
                downloads.append(fetch_series(archive, series, output))
                local.append(str(downloads[-1].directory))
            except (ValueError, FileNotFoundError) as error:
                failed[Path(series.uid)] = one_line(error)
    return local, downloads


def fetch_series(archive: Archive, series: ArchivedSeries, output: Path) -> Download:
    """Download one series into the directory of the predictions."""
    directory = output / _DOWNLOADS / series.uid
    archive.fetch(series, directory)
    logger.info("fetched     %s, %d files", series.uid, len(list(directory.iterdir())))
    return Download(archive.url, series, directory)


def store_results(records: Sequence[dict[str, Any]], downloads: Sequence[Download], output: Path) -> None:
    """Store the DICOM segmentations of the series that were downloaded, each in its study.

    A record gets the archive as "stored", or the status "failed" where that can't be done. The UIDs of a segmentation
    follow from its content, so that storing it again changes nothing.
    """
    for record in records:
        download = _download_of(record, downloads)
        if download is None or record["status"] != "done":
            continue
        file = output / f"{record['name']}.dcm"
        try:
            if file.name not in record["files"]:
                raise ValueError(f"its segmentation is {record['files'][0]}: only DICOM segmentations can be stored.")
            Archive(download.url).store([file], download.series.study)
        except (ValueError, OSError) as error:
            record |= {"status": "failed", "error": f"its segmentation was not stored: {one_line(error)}"}
        else:
            record["stored"] = download.url
            logger.info("stored      %s", printable(file))


def _download_of(record: Mapping[str, Any], downloads: Iterable[Download]) -> Download | None:
    path = Path(record["file"]).resolve()
    return next((one for one in downloads if one.directory.resolve() in (path, *path.parents)), None)


def remove_downloads(records: Iterable[Mapping[str, Any]], downloads: Sequence[Download], output: Path) -> None:
    """Remove the downloaded files of all series whose cases are done; the others are kept for another try."""
    failed = [_download_of(record, downloads) for record in records if record["status"] != "done"]
    for download in downloads:
        if download not in failed:
            discard_download(download.series, output)


def discard_download(series: ArchivedSeries, output: Path) -> None:
    """Remove the downloaded files of a series."""
    directory = output / _DOWNLOADS
    shutil.rmtree(directory / series.uid, ignore_errors=True)
    if directory.is_dir() and not any(directory.iterdir()):
        directory.rmdir()
