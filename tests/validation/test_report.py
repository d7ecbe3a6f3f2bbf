"""The page about a data set: whole, offline, nothing in it taken for markup."""

import base64
import io
import json
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from samed_hf.cli import main

from ..data_folders import make_scans, save_nifti, write_nnunet, write_pictures

pytestmark = pytest.mark.slow

NASTY = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def report(tmp_path_factory, tiny_sam):
    """A data set with faults and nasty names, its page and its fingerprint."""
    folder = tmp_path_factory.mktemp("report")
    scans = make_scans(7, (30, 34, 5))
    scans["case_03"] = scans["case_03"][0], scans["case_03"][1] * 3
    scans["<b>bold&"] = scans.pop("case_06")
    names = {"background": 0, NASTY: 1, "$x^2": 2, "never seen": 4}
    root = write_nnunet(folder / "data", scans, labels=names, name=NASTY)
    (root / "imagesTr" / "case_05_0000.nii.gz").write_bytes(b"")
    save_nifti(root / "imagesTs" / "t_0000.nii.gz", *[scans["case_00"][0]])
    save_nifti(root / "labelsTs" / "t.nii.gz", scans["case_00"][1])
    argv = ["validate", str(root), "--output", str(folder / "out"), "--model_name_or_path", str(tiny_sam)]
    assert main(argv) == 1
    return (folder / "out" / "validation.html").read_text(), json.loads(
        (folder / "out" / "fingerprint.json").read_text()
    )


def test_it_is_one_file_for_reading_offline(report):
    page, _ = report
    assert page.startswith("<!DOCTYPE html>")
    assert set(re.findall(r'(?:src|href)="([a-z]+:[a-z+/]+)', page)) == {"data:image/jpeg", "data:image/svg+xml"}
    assert "http" not in re.sub(r'src="data:[^"]+"', "", page)
    assert "<script" not in page


def test_names_are_escaped(report):
    page, _ = report
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "&lt;b&gt;bold&amp;" in page
    assert "<b>bold" not in page


def test_problems_come_first_in_the_order_of_severity(report):
    page, fingerprint = report
    positions = [page.index(f'id="{name}"') for name in ("problems", "suggestions", "images", "labels", "cases")]
    assert positions == sorted(positions)
    severities = re.findall(r'<div class="box (\w+)">', page)
    assert severities == sorted(severities, key=["error", "warning", "note"].index)
    errors = [one for one in fingerprint["problems"] if one["severity"] == "error"]
    assert re.search(rf'class="error"><b>{len(errors)}</b> errors', page)
    kinds = [one["kind"] for one in errors]
    assert {"unreadable", "label-values", "leak", "missing-class"} <= set(kinds)


def test_its_images_are_valid(report):
    page, _ = report
    pictures = [base64.b64decode(one) for one in re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)]
    assert len(pictures) >= 3
    for content in pictures:
        with Image.open(io.BytesIO(content)) as picture:
            assert min(picture.size) > 200
            assert np.asarray(picture).std() > 10
    charts = [base64.b64decode(one) for one in re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', page)]
    assert len(charts) == 2
    drawn = ["".join(ET.fromstring(chart).itertext()) for chart in charts]
    assert all("$x^2" in one for one in drawn)  # as it stands, not as a formula


def test_every_case_has_its_row(report):
    page, _ = report
    rows = re.findall(r'<tr><th scope="row">(.+?)</th><td class="text">(\w+)</td>\n<td class="text (\w*)">(.*?)<', page)
    found = {name: (split, tone, problems) for name, split, tone, problems in rows}
    assert found["t"] == ("test", "", "–")
    assert found["case_00"] == ("train", "error", "the same case in two splits")
    assert found["case_03"][1] == "error"
    assert found["case_05"] == ("train", "error", "files that can&#39;t be read")
    assert len(found) == 8


def test_the_fingerprint_names_suggestions_and_command(report):
    page, fingerprint = report
    assert fingerprint["suggestions"]["image_size"]["value"] == 128
    assert fingerprint["command"].startswith("samed-hf train --model_name_or_path ")
    assert "--image_size 128" in page
    assert fingerprint["labels"]["never seen"]["cases"] == 0


def test_images_have_pixels_and_no_millilitres(tiny_sam, tmp_path):
    root = write_pictures(tmp_path / "data", make_scans(5, (30, 34, 3)))
    argv = ["validate", str(root), "--output", str(tmp_path / "out"), "--model_name_or_path", str(tiny_sam)]
    assert main(argv) == 0
    page = (tmp_path / "out" / "validation.html").read_text()
    assert "pixels per case" in page
    assert " ml" not in re.sub(r'src="data:[^"]+"', "", page)
    assert "mm between" not in page
