"""An adapter's page as a static Space, whose model the repository has; on a Hub on loopback, and in a browser."""

import hashlib
import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from huggingface_hub import ModelCard, SpaceCard

from samed_hf import SamedForSemanticSegmentation
from samed_hf.cli import main
from samed_hf.data import phantom_patient
from samed_hf.export import export_page
from samed_hf.hub import push_adapter
from samed_hf.inference import load_model, predict_volume
from samed_hf.volumes import read_volume

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from ..export.browser_page import Page, open_chromium, serve
from ..loopback_hub import Repository

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("graphs")]
NAME, SPACE = "ward/discs", "spaces/ward/discs"


@pytest.fixture(scope="module")
def site(tiny_adapter, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site") / "site"
    try:
        export_page(str(tiny_adapter), folder, precision="float32")
    except ConnectionError as error:
        pytest.skip(f"the page's libraries can't be downloaded: {error}")
    return folder


@pytest.fixture
def adapter(tiny_adapter, tmp_path):
    shutil.copytree(tiny_adapter, tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.fixture
def push(hub, adapter, site, tiny_sam):
    """Pushes the adapter with its page."""
    base = hub.add("lab/sam", tiny_sam)

    def push(**options):
        return push_adapter(adapter, NAME, base_model="lab/sam", base_revision=base, token="hf_test", **options)

    return lambda **options: push(page=site, **options)


def link(hub, revision="main"):
    """The lines of the card that link to the page."""
    text = ModelCard(hub.files(NAME, revision)["README.md"].decode()).text
    return [line for line in text.splitlines() if "/spaces/" in line]


def test_the_files_of_both_repositories(hub, push, site):
    before = {path: path.stat().st_mtime_ns for path in site.rglob("*")}
    assert push(license="mit") == f"{hub.url}/{NAME}"
    files, page = hub.files(NAME), hub.files(SPACE)
    assert files["browser/model.onnx"] == (site / "model.onnx").read_bytes()
    assert set(page) - {".gitattributes"} == {
        path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file() and path.suffix != ".onnx"
    }
    config = json.loads(page["config.json"])
    assert config["models"].startswith(f"{hub.url}/{NAME}/resolve/")
    commit = config["models"].split("/")[-3]
    assert hub.files(NAME, commit)["browser/model.onnx"] == files["browser/model.onnx"]
    assert config["model"]["sha256"] == hashlib.sha256(files["browser/model.onnx"]).hexdigest()
    assert f"connect-src 'self' {config['models']} https://*.hf.co;" in page["index.html"].decode()
    card = SpaceCard(page["README.md"].decode()).data
    assert (card.sdk, card.models, card.license) == ("static", [NAME], "mit")
    assert "samed_hf" in card.tags
    assert 0 < len(card.to_dict()["short_description"]) <= 60
    assert b"Niivue" in page["vendor/LICENSES.md"]
    assert (len(link(hub)), link(hub, commit)) == (1, [])
    assert f"({hub.url}/{SPACE})" in link(hub)[0]
    assert {path: path.stat().st_mtime_ns for path in site.rglob("*")} == before


def test_what_loads_an_adapter_does_not_fetch_its_pages_model(hub, push):
    push()
    hub.requests.clear()
    SamedForSemanticSegmentation.from_pretrained(NAME)
    fetched = [path for _, path in hub.requests if f"/{NAME}/resolve/" in path]
    assert any(path.endswith("adapter_model.safetensors") for path in fetched)
    assert not any("onnx" in path for path in fetched)


@pytest.mark.parametrize("closed", [{"private": True}, {"gated": "auto"}], ids=str)
def test_the_space_of_a_closed_repository_is_private_and_has_the_model(hub, push, site, closed):
    hub.repositories[NAME] = Repository(**closed)
    hub.repositories[NAME].commit({})
    push()
    assert hub.repositories[SPACE].private
    assert "browser/model.onnx" not in hub.files(NAME)
    assert hub.files(SPACE)["model.onnx"] == (site / "model.onnx").read_bytes()
    assert hub.files(SPACE)["index.html"] == (site / "index.html").read_bytes()
    hub.repositories[SPACE].private = False
    before = hub.repositories[NAME].refs["main"]
    with pytest.raises(ValueError, match=f"'{NAME}' is public"):
        push()
    assert hub.repositories[NAME].refs["main"] == before


def test_a_space_of_someone_else_is_refused_and_text_of_others_stays(hub, push):
    hub.repositories[SPACE] = Repository()
    hub.repositories[SPACE].commit({"README.md": b"---\nsdk: gradio\n---\n", "app.py": b"import gradio"})
    with pytest.raises(ValueError, match=f"Space '{NAME}' holds.*browser_space"):
        push()
    assert "adapter_model.safetensors" not in hub.files(NAME)
    hub.repositories["spaces/ward/own"] = Repository()
    for text in (b"My static Space", b"a page of their own"):
        hub.repositories["spaces/ward/own"].commit({"README.md": b"---\nsdk: static\n---\n", "index.html": text})
    with pytest.raises(ValueError, match="Space 'ward/own' holds"):
        push(browser_space="ward/own")
    push(browser_space="ward/page")
    name = "spaces/ward/page"
    assert f"/{name})" in link(hub)[0]
    assert "app.py" in hub.files(SPACE)
    files = dict(hub.files(name))
    edited = files["README.md"].decode().replace("emoji: 🩻", "emoji: 🫀") + "\nOur words.\n"
    hub.repositories[name].commit(files | {"README.md": edited.encode(), "vendor/old/a.js": b"", "ours.png": b""})
    push(browser_space="ward/page")
    files = hub.files(name)
    assert "🫀" in files["README.md"].decode()
    assert files["README.md"].decode().rstrip().endswith("Our words.")
    assert files["README.md"].decode().count("samed_hf: begin") == 1
    assert "ours.png" in files
    assert "vendor/old/a.js" not in files


def test_a_failure_leaves_a_working_adapter_and_says_what_is_done(hub, push, site, adapter):
    hub.refuse = f"commit {SPACE}"
    with pytest.raises(ValueError, match=f"The adapter is at {hub.url}/{NAME}, without a link") as caught:
        push()
    for part in ("--with_browser", f"--browser_site {site}"):
        assert part in str(caught.value)
    assert link(hub) == []
    SamedForSemanticSegmentation.from_pretrained(NAME)
    hub.refuse = None
    push()
    assert len(link(hub)) == 1
    push_adapter(adapter, NAME, base_model="lab/sam", token="hf_test")
    assert link(hub) == []
    assert "browser/model.onnx" not in hub.files(NAME)
    assert "index.html" in hub.files(SPACE)


def test_the_commands_flags(hub, adapter, site, tmp_path, capsys, monkeypatch):
    command = ["push", str(adapter), "--repo_id", NAME, "--hub_token", "hf_test", "--base_model", "lab/sam"]
    for flags, named in (
        (["--browser_space", "ward/page"], "--browser_space"),
        (["--with_browser", "--browser_site", str(tmp_path)], "config.json"),
        (["--with_browser", "--browser_site", str(site), "--create_pr"], "create_pr"),
    ):
        assert main([*command, *flags]) == 2
        assert named in capsys.readouterr().err
    assert hub.repositories == {}
    assert main([*command, "--with_browser", "--browser_site", str(site)]) == 0
    assert f"page        {hub.url}/{SPACE}" in "".join(capsys.readouterr())
    written = []
    monkeypatch.setattr(
        "samed_hf.export.export_page", lambda *args: written.append((*args, shutil.copytree(site, args[1])))
    )
    assert main([*command, "--with_browser", "--browser_space", "ward/page"]) == 0  # exports the page itself
    assert written[0][0] == str(adapter)
    assert "index.html" in hub.files("spaces/ward/page")
    other = json.loads((adapter / "preprocessor_config.json").read_text()) | {"intensity_window": [0, 80]}
    (adapter / "preprocessor_config.json").write_text(json.dumps(other))
    assert main([*command, "--with_browser", "--browser_site", str(site)]) == 2
    assert "another model" in capsys.readouterr().err


@pytest.mark.browser
def test_the_published_page_in_a_browser(hub, push, adapter, tmp_path, tmp_path_factory):
    push()
    for path, content in hub.files(SPACE).items():
        (tmp_path / "space" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "space" / path).write_bytes(content)
    image, _, spacing = phantom_patient(3, (8, 64, 48))
    nib.save(nib.Nifti1Image(np.transpose(image, (1, 2, 0)), np.diag([*spacing, 1.0])), tmp_path / "scan.nii.gz")
    model = json.loads(hub.files(SPACE)["config.json"])["models"] + "model.onnx"
    browser = open_chromium(tmp_path_factory.mktemp("browser"))
    try:
        with serve(tmp_path / "space") as address:
            page = Page(browser, tmp_path).open(address)
            assert [url for url in page.loaded if not url.startswith(address)] == [model]
            written = nib.load(page.segment(tmp_path / "scan.nii.gz").save())
            assert page.requests() == []
            expected = predict_volume(load_model(str(adapter)), read_volume(tmp_path / "scan.nii.gz"))
            assert np.mean(np.asarray(written.dataobj) == expected) >= 0.999
            commit = hub.repositories[NAME].resolve(model.split("/")[-3])
            hub.repositories[NAME].commits[commit]["browser/model.onnx"] += b"more"
            browser.get(f"{address}?again")
            page.until("model.onnx isn't the model of this page", "error")
    finally:
        browser.quit()
