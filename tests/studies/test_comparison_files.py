"""The files of a comparison: page, CSV, LaTeX, Markdown and JSON, and the command that writes them."""

import csv
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from samed_hf.cli import main
from samed_hf.studies.comparison import compare_runs
from samed_hf.studies.comparison_files import all_notes, conclusions, tables, write_comparison

from .test_comparison import scores, write_run

ODD = r"5% of_A & B|<c> #1 ~^\{}$"


def compare(tmp_path, *dice, names=("a", "b", "c"), **options):
    runs = [write_run(tmp_path / f"run{number}", scores(one)) for number, one in enumerate(dice)]
    return compare_runs(runs, names=names[: len(runs)], draws=200, **options)


@pytest.mark.parametrize(
    ("differences", "said"),
    [
        ([0.1, -0.1, 0.05, -0.02, 0.03, -0.06, 0.01, 0.02], "no difference was shown"),
        ([0.0] * 8, "no difference was shown"),
        ([0.1, 0.2, 0.3], "the interval does not include zero, but the test shows no difference"),
        (np.linspace(0.1, 0.2, 10), "b is better."),
        (-np.linspace(0.1, 0.2, 10), "a is better."),
        ([0.1], "too few cases for an interval or a test"),
        (np.r_[-np.linspace(0.001, 0.01, 60), np.full(10, 0.4)], "the means and the test differ in the direction"),
    ],
)
def test_conclusions(tmp_path, differences, said):
    base = np.full(len(differences), 0.5)
    found = compare(tmp_path, base, base + differences, metrics=["dice"])
    assert said in conclusions(found)[0]
    names = write_comparison(tmp_path / "out", found)
    claims = re.compile("better|worse|improve|outperform|superior", re.IGNORECASE)
    claiming = [name for name in names if claims.search((tmp_path / "out" / name).read_text())]
    assert claiming == (["comparison.html", "comparison.md"] if said.endswith("is better.") else [])
    few = "p can't be below 0.05" in (tmp_path / "out" / "comparison.md").read_text()
    assert few == (np.count_nonzero(differences) < 6)


def test_the_run_with_the_lower_distance_is_better(tmp_path):
    dice = np.linspace(0.2, 0.6, 10)
    found = compare(tmp_path, dice, dice + 0.1, metrics=["hd95"])
    assert conclusions(found)[0].endswith("b is better (lower is better).")
    assert "b − a is −1.00 (−1.00 to −1.00) in 10 cases" in conclusions(found)[0]


def test_tables(tmp_path):
    dice = np.array([[0.5, 0.6, 0.7, 0.8], [0.6, 0.7, 0.65, 0.8]])
    content = scores(dice[1])
    content["c3"]["liver"]["hd95"] = None
    runs = [write_run(tmp_path / "a", scores(dice[0])), write_run(tmp_path / "b", content)]
    found = compare_runs(runs, draws=200)
    assert set(write_comparison(tmp_path / "out", found)) == {path.name for path in (tmp_path / "out").iterdir()}
    rows = list(csv.DictReader((tmp_path / "out" / "comparison.csv").open()))
    assert [*rows[0]] == ["case", "label", "score", "a", "b"]
    assert [float(row["b"]) for row in rows if row["score"] == "dice"] == dice[1].tolist()
    assert [(row["a"], row["b"]) for row in rows if row["case"] == "c3"][1] == (str(10 * (1 - 0.8)), "")
    tests = list(csv.DictReader((tmp_path / "out" / "tests.csv").open()))
    assert [(row["wins"], row["ties"], row["losses"], row["left_out"]) for row in tests] == [
        ("2", "1", "1", "0"),
        ("2", "0", "1", "1"),
    ]
    assert tests[1]["undefined in b"] == "1"
    assert [float(row["mean_difference"]) for row in tests] == [test.found.mean_difference for test in found.tests]
    assert any("HD95 (mm) ↓, liver" in note and "1 in b" in note for note in all_notes(found))
    rows = tables(found)["Tests"]
    low, high = found.tests[0].found.interval
    assert rows[1][4] == f"+0.0375 ({low:+.4f} to {high:+.4f})".replace("-", "−")


def test_odd_names_are_escaped(tmp_path):
    found = compare(tmp_path, [0.5, 0.6], [0.6, 0.7], names=("plain", ODD))
    write_comparison(tmp_path / "out", found)
    text = (tmp_path / "out" / "comparison.tex").read_text()
    escaped = r"5\% of\_A \& B\textbar{}\textless{}c\textgreater{} \#1 \textasciitilde{}\textasciicircum{}"
    assert escaped + r"\textbackslash{}\{\}\$" in text
    rows = [line for line in text.splitlines() if line.startswith("{}")]
    assert [len(re.findall(r"(?<!\\)&", row)) for row in rows] == [6, 6, 6]
    lines = [line for line in (tmp_path / "out" / "comparison.md").read_text().splitlines() if line.startswith("| ")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines[:4]} == {11}
    assert "5% of_A &amp; B|&lt;c&gt; #1" in (tmp_path / "out" / "comparison.html").read_text()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_the_table_compiles(tmp_path):
    rng = np.random.default_rng(0)
    runs = [
        write_run(tmp_path / name, scores(rng.uniform(0.3, 0.9, 9), label="[label]*")) for name in ("Größe", "b", "c")
    ]
    found = compare_runs(runs, names=["Größe", ODD, "*"], draws=200)
    write_comparison(tmp_path / "out", found)
    document = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\\input{comparison.tex}\\end{document}"
    (tmp_path / "out" / "main.tex").write_text(document)
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "main.tex"]
    done = subprocess.run(command, cwd=tmp_path / "out", capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]


def test_the_page_shows_the_cases_that_differ_most(tmp_path):
    found = compare(tmp_path, [0.5, 0.6, 0.7, 0.8], [0.5, 0.9, 0.72, 0.4])
    picture = Image.new("RGB", (8, 8), "red")
    picture.save(tmp_path / "run0" / "c3.png")
    (tmp_path / "run1" / "images").mkdir()
    picture.save(tmp_path / "run1" / "images" / "c3.png")
    picture.save(tmp_path / "run1" / "images" / "c0.png")  # of a case without a difference
    write_comparison(tmp_path / "out", found)
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert re.findall(r"<article><header><h3>(\w+)</h3>", page) == ["c3", "c1", "c2"]
    assert page.count("data:image/jpeg") == 2
    assert page.count("No image of this case") == 4
    assert page.count("data:image/svg") == 2 * 2
    assert "<script" not in page


def test_the_command(tmp_path, capsys):
    runs = [str(write_run(tmp_path / name, scores(one))) for name, one in (("a", [0.5, 0.7]), ("b", [0.6, 0.9]))]
    out = tmp_path / "out"
    assert main(["compare", *runs, "--output", str(out), "--metrics", "dice", "--names", "x, y"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"DSC +liver +0\.6000 +0\.7500 +\+0\.1500", printed)
    assert f"into {out}" in printed
    (tmp_path / "file").touch()
    for flags, named in (
        ([*runs, "--output", str(tmp_path / "file")], "a file: expected a directory"),
        (runs, "--output"),
        ([*runs, "--output", str(out), "--preset", "samed"], "--preset"),
        ([runs[0], "--output", str(out)], "--output"),
        ([*runs, "--output", str(out), "--allow", "labels"], "allow"),
    ):
        assert main(["compare", *flags]) == 2
        assert named in capsys.readouterr().err
