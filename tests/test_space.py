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
from samed_hf.inference import predict_image, predict_volume
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
    masks = app.segment(str(tmp_path / "image.png"), str(tiny_adapter))[-1]
    assert set(Path(tempfile.gettempdir()).iterdir()) == before
    assert components["masks"].move_resource_to_block_cache(masks) == masks  # not copied
    assert page.delete_cache is not None
    delete_files_created_by_app(page, None)
    assert not Path(masks).exists()


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
    from selenium.webdriver.support.ui import WebDriverWait

    class Page:
        def until(self, script, *arguments):
            return WebDriverWait(browser, 40).until(lambda _: browser.execute_script(f"return {script}", *arguments))

        def segment(self, path):
            self.until("document.querySelector('#file input[type=file]') !== null")
            browser.find_element("css selector", "#file input[type=file]").send_keys(str(path))
            self.until("document.querySelector('#file').innerText.includes(arguments[0])", path.name[:4])
            browser.find_element("css selector", "#segment").click()

        def overlay(self):
            return self.until("(document.querySelector('#overlay img') || {}).src")

        def masks(self, target):
            link = self.until("(document.querySelector('#masks a[href]') || {}).href")
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            target.write_bytes(opener.open(link, timeout=10).read())
            return target

    browser.get(address)
    return Page()


@pytest.fixture(scope="module")
def model(tiny_adapter):
    return SamedForSemanticSegmentation.from_pretrained(tiny_adapter)


@pytest.mark.slow
@pytest.mark.browser
def test_a_scan(page, browser, model, tmp_path):
    scan = np.random.default_rng(0).normal(50, 90, (40, 48, 6)).astype(np.int16)
    nib.save(nib.Nifti1Image(scan, np.diag([2, 2, 5, 1.0])), tmp_path / "scan.nii.gz")
    expected = predict_volume(model, read_volume(tmp_path / "scan.nii.gz"))
    page.segment(tmp_path / "scan.nii.gz")
    first = page.overlay()
    found = [model.config.id2label[int(index)] for index in np.unique(expected) if index]
    assert page.until("document.querySelector('#legend').innerText").split() == found
    text = page.until("document.querySelector('#found').innerText")
    assert "ml" in text
    # Another slice, another image.
    script = """
        const field = document.querySelector('#slice input[type=number]');
        field.value = arguments[0];
        field.dispatchEvent(new Event('input', {bubbles: true}));
        field.dispatchEvent(new Event('blur', {bubbles: true}));
        field.dispatchEvent(new Event('change', {bubbles: true}));
    """
    shown = int(browser.execute_script("return document.querySelector('#slice input[type=number]').value"))
    browser.execute_script(script, (shown + 1) % 6)
    page.until("document.querySelector('#overlay img').src !== arguments[0]", first)
    if "SPACE_SCREENSHOT" in os.environ:
        browser.save_screenshot(os.environ["SPACE_SCREENSHOT"])
    written = nib.load(page.masks(tmp_path / "masks.nii.gz"))
    np.testing.assert_array_equal(np.asarray(written.dataobj), expected)
    np.testing.assert_array_equal(written.affine, np.diag([2, 2, 5, 1.0]))


@pytest.mark.slow
@pytest.mark.browser
def test_an_image(page, model, tmp_path):
    image = Image.fromarray(np.random.default_rng(1).integers(0, 255, (40, 50), dtype=np.uint8))
    image.save(tmp_path / "image.png")
    page.segment(tmp_path / "image.png")
    page.overlay()
    masks = np.asarray(Image.open(page.masks(tmp_path / "masks.png")))
    np.testing.assert_array_equal(masks, predict_image(model, image)[0])
    assert page.until("document.querySelector('#slice') === null || !document.querySelector('#slice').offsetParent")


@pytest.mark.slow
@pytest.mark.browser
def test_something_else(page, tmp_path):
    (tmp_path / "notes.png").write_text("no image")
    page.segment(tmp_path / "notes.png")
    page.until('document.body.innerText.includes("notes.png can\'t be segmented")')
