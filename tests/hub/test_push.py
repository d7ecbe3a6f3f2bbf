"""Uploads to a Hub on loopback, in this process."""

import json
import os
import shutil
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from huggingface_hub import ModelCard, constants
from safetensors.torch import load, load_file

from samed_hf.cli import main
from samed_hf.hub import push_adapter

from ..loopback_hub import Repository

METRICS = {
    "protocol": "strict",
    "distance_unit": "mm",
    "mean": {"dice": 0.5, "hd95": 1.0},
    "per_class": {"disc": {"dice": 0.5, "hd95": 1.0}},
    "per_case": {"case0006": {}},
}
OF_THE_RUN = [
    "training_log.csv",
    "checkpoint-2/adapter_config.json",
    "checkpoint-2/adapter_model.safetensors",
    "checkpoint-2/optimizer.bin",
    "phantom/train_npz/case0001_slice000.npz",
    "runs/events.out",
]
SOURCE = "git+https://git.example/samed_hf@0123abc"
BASE = {"base_model": "facebook/sam-vit-base", "token": "hf_test"}


@pytest.fixture
def adapter(tiny_adapter, tmp_path):
    """The output of a training: the adapter, its reports, and files that belong to the run only."""
    directory = tmp_path / "adapter"
    shutil.copytree(tiny_adapter, directory)
    settings = {"rank": 2, "data_dir": "/home/someone/scans", "run": {"data": "phantom", "synthetic": True}}
    reports = {"metrics.json": METRICS, "training_settings.json": settings}
    for name, content in reports.items():
        (directory / name).write_text(json.dumps(content))
    for name in ("metrics.csv", "overlay.png", "training_curve.png", "examples/case0006-slice-3.png", *OF_THE_RUN):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text("of the run")
    return directory


def contents(directory):
    return {str(path): path.is_file() and (path.read_bytes(), path.stat().st_mtime_ns) for path in directory.rglob("*")}


@pytest.mark.slow
def test_the_adapter_goes_up_and_the_run_stays(hub, adapter):
    before = contents(adapter)
    assert push_adapter(adapter, "ward/discs", **BASE) == f"{hub.url}/ward/discs"
    assert set(hub.files("ward/discs")) == {
        ".gitattributes",
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "config.json",
        "examples/example-1.png",
        "metrics.csv",
        "metrics.json",
        "overlay.png",
        "preprocessor_config.json",
        "training_curve.png",
        "training_settings.json",
    }
    assert contents(adapter) == before


@pytest.mark.slow
def test_no_path_of_this_machine_and_no_token_is_uploaded(hub, adapter, tmp_path):
    push_adapter(adapter, "ward/discs", with_handler=True, source=SOURCE, **BASE)
    for path, content in hub.files("ward/discs").items():
        for secret in (b"/home/someone", b"hf_test", str(tmp_path).encode()):
            assert secret not in content, path


@pytest.mark.slow
def test_a_path_in_the_adapters_own_files_stops_the_upload(hub, adapter):
    (adapter / "README.md").write_text(f"from {adapter}")
    with pytest.raises(ValueError, match=r"README\.md contains a path.*nothing was uploaded"):
        push_adapter(adapter, "ward/discs", **BASE)
    assert set(hub.files("ward/discs")) == {".gitattributes"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["metrics.json", "adapter_config.json", "training_settings.json", "examples", "x.png"])
def test_a_link_out_of_the_directory_is_refused_and_one_inside_is_not(hub, adapter, tmp_path, name):
    path = adapter / "examples" / name if name == "x.png" else adapter / name
    elsewhere = tmp_path / "elsewhere"
    path.rename(elsewhere) if path.exists() else elsewhere.write_text("private")
    path.symlink_to(elsewhere, target_is_directory=elsewhere.is_dir())
    with pytest.raises(ValueError, match=f"{name}.* would be uploaded from outside"):
        push_adapter(adapter, "ward/discs", **BASE)
    assert hub.repositories == {}
    path.unlink()
    (adapter / "overlay.png").rename(adapter / "first.png")
    (adapter / "overlay.png").symlink_to("first.png")
    if name == "metrics.json":
        push_adapter(adapter, "ward/discs", **BASE)
        assert hub.files("ward/discs")["overlay.png"] == b"of the run"


@pytest.mark.slow
def test_a_random_base_outside_of_the_directory_is_not_published(hub, adapter, tiny_sam):
    settings = {"run": {"random_base": True}}
    (adapter / "training_settings.json").write_text(json.dumps(settings))
    config = json.loads((adapter / "adapter_config.json").read_text())
    for base in (os.path.relpath(tiny_sam, adapter), "base_model"):
        if base == "base_model":
            (adapter / base).symlink_to(tiny_sam, target_is_directory=True)
        (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": base}))
        with pytest.raises(ValueError, match=r"model\.safetensors.* would be uploaded from outside"):
            push_adapter(adapter, "ward/discs", token="hf_test")
    assert set(hub.repositories) == {"ward/discs"}


@pytest.mark.slow
def test_the_base_model_is_the_one_named(hub, adapter):
    push_adapter(adapter, "ward/discs", base_revision="v1", **BASE)
    files = hub.files("ward/discs")
    config, adapter_config = json.loads(files["config.json"]), json.loads(files["adapter_config.json"])
    assert (config["base_model_name_or_path"], config["base_model_revision"]) == ("facebook/sam-vit-base", "v1")
    assert (adapter_config["base_model_name_or_path"], adapter_config["revision"]) == ("ward/discs", None)
    assert adapter_config["auto_mapping"]["base_model_class"] == "SamedForSemanticSegmentation"
    assert adapter_config["task_type"] is None


@pytest.mark.slow
def test_a_local_base_gives_a_warning_and_is_not_published(hub, adapter, caplog):
    push_adapter(adapter, "ward/discs", token="hf_test")
    assert "--base_model USER/NAME" in caplog.text
    assert json.loads(hub.files("ward/discs")["config.json"])["base_model_name_or_path"] is None
    assert b"is not on the Hub" in hub.files("ward/discs")["README.md"]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_weights_in_the_data_type_asked_for(hub, adapter, dtype, caplog):
    caplog.set_level("INFO", "samed_hf")
    push_adapter(adapter, "ward/discs", dtype=dtype, **BASE)
    theirs = load(hub.files("ward/discs")["adapter_model.safetensors"])
    ours = load_file(adapter / "adapter_model.safetensors")
    assert theirs.keys() == ours.keys()
    for key, tensor in theirs.items():
        assert tensor.dtype == getattr(torch, dtype)
        torch.testing.assert_close(tensor, ours[key].to(tensor.dtype), rtol=0, atol=0)
    assert f"MB in {dtype}" in caplog.text


@pytest.mark.slow
def test_images_of_patients_are_uploaded_on_request_only(hub, adapter, caplog):
    settings = json.loads((adapter / "training_settings.json").read_text())
    settings["run"]["synthetic"] = False
    (adapter / "training_settings.json").write_text(json.dumps(settings))
    images = {"overlay.png", "examples/example-1.png"}
    push_adapter(adapter, "ward/discs", **BASE)
    assert not images & set(hub.files("ward/discs"))
    assert "--pictures" in caplog.text
    push_adapter(adapter, "ward/discs", images=True, **BASE)
    assert images <= set(hub.files("ward/discs"))
    push_adapter(adapter, "ward/discs", images=False, **BASE)
    assert not images & set(hub.files("ward/discs"))


@pytest.mark.slow
def test_an_older_layout_and_a_whole_model_make_way(hub, adapter, tmp_path):
    hub.add("ward/discs", tmp_path / "nothing")
    old = {"adapter/adapter_config.json", "adapter/adapter_model.safetensors", "model.safetensors.index.json"}
    hub.repositories["ward/discs"].commit(dict.fromkeys({*old, "model-00001-of-00002.safetensors", "notes.md"}, b"{}"))
    push_adapter(adapter, "ward/discs", **BASE)
    files = set(hub.files("ward/discs"))
    assert {"adapter_config.json", "adapter_model.safetensors", "notes.md"} <= files
    assert not {*old, "model-00001-of-00002.safetensors"} & files


@pytest.mark.slow
def test_a_random_base_goes_up_too(hub, adapter, tiny_sam):
    shutil.copytree(tiny_sam, adapter / "base_model")
    config = json.loads((adapter / "adapter_config.json").read_text()) | {"base_model_name_or_path": "./base_model"}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    (adapter / "training_settings.json").write_text(json.dumps({"run": {"random_base": True}}))
    push_adapter(adapter, "ward/discs", token="hf_test")
    config = json.loads(hub.files("ward/discs")["config.json"])
    assert config["base_model_name_or_path"] == "ward/discs-base"
    assert hub.files("ward/discs-base", config["base_model_revision"])["model.safetensors"]
    assert not any("model.safetensors" in path and "adapter" not in path for path in hub.files("ward/discs"))


@pytest.mark.slow
def test_a_bare_name_goes_to_ones_own_namespace(hub, adapter):
    assert push_adapter(adapter, "discs", **BASE) == f"{hub.url}/me/discs"
    assert list(hub.repositories) == ["me/discs"]


@pytest.mark.slow
def test_a_repository_is_private_where_that_is_asked_for(hub, adapter):
    push_adapter(adapter, "ward/open", **BASE)
    push_adapter(adapter, "ward/closed", private=True, **BASE)
    assert [hub.repositories[name].private for name in ("ward/open", "ward/closed")] == [False, True]


@pytest.mark.slow
@pytest.mark.parametrize(("refuse", "reason"), [("create", "401"), ("lfs", "403"), ("commit", "403")])
def test_a_refused_upload_leaves_the_folder_and_can_be_tried_again(hub, adapter, refuse, reason):
    before = contents(adapter)
    hub.refuse = refuse
    with pytest.raises(ValueError, match=f"{reason}.*directory is unchanged") as caught:
        push_adapter(adapter, "ward/discs", **BASE)
    assert f"The upload of {adapter} to 'ward/discs' failed" in str(caught.value)
    assert f"`samed-hf push {adapter} --repo_id ward/discs --base_model facebook/sam-vit-base`" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert contents(adapter) == before
    hub.refuse = None
    push_adapter(adapter, "ward/discs", **BASE)
    assert "adapter_model.safetensors" in hub.files("ward/discs")


@pytest.mark.slow
def test_what_was_sent_before_a_failure_is_not_sent_again(hub, adapter):
    hub.refuse = "commit"
    with pytest.raises(ValueError, match="403"):
        push_adapter(adapter, "ward/discs", **BASE)
    hub.refuse = None
    hub.requests.clear()
    push_adapter(adapter, "ward/discs", **BASE)
    assert [request for request in hub.requests if request[0] == "PUT"] == []


@pytest.mark.slow
def test_a_hub_that_cannot_be_reached(hub, adapter, monkeypatch):
    before = contents(adapter)
    # A port that is bound and not listened to refuses every connection.
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler, bind_and_activate=False) as closed:
        closed.server_bind()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed.server_port}")
        with pytest.raises(ValueError, match=r"to 'ward/discs' failed \(.+\)\. The directory is unchanged; try again"):
            push_adapter(adapter, "ward/discs", **BASE)
    assert contents(adapter) == before


@pytest.mark.slow
def test_offline_mode_is_named(hub, adapter, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"offline mode is enabled.*try again with `samed-hf push"):
        push_adapter(adapter, "ward/discs", **BASE)
    assert hub.requests == []


@pytest.mark.slow
def test_a_name_the_hub_does_not_know_how_to_read(hub, adapter):
    for name in ("a/b/c", "two words", "ward/"):
        with pytest.raises(ValueError, match=f"'{name}'"):
            push_adapter(adapter, name, **BASE)
    assert hub.repositories == {}


@pytest.mark.slow
@pytest.mark.parametrize("missing", [["adapter_config.json"], ["adapter_config.json", "adapter_model.safetensors"]])
def test_a_folder_without_adapter_is_refused_before_anything_is_made(hub, adapter, missing):
    for name in missing:
        (adapter / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"adapter is no adapter: {', '.join(missing)} missing"):
        push_adapter(adapter, "ward/discs", **BASE)
    with pytest.raises(FileNotFoundError, match="nowhere is no adapter"):
        push_adapter(adapter / "nowhere", "ward/discs", **BASE)
    assert hub.requests == []


@pytest.mark.slow
def test_damaged_weights_are_not_sent(hub, adapter):
    path = adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors is damaged.*nothing was uploaded"):
        push_adapter(adapter, "ward/discs", **BASE)


@pytest.mark.slow
def test_the_command(hub, adapter, capsys):
    options = [
        "--hub_token",
        "hf_test",
        "--base_model",
        "facebook/sam-vit-base",
        "--dtype",
        "float16",
        "--with_handler",
        "--source",
        SOURCE,
    ]
    assert main(["push", str(adapter), "--repo_id", "ward/discs", *options]) == 0
    assert f"pushed      {hub.url}/ward/discs" in capsys.readouterr().out
    assert {"handler.py", "requirements.txt"} <= set(hub.files("ward/discs"))
    hub.refuse = "commit"
    assert main(["push", str(adapter), "--repo_id", "ward/discs", "--hub_token", "hf_test", "--no-pictures"]) == 2
    assert "try again with" in capsys.readouterr().err


@pytest.mark.slow
def test_a_branch_and_a_pull_request_leave_main_as_it_is(hub, adapter):
    push_adapter(adapter, "ward/discs", **BASE)
    before = hub.repositories["ward/discs"].refs["main"]
    (adapter / "metrics.json").write_text(json.dumps(METRICS | {"protocol": "samed"}))
    push_adapter(adapter, "ward/discs", revision="next/one", **BASE)
    assert hub.files("ward/discs", "next/one")["metrics.json"] != hub.files("ward/discs")["metrics.json"]
    address = push_adapter(adapter, "ward/discs", create_pr=True, **BASE)
    assert address == f"{hub.url}/ward/discs/discussions/1"
    assert json.loads(hub.files("ward/discs", "refs/pr/1")["metrics.json"])["protocol"] == "samed"
    assert hub.repositories["ward/discs"].refs["main"] == before


def write_json(directory, **files):
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content))


def everything(hub, name="ward/discs"):
    """The texts of a repository's files, by path."""
    files = hub.files(name).items()
    return {path: content.decode() for path, content in files if not path.endswith((".safetensors", ".png"))}


@pytest.mark.slow
def test_no_name_of_a_case_or_a_directory_is_uploaded(hub, adapter, tmp_path):
    patients = ["Doe_Jane", "Roe_Richard", "Poe_Edgar"]
    score = {"dice": 0.5, "hd95": None}
    metrics = {"per_case": {"Poe_Edgar": {"disc": score}, "Loe_Lou": {"disc": score}}}
    settings = {
        "data_dir": str(tmp_path / "oncology7"),
        "cache_dir": "~/oncology7/cache",
        "some_new_setting": "/srv/oncology7",
        "some_list": ["./oncology7", "C:\\\\oncology7", "fine"],
        "cases": {"train": patients[:2], "validation": [], "test": patients[2:]},
        "run": {"data": "oncology7", "synthetic": False, "code": {"path": "../oncology7", "revision": "0123abc"}},
    }
    config = json.loads((adapter / "config.json").read_text()) | {"_name_or_path": "/srv/oncology7"}
    processor = json.loads((adapter / "preprocessor_config.json").read_text()) | {"origin": "/srv/oncology7"}
    write_json(adapter, metrics=METRICS | metrics | {"adapter": "/srv/oncology7"}, training_settings=settings)
    write_json(adapter, config=config, preprocessor_config=processor)
    (adapter / "metrics.csv").write_text("case,label,dice,hd95\nDoe_Jane,disc,0.5,\n")
    (adapter / "examples" / "case0006-slice-3.png").rename(adapter / "examples" / "Poe_Edgar-slice-3.png")
    push_adapter(adapter, "ward/discs", images=True, **BASE)
    texts = everything(hub)
    for secret in (*patients, "Loe_Lou", "oncology7"):
        assert [path for path, text in texts.items() if secret in text] == []
        assert not any(secret in path for path in hub.files("ward/discs"))
    assert list(json.loads(texts["metrics.json"])["per_case"]) == ["case 3", "case 4"]
    assert texts["metrics.csv"].splitlines()[1:] == ["case 3,disc,0.5,", "case 4,disc,0.5,"]
    public = json.loads(texts["training_settings.json"])
    assert public["cases"] == {"train": ["case 1", "case 2"], "validation": [], "test": ["case 3"]}
    assert (public["some_list"], public["run"]["code"]) == (["fine"], {"revision": "0123abc"})
    assert "2 cases, none of them trained on" in texts["README.md"]


@pytest.mark.slow
def test_private_for_a_public_repository_is_refused(hub, adapter):
    push_adapter(adapter, "ward/open", **BASE)
    before = hub.files("ward/open")
    with pytest.raises(ValueError, match="private is given, but 'ward/open' exists and is public"):
        push_adapter(adapter, "ward/open", private=True, **BASE)
    assert hub.files("ward/open") == before


@pytest.mark.slow
def test_the_base_of_a_private_repository_is_private(hub, adapter, tiny_sam):
    hub.repositories["ward/closed"] = Repository(private=True)
    hub.repositories["ward/closed"].commit({})
    shutil.copytree(tiny_sam, adapter / "base_model")
    config = json.loads((adapter / "adapter_config.json").read_text()) | {"base_model_name_or_path": "./base_model"}
    write_json(adapter, adapter_config=config, training_settings={"run": {"random_base": True}})
    push_adapter(adapter, "ward/closed", token="hf_test")
    assert hub.repositories["ward/closed-base"].private


@pytest.mark.slow
def test_data_sets_are_named_if_everyone_can_see_them(hub, adapter):
    hub.repositories["lab/scans"] = Repository()
    hub.repositories["lab/secret"] = Repository(private=True)
    for repository in ("lab/scans", "lab/secret"):
        hub.repositories[repository].commit({})
    for name, expected in (("lab/scans", ["lab/scans"]), ("lab/secret", None), ("lab/none", None)):
        settings = {"dataset_name": name, "run": {"data": name.split("/")[1], "synthetic": True}}
        write_json(adapter, training_settings=settings)
        push_adapter(adapter, name.replace("lab", "ward"), **BASE)
        texts = everything(hub, name.replace("lab", "ward"))
        assert ModelCard(texts["README.md"]).data.to_dict().get("datasets") == expected
        assert [path for path in texts if name in texts[path]] == (
            ["README.md", "training_settings.json"] if expected else []
        )
        assert f"Trained on {name.split('/')[1]}" in texts["README.md"] or not expected


@pytest.mark.slow
def test_a_card_that_was_edited_on_the_hub_is_kept_and_old_scores_are_not(hub, adapter):
    push_adapter(adapter, "ward/discs", license="mit", **BASE)
    files = dict(hub.files("ward/discs"))
    edited = files["README.md"].decode().replace("license: mit", "license: cc-by-4.0\nlanguage: en") + "\nOur words.\n"
    hub.repositories["ward/discs"].commit(files | {"README.md": edited.encode(), "figure.png": b"png"})
    for name in ("metrics.json", "metrics.csv"):
        (adapter / name).unlink()
    push_adapter(adapter, "ward/discs", **BASE)
    files = hub.files("ward/discs")
    card = ModelCard(files["README.md"].decode())
    assert card.text.rstrip().endswith("Our words.")
    assert "there are no scores" in card.text
    assert (card.data.license, card.data.language, card.data.eval_results) == ("cc-by-4.0", "en", None)
    assert "figure.png" in files
    assert not {"metrics.json", "metrics.csv"} & set(files)


@pytest.mark.slow
def test_the_source_that_others_install_from(hub, adapter, monkeypatch):
    monkeypatch.setattr("samed_hf.hub.repository.package_source", lambda: None)
    with pytest.raises(ValueError, match="with_handler is given, but the source"):
        push_adapter(adapter, "ward/discs", with_handler=True, **BASE)
    with pytest.raises(ValueError, match="source is 'samed_hf'"):
        push_adapter(adapter, "ward/discs", source="samed_hf", **BASE)
    assert hub.repositories == {}
    push_adapter(adapter, "ward/discs", with_handler=True, source=SOURCE, **BASE)
    texts = everything(hub)
    assert texts["requirements.txt"] == f"samed_hf @ {SOURCE}\n"
    assert f'pip install "samed_hf @ {SOURCE}"' in texts["README.md"]
    assert "pip install samed_hf" not in texts["README.md"]
