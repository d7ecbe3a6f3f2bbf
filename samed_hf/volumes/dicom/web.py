"""Series of an archive read and written by DICOMweb (DICOM PS3.18): QIDO-RS, WADO-RS and STOW-RS."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydicom import Dataset, dcmread

from ...utils.atomic import atomic_file
from ...utils.text import one_line, printable
from ..limits import InputLimits
from .headers import is_usable_uid, quiet

if TYPE_CHECKING:
    from dicomweb_client.api import DICOMwebClient
    from typing_extensions import Self

__all__ = ["Archive", "ArchivedSeries", "is_address", "parse_address"]

logger = logging.getLogger(__name__)

_SCHEME = "dicomweb+"
_ADDRESS = re.compile(r"dicomweb\+(?P<url>https?://.+?)(/studies/(?P<study>[^/]+)(/series/(?P<series>[^/]+))?)?/?")
_TOKEN = "SAMED_DICOMWEB_TOKEN"
_STATUSES = (408, 429, 500, 502, 503, 504)  # after which a request is sent again
_PAGE = 500  # entries of a list that is asked for at a time
# Objects that are no images of a patient.
_NO_IMAGES = ("SEG", "RTSTRUCT", "RTPLAN", "RTDOSE", "SR", "PR", "KO", "REG", "AU", "DOC", "ECG", "PLAN", "FID", "RWV")


@dataclass(frozen=True)
class ArchivedSeries:
    """A series as an archive lists it."""

    study: str  # StudyInstanceUID
    uid: str  # SeriesInstanceUID
    modality: str = ""
    description: str = ""
    instances: int = 0  # number of its objects, 0 where the archive doesn't tell


def is_address(text: str | Path) -> bool:
    """Whether an input is an address of an archive, `dicomweb+http://…` or `dicomweb+https://…`."""
    return str(text).startswith(_SCHEME)


def parse_address(text: str) -> tuple[str, str | None, str | None]:
    """Split `dicomweb+URL[/studies/UID[/series/UID]]` into the archive's URL and the UIDs of study and series.

    Raises:
        ValueError: It has another form, or contains a password.
    """
    match = _ADDRESS.fullmatch(text)
    study, series = (match["study"], match["series"]) if match else (None, None)
    if match is None or any(uid is not None and not is_usable_uid(uid) for uid in (study, series)):
        raise ValueError(
            f"{printable(text)!r} is no address of DICOMweb: expected dicomweb+http://HOST/PATH, with /studies/UID or "
            "/studies/UID/series/UID after it."
        )
    if "@" in match["url"].split("/")[2]:
        raise ValueError(
            f"The address of {match['url'].rpartition('@')[2]} holds a password: give it in ~/.netrc, or a token in "
            f"{_TOKEN}."
        )
    return match["url"], study, series


class Archive:
    """An archive that speaks DICOMweb, such as Orthanc.

    Requests that fail by the network, or while the archive starts again, are repeated for about a minute. Name and
    password are read from `~/.netrc`, a bearer token from the environment variable `SAMED_DICOMWEB_TOKEN`.

    Args:
        url: of its DICOMweb service, e.g. `http://localhost:8042/dicom-web`.
        retries: how often a request is repeated, with growing pauses.
        limits: of a series; by default `InputLimits.local()`.

    Raises:
        ImportError: dicomweb-client is not installed.
    """

    def __init__(self, url: str, *, retries: int = 7, limits: InputLimits | None = None) -> None:
        self.url, self.limits = url, limits or InputLimits.local()
        self._client = _connect(url, retries)

    def find_series(self, study: str | None = None, **filters: str) -> list[ArchivedSeries]:
        """List the series of images, of a study or of the whole archive.

        `filters` are attributes of QIDO-RS, e.g. `Modality="CT"`.
        """
        fields = ["Modality", "SeriesDescription", "NumberOfSeriesRelatedInstances"]
        found = []
        for entry in self._pages(self._client.search_for_series, study, fields=fields, search_filters=filters or None):
            header = Dataset.from_json(entry)
            series = ArchivedSeries(
                str(header.get("StudyInstanceUID", study or "")),
                str(header.get("SeriesInstanceUID", "")),
                str(header.get("Modality", "")),
                str(header.get("SeriesDescription", "")),
                int(header.get("NumberOfSeriesRelatedInstances", 0) or 0),
            )
            if is_usable_uid(series.uid) and is_usable_uid(series.study) and series.modality not in _NO_IMAGES:
                found.append(series)
        return sorted(found, key=lambda one: (one.study, one.uid))

    def counted(self, series: ArchivedSeries) -> ArchivedSeries:
        """A series with its number of objects, asked for where the archive's list leaves it out."""
        return series if series.instances else replace(series, instances=len(self._instances(series)))

    def fetch(self, series: ArchivedSeries, directory: Path) -> Path:
        """Download a series into `directory`, a file for each object; complete files of an earlier try are kept.

        One object is in memory at a time.

        Returns:
            `directory`.

        Raises:
            FileNotFoundError: The archive has no such series.
            ConnectionError: It can't be reached, or fails.
            ValueError: It lists fewer objects than the series has, or one that is no DICOM file.
            InputLimitError: The series has more objects or bytes than the limits.
        """
        uids = self._instances(series)
        if not uids:
            raise FileNotFoundError(f"{self.url} has no series {series.uid} in the study {series.study}.")
        if len(uids) < series.instances:
            raise ValueError(
                f"{self.url} lists {len(uids)} of the {series.instances} objects of the series {series.uid}: they are "
                "being removed, or it doesn't send its lists page by page."
            )
        self.limits.check(f"The series {series.uid}", slices=len(uids))
        directory.mkdir(parents=True, exist_ok=True)
        total = 0
        for uid in uids:
            if not is_usable_uid(uid):
                raise ValueError(f"The series {series.uid} holds an object with the UID {uid!r:.80}, which is no UID.")
            file = directory / f"{uid}.dcm"
            if not file.exists():
                with quiet(), atomic_file(file) as temporary:
                    self._retrieve(series, uid).save_as(temporary, enforce_file_format=True)
            total += file.stat().st_size
            self.limits.check(f"The series {series.uid}", bytes=total)
        return directory

    def store(self, files: Iterable[Path], study: str) -> None:
        """Store DICOM files in a study, one after the other; what is there already stays as it is.

        Raises:
            ConnectionError: The archive can't be reached, or refuses an object.
        """
        for file in files:
            with quiet(), _reported(self.url):
                dataset = dcmread(file)
                answer = self._client.store_instances([dataset], study_instance_uid=study)
            refused = answer.get("FailedSOPSequence", [])
            if refused:
                reason = refused[0].get("FailureReason", "unknown")
                raise ConnectionError(f"{self.url} refused {file.name} (failure reason {reason}).")

    def _instances(self, series: ArchivedSeries) -> list[str]:
        """The SOPInstanceUIDs of a series."""
        entries = self._pages(self._client.search_for_instances, series.study, series.uid)
        return [str(Dataset.from_json(entry).get("SOPInstanceUID", "")) for entry in entries]

    def _retrieve(self, series: ArchivedSeries, uid: str) -> Dataset:
        """One object; a connection that breaks within its bytes is opened again."""
        from requests.exceptions import ChunkedEncodingError

        for attempt in range(3):
            try:
                with _reported(self.url, ChunkedEncodingError if attempt < 2 else None):
                    return self._client.retrieve_instance(
                        series.study, series.uid, uid, media_types=(("application/dicom", "*"),)
                    )
            except ChunkedEncodingError:
                logger.info("waiting for %s, which broke off", self.url)
            except OSError:
                raise
            except Exception as error:  # pydicom raises many kinds
                raise ValueError(f"{self.url} sent an object that is no DICOM file ({one_line(error)}).") from error
        raise AssertionError("the last attempt returns or raises")

    def _pages(self, search: Any, *arguments: Any, **options: Any) -> Iterator[dict[str, Any]]:
        """The entries of a list, page by page, until a page has none that is new.

        An archive may send fewer entries than were asked for, or the same list for every page.
        """
        seen: set[str] = set()
        offset = 0
        while True:
            with _reported(self.url):
                page = search(*arguments, limit=_PAGE, offset=offset, **options)
            new = {text: entry for entry in page if (text := json.dumps(entry, sort_keys=True)) not in seen}
            if not new:
                return
            yield from new.values()
            seen.update(new)
            offset += len(page)


def _connect(url: str, retries: int) -> DICOMwebClient:
    try:
        import requests
        from dicomweb_client.api import DICOMwebClient
    except ImportError as error:
        raise ImportError("DICOMweb needs dicomweb-client: pip install 'samed_hf[serve]'.") from error
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    class LoggedRetry(Retry):
        def increment(self, *arguments: Any, **options: Any) -> Self:
            logger.info("waiting for %s, which doesn't answer", url)
            return super().increment(*arguments, **options)

    # All methods: what is stored twice has the same UIDs, and is stored once.
    retry = LoggedRetry(retries, backoff_factor=0.5, backoff_max=20.0, status_forcelist=_STATUSES, allowed_methods=None)
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry))
    if token := os.environ.get(_TOKEN):
        session.headers["Authorization"] = f"Bearer {token}"
    for library in ("dicomweb_client", "urllib3"):  # their messages hold the UIDs of every request
        logging.getLogger(library).setLevel(logging.ERROR)
    client = DICOMwebClient(url, session=session, timeout=60.0)
    client.set_http_retry_params(retry=False)
    return client


@contextmanager
def _reported(url: str, passed: type[Exception] | None = None) -> Iterator[None]:
    """Turn the errors of requests into a `ConnectionError`, or a `FileNotFoundError` for status 404."""
    from requests import RequestException

    try:
        yield
    except RequestException as error:
        if passed is not None and isinstance(error, passed):
            raise
        if getattr(error.response, "status_code", None) == 404:
            raise FileNotFoundError(f"{url} has no such study, series or object ({one_line(error)}).") from error
        raise ConnectionError(f"{url} can't be reached, or fails: {one_line(error)}") from error
