"""The journey over the Hub, from a training to every way of loading its adapter; each step is a process of its own."""

import json
import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from huggingface_hub import ModelCard
from PIL import Image

from samed_hf import SamedForSemanticSegmentation

from ..loopback_hub import LoopbackHub, Repository

pytestmark = pytest.mark.slow

NAME = "me/discs"


def run(environment, *arguments, check=True):
    command = [sys.executable, *arguments]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert not check or result.returncode == 0, result.stdout + result.stderr
    return result


@pytest.fixture(scope="module")
def hub(tiny_sam):
    with LoopbackHub() as hub:
        hub.add("lab/sam", tiny_sam)
        yield hub


@pytest.fixture(scope="module")
def trained(hub, tiny_data, tmp_path_factory):
    """Directory and output of a run that pushed its adapter. Its base model comes from the Hub."""
    directory = tmp_path_factory.mktemp("run") / "out"
    flags = [
        "--model_name_or_path",
        "lab/sam",
        "--data_dir",
        tiny_data,
        "--output_dir",
        directory,
        "--image_size",
        "64",
    ]
    flags += ["--max_train_steps", "4", "--per_device_train_batch_size", "2", "--report_to", "none", "--rank", "2"]
    flags += ["--push_to_hub", "--push_every", "2", "--hub_model_id", NAME, "--with_handler", "--hub_pictures"]
    flags += ["--hub_source", "git+https://git.example/samed_hf@0123abc"]
    environment = hub.environment(tmp_path_factory.mktemp("home"))
    result = run(environment, "-m", "samed_hf.cli", "train", *map(str, flags))
    return directory, result.stdout


def test_the_run_pushed_during_training_and_at_its_end(hub, trained):
    _, output = trained
    assert output.count(f"pushed      {hub.url}/{NAME}") == 2
    assert len(hub.repositories[NAME].commits) == 3  # its creation, step 2, the end


def test_the_repository_names_the_base_models_commit_and_has_none_of_its_weights(hub, trained):
    files = hub.files(NAME)
    config = json.loads(files["config.json"])
    assert config["base_model_name_or_path"] == "lab/sam"
    assert config["base_model_revision"] == hub.repositories["lab/sam"].refs["main"]
    assert [path for path in files if path.endswith((".safetensors", ".bin"))] == ["adapter_model.safetensors"]
    assert b"vision_encoder.patch_embed" not in files["adapter_model.safetensors"]


def test_the_card_has_the_scores_of_the_run(hub, trained):
    files = hub.files(NAME)
    card = ModelCard(files["README.md"].decode())
    metrics = json.loads(files["metrics.json"])
    values = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert values["Dice, mean"] == metrics["mean"]["dice"]
    for label, row in metrics["per_class"].items():
        assert values[f"Dice, {label}"] == row["dice"]
    assert card.data.base_model == "lab/sam"
    assert all(example["src"] in files for example in card.data.widget)
    assert "overlay.png" in files


def test_nothing_private_is_in_any_file(hub, trained, tiny_data):
    directory, _ = trained
    for path, content in hub.files(NAME).items():
        for secret in (str(directory.parent), str(tiny_data.parent), "hf_test"):
            assert secret.encode() not in content, path


def test_the_snippets_of_the_card_work(hub, trained, tmp_path):
    page = hub.files(NAME)["README.md"].decode()
    scan = np.random.default_rng(0).normal(50, 90, (20, 24, 2)).astype(np.int16)
    nib.save(nib.Nifti1Image(scan, np.diag([2, 2, 5, 1.0])), tmp_path / "scan.nii.gz")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50), dtype=np.uint8)).save(tmp_path / "slice.png")
    snippets = re.findall(r"```python\n(.*?)```", page, re.S)
    assert len(snippets) == 3
    script = "import os, sys\nos.chdir(sys.argv[1])\n" + "\n".join(snippets)
    (tmp_path / "snippets.py").write_text(script)
    environment = hub.environment(tmp_path / "home")
    run(environment, str(tmp_path / "snippets.py"), str(tmp_path))
    command = re.search(r"^samed-hf (predict .*)$", page, re.M)[1].split()
    command[2:] = [str(tmp_path / "scan.nii.gz"), str(tmp_path / "slice.png"), "--output", str(tmp_path / "predicted")]
    run(environment, "-m", "samed_hf.cli", *command)
    ours, theirs = (nib.load(tmp_path / name) for name in ("segmentation.nii.gz", "predicted/scan.nii.gz"))
    assert ours.shape == scan.shape
    np.testing.assert_array_equal(np.asarray(ours.dataobj), np.asarray(theirs.dataobj))
    # The pipeline's masks are those of the command, at the picture's own size.
    labels = np.asarray(Image.open(tmp_path / "predicted" / "slice.png"))
    assert labels.shape == (40, 50)
    names = {0: "background", 1: "disc", 2: "bar"}
    assert {path.stem for path in tmp_path.glob("*.png")} - {"slice"} == {names[int(i)] for i in np.unique(labels)}
    for index in np.unique(labels):
        mask = np.asarray(Image.open(tmp_path / f"{names[int(index)]}.png"))
        np.testing.assert_array_equal(mask > 0, labels == index)


def test_the_snippet_of_the_readme_works(hub, trained, tmp_path):
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", readme, re.S)[1]
    for theirs, ours in (("user/name", NAME), ("user/other", NAME), ("facebook/sam-vit-base", "lab/sam")):
        assert theirs in code
        code = code.replace(theirs, ours)
    run(hub.environment(tmp_path / "home"), "-c", code)


def test_private_and_gated_repositories(hub, trained, tmp_path):
    hub.repositories["me/secret"] = Repository(private=True)
    hub.repositories["me/secret"].commit(hub.files(NAME))
    load = "from samed_hf import SamedForSemanticSegmentation as S; S.from_pretrained('me/secret'{})"
    result = run(hub.environment(tmp_path / "home", token=None), "-c", load.format(""), check=False)
    assert result.returncode == 1
    assert "me/secret" in result.stderr
    hub.repositories["me/gated"] = Repository(gated=True)
    hub.repositories["me/gated"].commit(hub.files(NAME))
    gated = load.replace("secret", "gated").format("")
    result = run(hub.environment(tmp_path / "home"), "-c", gated, check=False)
    assert result.returncode == 1
    assert "me/gated is restricted" in result.stderr
    run(hub.environment(tmp_path / "home", token=None), "-c", load.format(", token='hf_test'"))


def test_a_failing_upload_does_not_stop_the_training(hub, tiny_data, tmp_path):
    hub.refuse = "create"
    flags = ["--model_name_or_path", "lab/sam", "--data_dir", str(tiny_data), "--output_dir", str(tmp_path / "out")]
    flags += ["--image_size", "64", "--max_train_steps", "2", "--report_to", "none", "--num_validation_cases", "0"]
    flags += ["--push_to_hub", "--push_every", "1", "--hub_model_id", "me/refused"]
    try:
        result = run(hub.environment(tmp_path / "home"), "-m", "samed_hf.cli", "train", *flags, check=False)
    finally:
        hub.refuse = None
    assert result.returncode == 2
    assert re.search(r"^warning +.*401", result.stderr, re.M)
    assert f"samed-hf push {tmp_path / 'out'} --repo_id me/refused" in result.stderr
    base = tmp_path / "sam"
    base.mkdir()
    for path, content in hub.files("lab/sam").items():
        (base / path).write_bytes(content)
    model = SamedForSemanticSegmentation.from_pretrained(tmp_path / "out", base_model_name_or_path=base)
    assert model.config.num_labels == 3
