"""Scans and label maps as bytes, for workers that don't share the server's files, e.g. on other machines."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..volumes import ScanFile
from ..volumes.registry import suffix_of
from . import jobs
from .jobs import Correction, Reply, Request, Statistics

__all__ = ["Answer", "PackedScan", "check_scan", "pack", "save_label", "segment"]


@dataclass(frozen=True)
class PackedScan:
    """A scan whose paths are numbered names in no directory, and the contents of its files."""

    scan: ScanFile
    contents: tuple[bytes, ...]

    def unpack(self, directory: Path) -> ScanFile:
        """Write the files into an empty directory."""
        files = self.scan.files or (self.scan.path,)
        for file, content in zip(files, self.contents, strict=True):
            (directory / file).write_bytes(content)
        own = tuple(directory / file for file in self.scan.files)
        return replace(self.scan, path=directory / self.scan.path, files=own)


@dataclass(frozen=True)
class Answer:
    """A reply, with the contents of the label map that was written."""

    reply: Reply
    content: bytes = b""
    image: bytes = b""  # of a scan that was written too
    statistics: Statistics = field(default_factory=dict)


def pack(scan: ScanFile) -> PackedScan:
    """Read the files of a scan; of their names only the suffixes are kept.

    Raises:
        ValueError: a file is a header that names others.
    """
    files = scan.files or (scan.path,)
    suffixes = [suffix_of(file) or ".dcm" for file in files]
    for suffix in suffixes:
        if suffix in (".nhdr", ".mhd"):
            raise ValueError(f"The scan is a {suffix} file, whose voxels are in another one: convert it to .nii.gz.")
    names = [Path(f"{number:05d}{suffix}") for number, suffix in enumerate(suffixes)]
    path = Path() if scan.path.is_dir() else names[files.index(scan.path)]
    packed = replace(scan, name="scan", path=path, files=tuple(names) if scan.files else (), notes=())
    return PackedScan(packed, tuple(file.read_bytes() for file in files))


# Each runs in a worker, which writes the files to a temporary directory of its own.


def segment(adapter: str, scans: Sequence[tuple[PackedScan, str, str | None, bool]]) -> list[Answer]:
    """Segment scans with an adapter; each comes with suffix, data type and compression, see [`Request`]."""
    with tempfile.TemporaryDirectory(prefix="samed-worker-") as name:
        requests = []
        for number, (packed, suffix, dtype, compress) in enumerate(scans):
            (directory := Path(name) / str(number)).mkdir()
            (output := directory / "output").mkdir()
            scan, target = packed.unpack(directory), output / f"labels{suffix}"
            requests.append(Request(adapter, scan, target, dtype, compress))
        replies, statistics = jobs.segment(requests)
        contents = [_read(request.output) for request in requests]
        pairs = zip(replies, contents, strict=True)
        return [Answer(reply, content, statistics=statistics) for reply, content in pairs]


def save_label(
    packed: PackedScan, label: PackedScan, suffix: str, values: dict[int, int], num_channels: int, with_image: bool
) -> Answer:
    """Write a corrected label map, see [`Correction`], to a file of this suffix, and the scan as NIfTI if asked for."""
    with tempfile.TemporaryDirectory(prefix="samed-worker-") as name:
        directories = [Path(name) / part for part in ("scan", "label", "output")]
        for directory in directories:
            directory.mkdir()
        scan, file, output = packed.unpack(directories[0]), label.unpack(directories[1]).path, directories[2]
        image = output / "image.nii.gz"
        correction = Correction(
            scan, file, output / f"labels{suffix}", values, num_channels, image if with_image else None
        )
        return Answer(jobs.save_label(correction), _read(correction.output), _read(image))


def check_scan(packed: PackedScan, num_channels: int, suffix: str) -> Answer:
    """See [`~samed_hf.serving.worker.check_scan`]; `suffix` is that of the file to write, "" for none."""
    with tempfile.TemporaryDirectory(prefix="samed-worker-") as name:
        (directory := Path(name) / "scan").mkdir()
        output = Path(name) / f"image{suffix}" if suffix else None
        reply = jobs.check_scan(packed.unpack(directory), num_channels, output)
        return Answer(reply, b"" if output is None else _read(output))


def _read(file: Path) -> bytes:
    return file.read_bytes() if file.exists() else b""
