"""The exported page in a real browser: open, segment, download, and no request besides the page's own files."""

import json
import subprocess

import nibabel as nib
import numpy as np
import pytest
import yaml
from PIL import Image

from samed_hf.cli import main
from samed_hf.export import browser as browser_export
from samed_hf.export import export_page
from samed_hf.inference import predict_image, predict_volume
from samed_hf.volumes import read_volume

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from ..conftest import TINY_LABELS
from ..dicom_files import OBLIQUE, JPEG2000Lossless, stored_scan, write_series
from .browser_page import SENDING

pytestmark = pytest.mark.usefixtures("graphs")


@pytest.mark.slow
def test_the_files(site):
    config = json.loads((site / "config.json").read_text())
    assert [label["name"] for label in config["labels"]] == list(TINY_LABELS.values())
    assert config["preprocessor"]["orientation"] == "LPS"
    assert config["model"]["bytes"] == (site / "model.onnx").stat().st_size
    front = yaml.safe_load((site / "README.md").read_text().split("---")[1])
    assert front["sdk"] == "static"
    assert front["custom_headers"]["cross-origin-opener-policy"] == "same-origin"
    assert "Microsoft Corporation" in (site / "vendor" / "LICENSES.md").read_text()
    for library in config["libraries"].values():
        assert (site / library["url"]).stat().st_size == library["bytes"]


@pytest.mark.slow
def test_libraries_from_a_cdn(page_adapter, site, tmp_path):
    command = ["export", str(page_adapter), "--format", "browser", "--output", str(tmp_path / "out"), "--no-vendor"]
    assert main(command) == 0
    assert not (tmp_path / "out" / "vendor").exists()
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    for name, library in config["libraries"].items():
        assert library["url"].startswith("https://cdn.jsdelivr.net/npm/")
        assert library["integrity"] == json.loads((site / "config.json").read_text())["libraries"][name]["integrity"]
    assert "connect-src 'self' https://cdn.jsdelivr.net/npm/;" in (tmp_path / "out" / "index.html").read_text()


def test_a_directory_with_other_files_is_not_replaced(tmp_path):
    for name in ("index.html", "notes.txt"):
        (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=r"output is .*notes\.txt"):
        export_page("adapter", tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_offline_without_a_cache(tmp_path, monkeypatch):
    def offline(command, **options):
        return subprocess.CompletedProcess(command, 1, "", "no network")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(browser_export.subprocess, "run", offline)
    monkeypatch.setattr(browser_export.shutil, "which", lambda name: name)
    with pytest.raises(ConnectionError, match=r"niivue@0\.69\.0"):
        export_page("adapter", tmp_path / "out")
    cached = tmp_path / "samed_hf" / "npm" / "onnxruntime-web@1.30.0.tgz"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"something else")
    with pytest.raises(ConnectionError, match="onnxruntime-web"):
        browser_export._read_package("onnxruntime-web@1.30.0", "another hash")
    monkeypatch.setattr(browser_export.shutil, "which", lambda name: None)
    with pytest.raises(FileNotFoundError, match="npm"):
        export_page("adapter", tmp_path / "out")


@pytest.mark.slow
@pytest.mark.browser
def test_a_scan(page, page_model, page_scan, address):
    volume = read_volume(page_scan)
    expected = predict_volume(page_model, volume)
    written = nib.load(page.segment(page_scan).save())
    assert len(np.unique(expected)) > 1
    assert np.mean(np.asarray(written.dataobj) == expected) >= 0.999
    np.testing.assert_array_equal(written.affine, nib.load(page_scan).affine)
    rows = page.text("legend")
    label = int(np.argmax(np.bincount(expected.ravel())[1:])) + 1
    assert TINY_LABELS[label] in rows
    ml = np.count_nonzero(np.asarray(written.dataobj) == label) * volume.voxel_ml
    assert f"{ml:.1f} ml" in rows
    # Loading takes the page's own files; nothing is requested afterwards, and nothing can be.
    assert page.loaded
    assert all(url.startswith(address) for url in page.loaded)
    assert page.requests() == []
    assert page.asked
    page.asked.clear()
    from_page = SENDING + "const done = arguments[1]; send(arguments[0]).then(done);"
    from_worker = """
        const channel = new BroadcastChannel("probe"), done = arguments[1];
        channel.onmessage = ({data}) => data.outcome && done(data.outcome);
        channel.postMessage({to: arguments[0]});
    """
    ways = set()
    for script in (from_page, from_worker):
        outcome = page.browser.execute_async_script(script, address)
        assert set(outcome.values()) == {"refused"}, outcome
        ways |= set(outcome)
    assert len(ways) >= 10
    assert page.asked == []  # by the server's own record


@pytest.mark.slow
@pytest.mark.browser
def test_a_dropped_file_and_cancel(page, page_scan):
    drop = """
        const data = new DataTransfer(), bytes = Uint8Array.from(arguments[0]);
        data.items.add(new File([bytes], "dropped.nii.gz"));
        document.body.dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true}));
    """
    page.browser.execute_script(drop, list(page_scan.read_bytes()))
    page.until("dropped.nii.gz: 80 × 96 × 8 voxels, 8 slices")
    during = """
        document.getElementById("segment").click();
        const leave = new Event("beforeunload", {cancelable: true});
        dispatchEvent(leave); // as a tab that is closed does
        document.getElementById("cancel").click();
        return leave.defaultPrevented;
    """
    assert page.browser.execute_script(during)
    page.until("Cancelled")
    assert not page.browser.find_element("id", "save").is_enabled()
    page.click("segment")
    page.until("Done in")


@pytest.mark.slow
@pytest.mark.browser
def test_dicom_folders(page, page_model, tmp_path):
    stored = np.random.default_rng(5).normal(1040, 120, (40, 48, 5)).astype(np.uint16)
    tilted = {"shift": (0, 1.5, 0)}  # as of a gantry
    turned = {"orientation": OBLIQUE, "name": "IM{:04d}".format, "syntax": JPEG2000Lossless}
    for number, options in enumerate((turned, tilted)):
        folder = tmp_path / str(number)
        write_series(folder, stored, spacing=(2, 2, 5), **options)
        volume = read_volume(folder)
        expected = predict_volume(page_model, volume)
        written = nib.load(page.segment(folder, field="folder").save())
        # The page's grid may run along other directions of the axes: compare at the same places.
        places = np.linalg.inv(volume.affine) @ written.affine
        indices = places[:3, :3] @ np.indices(written.shape).reshape(3, -1) + places[:3, 3:]
        found = np.rint(indices).astype(int)
        assert np.abs(indices - found).max() < 0.01
        assert np.mean(np.asarray(written.dataobj).ravel() == expected[tuple(found)]) >= 0.999


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_an_image(page, page_model, tmp_path, mode):
    shape = (40, 50) if mode == "L" else (40, 50, 3)
    image = Image.fromarray(np.random.default_rng(1).integers(0, 255, shape, dtype=np.uint8))
    (tmp_path / "in").mkdir()
    image.save(tmp_path / "in" / "image.png")
    written = Image.open(page.segment(tmp_path / "in" / "image.png").save())
    assert np.mean(np.asarray(written) == predict_image(page_model, image)[0]) >= 0.999


def _strip(dataset, _):
    del dataset.ImageOrientationPatient, dataset.ImagePositionPatient


@pytest.mark.slow
@pytest.mark.browser
def test_files_that_cannot_be_used(page, page_scan, tmp_path):
    (tmp_path / "short.nii.gz").write_bytes(page_scan.read_bytes()[:-900])
    page.give(tmp_path / "short.nii.gz")
    page.until("damaged", "error")
    (tmp_path / "notes.txt").write_text("no scan")
    page.give(tmp_path / "notes.txt")
    page.until("No scan was found in notes.txt", "error")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(200))
    page.give(tmp_path / "broken.png")
    page.until("broken.png is damaged", "error")
    write_series(tmp_path / "gap", leave_out=[2])
    page.give(tmp_path / "gap", field="folder")
    page.until("uneven distances", "error")
    page.give(write_series(tmp_path / "projection", stored_scan()[:, :, :1], change=_strip)[0])
    page.until("no place in the patient", "error")
    colours = np.random.default_rng(2).integers(0, 255, (20, 2100, 3), dtype=np.uint8)
    Image.fromarray(colours).save(tmp_path / "photo.png")
    page.give(tmp_path / "photo.png")
    told = page.until("2100 × 20 pixels")
    assert "colour and was turned into grey" in told
    assert "the picture is reduced" in told  # the software renderer's textures have sides of at most 2048
    with (tmp_path / "large.nii").open("wb") as file:
        file.truncate(2_100_000_000)
    page.give(tmp_path / "large.nii")
    page.until("large.nii is too large: 2.1 GB", "error")
    (tmp_path / "large.nii").unlink()
    page.give(page_scan)  # the page goes on
    page.until("to segment", seconds=30)
    assert page.text("error") == ""


@pytest.mark.slow
@pytest.mark.browser
def test_keys_window_and_legend(page, page_scan):
    from selenium.webdriver.common.keys import Keys

    page.segment(page_scan)
    planes, places = page.browser.find_element("id", "planes"), []
    for key in (Keys.ARROW_UP, Keys.ARROW_UP, Keys.ARROW_LEFT, Keys.PAGE_UP):
        planes.send_keys(key)
        places.append(page.text("place"))
    assert len(set(places)) == 4
    value = "return document.getElementById(arguments[0]).value"
    assert page.browser.execute_script(value, "low") == "-125"
    planes.send_keys("ww")
    assert page.browser.execute_script(value, "window") == "-125,275"  # the first preset of CT
    planes.send_keys("+")
    assert page.browser.execute_script(value, "opacity") == "0.6"
    page.browser.find_element("css selector", "#legend input").click()
    assert not page.text("error")


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 1440])
def test_widths_and_names(page, page_scan, width):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        page.segment(page_scan)
        assert page.browser.execute_script("return document.documentElement.scrollWidth") <= width
        nameless = """
            return [...document.querySelectorAll('button, input:not([hidden]), select, canvas')].filter((one) =>
                !(one.labels?.length || one.ariaLabel || one.textContent.trim())).map((one) => one.outerHTML)
        """
        assert page.browser.execute_script(nameless) == []
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.slow
@pytest.mark.browser
def test_several_series(page, tmp_path):
    for number, depth in ((1, 3), (2, 5)):
        stored = np.random.default_rng(number).normal(1040, 120, (24, 32, depth)).astype(np.uint16)
        write_series(tmp_path / "study" / str(number), stored, series=f"series {number}", number=number)
    page.give(tmp_path / "study", field="folder")
    page.until("study: 24 × 32 × 5 voxels")
    assert page.text("series").startswith("2 ")
    page.browser.find_element("css selector", "#series option:nth-child(2)").click()
    page.until("study: 24 × 32 × 3 voxels")
