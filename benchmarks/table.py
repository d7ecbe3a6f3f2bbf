"""The table of docs/benchmarks.md, rendered from the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from samed_hf.utils.atomic import write_text

__all__ = ["render", "update_page"]

_BEGIN, _END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"


def render(results: Mapping[str, Any]) -> str:
    """Render the results as Markdown: the machine, then one row a benchmark with baseline, this package and ratio."""
    rows = [
        *_model_rows(results),
        *_routine_rows(results),
        *_memory_rows(results.get("memory", {})),
        *_loading_rows(results.get("loading", {})),
    ]
    machine = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        f"{machine['device']}, {machine['threads']} threads; Python {machine['python']}, {versions}.",
        "",
        "| what | plain | this package | ratio |",
        "|---|---|---|---|",
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
        *_remarks(results),
    ]
    return "\n".join(lines) + "\n"


def update_page(page: Path, table: str) -> None:
    """Replace the text between the two markers of a page by the table.

    Raises:
        ValueError: the page lacks a marker.
    """
    text = page.read_text(encoding="utf-8")
    head, begin, rest = text.partition(_BEGIN)
    _, end, tail = rest.partition(_END)
    if not (begin and end):
        raise ValueError(f"{page} lacks the lines {_BEGIN} and {_END}: add them where the table belongs.")
    write_text(page, f"{head}{_BEGIN}\n{table}{_END}{tail}")


def _model_rows(results: Mapping[str, Any]) -> list[Sequence[str]]:
    rows = []
    inference = results["inference"]
    seconds, ratio = inference["seconds"], inference["speed_up"]
    plain = f"{seconds['plain']:.2f} s"
    rows.append(("a slice, float32, adapter", plain, f"{seconds['adapter']:.2f} s", _times(ratio["adapter"])))
    rows.append(("a slice, float32, merged", plain, f"{seconds['merged']:.2f} s", _times(ratio["merged"])))
    if "bfloat16" in seconds:
        rows.append(
            ("a slice, bfloat16", f"{plain} (float32)", f"{seconds['bfloat16']:.2f} s", _times(ratio["bfloat16"]))
        )
    for kind in ("float32", "int8"):
        if (name := f"onnx_{kind}") in seconds:
            theirs = plain if kind == "float32" else f"{plain} (float32)"
            rows.append((f"a slice, ONNX Runtime, {kind}", theirs, f"{seconds[name]:.2f} s", _times(ratio[name])))
    for training in results["training"]:
        seconds, ratio = training["seconds"], training["speed_up"]
        name, plain = f"a training step, batch {training['batch_size']}", f"{seconds['plain']:.2f} s"
        rows.append((f"{name}, float32", plain, f"{seconds['ours']:.2f} s", _times(ratio["ours"])))
        if "mixed" in seconds:
            both = f"{plain} (float32), {seconds['plain, mixed']:.2f} s (mixed)"
            rows.append((f"{name}, bfloat16 mixed", both, f"{seconds['mixed']:.2f} s", _times(ratio["mixed"])))
    return rows


def _routine_rows(results: Mapping[str, Any]) -> list[Sequence[str]]:
    rows = []
    if "volumes" in results:
        rates, ratio = results["volumes"]["slices_per_second"], results["volumes"]["speed_up"]
        for name, kind in (("ours", "float32"), ("bfloat16", "bfloat16")):
            if name in rates:
                what = f"evaluation routine, slices per second, {kind}"
                rows.append((what, f"{rates['plain']:.2f}", f"{rates[name]:.2f}", _times(ratio[name])))
    for name, sample in results.get("samples", {}).items():
        theirs, ours = f"{1e3 * sample['scipy_s']:.1f} ms (scipy)", f"{1e3 * sample['ours_s']:.2f} ms"
        rows.append((f"a training sample, augmentation {name}, one thread", theirs, ours, _times(sample["ratio"])))
    if "scoring" in results:
        scoring = results["scoring"]
        theirs, ours = f"{scoring['medpy_s']:.1f} s (medpy)", f"{scoring['ours_s']:.2f} s"
        rows.append(("a case of 120×512×512 with 8 organs scored", theirs, ours, _times(scoring["ratio"])))
    return rows


def _memory_rows(memory: Mapping[str, Mapping[str, int]]) -> list[Sequence[str]]:
    rows = []
    for kind, usage in memory.items():
        for key, what in (("step", "memory that a training step adds"), ("peak", "peak memory of the process")):
            if kind != "plain":
                theirs, ours = memory["plain"][key], usage[key]
                name = f"{what}, {kind.replace('ours', 'float32')}"
                rows.append((name, f"{theirs / 1e9:.2f} GB", f"{ours / 1e9:.2f} GB", f"{ours / theirs:.2f}"))
    return rows


def _loading_rows(loading: Mapping[str, Any]) -> list[Sequence[str]]:
    if not loading:
        return []
    rows = [
        (
            name,
            f"{loading[key]['plain']:.2f} s",
            f"{loading[key]['ours']:.2f} s",
            _times(loading[key]["plain"] / loading[key]["ours"]),
        )
        for key, name in (("load", "base and adapter loaded"), ("cold_start", "new process to first prediction"))
    ]
    return [*rows, ("switching to another adapter", "", f"{1e3 * loading['switch']:.0f} ms", "")]


def _remarks(results: Mapping[str, Any]) -> list[str]:
    inference = results["inference"]
    exact = [value for name, value in inference["difference"].items() if name not in ("bfloat16", "onnx_int8")]
    lines = [
        f"Logits differ by {max(exact):.1e} of their range "
        f"(float32), gradients by {max(one['difference'] for one in results['training']):.1e} of their norm."
    ]
    shares = ", ".join(
        f"{100 * share:.0f} % in {kind} ({inference['rate'][kind] / 1e9:.0f} GFLOP/s)"
        for kind, share in inference["share"].items()
    )
    lines.append(f"The encoder runs at this share of the rate of its largest product alone: {shares}.")
    for kind, same in inference.get("same_class", {}).items():
        lines.append(f"In {kind} {100 * same:.2f} % of the pixels keep their class on these random weights.")
    if "bfloat16" not in inference["seconds"]:
        lines.append("The machine has no bfloat16 instructions: bfloat16 wasn't measured.")
    if "scoring" in results and "samples" in results:
        equal = results["scoring"]["equal"] and all(one["labels_equal"] for one in results["samples"].values())
        largest = max(one["max_difference"] for one in results["samples"].values())
        state = "equal" if equal else "NOT EQUAL"
        lines.append(f"Scores and labels are {state}; samples differ from scipy's by up to {largest:.0e}.")
    return lines


def _times(ratio: float) -> str:
    return f"{ratio:.2f}×" if ratio < 10 else f"{ratio:.0f}×"
