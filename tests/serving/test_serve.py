"""`samed-hf serve` by MONAI Label's own client, and by requests that no client sends."""

from __future__ import annotations

import concurrent.futures
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import httpx
import nibabel as nib
import numpy as np
import psutil
import pytest

from samed_hf import SamedImageProcessor
from samed_hf.cli import main
from samed_hf.data import read_data

from ..dicom_files import write_series
from .served import labels_of, make_adapters, predicted, serve, smooth, write_scan

pytestmark = pytest.mark.slow
client_module = pytest.importorskip("monailabel.client.client", reason="MONAI Label's client is not installed")


@pytest.fixture(scope="module")
def adapters(tiny_sam, tmp_path_factory) -> dict[str, Path]:
    return make_adapters(tiny_sam, tmp_path_factory.mktemp("adapters"), 8)


@pytest.fixture(scope="module")
def studies(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("studies")
    for number in range(3):
        write_scan(root / f"case-{number}.nii.gz", seed=number)
    write_series(root / "series", smooth((20, 24, 9)).astype(np.uint16))
    return root


@pytest.fixture(scope="module")
def server(adapters, studies):
    with serve(*adapters.values(), "--studies", studies, "--rate", "100000/minute") as address:
        yield address


@pytest.fixture
def client(server, tmp_path):
    return client_module.MONAILabelClient(server, tmpdir=str(tmp_path))


def test_labels_are_those_of_predict(client, adapters, studies, tmp_path):
    models = client.info()["models"]
    assert list(models) == list(adapters)
    assert models["adapter-1"]["labels"] == {"label-1-1": 1, "label-1-2": 2, "label-1-3": 3}
    scan = studies / "case-0.nii.gz"
    for name in ("adapter-0", "adapter-1"):
        expected = predicted(adapters[name], scan, tmp_path / name)
        stored, about = client.infer(name, "case-0", {})
        sent, _ = client.infer(name, "", {}, file=str(scan))
        assert stored != sent  # the client stores the file under the name that the server gives it
        assert about["label_names"] == models[name]["labels"]
        for found in (stored, sent):
            np.testing.assert_array_equal(labels_of(found), labels_of(expected))
            np.testing.assert_array_equal(nib.load(found).affine, nib.load(scan).affine)
        assert about["voxels"] == {
            label: int((labels_of(expected) == value).sum()) for label, value in models[name]["labels"].items()
        }


def test_a_session_holds_an_image(client, server, studies):
    session = client.create_session(str(studies / "case-1.nii.gz"))["session_id"]
    by_session, _ = client.infer("adapter-0", "", {"result_extension": ".nrrd"}, session_id=session)
    assert by_session.endswith(".nrrd")
    client.remove_session(session)
    with pytest.raises(client_module.MONAILabelClientException):
        client.get_session(session)


def test_corrected_labels_become_a_data_set(client, studies, tmp_path):
    scan = nib.load(studies / "case-2.nii.gz")
    label = np.zeros(scan.shape, np.uint8)
    label[10:20, 10:20, 1:3], label[30:35, 5:9] = 1, 2
    nib.save(nib.Nifti1Image(label, scan.affine), tmp_path / "corrected.nii.gz")
    # As Slicer sends them: the values of the segments in the file, the second of which is unknown to the adapter.
    info = [{"name": "label-0-2", "idx": 1}, {"name": "tumour", "idx": 2}]
    client.save_label("case-2", str(tmp_path / "corrected.nii.gz"), params={"label_info": info, "model": "adapter-0"})
    described = client.datastore()["objects"]
    assert list(described["case-2"]["labels"]) == ["final"]
    assert described["case-0"]["labels"] == {}
    np.testing.assert_array_equal(labels_of(client.download_label("case-2", "final")), np.array([0, 2, 3])[label])
    data = read_data(studies / "labels" / "final")
    assert data.id2label == {0: "background", 1: "label-0-1", 2: "label-0-2", 3: "tumour"}
    case = data.read_case(data.train[0], SamedImageProcessor(64, (-125, 275)))
    assert np.bincount(case.label.ravel()).tolist() == np.bincount(np.array([0, 2, 3])[label].ravel()).tolist()
    sample = client.next_sample("first", {})
    assert sample["id"] != "case-2"
    for params in ({}, {"model": "none"}, {"label_info": [{"name": "a", "idx": 1}, {"name": "a", "idx": 2}]}):
        with pytest.raises(client_module.MONAILabelClientException) as raised:  # the adapters have different labels
            client.save_label("case-0", str(tmp_path / "corrected.nii.gz"), params=params)
        assert "400" in str(raised.value.msg)
    with pytest.raises(client_module.MONAILabelClientException) as raised:
        client.save_label(
            "case-0", str(tmp_path / "corrected.nii.gz"), params={"label_info": [{"name": "x", "idx": 9}]}
        )
    assert "400" in str(raised.value.args) or raised.value.error


def test_values_are_those_of_the_model_that_is_named(client, studies, tmp_path):
    scan = nib.load(studies / "case-0.nii.gz")
    nib.save(nib.Nifti1Image(np.ones(scan.shape, np.uint8), scan.affine), tmp_path / "label.nii.gz")
    for image, model in (("case-0", "adapter-0"), ("case-1", "adapter-1")):
        client.save_label(image, str(tmp_path / "label.nii.gz"), "models", {"model": model})
    names = json.loads((studies / "labels" / "models" / "labels.json").read_text())
    for image, name in (("case-0", "label-0-1"), ("case-1", "label-1-1")):
        (value,) = np.unique(labels_of(studies / "labels" / "models" / f"{image}.nii.gz"))
        assert names[str(value)] == name


def test_what_ohif_reads(server, adapters, studies, tmp_path):
    """As its extension sends and reads: an uncompressed NRRD file of uint16, decoded without a library."""
    params = {"result_extension": ".nrrd", "result_dtype": "uint16", "result_compress": False}
    form = {"data": {"params": json.dumps(params)}}
    content = httpx.post(f"{server}/infer/adapter-0?image=case-0&output=image", **form).content
    header, _, voxels = content.partition(b"\n\n")
    assert b"encoding: raw" in header
    expected = labels_of(predicted(adapters["adapter-0"], studies / "case-0.nii.gz", tmp_path))
    values = np.frombuffer(voxels, "<u2").reshape(expected.shape, order="F")
    np.testing.assert_array_equal(values, expected)
    assert httpx.post(f"{server}/infer/adapter-0?image=case-0&output=json").json()["centroids"] == {}
    for wrong in ({"result_dtype": "float64"}, {"result_compress": "no"}, {"result_dtype": "uint16"}):
        form = {"data": {"params": json.dumps(wrong)}}
        assert httpx.post(f"{server}/infer/adapter-0?image=case-0", **form).status_code == 400


def test_what_slicer_downloads(client, server, studies):
    """As SampleData does: a file by its name, whose sum is compared."""
    sample = client.next_sample("first", {"label_tag": "unused"})
    images = {name: name for name in client.datastore()["objects"]}
    series = next(name for name in images if name.startswith("2.25."))
    assert sample["id"] == min(images)
    for image, shape in (("case-0", (40, 44, 5)), (series, (20, 24, 9))):
        answer = httpx.get(f"{server}/datastore/image", params={"image": image})
        (studies.parent / f"{image}.nii.gz").write_bytes(answer.content)
        assert f"{image}.nii.gz" in answer.headers["content-disposition"]
        assert nib.load(studies.parent / f"{image}.nii.gz").shape == shape


def test_labels_of_another_grid_are_refused(server, studies, tmp_path):
    nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.uint8), np.eye(4)), tmp_path / "other.nii.gz")
    files = {"label": (tmp_path / "other.nii.gz").open("rb")}
    form = {"data": {"params": json.dumps({"model": "adapter-0"})}, "files": files}
    answer = httpx.put(f"{server}/datastore/label?image=case-0", **form)
    assert answer.status_code == 400
    assert "grid" in answer.json()["detail"]
    assert not (studies / "labels" / "final" / "case-0.nii.gz").exists()


def test_a_series_answers_with_a_dicom_segmentation(client, server, adapters, studies, tmp_path):
    image = next(name for name in client.datastore()["objects"] if name.startswith("2.25."))
    answer = httpx.post(f"{server}/infer/adapter-0?image={image}&output=dicom_seg", timeout=60)
    assert answer.status_code == 200
    (tmp_path / "served.dcm").write_bytes(answer.content)
    expected = predicted(adapters["adapter-0"], studies / "series", tmp_path / "predicted")
    assert answer.content == expected.read_bytes()
    assert httpx.post(f"{server}/infer/adapter-0?image=case-0&output=dicom_seg").status_code == 400


def test_interleaved_requests_of_eight_adapters(server, adapters, tmp_path):
    """Each of 1,600 answers has the bits of the same request alone."""
    http, params = httpx.Client(base_url=server, timeout=300), json.dumps({"result_extension": ".nii"})
    shapes = {"one": (20, 22, 1), "two": (16, 24, 2), "three": (24, 18, 3)}
    scans = {name: write_scan(tmp_path / f"{name}.nii.gz", shape).read_bytes() for name, shape in shapes.items()}

    def ask(pair: tuple[str, str]) -> bytes:
        form = {"files": {"file": (f"{pair[1]}.nii.gz", scans[pair[1]])}, "data": {"params": params}}
        while (answer := http.post(f"/infer/{pair[0]}?output=image", **form)).status_code == 503:
            time.sleep(0.1)
        assert answer.status_code == 200, answer.text
        return answer.content

    pairs = [(adapter, scan) for adapter in adapters for scan in scans]
    alone = {pair: ask(pair) for pair in pairs}
    assert len({alone[adapter, "three"] for adapter in adapters}) == len(adapters)
    generator = np.random.default_rng(0)
    order = [pairs[index] for index in generator.permutation(np.resize(np.arange(len(pairs)), 1600))]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        for pair, answer in zip(order, pool.map(ask, order), strict=True):
            assert answer == alone[pair]


def test_the_token_is_needed(adapters, tmp_path):
    (tmp_path / "empty").mkdir()
    options = ["--studies", tmp_path / "empty", "--rate", "60/minute"]
    with serve(adapters["adapter-0"], *options, SAMED_TOKEN="a-long-secret") as address:
        assert httpx.get(f"{address}/health").status_code == 200
        for path in ("/info/", "/metrics", "/logs/", "/datastore/"):
            assert httpx.get(f"{address}{path}").status_code == 401
        client = client_module.MONAILabelClient(address, tmpdir=str(tmp_path))
        assert client.auth_enabled()
        with pytest.raises(client_module.MONAILabelClientException):
            client.auth_token("anyone", "wrong")
        client.update_auth(client.auth_token("anyone", "a-long-secret"))
        assert list(client.info()["models"]) == ["adapter-0"]
        uploaded = write_scan(tmp_path / "scan.nii.gz")
        assert client.upload_image(str(uploaded), "new") == {"image": "new"}
        assert (tmp_path / "empty" / "new.nii.gz").read_bytes() == uploaded.read_bytes()
        http = httpx.Client(base_url=address, headers={"Authorization": "Bearer a-long-secret"}, timeout=60)
        _check_dead_worker(http)
        statuses = [httpx.get(f"{address}/health") for _ in range(60)]
        assert {one.status_code for one in statuses} == {200, 429}
        assert int(statuses[-1].headers["retry-after"]) > 0


def _check_dead_worker(http: httpx.Client) -> None:
    """A worker that dies is replaced; at most one request gets 503."""
    server = max(psutil.Process().children(), key=psutil.Process.create_time)
    worker = max(server.children(), key=lambda child: child.memory_info().rss)
    os.kill(worker.pid, signal.SIGKILL)
    statuses = [http.post("/infer/adapter-0?image=new").status_code for _ in range(2)]
    assert statuses in ([503, 200], [200, 200])
    assert "samed_worker_restarts_total 1.0" in http.get("/metrics").text


def test_the_server_does_not_start(adapters, tmp_path, capsys):
    for arguments in (["/nonexistent/adapter"], [adapters["adapter-0"], "--studies", tmp_path / "none"]):
        assert main(["serve", *map(str, arguments), "--port", "0"]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
        assert line.startswith("error: ")
        assert str(arguments[-1]) in line


def test_only_loopback_needs_no_token(adapters, capsys):
    assert main(["serve", str(adapters["adapter-0"]), "--host", "0.0.0.0"]) == 2
    assert "--token" in capsys.readouterr().err


def test_pages_of_other_sites_are_refused(server):
    assert httpx.get(f"{server}/info/", headers={"Origin": "https://evil.example"}).status_code == 403
    assert httpx.get(f"{server}/info/", headers={"Host": "evil.example"}).status_code == 400
    assert httpx.get(f"{server}/info/", headers={"Origin": server}).status_code == 200


def test_the_log_names_no_image(client, server):
    client.infer("adapter-0", "case-0", {})
    log = httpx.get(f"{server}/logs/").text
    assert "POST /infer/{model} 200" in log
    assert "case-" not in log


def test_serving_needs_its_packages(adapters):
    code = "import sys; sys.modules['uvicorn'] = None; sys.modules['fastapi'] = None\n"
    code += "import importlib.util as u; find = u.find_spec\n"
    code += "u.find_spec = lambda name, *a: None if name in ('uvicorn', 'fastapi') else find(name, *a)\n"
    code += f"from samed_hf.cli import main; sys.exit(main(['serve', {str(adapters['adapter-0'])!r}]))"
    done = subprocess.run([os.sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert "samed_hf[serve]" in done.stderr
