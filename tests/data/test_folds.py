"""Folds: their sizes, the labels in them, patients, and files of folds."""

import json
from collections import Counter

import numpy as np
import pytest

from samed_hf.data.folds import k_folds, note_rare_labels, read_fold, splits_of_folds

from ..data_folders import make_scans, write_nnunet


def random_strata(count: int, seed: int) -> dict[str, set[int]]:
    generator = np.random.default_rng(seed)
    rates = np.array([0.9, 0.5, 0.2, 0.08])
    return {f"case{i:03d}": set(np.flatnonzero(generator.random(4) < rates).tolist()) for i in range(count)}


def test_folds_without_strata_are_those_of_the_fixed_permutation():
    cases = [f"c{i}" for i in range(7)]
    order = np.random.default_rng(0).permutation(7)
    for fold, (train, held_out) in enumerate(k_folds(cases, 3)):
        assert held_out == [cases[i] for i in sorted(order[fold::3])]
        assert train == [case for case in cases if case not in held_out]
    assert k_folds(cases, 3, seed=1) != k_folds(cases, 3)


@pytest.mark.parametrize(("count", "num_folds", "seed"), [(10, 5, 0), (23, 5, 1), (31, 3, 2), (7, 7, 3), (100, 4, 4)])
def test_stratified_folds(count, num_folds, seed):
    strata = random_strata(count, seed)
    folds = k_folds([*strata], num_folds, strata=strata)
    sizes = [len(held_out) for _, held_out in folds]
    assert max(sizes) - min(sizes) <= 1
    assert sorted(name for _, held_out in folds for name in held_out) == sorted(strata)
    for train, held_out in folds:
        assert sorted(train + held_out) == sorted(strata)
    # The rarest label is distributed first, so that its frequencies are as equal as numbers can be.
    counts = Counter(label for labels in strata.values() for label in labels)
    rarest = min(counts, key=lambda label: (counts[label], str(label)))
    found = [sum(rarest in strata[name] for name in held_out) for _, held_out in folds]
    assert max(found) - min(found) <= 1
    shuffled = np.random.default_rng(9).permutation([*strata]).tolist()
    assert k_folds(shuffled, num_folds, strata=strata) == folds


def test_stratification_equalizes_labels_more_than_a_permutation():
    spread = {True: 0.0, False: 0.0}
    for seed in range(20):
        strata = random_strata(40, seed)
        for stratified in spread:
            folds = k_folds([*strata], 5, strata=strata if stratified else None)
            table = np.array([[sum(label in strata[n] for n in names) for label in range(4)] for _, names in folds])
            spread[stratified] += table.std(axis=0).sum()
    assert spread[True] < 0.5 * spread[False]


def test_a_hand_computed_division():
    """One of the two cases with the rare label 1 goes to each fold, then one of the others with label 2."""
    strata = {"a": [1, 2], "b": [2], "c": [1, 2], "d": [2], "e": []}
    folds = [set(held_out) for _, held_out in k_folds([*strata], 2, strata=strata)]
    assert len({"a", "c"} & folds[0]) == len({"b", "d"} & folds[0]) == 1
    assert sorted(map(len, folds)) == [2, 3]


def test_patients_are_not_divided_and_have_the_labels_of_all_their_cases():
    groups = {f"p{i}_{visit}": f"p{i}" for i in range(6) for visit in "ab"}
    strata = {case: {"liver"} | ({"tumour"} if case in ("p1_b", "p4_a") else set()) for case in groups}
    folds = k_folds([*groups], 2, groups, strata=strata)
    for train, held_out in folds:
        assert len(held_out) == 6
        assert not {groups[name] for name in train} & {groups[name] for name in held_out}
        assert sum("tumour" in strata[name] for name in held_out) == 1
    assert note_rare_labels(2, strata, groups) == []
    (note,) = note_rare_labels(3, strata, groups)
    assert "tumour is in 2 patients" in note


@pytest.mark.parametrize("num_folds", [0, 1, 4])
def test_impossible_folds(num_folds):
    with pytest.raises(ValueError, match=f"num_folds is {num_folds} of 3 cases: expected 2 to 3 folds"):
        k_folds(["a", "b", "c"], num_folds)


def test_a_file_of_folds(tmp_path):
    path = tmp_path / "splits_final.json"
    folds = k_folds(["a", "b", "c", "d", "e"], 2)
    path.write_text(json.dumps(splits_of_folds(folds)))
    assert [read_fold(path, fold) for fold in range(2)] == [(*one, 2) for one in folds]
    for content in ([], {"train": [], "val": []}, [{"train": ["a"]}], [{"train": "abc", "val": ["d"]}]):
        path.write_text(json.dumps(content))
        with pytest.raises(ValueError, match="has no fold 0 with train and val"):
            read_fold(path, 0)
    path.write_text(json.dumps(splits_of_folds(folds)))
    for fold in (2, -1):
        with pytest.raises(ValueError, match=f"has no fold {fold} .* one of its 2 folds"):
            read_fold(path, fold)


def test_nnunets_own_reader_and_ours_agree(tmp_path):
    from samed_hf.data import divide_cases, read_data

    scans = make_scans(6)
    root = write_nnunet(tmp_path / "data", scans)
    folds = splits_of_folds(k_folds([*scans], 3, strata={name: [1, 2] for name in scans}))
    (root / "splits_final.json").write_text(json.dumps(folds))
    (tmp_path / "mine.json").write_text(json.dumps(folds[::-1]))
    declared = read_data(root, fold=2)
    data = read_data(root)
    divide_cases(data, splits=tmp_path / "mine.json")
    assert (data.train, data.validation) == (declared.train, declared.validation)
    # The fold that the data set declares is not used, and no note says that it is.
    assert not any("splits_final" in note for note in data.notes)
    assert any(note == "fold 0 of 3 is held out, 2 cases" for note in data.notes)
