"""Files damaged in every way that a disk, a network or a person manages, always the same ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

CUTS = (0, 1, 10, 200, 0.3, 0.6, 0.9, 0.99)


def damaged(content: bytes, seed: int = 0, flips: int = 8) -> Iterator[tuple[str, bytes]]:
    """What a file's content can become, each with a word for it."""
    generator = np.random.default_rng(seed)
    for cut in CUTS:
        length = int(cut * len(content)) if isinstance(cut, float) else min(cut, len(content) - 1)
        yield f"cut-at-{length}", content[:length]
    for flip in range(flips):
        changed = bytearray(content)
        # Half of the flips hit the header, where they hurt most.
        reach = min(len(content), 400) if flip % 2 else len(content)
        for place in generator.integers(0, reach, 1 + flip):
            changed[place] ^= 1 << int(generator.integers(0, 8))
        yield f"flipped-{flip}", bytes(changed)
    yield "zeros", bytes(len(content))
    yield "noise", generator.bytes(len(content))
    yield "a-page", b"<!doctype html><title>404 Not Found</title>" * 20
    yield "twice", content + content
    yield "hole", content[: len(content) // 2] + bytes(64) + content[len(content) // 2 + 64 :]


def leftovers(folder: Path) -> list[str]:
    """Files and folders that only a write broken off leaves behind."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.name.startswith((".", "tmp")))
