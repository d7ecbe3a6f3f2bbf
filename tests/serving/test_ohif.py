"""OHIF with MONAI Label's extension in a browser: Orthanc's series, segmented by `samed-hf serve`."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import nibabel as nib
import numpy as np
import pydicom
import pytest

from samed_hf.cli import main

from ..dicom_files import AXIAL, OBLIQUE, write_series
from ..export.browser_page import open_chromium
from ..orthanc import Orthanc
from .served import make_adapters, serve, smooth

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


@pytest.fixture
def orthanc(tmp_path) -> Iterator[Orthanc]:
    pytest.importorskip("dicomweb_client")
    archive = Orthanc(tmp_path / "orthanc")
    archive.start()
    yield archive
    archive.kill()


@pytest.fixture
def viewer(tmp_path, orthanc) -> Iterator[str]:
    """The address of OHIF: nginx with the configuration of `examples/serve`, on a free port."""
    program, package = shutil.which("nginx"), importlib.util.find_spec("monailabel")
    if program is None or package is None:
        pytest.skip("nginx or OHIF is not installed (Debian: nginx-light; pip install --no-deps monailabel)")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    configuration = (ROOT / "examples" / "serve" / "ohif.conf").read_text()
    for word, actual in (("127.0.0.1:8080;", f"127.0.0.1:{port};"), ("127.0.0.1:8042;", f"127.0.0.1:{orthanc.port};")):
        assert configuration.count(word) == 1
        configuration = configuration.replace(word, actual)
    (tmp_path / "viewer").mkdir()
    (tmp_path / "viewer" / "monailabel").symlink_to(Path(package.origin).parent)
    (tmp_path / "ohif.conf").write_text(configuration)
    # A server of root's would read as nobody, who can't read pytest's directory.
    settings = "daemon off;" + (" user root;" if os.geteuid() == 0 else "")
    command = [program, "-e", "nginx.log", "-p", str(tmp_path / "viewer"), "-c", str(tmp_path / "ohif.conf")]
    process = subprocess.Popen([*command, "-g", settings])
    try:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/ohif/"), process.poll)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def browser(tmp_path) -> Iterator[Any]:
    browser = open_chromium(tmp_path / "profile")
    yield browser
    browser.quit()


def answers(address: str) -> bool:
    try:
        return httpx.get(address).status_code == 200
    except httpx.TransportError:
        return False


def wait_until(call: Callable[[], Any], problem: Callable[[], Any] = lambda: None, seconds: float = 120) -> Any:
    """Call until the answer is true."""
    end = time.monotonic() + seconds
    while not (answer := call()):
        assert not problem(), problem()
        assert time.monotonic() < end, call
        time.sleep(0.2)
    return answer


# The label map that OHIF shows: its voxels, its geometry (LPS+) and the names of its values.
SHOWN = """
    const {cornerstone, cornerstoneTools} = window;
    const segmentation = cornerstoneTools.segmentation.state.getSegmentation("1");
    const volume = cornerstone.cache.getVolume(segmentation.representationData.Labelmap.volumeId);
    const {dimensions, spacing, direction, origin} = volume;
    return {
        voxels: Array.from(volume.voxelManager.getCompleteScalarDataArray()),
        dimensions, spacing, direction: Array.from(direction), origin: Array.from(origin),
        names: Object.fromEntries(Object.entries(segmentation.segments).map(([value, one]) => [value, one.label])),
    };
"""


def shown(browser: Any) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    """The label map of shape (columns, rows, slices), its affine, RAS+, and the names of its values."""
    found = browser.execute_script(SHOWN)
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(found["direction"], (3, 3)).T * found["spacing"]
    affine[:3, 3] = found["origin"]
    voxels = np.reshape(found["voxels"], found["dimensions"], order="F")
    return voxels, np.diag([-1, -1, 1, 1]) @ affine, {int(value): name for value, name in found["names"].items()}


def upload(orthanc: Orthanc, series: Path, orientation: tuple[float, ...] = AXIAL) -> str:
    """Make a series, store it in the archive, and return its StudyInstanceUID."""
    stored = (smooth((48, 40, 6)) + 900).astype(np.uint16)
    write_series(series, stored, orientation=orientation, name=lambda number: f"{9 - number}.dcm")
    files = sorted(series.iterdir())
    orthanc.upload(files)
    return str(pydicom.dcmread(files[0]).StudyInstanceUID)


def predict(adapter: Path, series: Path, output: Path) -> nib.Nifti1Image:
    """The label map of `samed-hf predict`."""
    command = ["predict", str(adapter), str(series), "--output", str(output), "--format", "nii.gz"]
    assert main([*command, "--no_preview", "--no_report"]) == 0
    return nib.load(next(output.glob("*.nii.gz")))


@pytest.mark.parametrize("orientation", [AXIAL, OBLIQUE], ids=["axial", "oblique"])
def test_the_viewer_shows_the_labels_of_predict(tiny_sam, tmp_path, orthanc, viewer, browser, orientation):
    study = upload(orthanc, tmp_path / "ct", orientation)
    adapters = make_adapters(tiny_sam, tmp_path, 2)
    studies = ("--studies", f"dicomweb+{orthanc.url}", "--downloads", tmp_path / "served")
    with serve(*adapters.values(), *studies, "--allow_origin", viewer) as server:
        browser.get(f"{viewer}/ohif/monai-label?StudyInstanceUIDs={study}")
        address = wait_until(lambda: browser.find_elements("id", "monailabelServerURL"))[0]
        wait_until(lambda: browser.execute_script("return window.cornerstone.cache.getVolumes().length"))
        address.clear()
        address.send_keys(f"{server}/\t")
        browser.find_element("css selector", ".settingsTable .actionButton").click()
        model = wait_until(lambda: browser.find_elements("css selector", ".modelSelector select"))[0]
        for name, adapter in adapters.items():
            model.send_keys(name)
            before = shown(browser)[0]
            browser.find_element("css selector", "[title='Run Segmentation']").click()
            wait_until(lambda before=before: (shown(browser)[0] != before).any())
            voxels, affine, names = shown(browser)
            expected = predict(adapter, tmp_path / "ct", tmp_path / f"{name}-output")
            steps = np.linalg.inv(expected.affine) @ affine  # from OHIF's voxels to the file's
            np.testing.assert_allclose(steps, np.round(steps), atol=1e-4)
            indices = np.round(steps[:3, :3] @ np.indices(voxels.shape).reshape(3, -1) + steps[:3, 3:]).astype(int)
            labels = np.asarray(expected.dataobj)[tuple(indices)].reshape(voxels.shape)
            config = json.loads((adapter / "config.json").read_text())["id2label"]
            assert len(np.unique(labels)) > 1
            for value in np.unique(labels):
                found = np.unique(voxels[labels == value])
                assert {names.get(int(one), "background") for one in found} == {config[str(value)]}


# The slices of the segmentation that OHIF has opened, each with the address of the image below it.
OPENED = """
    const {cornerstone, cornerstoneTools} = window;
    const [segmentation] = cornerstoneTools.segmentation.state.getSegmentations();
    return (segmentation?.representationData.Labelmap.imageIds || []).map((id) => {
        const image = cornerstone.cache.getImage(id);
        return [image.referencedImageId, Array.from(image.voxelManager.getScalarData())];
    });
"""


def test_a_stored_segmentation_opens_in_the_viewer(tiny_adapter, tmp_path, orthanc, viewer, browser):
    from selenium.webdriver import ActionChains

    study = upload(orthanc, tmp_path / "ct", OBLIQUE)
    command = ["predict", str(tiny_adapter), f"dicomweb+{orthanc.url}/studies/{study}", "--store", "--no_preview"]
    assert main([*command, "--output", str(tmp_path / "stored")]) == 0
    browser.get(f"{viewer}/ohif/viewer?StudyInstanceUIDs={study}")

    def opened() -> Any:
        # A double click before the viewer is ready has no effect.
        for series in browser.find_elements("xpath", "//*[text()='SEG']")[:1]:
            ActionChains(browser).double_click(series).pause(5).perform()
        return browser.execute_script(OPENED)

    wait_until(lambda: browser.execute_script("return window.cornerstone?.getEnabledElements().length"))
    slices = wait_until(opened)
    expected = np.asarray(predict(tiny_adapter, tmp_path / "ct", tmp_path / "output").dataobj)
    assert len(slices) == expected.shape[2]
    assert len(np.unique(expected)) > 1
    for file in (tmp_path / "ct").iterdir():
        image = pydicom.dcmread(file)
        [voxels] = [voxels for address, voxels in slices if f"/{image.SOPInstanceUID}/" in address]
        labels = expected[:, :, image.InstanceNumber - 1]
        np.testing.assert_array_equal(np.reshape(voxels, labels.shape, order="F"), labels)
