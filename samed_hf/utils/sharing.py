"""Items divided into shares of nearly equal size, over processes or the jobs of an array, and the merge of their parts.

A part is the JSON file of one job: `{"method": {…}, "cases": [{"name": …}, …], "shard": {…}}`.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .text import printable

__all__ = ["Shard", "balanced_shares", "complete_parts", "merge_parts", "method_differences", "read_part", "read_parts"]


@dataclass(frozen=True)
class Shard:
    """The share of one job among `count` jobs."""

    index: int  # from 1
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Parse e.g. "3/16"."""
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise ValueError(f"{text!r}: expected INDEX/COUNT with an index from 1 to the count, e.g. 3/16")
        return cls(int(match[1]), int(match[2]))

    def file_name(self, name: str) -> str:
        """The name of this job's part of a file, e.g. "predictions-3-of-16.json"."""
        return f"{Path(name).stem}-{self.index}-of-{self.count}{Path(name).suffix}"

    def describe(self, items: Sequence[tuple[str, int]], numbers: Sequence[int]) -> dict[str, Any]:
        """The entry "shard" of a part: of all `items`, names and sizes, its cases are those of `numbers`."""
        digest = hashlib.sha256(json.dumps(items).encode("utf-8", "surrogatepass")).hexdigest()
        return {**asdict(self), "items": f"sha256:{digest}", "numbers": list(numbers)}


def balanced_shares(sizes: Sequence[int], count: int) -> list[list[int]]:
    """Divide items into `count` shares: the largest first, each to the share that is the smallest so far.

    Returns:
        The indices of each share's items, ascending. They depend on nothing but the arguments.
    """
    shares: list[list[int]] = [[] for _ in range(count)]
    totals = [(0, index) for index in range(count)]
    for item in sorted(range(len(sizes)), key=lambda item: -sizes[item]):
        total, index = totals[0]
        heapq.heapreplace(totals, (total + max(sizes[item], 1), index))
        shares[index].append(item)
    return [sorted(share) for share in shares]


def method_differences(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Describe how two methods differ, e.g. "tta True instead of False"; empty if they are equal."""
    keys = [key for key in {**now, **earlier} if earlier.get(key) != now.get(key)]
    if "dtype" in keys and "models" in keys:
        keys.remove("models")  # the hashes of rounded weights differ in any case
    texts = {key: f"{key} {earlier.get(key)}, not {now.get(key)}" for key in keys}
    return ", ".join((texts | {"models": "another adapter or base model"})[key] for key in keys)


def read_part(path: Path) -> dict[str, Any]:
    """Read a part or the file of a whole run.

    Raises:
        ValueError: it is no JSON, or doesn't hold a method and cases.
    """
    try:
        part = json.loads(path.read_bytes())
        cases = [(case["name"], case["status"]) for case in part["cases"]]
        if not (isinstance(part["method"], dict) and all(isinstance(name, str) for name, _ in cases)):
            raise TypeError
        if (shard := part.get("shard")) is not None:
            if not 1 <= int(shard["index"]) <= int(shard["count"]) or len(shard["numbers"]) != len(cases):
                raise TypeError
            str(shard["items"])
    except (ValueError, LookupError, TypeError, AttributeError):
        raise ValueError(f"{printable(path)} isn't a list of cases with their method: predict them again.") from None
    return part


def read_parts(directory: Path, name: str, count: int | None = None) -> dict[Path, dict[str, Any]]:
    """Read the parts of a file in a directory, e.g. of "predictions.json", by their paths, in the order of the jobs."""
    pattern = re.compile(rf"{re.escape(Path(name).stem)}-(\d+)-of-(\d+){re.escape(Path(name).suffix)}")
    found = ((pattern.fullmatch(path.name), path) for path in directory.iterdir())
    numbered = sorted((int(match[1]), path) for match, path in found if match and count in (None, int(match[2])))
    return {path: read_part(path) for _, path in numbered}


def complete_parts(own: Mapping[str, Any], parts: Iterable[Mapping[str, Any]]) -> bool:
    """Whether all parts are there, and of the same method and list of cases as `own`, not of an earlier run."""
    same = [part["method"] == own["method"] and part["shard"]["items"] == own["shard"]["items"] for part in parts]
    return sum(same) == own["shard"]["count"]


def merge_parts(parts: Mapping[Path, dict[str, Any]]) -> dict[str, Any]:
    """Return the first of the parts, or of whole runs, with the cases of all, in the order of a single run.

    Raises:
        ValueError: their methods or their lists of cases differ, a part is missing, or a case is in two of them.
    """
    first, *others = parts
    shards = {path: part["shard"] for path, part in parts.items() if "shard" in part}
    for path in others:
        if differences := method_differences(parts[first]["method"], parts[path]["method"]):
            raise ValueError(f"{printable(first)} and {printable(path)} differ in their method: {differences}.")
    for path in others if shards else []:
        one, other = (shards.get(each, {}) for each in (first, path))
        if any(one.get(key) != other.get(key) for key in ("count", "items")):
            raise ValueError(f"{printable(first)} and {printable(path)} are shards of different lists of cases.")
    if shards:
        count = shards[first]["count"]
        if missing := sorted(set(range(1, count + 1)) - {shard["index"] for shard in shards.values()}):
            raise ValueError(f"--shard {', '.join(f'{index}/{count}' for index in missing)} is missing: run it first.")
    cases = [case for part in parts.values() for case in part["cases"]]
    if twice := [name for name, number in Counter(case["name"] for case in cases).items() if number > 1]:
        raise ValueError(f"The case {printable(twice[0])} is in two of {_names(parts)}: expected each case once.")
    if shards:
        numbers = [number for shard in shards.values() for number in shard["numbers"]]
        cases = [case for _, case in sorted(zip(numbers, cases, strict=True), key=lambda pair: pair[0])]
    return {key: value for key, value in parts[first].items() if key != "shard"} | {"cases": cases}


def _names(paths: Iterable[Path]) -> str:
    return ", ".join(map(printable, paths))
