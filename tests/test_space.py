"""The Space in a real browser: upload, look, move through the slices, fetch the masks."""

import dataclasses
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from packaging.requirements import Requirement
from PIL import Image

from samed_hf import SamedForSemanticSegmentation
from samed_hf.data import read_data
from samed_hf.inference import predict_image, predict_volume
from samed_hf.training import SamedTrainingArguments, train
from samed_hf.transforms import rows_point_up
from samed_hf.volumes import read_volume

SPACE = Path(__file__).parents[1] / "examples" / "space"
CHROMIUM = next((path for name in ("chromium", "google-chrome") if (path := shutil.which(name))), None)
FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--window-size=1200,1100"]


def test_the_spaces_metadata():
    data = yaml.safe_load((SPACE / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert data["sdk"] == "gradio"
    assert (SPACE / data["app_file"]).is_file()
    assert len(data["short_description"]) <= 60
    lines = (SPACE / "requirements.txt").read_text(encoding="utf-8").splitlines()
    package, gradio = (Requirement(line) for line in lines if not line.startswith("#"))
    assert (package.name, gradio.name) == ("samed_hf", "gradio")
    assert re.fullmatch(r"git\+https://.+@.+", package.url)  # the name on the index is another project's


@pytest.fixture(scope="module")
def app():
    """The module of the Space."""
    pytest.importorskip("gradio", reason="gradio isn't installed: pip install -e '.[browser]'")
    before = os.environ.get("GRADIO_TEMP_DIR")
    spec = importlib.util.spec_from_file_location("space_app", SPACE / "app.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    os.environ.pop("GRADIO_TEMP_DIR") if before is None else os.environ.update(GRADIO_TEMP_DIR=before)


@pytest.mark.slow
def test_no_adapter_is_read_from_the_servers_disk(app, tiny_adapter, tiny_sam, tmp_path, monkeypatch):
    import gradio

    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_adapter, tmp_path / "user" / "adapter")
    for name in (
        str(tiny_adapter),
        "user/adapter",
        "./user/adapter",
        "../" + tmp_path.name,
        "/etc",
        "adapter",
        "",
        "~/a",
    ):
        with pytest.raises(gradio.Error, match="Name an adapter of the Hub"):
            app.load(name)
    # An adapter of the Hub whose base model is a directory of the server.
    monkeypatch.setattr(app, "load_model", lambda name: SamedForSemanticSegmentation.from_pretrained(tiny_adapter))
    with pytest.raises(gradio.Error, match="base model isn't on the Hub"):
        app.load("other/adapter")
    assert app._models == {}
    monkeypatch.setenv("SAMED_ADAPTER", str(tiny_adapter))
    assert app.load(str(tiny_adapter)).config.num_labels == 3


@pytest.mark.slow
def test_only_the_formats_named_within_the_limits(app, tiny_adapter, tmp_path, monkeypatch):
    import gradio

    monkeypatch.setenv("SAMED_ADAPTER", str(tiny_adapter))
    (tmp_path / "page.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    with pytest.raises(gradio.Error, match=r"page\.png can't be segmented"):
        app.segment(str(tmp_path / "page.png"), str(tiny_adapter))
    for name in ("page.eps", "scan.dcm", "scan.nrrd", "page.pdf", "page"):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(gradio.Error, match="Upload an image"):
            app.segment(str(tmp_path / name), str(tiny_adapter))
    Image.new("L", (40, 50)).save(tmp_path / "image.png")
    monkeypatch.setattr(app, "_LIMITS", dataclasses.replace(app._LIMITS, pixels=1999))
    with pytest.raises(gradio.Error, match="SAMED_MAX_PIXELS"):
        app.segment(str(tmp_path / "image.png"), str(tiny_adapter))


def test_uploads_and_results_are_deleted(app, tiny_adapter, tmp_path, monkeypatch):
    from gradio.route_utils import delete_files_created_by_app

    monkeypatch.setenv("SAMED_ADAPTER", str(tiny_adapter))
    page = app.build()
    components = {component.elem_id: component for component in page.blocks.values() if component.elem_id}
    assert "share" not in components["overlay"].buttons
    Image.new("L", (40, 50)).save(tmp_path / "image.png")
    before = set(Path(tempfile.gettempdir()).iterdir())
    result, *_, masks, _ = app.segment(str(tmp_path / "image.png"), str(tiny_adapter))
    corrected = app.save(result, None)[-1].value["path"]
    assert set(Path(tempfile.gettempdir()).iterdir()) == before
    for name, path in (("masks", masks), ("corrected", corrected)):
        assert components[name].move_resource_to_block_cache(path) == path  # not copied
    assert page.delete_cache is not None
    delete_files_created_by_app(page, None)
    assert not Path(masks).exists()
    assert not Path(corrected).exists()


def strokes(app, result, color, where, alpha=255):
    """What the editor returns after a brush stroke over some pixels `(y, x)` of the slice."""
    layer = np.zeros((*result["drawn"].shape[:2], 4), np.uint8)
    step = result["scale"]
    for y, x in where:
        layer[y * step : (y + 1) * step, x * step : (x + 1) * step] = (*color, alpha)
    background = np.dstack([result["drawn"], np.full(layer.shape[:2], 255, np.uint8)])
    return {"background": background, "layers": [layer], "composite": None}


@pytest.fixture(scope="module")
def corrected(app, tiny_adapter, tmp_path_factory):
    """A directory of four scans and their labels after a stroke, an erased pixel and strokes that don't count."""
    root = tmp_path_factory.mktemp("corrected")
    for part in ("images", "labels"):
        (root / part).mkdir()
    affine = np.diag([-2, 2, 5, 1.0])  # the slices are turned
    maps = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAMED_ADAPTER", str(tiny_adapter))
        for seed in range(4):
            scan = root / "images" / f"scan{seed}.nii.gz"
            array = np.random.default_rng(seed).normal(50, 90, (40, 48, 6)).astype(np.int16)
            nib.save(nib.Nifti1Image(array, affine), scan)
            result = app.segment(str(scan), str(tiny_adapter))[0]
            before, expected = result["labels"].copy(), result["labels"].copy()
            colors = (app.label_colors(3) * 255).round().astype(int)
            first = result["index"]
            second = (first + 1) % 6
            editor = strokes(app, result, colors[2], [(3, 5), (3, 6)])
            app.move(result, editor, second)
            app.move(result, editor, second)  # a second event before the slice is shown
            assert not app.keep(result, editor)
            app.keep(result, strokes(app, result, colors[1], [(8, 8)], alpha=90))  # the rim of a stroke
            app.keep(result, strokes(app, result, (colors[1] + colors[2]) // 2, [(9, 9)]))
            app.move(result, strokes(app, result, colors[1], [(20, 30)]), first)
            file = app.save(result, strokes(app, result, colors[0], [(3, 6)]))[-1]
            expected[first][3, 5], expected[first][3, 6], expected[second][20, 30] = 2, 0, 1
            changed = (expected != before).sum()
            assert f"({changed} voxels changed)" in file.label
            shutil.copy(file.value["path"], root / "labels")
            maps[scan.name.partition(".")[0]] = expected
    (root / "labels.json").write_text('{"0": "background", "1": "spleen", "2": "liver"}')
    return root, maps


def test_corrected_labels_are_read_as_a_data_set(corrected, tiny_adapter):
    root, maps = corrected
    data = read_data(root)
    assert data.id2label == {0: "background", 1: "spleen", 2: "liver"}
    processor = SamedForSemanticSegmentation.from_pretrained(tiny_adapter).image_processor
    assert sorted(data.sources) == sorted(maps)
    for name, expected in maps.items():
        label = data.read_case(name, processor).label
        shown = label[:, ::-1] if rows_point_up(processor) else label
        np.testing.assert_array_equal(shown, expected)


@pytest.mark.slow
def test_training_on_corrected_labels(corrected, tmp_path):
    root, _ = corrected
    args = SamedTrainingArguments(
        data_dir=str(root), output_dir=str(tmp_path), image_size=32, max_train_steps=2, report_to="none"
    )
    assert np.isfinite([row["loss"] for row in train(args).log]).all()


@pytest.fixture(scope="module")
def address(tiny_adapter, tmp_path_factory):
    """The Space, served from this machine."""
    pytest.importorskip("gradio", reason="gradio isn't installed: pip install -e '.[browser]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"SAMED_ADAPTER": str(tiny_adapter), "GRADIO_SERVER_PORT": str(port)}
    environment |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "NO_PROXY": "127.0.0.1,localhost"}
    log = (tmp_path_factory.mktemp("space") / "log").open("w+")
    process = subprocess.Popen([sys.executable, "app.py"], cwd=SPACE, env=environment, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=1).close()
                break
            except OSError:
                if process.poll() is not None:
                    break
                time.sleep(0.25)
        else:
            pytest.fail("the Space didn't start")
        assert process.poll() is None, Path(log.name).read_text()
        yield url
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium isn't installed: pip install -e '.[browser]'")
    if CHROMIUM is None or shutil.which("chromedriver") is None:
        pytest.skip("no Chromium with chromedriver on this machine: apt-get install chromium chromium-driver")
    options = selenium.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(flag)
    service = selenium.ChromeService(shutil.which("chromedriver"))
    browser = selenium.Chrome(options=options, service=service)
    yield browser
    browser.quit()


@pytest.fixture
def page(browser, address):
    """The page opened anew, and what a person does with it."""
    from selenium.webdriver import ActionChains
    from selenium.webdriver.support.ui import WebDriverWait

    class Page:
        def until(self, script, *arguments):
            return WebDriverWait(browser, 40).until(lambda _: browser.execute_script(f"return {script}", *arguments))

        def segment(self, path):
            self.until("document.querySelector('#file input[type=file]') !== null")
            browser.find_element("css selector", "#file input[type=file]").send_keys(str(path))
            self.until("document.querySelector('#file').innerText.includes(arguments[0])", path.name[:4])
            browser.find_element("css selector", "#segment").click()

        def wait_for_slice(self, already=0):
            """Wait for the editor to have fetched an image, one more than `already`, and to be ready for strokes."""
            count = "performance.getEntriesByType('resource').filter(one => one.name.includes('.png')).length"
            self.until("document.querySelector('#overlay button[aria-label=Undo]') !== null")
            self.until(f"{count} > arguments[0]", already)
            time.sleep(0.5)  # it decodes the image
            return browser.execute_script(f"return {count}")

        def press(self, name):
            browser.find_element("css selector", f"#overlay [aria-label='{name}']").click()

        def stroke(self, start, end):
            """A stroke of the brush between two points, in pixels from the middle of the slice."""
            canvas = browser.find_element("css selector", "#overlay canvas")
            actions = ActionChains(browser, duration=20).move_to_element_with_offset(canvas, *start).click_and_hold()
            actions.move_to_element_with_offset(canvas, *end).release().perform()

        def move_to(self, index):
            before = self.wait_for_slice()
            browser.execute_script(
                """
                const field = document.querySelector('#slice input[type=number]');
                field.value = arguments[0];
                for (const name of ['input', 'blur', 'change']) field.dispatchEvent(new Event(name, {bubbles: true}));
                """,
                index,
            )
            self.wait_for_slice(before)

        def masks(self, target, where="masks"):
            link = self.until("(document.querySelector(arguments[0]) || {}).href", f"#{where} a[href]")
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            target.write_bytes(opener.open(link, timeout=10).read())
            return target

    browser.get(address)
    browser.execute_script("performance.setResourceTimingBufferSize(2000)")
    return Page()


@pytest.fixture(scope="module")
def model(tiny_adapter):
    return SamedForSemanticSegmentation.from_pretrained(tiny_adapter)


@pytest.mark.slow
@pytest.mark.browser
def test_a_scan(page, browser, model, tmp_path):
    """Paint, undo, another slice and back, erase, save: the file has the labels of the strokes and no others."""
    scan = np.random.default_rng(0).normal(50, 90, (40, 48, 6)).astype(np.int16)
    nib.save(nib.Nifti1Image(scan, np.diag([2, 2, 5, 1.0])), tmp_path / "scan.nii.gz")
    expected = predict_volume(model, read_volume(tmp_path / "scan.nii.gz"))
    page.segment(tmp_path / "scan.nii.gz")
    page.wait_for_slice()
    names = [*list(model.config.id2label.values())[1:], "erase"]
    assert page.until("document.querySelector('#legend').innerText").split() == names
    assert "ml" in page.until("document.querySelector('#found').innerText")
    page.press("Brush")
    page.stroke((-100, 0), (100, 0))
    page.stroke((-100, 150), (100, 150))
    page.press("Undo")
    first = int(page.until("document.querySelector('#slice input[type=number]').value"))
    page.move_to((first + 1) % 6)
    page.stroke((-100, -150), (100, -150))
    page.move_to(first)
    page.press("Color")
    page.until("document.querySelector('#overlay .swatch button') !== null")
    browser.find_element("css selector", "#overlay .swatch button[style*='rgb(0, 0, 0)']").click()
    page.stroke((0, 0), (1, 0))
    if "SPACE_SCREENSHOT" in os.environ:
        browser.save_screenshot(os.environ["SPACE_SCREENSHOT"])
    browser.find_element("css selector", "#save").click()
    corrected = nib.load(page.masks(tmp_path / "corrected.nii.gz", "corrected"))
    written = nib.load(page.masks(tmp_path / "masks.nii.gz"))
    np.testing.assert_array_equal(np.asarray(written.dataobj), expected)
    for file in (written, corrected):
        np.testing.assert_array_equal(file.affine, np.diag([2, 2, 5, 1.0]))
    found = np.asarray(corrected.dataobj)
    changed = np.argwhere(found != expected)
    assert f"({len(changed)} voxels changed)" in page.until("document.querySelector('#corrected').innerText")
    assert set(changed[:, 2]) == {first, (first + 1) % 6}
    assert (np.abs(changed[changed[:, 2] == first][:, 1] - 23.5) < 5).all()  # not where the second stroke was
    assert (found[19:21, 23:25, first] == 0).all()
    assert (found[[12, 27], 23:25, first] == 1).all()
    assert {int(found[tuple(one)]) for one in changed if one[2] != first} == {1}


@pytest.mark.slow
@pytest.mark.browser
def test_an_image(page, model, tmp_path):
    image = Image.fromarray(np.random.default_rng(1).integers(0, 255, (40, 50), dtype=np.uint8))
    image.save(tmp_path / "image.png")
    page.segment(tmp_path / "image.png")
    page.wait_for_slice()
    masks = np.asarray(Image.open(page.masks(tmp_path / "masks.png")))
    np.testing.assert_array_equal(masks, predict_image(model, image)[0])
    assert page.until("document.querySelector('#slice') === null || !document.querySelector('#slice').offsetParent")


@pytest.mark.slow
@pytest.mark.browser
def test_something_else(page, tmp_path):
    (tmp_path / "notes.png").write_text("no image")
    page.segment(tmp_path / "notes.png")
    page.until('document.body.innerText.includes("notes.png can\'t be segmented")')
