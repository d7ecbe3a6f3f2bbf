"""The report of a training: one file for reading offline, its curves, tables and pictures; nothing taken for markup."""

import base64
import io
import json
import math
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from samed_hf.training.arguments import SamedTrainingArguments
from samed_hf.training.monitoring.charts import (
    best_validation,
    draw_gradient,
    draw_label_losses,
    draw_losses,
    draw_validation,
)
from samed_hf.training.monitoring.report import skipped_rows, write_training_report

NASTY = "<script>alert(1)</script>"
LABELS = ["background", NASTY, "$x^2", "cyst"]
METRICS = {
    "protocol": "strict",
    "split": "test",
    "distance_unit": "mm",
    "mean": {"dice": 0.8125, "hd95": 11.504},
    "per_class": {
        NASTY: {"dice": 0.9, "hd95": 11.504, "cases": 2, "hd95_undefined": 0},
        "$x^2": {"dice": 0.725, "hd95": None, "cases": 1, "hd95_undefined": 1},
    },
    "per_case": {"a": {}, "b": {}},
}


def rows_of(count, validated=None, skipped=()):
    rows = []
    for step in range(1, count + 1):
        bad = step in skipped
        row = {
            "step": step,
            "epoch": step / 10,
            "learning_rate": 0.005 / step,
            "loss": math.nan if bad else 2.0 / step,
            "cross_entropy": 1.0 / step,
            "dice": math.nan if bad else 1.0,
            "dice_per_class": [0.1, 0.2, 0.3, 0.4 / step],
            "gradient_norm": math.inf if bad else 0.5,
            "samples_per_second": 10.0 + step % 2,
            "memory_bytes": 1_000_000_000 + step,
            "skipped": sum(one <= step for one in skipped),
        }
        if validated and step in validated:
            row["validation_dice"] = validated[step]
            row["validation_dice_per_class"] = {NASTY: validated[step], "cyst": 0.25}
        rows.append(row)
    return rows


@pytest.fixture
def make_run(tmp_path):
    def make(rows, **changes):
        folder = tmp_path / f"run {NASTY.replace('/', '')}"
        folder.mkdir(exist_ok=True)
        settings = {"model_name_or_path": "facebook/sam-vit-base", "data_dir": NASTY, "max_grad_norm": 0.5}
        args = SamedTrainingArguments(**(settings | changes), hub_token="hf_secret", output_dir=str(folder))
        data = SimpleNamespace(root=NASTY, layout="nnU-Net", notes=[f"a note on {NASTY}"])
        data.train, data.validation, data.test = [f"case{i}" for i in range(30)], [NASTY, "b"], ["t1", "t2"]
        data.selection = [NASTY]
        return SimpleNamespace(
            args=args,
            log=rows,
            seconds=7384.0,
            plan=SimpleNamespace(steps=40),
            output_dir=folder,
            data=data,
            model=SimpleNamespace(config=SimpleNamespace(id2label=dict(enumerate(LABELS)))),
        )

    return make


def write(run, metrics=METRICS):
    path = run.output_dir / "training_report.html"
    write_training_report(path, run, metrics)
    return path.read_text(encoding="utf-8")


class Page(HTMLParser):
    """The page's elements by name, the text of its sections, and whether all elements are closed."""

    VOID = ("meta", "img", "br")

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.sections, self.section = [], {}, {}, None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.setdefault(tag, []).append(dict(attrs))
        if tag == "section":
            self.section = dict(attrs).get("id", f"table-{len(self.sections)}")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "section":
            self.section = None

    def handle_data(self, data):
        if data.strip():
            self.sections.setdefault(self.section, []).append(" ".join(data.split()))


def charts_of(page):
    """The text of each curve, by its caption."""
    found = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)" alt="([^"]+)"', page)
    return {caption: " ".join(ET.fromstring(base64.b64decode(chart)).itertext()) for chart, caption in found}


# ---------------------------------------------------------------------------------------------------------------- page


def test_it_is_one_file_for_reading_offline(make_run):
    run = make_run(rows_of(40, {20: 0.5, 40: 0.75}))
    (run.output_dir / "watch").mkdir()
    Image.new("RGB", (30, 20), "red").save(run.output_dir / "watch" / "step-000040.png")
    text = write(run)
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>")
    assert page.open == []
    assert {image["src"].partition(",")[0] for image in page.elements["img"]} == {
        "data:image/jpeg;base64",
        "data:image/svg+xml;base64",
    }
    assert not {"script", "link", "a", "iframe"} & set(page.elements)
    assert "http" not in re.sub(r'src="data:[^"]+"', "", text)
    assert page.elements["meta"][1]["content"] == "width=device-width, initial-scale=1"
    assert [one.name for one in run.output_dir.iterdir() if one.is_file()] == ["training_report.html"]


def test_names_are_escaped(make_run):
    page = Page(write(make_run(rows_of(40, {40: 0.75}))))
    shown = [section for section, words in page.sections.items() if any("alert(1)" in word for word in words)]
    assert {None, "scores", "validations"} <= set(shown)
    assert sum("alert(1)" in word for word in page.sections[None]) >= 3  # title, data, note
    charts = charts_of(write(make_run(rows_of(40, {40: 0.75}))))
    assert "$x^2" in charts["Dice loss of each label"]  # as it stands, not as a formula


def test_facts_come_first(make_run):
    words = Page(write(make_run(rows_of(40, {20: 0.75, 30: 0.5, 40: 0.75}, skipped=(7,))))).sections[None]
    facts = dict(zip(words[1:], words[:-1], strict=True))
    assert facts["steps"] == "40 of 40"
    assert facts["epochs"] == "4.0"
    assert facts["of training"] == "2 h 3 min"
    assert facts["Dice, best of 3 validations, 1 of 2 cases, step 20"] == "0.7500"
    assert facts["Dice on the test cases"] == "0.8125"
    assert facts["step skipped"] == "1"
    assert facts["slices a second"] == "10.5"
    assert facts["of memory at most"] == "1 GB"


def test_scores_validations_and_skipped_steps_are_tables(make_run):
    sections = Page(write(make_run(rows_of(40, {20: 0.75, 40: 0.5}, skipped=(7, 9))))).sections
    assert sections["scores"][1:17] == [
        *("label", "DSC", "HD95 (mm)", "cases"),
        *(NASTY, "0.9000", "11.50", "2"),
        *("$x^2", "0.7250", "–", "1"),
        *("mean", "0.8125", "11.50"),
        sections["scores"][16],
    ]
    assert sections["scores"][16].startswith("2 test cases, protocol strict.")
    # "$x^2" is in no validation case.
    assert sections["validations"][1:16] == [
        *("step", "epoch", "mean Dice", NASTY, "cyst"),
        *("20 · best", "2.0", "0.7500", "0.7500", "0.2500"),
        *("40", "4.0", "0.5000", "0.5000", "0.2500"),
    ]
    assert sections["skipped"][2:] == ["step", "loss", "gradient norm", "7", "nan", "inf", "9", "nan", "inf"]


def test_settings_and_versions_are_listed_without_the_token(make_run):
    run = make_run(rows_of(40))
    text = write(run)
    words = [word for words in Page(text).sections.values() for word in words]
    for name, value in (("max grad norm", "0.5"), ("save best", "yes"), ("report to", "no")):
        assert (name in words) == (value != "no")  # settings that aren't given are left out
        assert value == "no" or words[words.index(name) + 1] == value
    assert words[words.index("train") + 1] == f"30: {', '.join(f'case{i}' for i in range(20))} and 10 more"
    assert re.fullmatch(r"\d+\.\d+.*", words[words.index("torch") + 1])
    assert "hf_secret" not in text
    # What the run's own record holds goes before.
    about = {"data_fingerprint": "sha256:abc", "code": {"changed": True}, "versions": {"samed_hf": "9.9"}}
    record = {"rank": 4, "cases": {"train": ["x"]}, "run": about}
    (run.output_dir / "training_settings.json").write_text(json.dumps(record))
    tables = list(Page(write(run)).sections.values())[-5:]
    assert tables == [
        ["Settings", "rank", "4"],
        ["Run", "data fingerprint", "sha256:abc"],
        ["Code", "changed", "yes"],
        ["Versions", "samed_hf", "9.9"],
        ["Cases", "train", "1: x"],
    ]


def test_the_last_image_is_open_and_the_first_and_best_are_folded(make_run):
    run = make_run(rows_of(40, {10: 0.25, 20: 0.75, 30: 0.5, 40: 0.5}))
    (run.output_dir / "watch").mkdir()
    grays = {10: 40, 20: 80, 30: 120, 40: 160, 50: 200}  # a step 50 isn't of this run
    for step, gray in grays.items():
        Image.new("RGB", (30, 20), (gray,) * 3).save(run.output_dir / "watch" / f"step-{step:06d}.png")
    Image.new("RGB", (30, 20), "white").save(run.output_dir / "overlay.png")
    text = write(run)
    found = re.findall(r'src="data:image/jpeg;base64,([^"]+)" alt="([^"]+)"', text)
    seen = {alt: int(np.asarray(Image.open(io.BytesIO(base64.b64decode(content)))).mean()) for content, alt in found}
    assert seen == {
        "The last validation: step 40": 160,
        "The best validation: step 20": 80,
        "The first validation: step 10": 40,
        "A case not trained on, with the final adapter": 255,
    }
    assert len(Page(text).elements["details"]) == 2
    run.log = rows_of(10, {10: 0.25})
    assert 'alt="The last, the best, the first validation: step 10"' in write(run)


def test_a_run_without_anything_has_a_page_too(make_run):
    for rows in ([], [{"step": 1, "loss": 0.5}], [{"step": 1, "learning_rate": 0.1, "validation_dice": math.nan}]):
        page = Page(write(make_run(rows), metrics=None))
        assert page.open == []
        assert "scores" not in page.sections
        assert "images" not in page.sections
        assert page.sections["skipped"][1].startswith("None")
        assert f"The run ended early, after {len(rows)} of 40 steps." in page.sections[None]
    empty = METRICS | {"mean": {"dice": None, "hd95": None}, "per_class": {"cyst": {"dice": None, "hd95": None}}}
    assert "–" in Page(write(make_run([]), empty)).sections["scores"]


def test_random_weights_are_called_a_demonstration(make_run):
    run = make_run(rows_of(40), model_name_or_path=None, data_dir=None)
    words = Page(write(run)).sections[None]
    assert any("not a medical result" in word for word in words)
    assert any("synthetic phantom patients" in word for word in words)
    assert not any("not a medical result" in word for word in Page(write(make_run(rows_of(40)))).sections[None])


# -------------------------------------------------------------------------------------------------------------- curves


@pytest.fixture
def figures(monkeypatch):
    """Every figure that is saved, to look at what is in it."""
    drawn, save = [], Figure.savefig

    def keep(figure, *args, **kwargs):
        drawn.append(figure)
        return save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    return drawn


def lines_of(figure):
    """The lines with a name of their own."""
    names = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    handles, _ = figure.axes[0].get_legend_handles_labels()
    return dict(zip(names, handles, strict=True))


def test_losses_omit_and_mark_values_that_are_not_finite(figures):
    draw_losses(rows_of(10, skipped=(4,)), skipped=[4])
    lines = lines_of(figures[0])
    assert set(lines) == {"loss", "cross-entropy", "Dice loss", "skipped"}
    assert lines["loss"].get_xdata().tolist() == [1, 2, 3, 5, 6, 7, 8, 9, 10]
    np.testing.assert_allclose(lines["loss"].get_ydata(), [2.0 / step for step in lines["loss"].get_xdata()])
    assert lines["skipped"].get_xdata() == [4, 4]


def test_the_best_validation_is_marked(figures):
    rows = rows_of(40, {10: 0.5, 20: 0.75, 30: 0.75, 40: math.nan})
    assert best_validation(rows)["step"] == 20
    assert best_validation(rows_of(3)) is None
    draw_validation(rows, LABELS)
    lines = lines_of(figures[0])
    assert set(lines) == {NASTY[:19] + "…", "cyst", "mean", "best"}
    assert lines["mean"].get_xydata().tolist() == [[10, 0.5], [20, 0.75], [30, 0.75]]
    assert lines["cyst"].get_xydata().tolist() == [[step, 0.25] for step in (10, 20, 30, 40)]
    assert lines["best"].get_xydata().tolist() == [[20, 0.75]]


def test_each_label_has_its_loss(figures):
    draw_label_losses(rows_of(19), LABELS)
    lines = list(lines_of(figures[0]).values())
    assert len(lines) == 4
    np.testing.assert_allclose(lines[3].get_ydata(), [0.4 / step for step in range(1, 20)])


def test_gradients_are_drawn_with_the_norm_they_are_clipped_to(figures):
    rows = [{"step": step, "gradient_norm": 10.0**step} for step in (1, 2, 3)]
    draw_gradient(rows, limit=0.5)
    draw_gradient(rows_of(5), limit=None)
    assert [figure.axes[0].get_yscale() for figure in figures] == ["log", "linear"]
    assert lines_of(figures[0])["clipped to 0.5"].get_ydata() == [0.5, 0.5]
    assert set(lines_of(figures[1])) == {"gradient norm"}


def test_a_long_run_hides_no_peak_and_stays_small(figures):
    rows = [{"step": step, "gradient_norm": 1.0} for step in range(1, 20001)]
    rows[12344]["gradient_norm"], rows[777]["gradient_norm"] = 9.0, 0.5
    content = draw_gradient(rows)
    raw = figures[0].axes[0].get_lines()[0].get_xydata().tolist()
    assert [12345, 9.0] in raw
    assert [778, 0.5] in raw
    assert raw == sorted(raw)
    assert len(raw) <= 600
    assert len(content) < 100_000


def test_skipped_steps_are_where_the_count_rises():
    counts = [0, 1, 1, 3, 3]
    rows = [{"step": step, "skipped": count} for step, count in enumerate(counts, 1)]
    assert [row["step"] for row in skipped_rows(rows)] == [2, 4]
    assert skipped_rows([{"step": 1}, {"step": 2}]) == []
