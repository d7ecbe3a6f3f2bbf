"""Names of a prediction's files, and the atomic update of a case's files."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..utils.atomic import atomic_update, remove_leftovers, write_text
from ..utils.text import printable
from ..volumes.discovery import ScanFile
from ..volumes.registry import LABEL_FORMATS, VOLUME_SUFFIXES
from .settings import PredictionSettings

__all__ = [
    "Job",
    "case_files",
    "check_target",
    "hash_files",
    "keep_earlier",
    "label_file_names",
    "own_files",
    "plan_jobs",
    "read_statistics",
    "remove_case_leftovers",
    "results",
    "write_json",
]

REPORT, RUN = "report.html", "predictions.json"
STATISTICS, PREVIEW, PROBABILITIES = "statistics.json", "preview.png", "probabilities"


@dataclass(frozen=True)
class Job:
    """A scan to segment and the names of its output files, most of which are in a directory of the scan's name."""

    scan: ScanFile
    suffix: str  # of its label map, e.g. ".nii.gz"
    number: int = 1  # position among all scans of the run
    total: int = 1  # number of all scans

    @property
    def labels(self) -> str:
        """Name of the label map in the output directory."""
        return f"{self.scan.name}{self.suffix}"

    @property
    def probabilities(self) -> str:
        """Name of the file of probabilities; DICOM and images can't store them."""
        return PROBABILITIES + (self.suffix if self.suffix in VOLUME_SUFFIXES else ".nii.gz")

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The scan's files, with those that a detached header refers to."""
        files = self.scan.files or (self.scan.path,)
        if self.scan.kind != "itk":
            return files
        from ..volumes.itk_voxel_data import find_voxels

        return tuple(dict.fromkeys(itertools.chain(*((file, *find_voxels(file).files) for file in files))))

    @property
    def bytes(self) -> int:
        """Size of the scan's files, 0 if they can't be read."""
        try:
            return sum(file.stat().st_size for file in self.inputs)
        except (OSError, ValueError):
            return 0


def plan_jobs(
    scans: Sequence[ScanFile], output: Path, settings: PredictionSettings, *, overwrite: bool = False
) -> list[Job]:
    """Choose the names of each scan's output files in the directory `output`, which need not exist.

    Raises:
        ValueError: a file would replace a scan, another scan's result or, without `overwrite`, an existing file; or a
            setting doesn't suit a scan.
    """
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output {printable(output)} is a file: expected a directory, which may not exist yet.")
    sources = {path.resolve() for scan in scans for path in (scan.path, *scan.files)}
    directories = {source.parent for source in sources} | sources
    owners = dict.fromkeys((REPORT, RUN), "the run's report")
    jobs = []
    for number, scan in enumerate(scans, start=1):
        path = printable(scan.path)
        job = Job(scan, LABEL_FORMATS[settings.format] if settings.format else scan.suffix, number, len(scans))
        if scan.name in (".", ".."):
            raise ValueError(f"{path} gives no name for its results: rename it.")
        if settings.format in ("dcm", "rtstruct") and scan.kind != "dicom":
            raise ValueError(f"{path} is no DICOM series, to which --format {settings.format} refers: choose another.")
        target, directory = output / job.labels, output / scan.name
        if target.resolve() in sources or directory.resolve() in directories:
            raise ValueError(f"--output {printable(output)} contains the scan {path}: choose another directory.")
        for name in (job.labels, scan.name):
            if name in owners:
                raise ValueError(
                    f"{owners[name]} and {path} share the name {printable(name)}: predict them into different "
                    "directories."
                )
            owners[name] = path
        check_target(job, output, overwrite)
        jobs.append(job)
    return jobs


def check_target(job: Job, output: Path, overwrite: bool) -> None:
    """Refuse to replace a file or a directory that isn't empty, without `overwrite`."""
    target, directory = output / job.labels, output / job.scan.name
    for path in (target, directory):
        if not overwrite and (any(path.iterdir()) if path.is_dir() else path.exists()):
            raise ValueError(
                f"{printable(path)} exists already: choose another directory, or give --overwrite to replace it."
            )
    if target.is_dir() or (directory.exists() and not directory.is_dir()):
        raise ValueError(
            f"{printable(target)} can't be written as a file and {printable(directory)} as a directory: another "
            "directory or file of that name exists."
        )


def label_file_names(names: Mapping[int, str], suffix: str) -> dict[int, str]:
    """Make a file name for the mask of each label, without special characters; all differ, also in lower case."""
    used = {STATISTICS, PREVIEW, PROBABILITIES + suffix, f"{PROBABILITIES}.nii.gz"}
    files: dict[int, str] = {}
    for index, name in names.items():
        plain = re.sub(r"[^\w.+-]+", "_", name).strip("._")[:100] or f"label_{index}"
        if f"{plain}{suffix}".casefold() in used:
            plain = f"{plain}_{index}"
        files[index] = f"{plain}{suffix}"
        used.add(files[index].casefold())
    return files


@contextlib.contextmanager
def case_files(output: Path, job: Job) -> Iterator[Path]:
    """Yield a temporary directory for a case's files, which are moved into `output` if the block succeeds.

    They replace the files that an earlier run lists in its statistics of this case, which are removed first. The
    statistics come last but one and the label map last, so that it never exists without the other files.
    """
    name = job.scan.name
    earlier = own_files(read_statistics(output, name), name)
    remove_case_leftovers(output, name)

    def order(path: Path) -> int:
        return 2 if path.name == job.labels else int(path.name == STATISTICS or path.as_posix() in earlier)

    def stale(written: list[str]) -> list[str]:
        return [file for file in earlier if file not in written]

    with atomic_update(output, order, stale, _prefix(name)) as temporary:
        (temporary / name).mkdir()
        yield temporary


def _prefix(name: str) -> str:
    """The beginning of a name of temporary directories; the case's own name may be too long."""
    return f"{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}-"


def remove_case_leftovers(output: Path, name: str) -> None:
    """Remove what a killed process has left of a case."""
    remove_leftovers(output, _prefix(name))


def read_statistics(output: Path, name: str) -> dict[str, Any]:
    """Read a case's `statistics.json`; empty if it is missing or damaged."""
    try:
        statistics = json.loads((output / name / STATISTICS).read_bytes())
    except (OSError, ValueError):
        return {}
    return statistics if isinstance(statistics, dict) else {}


def own_files(statistics: Mapping[str, Any], name: str) -> list[str]:
    """The files that statistics or a record list, without those whose path can't be of the case `name`."""
    listed = statistics.get("files")
    files = [Path(file) for file in listed if isinstance(file, str)] if isinstance(listed, list) else []
    own = {(name, file.name) for file in files} | {(file.name,) for file in files if file.name.startswith(f"{name}.")}
    return [file.as_posix() for file in files if file.parts in own and file.name != ".."]


def results(files: Iterable[str]) -> list[str]:
    """The files of a case without its statistics, which hold the hash of the others."""
    return [file for file in files if not file.endswith(f"/{STATISTICS}")]


def hash_files(paths: Iterable[Path]) -> str:
    """Hash the contents of files, which are read whole, in the order of `paths`."""
    total = hashlib.sha256()
    for path in paths:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        total.update(digest.digest())
    return f"sha256:{total.hexdigest()}"


def keep_earlier(output: Path) -> None:
    """Rename an earlier run's report to `report-1.html`, or the next free number, before a new one is written."""
    for number in itertools.count(1):
        names = {name: f"-{number}.".join(name.split(".")) for name in (REPORT, RUN)}
        if not any((output / kept).exists() for kept in names.values()):
            break
    for name, kept in names.items():
        with contextlib.suppress(FileNotFoundError):  # it isn't there, or another shard renames it at the same time
            (output / name).rename(output / kept)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file as JSON, atomically."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
