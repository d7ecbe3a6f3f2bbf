"""Files of a comparison of runs: page, CSV, LaTeX and Markdown, from the same rows of text."""

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..reporting.charts import GREY, finish_svg, hex_colors, shorten
from ..reporting.formatting import format_difference, format_score, plural
from ..reporting.html import data_uri, jpeg_uri, write_page
from ..utils.atomic import atomic_update
from ..utils.text import printable
from .comparison import MEAN, Comparison, PairedTest, is_higher_better

__all__ = ["all_notes", "conclusions", "tables", "write_comparison"]

_ALPHA = 0.05
_MOST = 5  # cases whose images are shown
_TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}"}
_TEX |= {">": r"\textgreater{}", "|": r"\textbar{}", "↓": r"$\downarrow$", "−": "$-$", "–": "--", "…": r"\dots{}"}
_TEX |= {char: f"\\{char}" for char in "&%$#_{}"}
_MARKDOWN = {char: f"\\{char}" for char in r"\`*_{}[]<>|#~$"}


def write_comparison(directory: str | os.PathLike[str], found: Comparison) -> list[str]:
    """Write all files together, and return their names."""
    tests = [_unrounded(found, test) for test in found.tests]
    context: dict[str, Any] = {"title": f"Comparison: {printable(', '.join(found.names))}", "method": _method(found)}
    context |= {"conclusions": conclusions(found), "notes": all_notes(found), "tables": tables(found)}
    context |= {"text_columns": 3 if len(found.names) > 2 else 2}
    texts = {
        "comparison.csv": _csv(_scores(found)),
        "comparison.md": _render("comparison.md.j2", _MARKDOWN, context),
        "comparison.tex": _render("comparison.tex.j2", _TEX, context),
        "tests.csv": _csv([[*tests[0]], *([*test.values()] for test in tests)]),
    }
    with atomic_update(directory) as folder:
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        _write_html(folder / "comparison.html", found, context)
    return ["comparison.html", *texts]


def _render(template: str, escapes: dict[str, str], context: dict[str, Any]) -> str:
    """Render Markdown or LaTeX, whose braces are not Jinja's; texts that aren't the template's own are escaped."""
    environment = Environment(
        loader=PackageLoader("samed_hf.studies"),
        finalize=lambda value: "".join(escapes.get(char, char) for char in str(value)),
        variable_start_string="<<",
        variable_end_string=">>",
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(context)


def conclusions(found: Comparison) -> list[str]:
    """A line for each score and run: of the mean over labels, or of the only label."""
    return [printable(_conclude(found, test)) for test in found.tests if test.label == found.labels[-1]]


def _conclude(found: Comparison, test: PairedTest) -> str:
    pair, subject = test.found, f"{found.title(test.score)}, {test.label}: {test.run} − {found.reference}"
    if pair.mean_difference is None:
        return f"{subject} has no case with a score in every run."
    shown = f"{subject} is {format_difference(test.score, pair.mean_difference, pair.interval)}"
    shown += f" in {plural(pair.cases, 'case')}"
    if pair.interval is None or test.p_holm is None:
        return f"{shown}: too few cases for an interval or a test."
    shown += f", p (Holm) {_p(test.p_holm)}"
    if pair.interval[0] <= 0 <= pair.interval[1]:
        return f"{shown}: no difference was shown."
    if test.p_holm >= _ALPHA:
        return f"{shown}: the interval does not include zero, but the test shows no difference."
    is_better = (pair.mean_difference > 0) == is_higher_better(test.score)
    if is_better != ((pair.effect_size or 0) > 0):
        return f"{shown}: the means and the test differ in the direction."
    best = test.run if is_better else found.reference
    return f"{shown}: {best} is better{'' if is_higher_better(test.score) else ' (lower is better)'}."


def all_notes(found: Comparison) -> list[str]:
    """The notes on the runs, and on tests of few cases and undefined scores."""
    notes, tests = list(found.notes), plural(len(found.tests), "test")
    if few := sum(test.found.wins + test.found.losses < 6 for test in found.tests):
        notes.append(f"{few} of {tests}: p can't be below 0.05 with fewer than 6 cases that differ.")
    for test in found.tests[:: len(found.names) - 1]:  # the first of each score and label
        if any(test.undefined.values()) and test.label != MEAN:
            counts = ", ".join(f"{count} in {name}" for name, count in test.undefined.items() if count)
            where = f"{found.title(test.score)}, {test.label}"
            notes.append(f"{where} is undefined in cases in which another run has a score, left out: {counts}.")
    return [*map(printable, notes)]


def tables(found: Comparison) -> dict[str, list[list[str]]]:
    """The tests and the mean ranks as text: for each table a head and its rows, which begin with the score."""
    several = len(found.names) > 2
    head = ["score", "label", "run", found.reference, "mean of run" if several else found.tests[0].run]
    tests = [[*head, "difference (95 % interval)", "p", "p (Holm)", "effect", "win/tie/loss", "cases"]]
    for test in found.tests:
        pair, means = test.found, [format_score(test.score, one) for one in test.means or (None, None)]
        numbers = [format_difference(test.score, pair.mean_difference, pair.interval), _p(pair.p_value)]
        numbers += [_p(test.p_holm), "–" if pair.effect_size is None else f"{pair.effect_size:+.2f}".replace("-", "−")]
        cases = f"{pair.cases}" + (f" ({pair.left_out} left out)" if pair.left_out else "")
        wins = f"{pair.wins}/{pair.ties}/{pair.losses}"
        tests.append([found.title(test.score), test.label, test.run, *means, *numbers, wins, cases])
    tests = tests if several else [[*row[:2], *row[3:]] for row in tests]
    ranks = [["score", *found.names, *(["p (Friedman)"] if several else []), "cases"]]
    for rank in found.ranks:
        own = [f"{one:.2f}" for one in rank.mean_ranks] or ["–"] * len(found.names)
        ranks.append([found.title(rank.score), *own, *([_p(rank.p_value)] if several else []), str(rank.cases)])
    return {name: [[*map(printable, row)] for row in rows] for name, rows in (("Tests", tests), ("Mean ranks", ranks))}


def _p(value: float | None) -> str:
    return "–" if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"


def _method(found: Comparison) -> str:
    """How the numbers were computed."""
    lower = ", ".join(found.title(score) for score in found.values if not is_higher_better(score))
    corrected = plural(sum(test.p_holm is not None for test in found.tests), "test")
    return printable(
        f"{plural(len(found.cases), 'case')}; {found.rules()}. Difference: a run's score minus that of "
        f"{found.reference}, mean over cases with its 95 % BCa bootstrap interval. p: two-sided Wilcoxon signed-rank "
        f"test without differences of zero, corrected by Holm's method over all {corrected}. Effect: matched-pairs "
        f"rank-biserial correlation, positive where the run has the higher score"
        f"{f' (the lower one for {lower})' if lower else ''}, which is a win. Cases without a score in every run are "
        f"left out; the {MEAN} is over those that have one in every run."
    )


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    content = io.StringIO()
    csv.writer(content, lineterminator="\n").writerows(rows)
    return content.getvalue()


def _scores(found: Comparison) -> list[list[Any]]:
    """A head, and one row for each case, label and score."""
    rows: list[list[Any]] = [["case", "label", "score", *found.names]]
    for score, array in found.values.items():
        for column, label in enumerate(found.labels):
            for case, values in zip(found.cases, array[:, :, column].T.tolist(), strict=True):
                rows.append([case, label, score, *(None if np.isnan(value) else value for value in values)])
    return rows


def _unrounded(found: Comparison, test: PairedTest) -> dict[str, Any]:
    pair, direction = test.found._asdict(), "higher" if is_higher_better(test.score) else "lower"
    ends = dict(zip(("low", "high"), pair.pop("interval") or (None, None), strict=True))
    means = dict(zip(("reference_mean", "run_mean"), test.means or (None, None), strict=True))
    facts = {"score": test.score, "label": test.label, "reference": found.reference, "run": test.run}
    undefined = {f"undefined in {name}": count for name, count in test.undefined.items()}
    return facts | {"direction": direction} | means | pair | ends | {"p_holm": test.p_holm} | undefined


def _write_html(path: Path, found: Comparison, context: dict[str, Any]) -> None:
    shown = sum(test.p_holm is not None and test.p_holm < _ALPHA for test in found.tests)
    captions = {
        _draw_differences: f"mean difference from {found.reference} with its 95 % interval",
        _draw_pairs: f"{found.labels[-1]}, one line for each case with a score in every run",
    }
    charts = [
        {"caption": f"{found.title(score)}: {caption}", "source": data_uri(draw(found, score), "image/svg+xml")}
        for score in found.values
        for draw, caption in captions.items()
    ]
    write_page(
        path,
        "samed_hf.studies",
        "comparison.html.j2",
        subtitle=f"compared with {found.reference} · {found.rules()}",
        facts=[(len(found.cases), "cases", ""), (len(found.tests), "tests", ""), (shown, "with p (Holm) < 0.05", "")],
        charts=charts,
        cases=_most_different(found),
        runs=dict(zip(found.names, map(str, found.folders), strict=True)),
        **context,
    )


def _draw_differences(found: Comparison, score: str) -> bytes:
    """Draw the mean differences with their intervals, one row for each label and run."""
    tests = [test for test in found.tests if test.score == score]
    runs = [name for name in found.names if name != found.reference]
    colors = dict(zip(runs, hex_colors(len(runs) + 1)[1:], strict=True))
    figure, axis = _figure(0.9 + 0.25 * len(tests))
    axis.axvline(0, color=GREY, linestyle="--", linewidth=1)
    for row, test in enumerate(tests):
        if (mean := test.found.mean_difference) is not None:
            axis.plot(test.found.interval or [mean] * 2, [row, row], color=colors[test.run], linewidth=2)
            axis.plot(mean, row, "o", color=colors[test.run], markersize=5.5)
    axis.set(yticks=range(len(tests)), ylim=(len(tests) - 0.5, -0.5), xlabel=f"difference in {found.title(score)}")
    names = [test.label if len(runs) == 1 else f"{shorten(test.label)}, {shorten(test.run)}" for test in tests]
    axis.set_yticklabels([shorten(name, 42) for name in names], parse_math=False)
    return finish_svg(figure, axis)


def _draw_pairs(found: Comparison, score: str) -> bytes:
    """Draw each case's scores as a line over the runs, and the means."""
    values = found.values[score][:, :, -1]
    values = values[:, ~np.isnan(values).any(axis=0)]
    figure, axis = _figure(3.2)
    if values.size:
        axis.plot(values, ".-", color=GREY, alpha=0.35, linewidth=0.8, markersize=4)
        axis.plot(values.mean(axis=1), "o-", color=hex_colors(2)[1], linewidth=2, label="mean")
    axis.set(xticks=range(len(found.names)), xlim=(-0.4, len(found.names) - 0.6), ylabel=found.title(score))
    axis.yaxis.label.set(color=GREY, fontsize=9)
    axis.set_xticklabels([shorten(name) for name in found.names], parse_math=False)
    return finish_svg(figure, axis)


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure((6.4, height), layout="constrained")
    return figure, figure.subplots()


def _most_different(found: Comparison) -> list[dict[str, Any]]:
    """The cases whose first score differs most between the runs, with the images that `samed-hf` drew."""
    score, array = next(iter(found.values.items()))
    spread, cases = np.nan_to_num(np.ptp(array[..., -1], axis=0)), []
    for index in [int(one) for one in np.argsort(-spread, kind="stable")[:_MOST] if spread[one] > 0]:
        name, panels = found.cases[index], []
        for run, folder, value in zip(found.names, found.folders, array[:, index, -1], strict=True):
            paths = (folder / f"{name}.png", folder / "images" / f"{name}.png")
            # The name of a case can't lead out of the directory.
            image = next((path for path in paths if path.name == f"{name}.png" and path.is_file()), None)
            caption = f"{run}: {format_score(score, float(value))}"
            panels.append({"caption": caption, "source": image and jpeg_uri(image)})
        cases.append({"name": name, "panels": panels, "score": f"{found.title(score)}, {found.labels[-1]}"})
    return cases
