"""The exported page of a tiny adapter, served, and one Chromium for all tests of it."""

import nibabel as nib
import numpy as np
import pytest
import torch

from samed_hf import SamedForSemanticSegmentation, SamedImageProcessor, samed_lora_config
from samed_hf.data import phantom_patient
from samed_hf.export import export_page
from samed_hf.inference import load_model

from ..conftest import TINY_LABELS, TINY_SIZE, randomize_lora
from .browser_page import Page, open_chromium, serve


@pytest.fixture(scope="session")
def page_adapter(tiny_sam, tmp_path_factory):
    """A tiny adapter that sees its scans in another orientation than their files'."""
    torch.manual_seed(1)
    model = SamedForSemanticSegmentation.from_pretrained(tiny_sam, image_size=TINY_SIZE, id2label=TINY_LABELS)
    model.add_adapter(samed_lora_config(rank=2))
    randomize_lora(model)
    folder = tmp_path_factory.mktemp("page") / "adapter"
    processor = SamedImageProcessor(TINY_SIZE, (-125, 275), input_size=48, orientation="LPS", channel_names=["CT"])
    model.save_pretrained(folder, image_processor=processor)
    return folder


@pytest.fixture(scope="session")
def site(page_adapter, graphs, tmp_path_factory):
    """The page of the adapter, in float32 so that its labels are Python's."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    folder = tmp_path_factory.mktemp("site") / "site"
    try:
        export_page(str(page_adapter), folder, precision="float32")
    except ConnectionError as error:
        pytest.skip(f"the page's libraries can't be downloaded: {error}")
    return folder


@pytest.fixture(scope="session")
def page_model(page_adapter):
    return load_model(str(page_adapter))


@pytest.fixture(scope="session")
def address(site):
    with serve(site) as address:
        yield address


@pytest.fixture(scope="session")
def chromium(tmp_path_factory):
    browser = open_chromium(tmp_path_factory.mktemp("browser"))
    yield browser
    browser.quit()


@pytest.fixture
def page(chromium, address, tmp_path):
    return Page(chromium, tmp_path).open(address)


@pytest.fixture(scope="session")
def page_scan(tmp_path_factory):
    """An abdomen whose axes run to the right, the front and the head, oblique."""
    image, _, spacing = phantom_patient(3, (8, 80, 96))
    affine = np.array(
        [[spacing[1], 0.2, 0, -40], [-0.1, spacing[2], 0.5, 12.5], [0, -0.1, spacing[0], 7], [0, 0, 0, 1]]
    )
    path = tmp_path_factory.mktemp("scan") / "patient 7.nii.gz"
    nib.save(nib.Nifti1Image(np.transpose(image, (1, 2, 0)), affine), path)
    return path
