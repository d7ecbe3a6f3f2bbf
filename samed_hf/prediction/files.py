"""Names of a prediction's files, and the atomic update of a case's files."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..utils.atomic import atomic_update, write_text
from ..utils.text import printable
from ..volumes.discovery import ScanFile
from ..volumes.registry import LABEL_FORMATS, VOLUME_SUFFIXES
from .settings import PredictionSettings

__all__ = ["Job", "case_files", "keep_earlier", "label_file_names", "plan_jobs", "write_json"]

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
        """Name of the file of probabilities; DICOM and PNG can't store them."""
        return PROBABILITIES + (self.suffix if self.suffix in VOLUME_SUFFIXES else ".nii.gz")

    @property
    def is_image(self) -> bool:
        """Whether the scan is a 2-D image such as a PNG, without spacing and orientation."""
        return self.scan.kind == "image"


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
        if settings.min_island_ml and job.is_image:
            raise ValueError(f"{path} is a 2-D image, whose labels have no volume in ml: leave out --min_island_ml.")
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
        _check_target(target, directory, overwrite)
        jobs.append(job)
    return jobs


def _check_target(target: Path, directory: Path, overwrite: bool) -> None:
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

    They replace the files that an earlier run lists in its statistics of this case. The label map comes last, so that
    it never exists without the other files.
    """
    name = job.scan.name
    try:
        statistics = json.loads((output / name / STATISTICS).read_text(encoding="utf-8"))
        files = [Path(file) for file in statistics["files"]]
    except (OSError, ValueError, LookupError, TypeError):
        files = []
    own = {(name, file.name) for file in files} | {(file.name,) for file in files if file.name.startswith(f"{name}.")}
    earlier = {output / file for file in files if file.parts in own and file.name != ".."}
    with atomic_update(output, order=lambda path: path.name == job.labels) as temporary:
        (temporary / name).mkdir()
        yield temporary
        written = {output / path.relative_to(temporary) for path in temporary.rglob("*")}
    for path in earlier - written:
        path.unlink(missing_ok=True)


def keep_earlier(output: Path) -> None:
    """Rename an earlier run's report to `report-1.html`, or the next free number, before a new one is written."""
    for number in itertools.count(1):
        names = {name: f"-{number}.".join(name.split(".")) for name in (REPORT, RUN)}
        if not any((output / kept).exists() for kept in names.values()):
            break
    for name, kept in names.items():
        if (output / name).exists():
            (output / name).rename(output / kept)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file as JSON, atomically."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
