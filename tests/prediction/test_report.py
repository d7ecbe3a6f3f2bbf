import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from samed_hf.prediction import run as prediction_run
from samed_hf.prediction.files import write_json
from samed_hf.prediction.run import write_report
from samed_hf.reporting.charts import label_colors


def row(index, ml=None, pixels=None, faces=(), mean=80.0, sd=20.0):
    size = {"voxels": round(ml * 1000), "ml": ml} if pixels is None else {"pixels": pixels}
    found = any(size.values())
    return {
        "index": index,
        **size,
        "mean_intensity": mean if found else None,
        "sd_intensity": sd if found else None,
        "mean_confidence": 0.876 if found else None,
        "touches_border": bool(faces),
        "border_faces": list(faces),
        "bounding_box": [[0, 1]] * 3 if found else None,
    }


def add_case(directory, name, rows, *, kind="nifti", preview=True, **more):
    """Write the files of a case as a run does, and return its record in predictions.json."""
    (directory / name).mkdir()
    grid = {"shape": [64, 48, 20]} | ({} if kind == "image" else {"spacing_mm": [0.9765625, 0.9765625, 2.0]})
    content = {"case": name, "kind": kind, "grid": grid, "notes": [], "labels": rows, "removed": {}} | more
    (directory / name / "statistics.json").write_text(json.dumps(content))
    if preview:
        Image.new("RGB", (30, 20), (200, 30, 30)).save(directory / name / "preview.png")
    return {
        "name": name,
        "file": f"/data/{name}.nii.gz",
        "status": "done",
        "seconds": 3.2,
        "files": [f"{name}.nii.gz", f"{name}/statistics.json"],
        "statistics": f"{name}/statistics.json",
        "preview": f"{name}/preview.png" if preview else None,
    }


@pytest.fixture
def run():
    return {
        "created": "2025-01-31 10:00:00+01:00",
        "seconds": 75.4,
        "labels": {"1": "liver", "2": "left kidney", "3": "cyst"},
        "settings": {"adapter": "user/adapter", "labels": None, "tta": True, "min_island_ml": {"liver": 1.0}},
        "versions": {"torch": "2.9.0"},
        "cases": [],
    }


class Page(HTMLParser):
    """The text, the addresses and the tags of a page; fails where tags don't close in order."""

    def __init__(self, path):
        super().__init__()
        self.words, self.links, self.tags, self.open = [], [], [], []
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for key, value in attributes if key in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.words.append(data)


def test_a_page_with_everything(run, tmp_path):
    rows = {"liver": row(1, 1510.4, faces=["superior"]), "left kidney": row(2, 9.1), "cyst": row(3, 0.0)}
    run["cases"] = [
        add_case(tmp_path, "a", rows, notes=["2 duplicated slices left out"], removed={"liver": 17}),
        add_case(tmp_path, "b", rows | {"liver": row(1, 0.0)}, preview=False),
        {"name": "c", "file": "/data/c.nii.gz", "status": "failed", "error": "/data/c.nii.gz cannot be read"},
    ]
    write_report(tmp_path / "report.html", run)
    page = Page(tmp_path / "report.html")
    for words in (
        "2 cases segmented",
        "1 failed",
        "1 min 15 s in all",
        "Failed c /data/c.nii.gz cannot be read /data/c.nii.gz",
        "case liver left kidney a 1510 ml confidence 0.88 border 9.1 ml confidence 0.88 b – 9.1 ml",
        "Found in no case: cyst.",
        "/data/a.nii.gz · 64 × 48 × 20 voxels · 0.977 × 0.977 × 2 mm · 2 duplicated slices left out · 3.2 s",
        "liver 1 510 400 1510 80 ± 20 0.88 superior",
        "Removed by the clean-up: liver 17 voxels.",
        "adapter user/adapter labels no tta yes min island ml liver: 1.0",
        "torch 2.9.0",
        "A research tool, not a medical device.",
    ):
        assert words in page.text
    assert "script" not in page.tags
    images = [link for link in page.links if link.startswith("data:image/jpeg;base64,")]
    assert len(images) == 1
    with Image.open(io.BytesIO(base64.b64decode(images[0].partition(",")[2]))) as image:
        assert image.size == (30, 20)
        assert np.abs(np.asarray(image).mean(axis=(0, 1)) - (200, 30, 30)).max() < 5
    others = {link for link in page.links if link not in images}
    assert others == {
        "#case-1",
        "#case-2",
        *(f"{name}{end}" for name in "ab" for end in (".nii.gz", "/statistics.json")),
    }


def test_the_page_loads_nothing_from_the_network(run, tmp_path):
    run["cases"] = [add_case(tmp_path, "a", {"liver": row(1, 5.0)})]
    write_report(tmp_path / "report.html", run)
    text = re.sub(r"data:image/jpeg;base64,[A-Za-z0-9+/=]*", "", (tmp_path / "report.html").read_text("utf-8"))
    assert not re.search(r"https?:|//|url\(|@import|<script|<link|\son\w+=", text)


def test_unusual_names_are_escaped(run, tmp_path):
    unusual = "<script>alert('x')</script>\"&amp;{{ 7*7 }}\n\udcff"
    run["labels"] = {"1": unusual}
    run["settings"] = {unusual: unusual}
    case = add_case(tmp_path, "a", {unusual: row(1, 5.0, faces=["left"])}, notes=[unusual], removed={unusual: 1})
    case |= {"name": unusual, "file": unusual, "files": ["a b#?<>%.nii.gz", "\udcff.nii.gz", "javascript:alert(1)"]}
    run["cases"] = [case, {"name": unusual, "file": unusual, "status": "failed", "error": unusual}]
    write_report(tmp_path / "report.html", run)
    page = Page(tmp_path / "report.html")
    assert "script" not in page.tags
    assert page.text.count("<script>alert('x')</script>\"&amp;{{ 7*7 }}") >= 6
    assert page.links[-3:] == ["a%20b%23%3F%3C%3E%25.nii.gz", "%FF.nii.gz", "javascript%3Aalert%281%29"]


def test_images_and_channels(run, tmp_path):
    rows = {"liver": row(1, pixels=1234, faces=["top"], mean=[10.0, 20.5, 30.25], sd=[1.0, 2.0, 3.0])}
    run["cases"] = [add_case(tmp_path, "photo", rows, kind="image")]
    write_report(tmp_path / "report.html", run)
    text = Page(tmp_path / "report.html").text
    assert "photo 1 234 pixels confidence 0.88 border" in text
    assert "64 × 48 × 20 pixels · 3.2 s" in text
    assert "10 ± 1, 20.5 ± 2, 30.25 ± 3" in text
    assert " ml" not in text.partition("Settings")[0]


def test_cases_without_findings_and_runs_without_cases(run, tmp_path):
    run["cases"] = [add_case(tmp_path, "a", {"liver": row(1, 0.0)})]
    write_report(tmp_path / "report.html", run)
    assert "Nothing found." in Page(tmp_path / "report.html").text
    run["cases"] = [{"name": "a", "file": "a", "status": "failed", "error": "why"}]
    write_report(tmp_path / "report.html", run)
    page = Page(tmp_path / "report.html").text
    assert "0 cases segmented 1 failed" in page
    assert "All cases" not in page


def test_only_the_first_images_are_part_of_the_page(run, tmp_path, monkeypatch):
    monkeypatch.setattr(prediction_run, "_MAX_IMAGES", 2)
    run["cases"] = [add_case(tmp_path, f"case{number}", {"liver": row(1, 5.0)}) for number in range(4)]
    write_report(tmp_path / "report.html", run)
    page = Page(tmp_path / "report.html")
    assert page.tags.count("img") == 2
    assert "in case3/preview.png" in page.text
    assert "in case1/preview.png" not in page.text


def test_swatches_have_the_colours_of_the_images(run, tmp_path):
    run["cases"] = [add_case(tmp_path, "a", {"liver": row(1, 5.0), "left kidney": row(2, 0.0), "cyst": row(3, 1.0)})]
    write_report(tmp_path / "report.html", run)
    styles = re.findall(r"background:(#[0-9a-f]{6})\"></span>(\w+)", (tmp_path / "report.html").read_text("utf-8"))
    colors = ["#" + "".join(f"{round(float(part) * 255):02x}" for part in color) for color in label_colors(4)]
    assert styles == [(colors[1], "liver"), (colors[3], "cyst")] * 2


def test_the_run_is_plain_json(run, tmp_path):
    run["cases"] = [{"name": "\udcff", "status": "failed"}]
    write_json(tmp_path / "predictions.json", run)
    assert json.loads((tmp_path / "predictions.json").read_text(encoding="ascii")) == run
    with pytest.raises(ValueError):
        write_json(tmp_path / "nan.json", {"mean": float("nan")})
    assert not (tmp_path / "nan.json").exists()
