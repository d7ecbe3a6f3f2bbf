"""Files that clients send: checked names, temporary directories, and sessions of uploaded scans."""

from __future__ import annotations

import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..volumes import ScanFile
from ..volumes.dicom.headers import is_usable_uid
from ..volumes.discovery import search_scans
from ..volumes.itk_voxel_data import find_voxels
from ..volumes.registry import case_name, file_kind, label_suffix, suffix_of
from .engine import BusyError

if TYPE_CHECKING:
    from starlette.datastructures import UploadFile

__all__ = ["Session", "Sessions", "find_scan", "store"]

_DETACHED = (".nhdr", ".mhd")  # their voxels are in another file, which they name


def store(upload: UploadFile, directory: Path, name: str = "upload") -> Path:
    """Write an uploaded file into a directory, under a name of the server's with the suffix of the client's.

    Raises:
        ValueError: the suffix is of no known format, or the file refers to others.
    """
    suffix = suffix_of(upload.filename or "")
    if not suffix and ("." not in (upload.filename or "") or is_usable_uid(upload.filename or "")):
        suffix = ".dcm"  # the files of many series have no suffix, or a UID as name
    if not suffix or suffix in _DETACHED:
        raise ValueError(
            f"The file's name ends with {Path(upload.filename or '').suffix!r:.20}: expected .nii.gz, .nii, .nrrd, "
            ".mha, .dcm, .png, .jpg or .tif."
        )
    path = directory / f"{name}{suffix}"
    with path.open("wb") as file:
        shutil.copyfileobj(upload.file, file, 1 << 20)
    if file_kind(path) == "itk":
        try:
            files = find_voxels(path).files
        except (ValueError, OSError) as error:
            raise ValueError(str(error).replace(str(path), "The file")) from error
        if any(one != path for one in files):
            raise ValueError("The file's header refers to other files: expected one file with header and voxels.")
    return path


def find_scan(files: Iterable[Path]) -> ScanFile:
    """The one scan of uploaded files; a `ValueError` if they hold none or several."""
    files = list(files)
    if len(files) == 1 and (kind := file_kind(files[0])):
        return ScanFile(case_name(files[0]), files[0], kind, (), label_suffix(files[0]))
    scans, _ = search_scans(files, failed={})
    if len(scans) != 1:
        raise ValueError(f"The {len(files)} files hold {len(scans)} scans: expected one scan.")
    return scans[0]


@dataclass(frozen=True)
class Session:
    """An uploaded scan that several requests refer to."""

    scan: ScanFile
    directory: ExitStack  # removes the files
    expires: float  # monotonic, in s


class Sessions:
    """Scans kept for the requests that follow, until they are unused for some time or too many.

    Args:
        most: of sessions at a time; the one unused for longest is removed for another.
        seconds: without a request until a session ends.
        least: seconds without a request until a session may be removed for another.
    """

    def __init__(self, *, most: int = 16, seconds: float = 3600.0, least: float = 600.0) -> None:
        self.most, self.seconds, self.least = most, seconds, least
        self._sessions: dict[str, Session] = {}  # the one unused for longest comes first
        self._lock = threading.Lock()

    def add(self, uploads: Iterable[UploadFile]) -> tuple[str, dict[str, Any]]:
        """Store the files of a scan; returns the session's id and its description.

        Raises:
            ValueError: they are not one scan.
            BusyError: there are as many sessions as are kept.
        """
        self.remove_expired()
        with ExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="samed-session-")))
            scan = find_scan([store(upload, directory, f"{number:05d}") for number, upload in enumerate(uploads)])
            name, now = secrets.token_urlsafe(16), time.monotonic()
            with self._lock:
                while len(self._sessions) >= self.most:
                    oldest, session = next(iter(self._sessions.items()))
                    if session.expires - self.seconds + self.least > now:
                        raise BusyError(f"{self.most} sessions are in use: try again later.")
                    self._sessions.pop(oldest).directory.close()
                self._sessions[name] = Session(scan, stack.pop_all(), now + self.seconds)
        return name, {"name": name, "expiry": round(self.seconds), "kind": scan.kind}

    def scan(self, name: str) -> ScanFile:
        """The scan of a session, which counts as used; a `KeyError` if there is none."""
        self.remove_expired()
        with self._lock:
            session = replace(self._sessions.pop(name), expires=time.monotonic() + self.seconds)
            self._sessions[name] = session
        return session.scan

    def describe(self, name: str) -> dict[str, Any]:
        """The description of a session for its client; a `KeyError` if there is none."""
        self.remove_expired()
        session = self._sessions[name]
        left = session.expires - time.monotonic()
        return {"name": name, "expiry": max(0, round(left)), "kind": session.scan.kind}

    def remove(self, name: str) -> None:
        """Remove a session and its files; a `KeyError` if there is none."""
        with self._lock:
            session = self._sessions.pop(name)
        session.directory.close()

    def close(self) -> None:
        """Remove all sessions."""
        for name in list(self._sessions):
            self.remove(name)

    def remove_expired(self) -> None:
        """Remove the sessions whose time is over."""
        now = time.monotonic()
        with self._lock:
            ended = [name for name, session in self._sessions.items() if session.expires < now]
            sessions = [self._sessions.pop(name) for name in ended]
        for session in sessions:
            session.directory.close()
