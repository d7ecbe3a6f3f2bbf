"""What folds are collected to: hand-computed means and deviations of fabricated folds, and what is refused."""

import csv
import json
import re
import shutil
from html import unescape

import numpy as np
import pytest
from PIL import Image

from samed_hf.scoring import summarize
from samed_hf.studies import write_cross_validation

NONE = {"dice": None, "hd95": None}
SCORES = {
    "a": {"liver": {"dice": 0.9, "hd95": 2.0}, "spleen": {"dice": 0.7, "hd95": 4.0}},
    "b": {"liver": {"dice": 0.8, "hd95": 3.0}, "spleen": {"dice": 0.6, "hd95": 5.0}},
    "c": {"liver": {"dice": 0.6, "hd95": 7.0}, "spleen": NONE},
    "d": {"liver": {"dice": 0.5, "hd95": 6.0}, "spleen": {"dice": 0.0, "hd95": None}},
}
FOLDS = (("a", "b"), ("c", "d"))


def write_fold(directory, fold, cases, *, settings=(), metrics=(), random=False):
    """A directory as `train` leaves it, without reports."""
    directory.mkdir(parents=True)
    (directory / "adapter_config.json").write_text('{"base_model_name_or_path": "facebook/sam-vit-base"}')
    (directory / "adapter_model.safetensors").write_bytes(bytes([fold]))
    scores = summarize({case: SCORES[case] for case in cases}) | {"distance_unit": "mm", "split": "validation"}
    (directory / "metrics.json").write_text(json.dumps(scores | dict(metrics)))
    own = {"fold": fold, "seed": 3, "rank": 4, "output_dir": str(directory), "early_stopping_patience": None}
    own["cases"] = {"train": sorted({*SCORES} - {*cases}), "validation": [*cases], "test": []}
    own["run"] = {
        "optimizer_steps": 100 + fold,
        "seconds": 60.0 * (fold + 1),
        "synthetic": False,
        "random_base": random,
    }
    own["run"]["random_base"] = random
    (directory / "training_settings.json").write_text(json.dumps(own | dict(settings)))


@pytest.fixture
def study(tmp_path):
    output = tmp_path / "O"
    for fold, cases in enumerate(FOLDS):
        write_fold(output / f"fold-{fold}", fold, cases)
    splits = [{"train": sorted({*SCORES} - {*cases}), "val": [*cases]} for cases in FOLDS]
    (output / "splits_final.json").write_text(json.dumps(splits))
    return output, [output / "fold-0", output / "fold-1"]


def test_hand_computed_means_and_deviations(study):
    output, folds = study
    summary = write_cross_validation(output, folds)
    assert summary == json.loads((output / "cv_summary.json").read_text())
    cases, over_folds = summary["over_cases"], summary["over_folds"]
    # Liver: 0.9, 0.8, 0.6, 0.5: mean 0.7, squares 0.04 + 0.01 + 0.01 + 0.04 = 0.1 over 3.
    assert cases["per_class"]["liver"]["dice"] == pytest.approx(
        {"mean": 0.7, "sd": (0.1 / 3) ** 0.5, "count": 4, "undefined": 0}
    )
    # Spleen's HD95: 4, 5; undefined in d, which has no prediction.
    assert cases["per_class"]["spleen"]["hd95"] == pytest.approx(
        {"mean": 4.5, "sd": 0.5**0.5, "count": 2, "undefined": 1}
    )
    # Liver 0.7, spleen (0.7 + 0.6 + 0) / 3; the cases' own means are 0.8, 0.7, 0.6, 0.25.
    assert cases["mean"]["dice"]["mean"] == pytest.approx((0.7 + 1.3 / 3) / 2)
    assert cases["mean"]["dice"]["sd"] == pytest.approx(np.std([0.8, 0.7, 0.6, 0.25], ddof=1))
    # Fold 0: (0.85 + 0.65) / 2 = 0.75; fold 1: (0.55 + 0) / 2 = 0.275.
    assert over_folds["mean"]["dice"] == pytest.approx({"mean": 0.5125, "sd": 0.475 / 2**0.5, "count": 2})
    assert over_folds["per_class"]["liver"]["dice"] == pytest.approx({"mean": 0.7, "sd": 0.3 / 2**0.5, "count": 2})
    assert over_folds["per_class"]["spleen"]["hd95"] == {"mean": 4.5, "sd": None, "count": 1}
    first, second = summary["folds"]
    assert (first["adapter"], first["steps"], first["seconds"], first["seed"]) == ("fold-0", 100, 60.0, 3)
    assert (first["cases"], first["train_cases"], second["fold"]) == (2, 2, 1)
    assert first["over_cases"]["mean"]["dice"]["mean"] == pytest.approx(0.75)
    assert second["over_cases"]["per_class"]["spleen"]["dice"]["sd"] is None
    assert summary["settings"] == {"seed": 3, "rank": 4, "early_stopping_patience": None}
    assert (summary["seconds"], summary["cases"], summary["protocol"]) == (180.0, 4, "strict")


def test_the_scores_of_all_cases_have_evaluates_format(study):
    output, folds = study
    write_cross_validation(output, folds)
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["per_case"] == SCORES
    assert {key: metrics[key] for key in ("mean", "per_class")} == {
        key: value for key, value in summarize(SCORES).items() if key in ("mean", "per_class")
    }
    low, high = metrics["intervals"]["mean"]["dice"]
    assert low < metrics["mean"]["dice"] < high
    rows = list(csv.DictReader((output / "metrics.csv").open()))
    assert (len(rows), rows[0]["case"], rows[5]["dice"]) == (8, "a", "")


def test_collecting_again_writes_the_same_files(study):
    output, folds = study
    contents = []
    for _ in range(2):
        write_cross_validation(output, folds)
        contents.append({path.relative_to(output): path.read_bytes() for path in output.rglob("*") if path.is_file()})
    assert contents[0] == contents[1]
    assert {path.name for path in (output / "ensemble").iterdir()} == {"ensemble.json", "fold-0", "fold-1"}


def page_text(output):
    page = (output / "cv_report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    return " ".join(unescape(re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL)).split()), page


def test_the_page_has_the_numbers_the_worst_case_and_the_links(study):
    output, folds = study
    (output / "images").mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(output / "images" / "d.png")
    write_cross_validation(output, folds)
    text, page = page_text(output)
    assert "0.5667 ± 0.2394" in text
    assert "0.5125 ± 0.3359" in text
    assert 'href="fold-1/training_report.html"' in page
    worst = text[text.index("Cases with the worst") :]
    assert worst.index("d DSC 0.2500") < worst.index("c DSC 0.6000") < worst.index("a DSC 0.8000")
    assert page.count("data:image/jpeg") == 1
    assert "Early stopping chose" not in text


def test_the_page_warns_of_early_stopping_random_weights_and_other_settings(tmp_path):
    output = tmp_path / "O"
    for fold, cases in enumerate(FOLDS):
        settings = {"early_stopping_patience": 2, "rank": 4 + fold}
        write_fold(output / f"fold-{fold}", fold, cases, settings=settings, random=True)
    summary = write_cross_validation(output, [output / "fold-0", output / "fold-1"])
    assert summary["differing_settings"] == {"rank": [4, 5]}
    text, _ = page_text(output)
    assert all(one in text for one in ("Early stopping chose", "random weights", "different values of rank: 4, 5"))


def test_names_from_the_data_are_escaped(tmp_path):
    output = tmp_path / "O <i>"
    for fold, cases in enumerate(FOLDS):
        write_fold(output / f"fold-{fold}", fold, cases)
    write_cross_validation(output, [output / "fold-0", output / "fold-1"])
    assert "O <i>" in page_text(output)[0]


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        (lambda path: (path / "metrics.json").unlink(), FileNotFoundError, "fold-1 has no metrics.json"),
        (lambda path: (path / "training_settings.json").unlink(), FileNotFoundError, "no training_settings.json"),
        (lambda path: rewrite(path, fold=1, cases=("c",)), ValueError, "e.g. d"),
        (lambda path: rewrite(path, fold=1, cases=("b", "c", "d")), ValueError, "e.g. b"),
        (
            lambda path: rewrite(path, fold=1, cases=("c", "d"), metrics={"protocol": "samed"}),
            ValueError,
            "protocol samed",
        ),
        (
            lambda path: rewrite(path, fold=1, cases=("c", "d"), metrics={"nsd_tolerance_mm": 1.0}),
            ValueError,
            "nsd_tolerance_mm 1.0",
        ),
        (
            lambda path: rewrite(path, fold=1, cases=("c", "d"), settings={"cases": {"train": ["d"]}}),
            ValueError,
            "wasn't trained on it",
        ),
    ],
)
def test_folds_that_do_not_belong_together_are_refused(study, change, error, named):
    output, folds = study
    change(folds[1])
    with pytest.raises(error, match=named):
        write_cross_validation(output, folds)
    assert not (output / "metrics.json").exists()
    assert not (output / "ensemble").exists()


def rewrite(directory, **values):
    shutil.rmtree(directory)
    write_fold(directory, **values)


def test_a_case_in_two_folds_is_refused(tmp_path):
    output = tmp_path / "O"
    write_fold(output / "fold-0", 0, ("a", "b"))
    write_fold(output / "fold-1", 1, ("b", "c"))
    with pytest.raises(ValueError, match=r"e\.g\. b"):
        write_cross_validation(output, [output / "fold-0", output / "fold-1"])
