"""Scores beside those of medpy, MONAI, surface-distance and brute force, and beside the table of the documentation."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from samed_hf.scoring import score_case
from samed_hf.scoring.arguments import METRICS
from samed_hf.scoring.calibration import Calibration
from samed_hf.scoring.measures import Measures

pytest.importorskip("monai.metrics", reason="a reference, and the areas of surface elements are MONAI's")

from benchmarks.mask_pairs import degenerate_pairs, random_pairs
from benchmarks.scores import compare, load_surface_distance, references

PAGE = Path(__file__).parents[2] / "docs" / "evaluation.md"


def test_the_degenerate_pairs_are_40_different_ones():
    pairs = degenerate_pairs()
    assert len({pair.name for pair in pairs}) == len(pairs) == 40
    contents = {(pair.spacing, pair.label.shape, pair.prediction.tobytes(), pair.label.tobytes()) for pair in pairs}
    assert len(contents) == 40
    assert {pair.empty for pair in pairs} == {"", "label", "prediction", "both"}
    assert {pair.label.ndim for pair in pairs} == {2, 3}


@pytest.mark.parametrize("kind", ["degenerate", "random"])
def test_scores_are_those_of_the_references(kind):
    pairs = degenerate_pairs() if kind == "degenerate" else list(random_pairs(60, seed=1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI's, of masks that are full
        rows = compare(pairs, references(load_surface_distance(None)))
    assert [f"{row.key}, {row.title}: {text}" for row in rows for text in row.wrong] == []
    assert {row.key for row in rows} == {key for name, keys in METRICS.items() if name != "calibration" for key in keys}
    assert all(row.compared + row.by_rule == len(pairs) for row in rows)
    assert min(row.compared for row in rows) >= len(pairs) / 3


def documented():
    """The names of the scores of each row of the table, and its cells for an empty label and an empty prediction."""
    rows = [
        line.replace("\\|", "¦").strip("|").split("|")
        for line in PAGE.read_text().splitlines()
        if line[:3] in ("| `", "| |")
    ]
    for cells in rows:
        keys = [name.strip(" `") for name in cells[1].split(",")]
        if len(cells) == 5 and set(keys) <= {key for found in METRICS.values() for key in found}:
            yield keys, cells[3].strip(), cells[4].strip()


def scores_of(prediction, label):
    members = {"1": (1,)}
    calibration = Calibration(label, members)
    softmax = torch.from_numpy(np.stack([1 - prediction, prediction], axis=1).astype(np.float32))
    calibration.add(calibration.count(softmax, torch.arange(len(label))).numpy())
    options = {"measures": Measures(tuple(METRICS)), "calibration": calibration.scores()}
    return score_case(prediction, label, 2, spacing=(1.0, 1.0, 1.0), **options)["1"]


def test_the_tables_rules_of_empty_masks_are_what_is_computed():
    one, empty = np.zeros((2, 3, 4, 4), np.uint8)
    one[1, 1, 1] = 1
    rows = list(documented())
    assert {key for keys, *_ in rows for key in keys} == {key for found in METRICS.values() for key in found}
    for prediction, label, column in ((one, empty, 1), (empty, one, 2)):
        found = scores_of(prediction, label)
        for keys, *cells in rows:
            cell = cells[column - 1]
            named = {"relative error": ["relative_volume_error"], "F1": ["lesion_f1"]}
            name, _, value = cell.rpartition(" ") if cell != "as defined" else ("", "", cell)
            chosen = named[name] if name else keys
            if value == "as defined":
                assert None not in [found[key] for key in keys], keys
            else:
                expected = None if value == "undefined" else float(value)
                assert [found[key] for key in chosen] == [expected] * len(chosen), (keys, cell)
                assert None not in [found[key] for key in keys if key not in chosen], keys
    assert set(scores_of(empty, empty).values()) == {None}
