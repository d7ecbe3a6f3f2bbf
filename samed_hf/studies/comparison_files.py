"""Files of a comparison of runs: page, CSV, LaTeX, Markdown and JSON."""

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ..reporting.charts import GREY, finish_svg, hex_colors, shorten
from ..reporting.formatting import format_score, format_value, plural, score_titles
from ..reporting.html import data_uri, jpeg_uri, write_page
from ..utils.atomic import atomic_update
from ..utils.text import printable
from .comparison import LOWER, MEAN, Comparison, PairedTest

__all__ = ["all_notes", "conclusions", "rank_table", "table", "write_comparison"]

_ALPHA = 0.05
_MOST = 5  # cases whose images are shown
_FOREST = "mean difference from {} with its 95 % interval"
_PAIRS = "{}, one line for each case with a score in every run"
_TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}"}
_TEX |= {">": r"\textgreater{}", "|": r"\textbar{}", "↓": r"$\downarrow$", "−": "$-$", "–": "--", "…": r"\dots{}"}
_TEX |= {char: f"\\{char}" for char in "&%$#_{}"}


def write_comparison(directory: str | os.PathLike[str], found: Comparison) -> list[str]:
    """Write all files together, and return their names."""
    tests = [_facts(found, test) for test in found.tests]
    content = {"runs": found.names, "reference": found.reference, **found.about, "notes": all_notes(found)}
    content |= {"tests": tests, "ranks": [rank._asdict() for rank in found.ranks]}
    texts = {
        "comparison.csv": _csv(_value_rows(found)),
        "comparison.json": json.dumps(content, indent=2) + "\n",
        "comparison.md": _markdown(found),
        "comparison.tex": _latex(found),
        "tests.csv": _csv([[*tests[0]], *([*test.values()] for test in tests)]),
    }
    with atomic_update(directory) as folder:
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        _write_html(folder / "comparison.html", found)
    return ["comparison.html", *texts]


def conclusions(found: Comparison) -> list[str]:
    """A sentence for each score and run: of the mean over labels, or of the only label."""
    return [_conclude(found, test) for test in found.tests if test.label == found.labels[-1]]


def _conclude(found: Comparison, test: PairedTest) -> str:
    pair = test.found
    subject = f"{_title(found, test.score)}, {test.label}: {test.run} − {found.reference}"
    if pair.mean_difference is None:
        return f"{subject} has no case with a score in every run."
    shown = f"{subject} is {_signed(test.score, pair.mean_difference)} in {plural(pair.cases, 'case')}"
    if pair.interval is None or test.p_holm is None:
        return f"{shown}: too few cases for an interval or a test."
    low, high = (_signed(test.score, end) for end in pair.interval)
    shown += f", 95 % interval {low} to {high}, p (Holm) {_p(test.p_holm)}"
    if pair.interval[0] <= 0 <= pair.interval[1]:
        return f"{shown}: no difference of the means was shown."
    if test.p_holm >= _ALPHA:
        return f"{shown}: the interval does not include zero, but the test shows no difference."
    return f"{shown}: {test.run} has {'higher' if pair.mean_difference > 0 else 'lower'} scores."


def _method(found: Comparison) -> str:
    """How the numbers were computed."""
    lower = ", ".join(_title(found, score) for score in found.values if score in LOWER)
    lower = f" (the lower one for {lower})" if lower else ""
    corrected = plural(sum(test.p_holm is not None for test in found.tests), "test")
    return (
        f"{plural(len(found.cases), 'case')}; {_about(found)}. Differences are a run's score minus that of "
        f"{found.reference} in the same case, with the 95 % BCa bootstrap interval of their mean over cases. p: "
        "two-sided Wilcoxon signed-rank test; differences of zero are left out of the ranks; exact or by the normal "
        f"approximation, as scipy's method auto chooses. p (Holm): corrected over all {corrected} of this table. "
        "Effect: matched-pairs rank-biserial correlation. It is positive, and a case a win, where the run has the "
        f"higher score{lower}. Cases without a score in every run are left out; the {MEAN} is over those that have "
        "one in every run."
    )


def all_notes(found: Comparison) -> list[str]:
    """The notes on the runs, and on tests of few cases and undefined scores."""
    notes, tests = list(found.notes), plural(len(found.tests), "test")
    if few := sum(test.found.wins + test.found.losses < 6 for test in found.tests):
        notes.append(f"{few} of {tests}: p can't be below 0.05 with fewer than 6 cases that differ.")
    for test in found.tests[:: len(found.names) - 1]:  # the first of each score and label
        if any(test.undefined.values()) and test.label != MEAN:
            counts = ", ".join(f"{count} in {name}" for name, count in test.undefined.items() if count)
            where = f"{_title(found, test.score)}, {test.label}"
            notes.append(f"{where} is undefined in cases in which another run has a score, left out: {counts}.")
    return notes


def _about(found: Comparison) -> str:
    return ", ".join(f"{key} {format_value(value)}" for key, value in found.about.items())


def table(found: Comparison) -> list[list[str]]:
    """The tests as text: a head and one row for each."""
    several = len(found.names) > 2
    head = ["score", "label", "run", found.reference, "mean of run" if several else found.tests[0].run, "difference"]
    rows = [[*head, "95 % low", "high", "p", "p (Holm)", "effect", "win/tie/loss", "cases"]]
    for test in found.tests:
        pair, score = test.found, test.score
        numbers = [format_score(score, mean) for mean in test.means or (None, None)]
        numbers += [_signed(score, value) for value in (pair.mean_difference, *(pair.interval or (None, None)))]
        numbers += [_p(pair.p_value), _p(test.p_holm), "–" if pair.effect_size is None else f"{pair.effect_size:+.2f}"]
        numbers += [f"{pair.wins}/{pair.ties}/{pair.losses}"]
        numbers += [f"{pair.cases}" + (f" ({pair.left_out} left out)" if pair.left_out else "")]
        rows.append([_title(found, score), test.label, test.run, *(one.replace("-", "−") for one in numbers)])
    return rows if several else [[*row[:2], *row[3:]] for row in rows]


def rank_table(found: Comparison) -> list[list[str]]:
    """The mean ranks as text: a head and one row for each score."""
    friedman = ["p (Friedman)"] if len(found.names) > 2 else []
    rows = [["score", *found.names, *friedman, "cases"]]
    for rank in found.ranks:
        ranks = [f"{one:.2f}" for one in rank.mean_ranks] or ["–"] * len(found.names)
        rows.append([_title(found, rank.score), *ranks, *([_p(rank.p_value)] if friedman else []), str(rank.cases)])
    return rows


def _title(found: Comparison, score: str) -> str:
    titles = score_titles(found.about | {"mean": found.values})
    return titles[score] + (" ↓" if score in LOWER else "")


def _signed(score: str, value: float | None) -> str:
    text = format_score(score, value)
    return f"+{text}" if value is not None and value > 0 else text


def _p(value: float | None) -> str:
    return "–" if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    content = io.StringIO()
    csv.writer(content, lineterminator="\n").writerows(rows)
    return content.getvalue()


def _value_rows(found: Comparison) -> list[list[Any]]:
    rows: list[list[Any]] = [["case", "label", "score", *found.names]]
    for score, array in found.values.items():
        for column, label in enumerate(found.labels):
            for case, values in zip(found.cases, array[:, :, column].T.tolist(), strict=True):
                rows.append([case, label, score, *(None if np.isnan(value) else value for value in values)])
    return rows


def _facts(found: Comparison, test: PairedTest) -> dict[str, Any]:
    """One test, flat and unrounded."""
    pair = test.found._asdict()
    means, interval = test.means or (None, None), pair.pop("interval") or (None, None)
    facts: dict[str, Any] = {"score": test.score, "label": test.label, "reference": found.reference, "run": test.run}
    facts |= {
        "direction": "lower" if test.score in LOWER else "higher",
        "reference_mean": means[0],
        "run_mean": means[1],
    }
    facts |= pair | {"low": interval[0], "high": interval[1], "p_holm": test.p_holm}
    return facts | {f"undefined in {name}": count for name, count in test.undefined.items()}


def _markdown(found: Comparison) -> str:
    def escape(text: str) -> str:
        return "".join(f"\\{char}" if char in r"\`*_{}[]<>|#~" else char for char in printable(text))

    def lines(head: list[str], *rows: list[str]) -> str:
        every = [map(escape, head), ["---", *["---:"] * (len(head) - 1)], *(map(escape, row) for row in rows)]
        return "\n".join(f"| {' | '.join(row)} |" for row in every)

    parts = [f"# Comparison of {escape(', '.join(found.names))}", *(f"- {escape(line)}" for line in conclusions(found))]
    parts += [lines(*table(found)), *map(escape, (_method(found), *all_notes(found))), "Mean ranks:"]
    return "\n\n".join([*parts, lines(*rank_table(found))]) + "\n"


def _latex(found: Comparison) -> str:
    """A table of the `booktabs` package. All numbers of a score have the same digits, so that the decimals align."""
    head, *rows = table(found)
    kept = [index for index, cell in enumerate(head) if cell not in ("score", "p", "win/tie/loss")]
    text = 2 if len(found.names) > 2 else 1  # columns of text
    lines = ["% \\usepackage{booktabs}; XeLaTeX or LuaLaTeX if names are not in Latin letters", r"\begin{table}"]
    lines += [r"\centering\footnotesize\setlength{\tabcolsep}{3pt}", rf"\caption{{{_tex(_method(found))}}}"]
    lines += [rf"\begin{{tabular}}{{{'l' * text}{'r' * (len(kept) - text)}}}", r"\toprule"]
    for row, before in zip([head, *rows], [head, head, *rows], strict=False):
        if row[0] != before[0]:
            lines += [r"\midrule", rf"\multicolumn{{{len(kept)}}}{{l}}{{{_tex(row[0])}}} \\"]
        # A bracket or star after the end of a line would be an argument of it.
        lines.append("{}" + " & ".join(_tex(row[index]) for index in kept) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _tex(text: str) -> str:
    return "".join(_TEX.get(char, char) for char in printable(text))


def _write_html(path: Path, found: Comparison) -> None:
    shown = sum(test.p_holm is not None and test.p_holm < _ALPHA for test in found.tests)
    facts = [(len(found.cases), "cases", ""), (len(found.tests), "tests", ""), (shown, "with p (Holm) below 0.05", "")]
    kinds = ((_draw_differences, _FOREST.format(found.reference)), (_draw_pairs, _PAIRS.format(found.labels[-1])))
    charts = [
        {"caption": f"{_title(found, score)}: {caption}", "source": data_uri(draw(found, score), "image/svg+xml")}
        for score in found.values
        for draw, caption in kinds
    ]
    write_page(
        path,
        "samed_hf.studies",
        "comparison.html.j2",
        title=f"Comparison: {', '.join(found.names)}",
        subtitle=f"compared with {found.reference} · {_about(found)}",
        facts=facts,
        notes=all_notes(found),
        conclusions=conclusions(found),
        tables={"Tests": table(found), "Mean ranks": rank_table(found)},
        method=_method(found),
        charts=charts,
        cases=_most_different(found),
        runs=dict(zip(found.names, map(str, found.folders), strict=True)),
    )


def _draw_differences(found: Comparison, score: str) -> bytes:
    """Draw the mean differences with their intervals, one row for each label."""
    tests = [test for test in found.tests if test.score == score]
    others = [name for name in found.names if name != found.reference]
    figure = Figure((6.4, 0.9 + 0.25 * len(tests)), layout="constrained")
    axis = figure.subplots()
    axis.axvline(0, color=GREY, linestyle="--", linewidth=1)
    for name, color in zip(others, hex_colors(len(others) + 1)[1:], strict=True):
        pairs = [(row, test.found) for row, test in enumerate(tests) if test.run == name and test.found.cases]
        rows = [(row, [pair.mean_difference], pair.interval) for row, pair in pairs]
        points = [(row, *mean, *(interval or mean * 2)) for row, mean, interval in rows]
        heights, means, low, high = np.array(points, dtype=np.float64).reshape(-1, 4).T
        axis.scatter(means, heights, s=30, color=color)
        axis.hlines(heights, low, high, color=color, linewidth=2)
    axis.set(yticks=range(len(tests)), ylim=(len(tests) - 0.5, -0.5), xlabel=f"difference in {_title(found, score)}")
    names = [test.label if len(others) == 1 else f"{shorten(test.label)}, {shorten(test.run)}" for test in tests]
    axis.set_yticklabels([shorten(name, 42) for name in names], parse_math=False)
    return finish_svg(figure, axis)


def _draw_pairs(found: Comparison, score: str) -> bytes:
    """Draw each case's scores as a line over the runs, and the means."""
    values = found.values[score][:, :, -1]
    values = values[:, ~np.isnan(values).any(axis=0)]
    figure = Figure((6.4, 3.2), layout="constrained")
    axis = figure.subplots()
    if values.size:
        axis.plot(values, ".-", color=GREY, alpha=0.35, linewidth=0.8, markersize=4)
        axis.plot(values.mean(axis=1), "o-", color=hex_colors(2)[1], linewidth=2, label="mean")
    axis.set(xticks=range(len(found.names)), xlim=(-0.4, len(found.names) - 0.6), ylabel=_title(found, score))
    axis.yaxis.label.set(color=GREY, fontsize=9)
    axis.set_xticklabels([shorten(name) for name in found.names], parse_math=False)
    return finish_svg(figure, axis)


def _most_different(found: Comparison) -> list[dict[str, Any]]:
    """The cases whose first score differs most between the runs, with the runs' images."""
    score, array = next(iter(found.values.items()))
    spread, cases = np.nan_to_num(np.ptp(array[..., -1], axis=0)), []
    for index in [int(one) for one in np.argsort(-spread, kind="stable")[:_MOST] if spread[one] > 0]:
        panels = [
            {"caption": f"{run}: {format_score(score, float(value))}", "source": _image(folder, found.cases[index])}
            for run, folder, value in zip(found.names, found.folders, array[:, index, -1], strict=True)
        ]
        title = f"{_title(found, score)}, {found.labels[-1]}"
        cases.append({"name": found.cases[index], "panels": panels, "score": title})
    return cases


def _image(folder: Path, case: str) -> str | None:
    """The image of a case that `samed-hf evaluate` or `cross-validate` drew, or `None`."""
    for path in (folder / f"{case}.png", folder / "images" / f"{case}.png"):
        if path.name == f"{case}.png" and path.is_file():
            return jpeg_uri(path)
    return None
