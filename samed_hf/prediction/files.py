"""Where a prediction's files go, and that a case's are there all together or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..utils.atomic import temporary_directory
from ..utils.text import printable
from ..volumes.discovery import ScanFile
from .settings import PredictionSettings

__all__ = ["REPORT", "RUN", "STATISTICS", "Job", "keep_earlier", "label_file_names", "plan_jobs", "staged"]

REPORT, RUN = "report.html", "predictions.json"
STATISTICS, PREVIEW, PROBABILITIES = "statistics.json", "preview.png", "probabilities"


@dataclass(frozen=True)
class Job:
    """One scan and the names of what is written for it.

    Attributes:
        scan: The scan.
        suffix: Of its label map, e.g. ".nii.gz".
    """

    scan: ScanFile
    suffix: str

    @property
    def labels(self) -> str:
        """Name of the label map in the output folder."""
        return f"{self.scan.name}{self.suffix}"

    @property
    def folder(self) -> str:
        """Name of the folder, in the output folder, of all else."""
        return self.scan.name

    @property
    def probabilities(self) -> str:
        """Name of the file of probabilities in the case's folder; neither DICOM-SEG nor PNG could hold them."""
        return PROBABILITIES + (".nii.gz" if self.suffix in (".dcm", ".png") else self.suffix)


def plan_jobs(
    scans: Sequence[ScanFile], output: Path, settings: PredictionSettings, *, overwrite: bool = False
) -> list[Job]:
    """What is to be written for each scan, none over a scan, over another's or over what is there already.

    Raises:
        ValueError: Such a clash, or a setting that doesn't suit a scan.
    """
    if output.exists() and not output.is_dir():
        raise ValueError(
            f"--output {printable(output)} is a file: expected a folder, which is made where it is missing."
        )
    jobs = [Job(scan, f".{settings.format}" if settings.format else scan.suffix) for scan in scans]
    sources = {path.resolve() for scan in scans for path in (scan.path, *scan.files)}
    taken: dict[str, Path | None] = {REPORT: None, RUN: None}
    for job in jobs:
        _check_scan(job.scan, settings)
        target, folder = output / job.labels, output / job.folder
        inside = folder.resolve()
        if target.resolve() in sources or inside in sources or any(source.parent == inside for source in sources):
            raise ValueError(
                f"--output {printable(output)} holds the scan {printable(job.scan.path)} itself: choose another folder."
            )
        for name in (job.labels, job.folder):
            if name in taken:
                other = "the run's report" if taken[name] is None else printable(taken[name])
                raise ValueError(
                    f"{other} and {printable(job.scan.path)} share the name {printable(name)}: predict them into "
                    "different folders."
                )
            taken[name] = job.scan.path
        there = next((path for path in (target, folder) if _holds_something(path)), None)
        if there is not None and not overwrite:
            raise ValueError(
                f"{printable(there)} is there already: choose another folder, or give --overwrite to replace it."
            )
        if target.is_dir() or (folder.exists() and not folder.is_dir()):
            raise ValueError(
                f"{printable(target)} and the folder {printable(folder)} can't both be made: something is there."
            )
    return jobs


def _check_scan(scan: ScanFile, settings: PredictionSettings) -> None:
    if scan.name in (".", ".."):
        raise ValueError(f"{printable(scan.path)} gives no name to call its files by: rename it.")
    if settings.format == "dcm" and scan.kind != "dicom":
        raise ValueError(
            f"{printable(scan.path)} is no DICOM series, and DICOM-SEG refers to one: choose another --format for it."
        )
    if settings.min_island_ml and scan.kind == "image":
        raise ValueError(f"{printable(scan.path)} is a picture, which has no millilitres: leave out --min_island_ml.")


def _holds_something(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists()


def label_file_names(names: Mapping[int, str], suffix: str) -> dict[int, str]:
    """A file name for the mask of each label: its own name, but for what no file name should hold; no two alike."""
    reserved = {STATISTICS, PREVIEW, PROBABILITIES + suffix, f"{PROBABILITIES}.nii.gz"}
    files: dict[int, str] = {}
    for index, name in names.items():
        plain = re.sub(r"[^\w.+-]+", "_", name).strip("._")[:100] or f"label_{index}"
        taken = reserved | {file.casefold() for file in files.values()}
        files[index] = f"{plain}{suffix}" if f"{plain}{suffix}".casefold() not in taken else f"{plain}_{index}{suffix}"
    return files


@contextlib.contextmanager
def staged(output: Path, job: Job) -> Iterator[tuple[Path, Path]]:
    """Two folders to write a case's files in, moved into place where the block ends without an error.

    Yields:
        A folder for the label map, whose files go into `output`, and one for the files of the case's own folder.
    """
    output.mkdir(parents=True, exist_ok=True)
    with temporary_directory(output) as temporary:
        top, inside = temporary / "top", temporary / "case"
        top.mkdir()
        inside.mkdir()
        yield top, inside
        _move_in(output, job, top, inside)


def _move_in(output: Path, job: Job, top: Path, inside: Path) -> None:
    folder = output / job.folder
    stale = _earlier_files(output, job)
    made_folder = not folder.exists()
    folder.mkdir(exist_ok=True)
    # The label map comes last: where it is, all is.
    moves = [(file, folder / file.name) for file in inside.iterdir()]
    moves += [(file, output / file.name) for file in top.iterdir()]
    moved = []
    try:
        for file, target in moves:
            os.replace(file, target)
            moved.append(target)
    except BaseException:
        for target in moved:
            target.unlink(missing_ok=True)
        if made_folder:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    for path in stale - {target for _, target in moves}:
        path.unlink(missing_ok=True)


def _earlier_files(output: Path, job: Job) -> set[Path]:
    """What an earlier run wrote for this case, by its own list: beside new results, it would mislead."""
    try:
        statistics = json.loads((output / job.folder / STATISTICS).read_text(encoding="utf-8"))
        files = [str(file) for file in statistics["files"]]
    except (OSError, ValueError, LookupError, TypeError):
        return set()
    paths = [Path(file) for file in files if ".." not in Path(file).parts]
    return {
        output / path
        for path in paths
        if (len(path.parts) == 1 and path.name.startswith(f"{job.scan.name}."))
        or (len(path.parts) == 2 and path.parts[0] == job.folder)
    }


def keep_earlier(output: Path) -> None:
    """Give an earlier run's report other names, with a number, so that the new one doesn't replace it."""
    there = [output / name for name in (REPORT, RUN) if (output / name).exists()]
    number = 1
    while any((output / _numbered(name, number)).exists() for name in (REPORT, RUN)):
        number += 1
    for path in there:
        path.rename(path.with_name(_numbered(path.name, number)))


def _numbered(name: str, number: int) -> str:
    stem, suffix = os.path.splitext(name)
    return f"{stem}-{number}{suffix}"
