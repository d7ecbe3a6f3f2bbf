"""Damaged files of many kinds, always the same ones."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

CUTS = (0, 1, 10, 200, 0.3, 0.6, 0.9, 0.99)


def damaged(content: bytes, seed: int = 0, flips: int = 8) -> Iterator[tuple[str, bytes]]:
    """Yield the damaged contents of a file, each with a name."""
    generator = np.random.default_rng(seed)
    for cut in CUTS:
        length = int(cut * len(content)) if isinstance(cut, float) else min(cut, len(content) - 1)
        yield f"cut-at-{length}", content[:length]
    for flip in range(flips):
        changed = bytearray(content)
        # Half of the flips hit the header, where they hurt most.
        reach = min(len(content), 400) if flip % 2 else len(content)
        for position in generator.integers(0, reach, 1 + flip):
            changed[position] ^= 1 << int(generator.integers(0, 8))
        yield f"flipped-{flip}", bytes(changed)
    yield "zeros", bytes(len(content))
    yield "noise", generator.bytes(len(content))
    yield "a-page", b"<!doctype html><title>404 Not Found</title>" * 20
    yield "twice", content + content
    yield "hole", content[: len(content) // 2] + bytes(64) + content[len(content) // 2 + 64 :]


def png(
    width: int, height: int, depth: int = 8, color: int = 0, rows: bytes = b"", *chunks: tuple[bytes, bytes]
) -> bytes:
    """A PNG file whose header may claim more pixels than it holds; every checksum is right."""
    header = struct.pack(">2I5B", width, height, depth, color, 0, 0, 0)
    content = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in content
    )


def leftovers(directory: Path) -> list[str]:
    """Files and directories that only an interrupted write leaves behind."""
    return sorted(
        str(path.relative_to(directory)) for path in directory.rglob("*") if path.name.startswith((".", "tmp"))
    )
