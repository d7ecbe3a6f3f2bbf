"""Many cases: continued after a kill, in shards, and merged."""

import itertools
import json
import os
import re
import shutil
import threading
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from samed_hf import SamedForSemanticSegmentation
from samed_hf.cli import main
from samed_hf.prediction import case as prediction

from ..conftest import randomize_lora
from ..dicom_files import write_series


def run(*argv) -> int:
    return main(["predict", *(str(part) for part in argv)])


@pytest.fixture
def scans(tmp_path):
    """A directory with three scans of different sizes."""
    directory = tmp_path / "scans"
    directory.mkdir()
    for index, name in enumerate("abc"):
        array = np.random.default_rng(index).normal(50, 200, (20, 18, 2 + index)).astype(np.int16)
        nib.save(nib.Nifti1Image(array, np.diag([1, 1, 2, 1.0])), directory / f"{name}.nii.gz")
    return directory


def contents(directory, times=()):
    """The files below a directory; `seconds` and `created` of the files in `times` are left out."""
    files = {path.relative_to(directory).as_posix(): path for path in directory.rglob("*") if path.is_file()}
    return {name: without_times(path) if name in times else path.read_bytes() for name, path in files.items()}


def without_times(path):
    text = path.read_text()
    return re.sub(r'"(seconds|created)": [^,]+,', "", text) if path.suffix == ".json" else None


RUN = ("predictions.json", "report.html")


def statuses(out, name="predictions.json"):
    return [(case["name"], case["status"]) for case in json.loads((out / name).read_text())["cases"]]


def count_cases(monkeypatch):
    """Collects the names of the scans that are segmented."""
    seen = []
    segment = prediction.segment_volume

    def watch(segmenter, scan, **options):
        seen.append(Path(scan.path).name.partition(".")[0])
        return segment(segmenter, scan, **options)

    monkeypatch.setattr(prediction, "segment_volume", watch)
    return seen


# ------------------------------------------------------------------------------------------------------------ continued


@pytest.fixture
def snapshots(tmp_path, monkeypatch):
    """Copies of the directory `out` before each change of a file in it: what a kill at that moment leaves."""
    out, copies, lock = tmp_path / "out", [], threading.RLock()
    numbers = itertools.count()
    for module, name in ((os, "replace"), (Path, "unlink"), (Path, "mkdir"), (shutil, "rmtree")):
        original = getattr(module, name)

        def change(*args, original=original, **options):
            with lock:
                if out.exists() and str(args[0]).startswith(str(out)):
                    copies.append(shutil.copytree(out, tmp_path / f"kill-{next(numbers)}"))
                return original(*args, **options)

        monkeypatch.setattr(module, name, change)
    yield copies
    monkeypatch.undo()


@pytest.mark.slow
def test_a_kill_at_any_moment_is_continued(tiny_adapter, scans, tmp_path, snapshots, monkeypatch):
    (scans / "c.nii.gz").unlink()
    out = tmp_path / "out"
    assert run(tiny_adapter, scans, "--output", out, "--no_preview") == 0
    killed = list(snapshots)
    monkeypatch.undo()
    assert len(killed) > 10
    expected = contents(out, RUN)
    for copy in killed:
        shutil.rmtree(out)
        shutil.copytree(copy, out)
        assert run(tiny_adapter, scans, "--output", out, "--no_preview", "--skip_existing") == 0
        found = contents(out, RUN)
        # Of the run's own files a kill can leave a hidden one.
        assert {name: content for name, content in found.items() if name[0] != "." or "/" in name} == expected, copy


@pytest.mark.slow
def test_a_kill_while_results_are_replaced_is_continued(tiny_adapter, scans, tmp_path, snapshots, monkeypatch):
    """The first results have masks that the second ones don't have."""
    out, flags = tmp_path / "out", ["--no_preview", "--labels", "disc"]
    scan = scans / "a.nii.gz"
    assert run(tiny_adapter, scan, "--output", out, "--per_class", "--no_preview", "--format", "mhd") == 0
    snapshots.clear()
    assert run(tiny_adapter, scan, "--output", out, *flags, "--overwrite", "--format", "mhd") == 0
    killed = [copy for copy in snapshots if (copy / "a").exists()]
    monkeypatch.undo()
    expected = contents(out, RUN)
    assert sorted(expected) == ["a.mhd", "a.zraw", "a/statistics.json", *RUN]
    assert len(killed) > 5
    for copy in killed:
        shutil.rmtree(out)
        shutil.copytree(copy, out)
        assert (
            run(tiny_adapter, scan, "--output", out, *flags, "--skip_existing", "--overwrite", "--format", "mhd") == 0
        )
        found = contents(out, RUN)
        assert {name: content for name, content in found.items() if name[0] != "." or "/" in name} == expected, copy


@pytest.mark.slow
def test_finished_cases_are_not_predicted_again(tiny_adapter, scans, tmp_path, monkeypatch):
    whole, out = tmp_path / "whole", tmp_path / "out"
    (scans / "damaged.nii.gz").write_bytes(b"damaged")
    assert run(tiny_adapter, scans, "--output", whole) == 1
    assert run(tiny_adapter, scans / "a.nii.gz", scans / "c.nii.gz", "--output", out) == 0
    seconds = {case["name"]: case["seconds"] for case in json.loads((out / "predictions.json").read_text())["cases"]}
    seen = count_cases(monkeypatch)
    assert run(tiny_adapter, scans, "--output", out, "--skip_existing") == 1
    assert seen == ["b"]
    assert contents(out, RUN) == contents(whole, RUN)
    cases = json.loads((out / "predictions.json").read_text())["cases"]
    assert {case["name"]: case["seconds"] for case in cases if case["name"] in seconds} == seconds
    # A run on one of the scans lists all that the directory holds.
    assert run(tiny_adapter, scans / "a.nii.gz", "--output", out, "--skip_existing") == 0
    assert statuses(out) == [("a", "done"), ("b", "done"), ("c", "done"), ("damaged", "failed")]
    assert seen == ["b"]
    assert not list(out.glob("predictions-*"))


def test_without_a_list_of_cases_those_of_a_killed_run_are_found(tiny_adapter, scans, tmp_path):
    out = tmp_path / "out"
    assert run(tiny_adapter, scans / "a.nii.gz", "--output", out) == 0
    (out / "predictions.json").unlink()
    assert run(tiny_adapter, scans / "b.nii.gz", "--output", out, "--skip_existing") == 0
    assert statuses(out) == [("b", "done"), ("a", "done")]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert [f"<h3>{name}</h3>" in page for name in "abc"] == [True, True, False]


OTHER_SETTINGS = [
    (["--tta"], "tta False, not True"),
    (["--labels", "disc"], "labels None, not ['disc']"),
    (["--keep_largest", "all"], "keep_largest [], not ['all']"),
    (["--min_island_ml", "disc=1"], "min_island_ml {}, not {'disc': 1.0}"),
    (["--format", "nrrd"], "format None, not nrrd"),
    (["--per_class"], "per_class False, not True"),
    (["--no_preview"], "preview True, not False"),
    (["--frames", "0"], "frames None, not [0]"),
    (["--dtype", "bfloat16"], "dtype float32, not bfloat16"),
    (["--ensemble", "OTHER"], "another adapter or base model"),
]


@pytest.mark.slow
def test_other_settings_are_refused(tiny_adapter, scans, tmp_path, capsys):
    out, scan = tmp_path / "out", scans / "a.nii.gz"
    assert run(tiny_adapter, scan, "--output", out) == 0
    before = contents(out)
    other = SamedForSemanticSegmentation.from_pretrained(tiny_adapter)
    randomize_lora(other)
    other.save_pretrained(tmp_path / "other")
    for flags, message in OTHER_SETTINGS:
        flags = [tmp_path / "other" if flag == "OTHER" else flag for flag in flags]
        assert run(tiny_adapter, scan, "--output", out, "--skip_existing", *flags) == 2
        error = capsys.readouterr().err
        assert f"a ({message})" in error
        assert "--overwrite" in error
        assert contents(out) == before, message
    assert run(tiny_adapter, scan, "--output", out, "--skip_existing", "--batch_size", "1") == 0
    for flags in (["--tta"], ["--labels", "disc"], ["--format", "nrrd"], ["--ensemble", tmp_path / "other"]):
        assert run(tiny_adapter, scan, "--output", out, "--skip_existing", "--overwrite", *flags) == 0
        new = tmp_path / f"new {flags[0]}"
        assert run(tiny_adapter, scan, "--output", new, *flags) == 0
        assert contents(out / "a") == contents(new / "a")


def test_another_adapter_is_noticed_by_its_weights(tiny_adapter, scans, tmp_path, capsys):
    from safetensors.torch import load_file, save_file

    out, scan = tmp_path / "out", scans / "a.nii.gz"
    assert run(tiny_adapter, scan, "--output", out, "--no_preview") == 0
    moved = shutil.copytree(tiny_adapter, tmp_path / "moved")
    assert run(moved, scan, "--output", out, "--no_preview", "--skip_existing") == 0
    weights = load_file(moved / "adapter_model.safetensors")
    name = next(name for name in weights if "lora_B" in name)
    weights[name][0, 0] += 1e-6
    save_file(weights, moved / "adapter_model.safetensors", {"format": "pt"})
    assert run(moved, scan, "--output", out, "--no_preview", "--skip_existing") == 2
    assert "a (another adapter or base model)" in capsys.readouterr().err
    window = shutil.copytree(tiny_adapter, tmp_path / "window")
    content = json.loads((window / "preprocessor_config.json").read_text())
    (window / "preprocessor_config.json").write_text(json.dumps(content | {"intensity_window": [-100, 275]}))
    assert run(window, scan, "--output", out, "--no_preview", "--skip_existing") == 2


def change_one_voxel(path):
    """Keeps size and times of a file."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.slow
def test_a_changed_input_is_noticed(tiny_adapter, tmp_path, capsys):
    scans, out = tmp_path / "scans", tmp_path / "out"
    array = np.random.default_rng(0).integers(0, 500, (20, 18, 3)).astype(np.int16)
    scans.mkdir()
    nib.save(nib.Nifti1Image(array, np.eye(4)), scans / "nifti.nii")
    sitk.WriteImage(sitk.GetImageFromArray(array.T), str(scans / "meta.mhd"))
    write_series(scans / "dicom", array)
    flags = ["--output", out, "--no_preview", "--format", "nrrd"]
    assert run(tiny_adapter, scans, *flags) == 0
    for path in scans.rglob("*"):
        os.utime(path)  # copied: newer, but the same
    assert run(tiny_adapter, scans, *flags, "--skip_existing") == 0
    for name, changed in (("nifti", "nifti.nii"), ("meta", "meta.raw"), ("dicom", None)):
        path = scans / changed if changed else sorted((scans / "dicom").iterdir())[1]
        before = path.read_bytes()
        change_one_voxel(path)
        capsys.readouterr()
        assert run(tiny_adapter, scans, *flags, "--skip_existing") == 2
        assert re.search(rf"results than this run's: {name} \(\S+ has changed since\)\. Give", capsys.readouterr().err)
        path.write_bytes(before)


def test_files_of_unknown_origin_are_refused(tiny_adapter, scans, tmp_path, capsys):
    out, flags = tmp_path / "out", ["--output", tmp_path / "out", "--no_preview", "--skip_existing"]
    assert run(tiny_adapter, scans, *flags) == 0
    (out / "a" / "statistics.json").unlink()
    statistics = json.loads((out / "b" / "statistics.json").read_text())
    del statistics["method"]
    (out / "b" / "statistics.json").write_text(json.dumps(statistics))
    corrected = nib.load(out / "c.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros(corrected.shape, np.uint8), corrected.affine), out / "c.nii.gz")
    before = contents(out)
    assert run(tiny_adapter, scans, *flags) == 2
    error = capsys.readouterr().err
    assert "a (a.nii.gz exists without its statistics.json)" in error
    assert "b (its statistics.json is of an earlier version" in error
    assert "c (its files were changed" in error
    assert contents(out) == before
    assert run(tiny_adapter, scans, *flags, "--overwrite") == 0
    assert run(tiny_adapter, scans, "--output", tmp_path / "new", "--no_preview") == 0
    assert contents(out, RUN) == contents(tmp_path / "new", RUN)


# --------------------------------------------------------------------------------------------------------------- shards


@pytest.mark.slow
def test_shards_in_one_directory_merge_by_themselves(tiny_adapter, scans, tmp_path):
    one, out = tmp_path / "one", tmp_path / "out"
    (scans / "damaged.nii.gz").write_bytes(b"damaged")
    inputs = [scans, tmp_path / "nowhere"]
    assert run(tiny_adapter, *inputs, "--output", one) == 1
    done = {shard: run(tiny_adapter, *inputs, "--output", out, "--shard", f"{shard}/3") for shard in (3, 1)}
    assert not (out / "predictions.json").exists()
    done[2] = run(tiny_adapter, *inputs, "--output", out, "--shard", "2/3")
    # The largest case alone, the second with the damaged one, the smallest; the missing input is of the first shard.
    shares = [[name for name, _ in statuses(out, f"predictions-{shard}-of-3.json")] for shard in (1, 2, 3)]
    assert shares == [["c", "nowhere"], ["b"], ["a", "damaged"]]
    assert done == {1: 1, 2: 0, 3: 1}
    found = contents(out, RUN)
    assert {name: found[name] for name in found if "-of-3" not in name} == contents(one, RUN)
    assert statuses(out)[-2:] == [("damaged", "failed"), ("nowhere", "failed")]


def test_a_shard_is_repeated(tiny_adapter, scans, tmp_path, capsys, monkeypatch):
    out, flags = tmp_path / "out", ["--output", tmp_path / "out", "--no_preview"]
    for shard in ("1/2", "2/2"):
        assert run(tiny_adapter, scans, *flags, "--shard", shard) == 0
    before = contents(out, [*RUN, "predictions-1-of-2.json"])
    assert run(tiny_adapter, scans, *flags, "--shard", "1/2") == 2
    assert "exists already" in capsys.readouterr().err
    for name in RUN:
        (out / name).unlink()
    shutil.rmtree(out / "c")
    seen = count_cases(monkeypatch)
    assert run(tiny_adapter, scans, *flags, "--shard", "1/2", "--skip_existing", "--overwrite") == 0
    assert seen == ["c"]
    assert contents(out, [*RUN, "predictions-1-of-2.json"]) == before


def test_shards_of_another_adapter_are_not_merged(tiny_adapter, scans, tmp_path, capsys):
    out = tmp_path / "out"
    for shard in ("1/2", "2/2"):
        assert run(tiny_adapter, scans, "--output", out, "--no_preview", "--shard", shard) == 0
    before = (out / "predictions.json").read_bytes()
    flags = ["--output", out, "--no_preview", "--tta", "--overwrite"]
    assert run(tiny_adapter, scans, *flags, "--shard", "1/2") == 0
    assert (out / "predictions.json").read_bytes() == before
    assert main(["merge-predictions", str(out)]) == 2
    assert "predictions-2-of-2.json differ in their method: tta True, not False" in capsys.readouterr().err
    assert run(tiny_adapter, scans, *flags, "--shard", "2/2") == 0
    assert json.loads((out / "predictions.json").read_text())["method"]["tta"] is True
    assert json.loads((out / "predictions-1.json").read_text())["method"]["tta"] is False


@pytest.mark.slow
def test_directories_of_shards_and_runs_are_merged(tiny_adapter, scans, tmp_path, capsys):
    one = tmp_path / "one"
    assert run(tiny_adapter, scans, "--output", one, "--per_class") == 0
    shards = [tmp_path / f"shard{index}" for index in range(1, 5)]
    for index, out in enumerate(shards, 1):
        assert run(tiny_adapter, scans, "--output", out, "--per_class", "--shard", f"{index}/4") == 0
    runs = [tmp_path / f"run-{name}" for name in "abc"]
    for name, out in zip("abc", runs, strict=True):
        assert run(tiny_adapter, scans / f"{name}.nii.gz", "--output", out, "--per_class") == 0
    for kind, directories in (("shards", shards), ("runs", runs)):
        assert main(["merge-predictions", *map(str, directories[::-1][::-1]), "--output", str(tmp_path / kind)]) == 0
        assert contents(tmp_path / kind, RUN) == contents(one, RUN)
    capsys.readouterr()
    for argv, message in (
        (shards, "expected --output"),
        ([*shards[:3], "--output", tmp_path / "x"], "--shard 4/4 is missing"),
        ([*runs, one, "--output", tmp_path / "x"], "The case a is in two of"),
        ([tmp_path, "--output", tmp_path / "x"], "has no predictions.json"),
        ([*runs[:2], "--output", one], "exists already"),
    ):
        assert main(["merge-predictions", *map(str, argv)]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_file_outside_of_a_directory_is_not_merged(tiny_adapter, scans, tmp_path):
    out = tmp_path / "out"
    assert run(tiny_adapter, scans / "a.nii.gz", "--output", out, "--no_preview") == 0
    content = json.loads((out / "predictions.json").read_text())
    content["cases"][0]["files"] += ["../scans/b.nii.gz", "/etc/passwd", "b/../../scans/b.nii.gz"]
    (out / "predictions.json").write_text(json.dumps(content))
    assert main(["merge-predictions", str(out), "--output", str(tmp_path / "all")]) == 0
    assert sorted(contents(tmp_path / "all")) == ["a.nii.gz", "a/statistics.json", *RUN]
