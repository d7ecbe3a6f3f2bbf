"""Training and validation cases by a file of folds, and subsets of the training cases."""

import json

import pytest

from samed_hf.data import DataArguments, divide_cases, read_data
from samed_hf.data.dataset import CaseDataset
from samed_hf.data.splits import choose_fold, choose_subset
from samed_hf.training import SamedTrainingArguments
from samed_hf.training.data import read_training_data

from ..data_folders import make_scans, write_folders

NAMES = [f"case_{index:02d}" for index in range(6)]


def dataset(count: int = 20, patients: int | None = None, num_test: int = 0) -> CaseDataset:
    names = [f"c{index:02d}" for index in range(count + num_test)]
    data = CaseDataset("made", "made", {0: "background", 1: "disc"}, dict.fromkeys(names))
    data.train, data.test = names[:count], names[count:]
    data.groups = {name: f"p{index % patients}" for index, name in enumerate(names)} if patients else {}
    return data


@pytest.fixture
def splits(tmp_path):
    """Write a file with one fold, or with the content."""

    def write(train=(), val=(), content=None):
        path = tmp_path / "splits.json"
        path.write_text(json.dumps([{"train": list(train), "val": list(val)}] if content is None else content))
        return path

    return write


def test_a_file_divides_the_cases(splits):
    data = dataset(6, num_test=2)
    data.validation = [data.train.pop()]
    choose_fold(data, splits=splits(["c05", "c00", "c01"], ["c03"]))
    assert (data.train, data.validation, data.test) == (["c00", "c01", "c05"], ["c03"], ["c06", "c07"])
    assert any("leaves out 2 cases, e.g. c02" in note for note in data.notes)
    path = splits(content=[{"train": ["c00"], "val": ["c01"]}, {"train": ["c01"], "val": ["c00"]}])
    choose_fold(data, splits=path, fold=1)
    assert (data.train, data.validation) == (["c01"], ["c00"])


@pytest.mark.parametrize(
    ("train", "val", "message"),
    [
        (["c00"], ["c00"], "names c00 twice"),
        (["c00", "c00"], ["c01"], "names c00 twice"),
        (["c00"], ["c06"], "names c06, test cases of made"),
        (["c00"], ["d", "e"], "names d, e, not among the cases of made: expected others, such as c00"),
        ([], ["c00"], "has 0 cases in train, 1 in val"),
        (["c00"], [], "has 1 cases in train, 0 in val"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(splits, train, val, message):
    data = dataset(6, num_test=2)
    with pytest.raises(ValueError, match=message):
        divide_cases(data, splits=splits(train, val))
    assert data.validation == []


def test_a_missing_file_and_folds_from_two_places(tmp_path, splits):
    with pytest.raises(FileNotFoundError, match=r"splits '.*none.json' doesn't exist"):
        choose_fold(dataset(), splits=tmp_path / "none.json")
    with pytest.raises(ValueError, match="num_folds and splits are both given"):
        DataArguments(num_folds=3, splits="splits.json")
    with pytest.raises(ValueError, match="num_folds is 3 and splits"):
        choose_fold(dataset(), num_folds=3, splits=splits(["c00"], ["c01"]))


def test_a_divided_patient_is_noted(splits):
    data = dataset(6, patients=3)
    choose_fold(data, splits=splits(["c00", "c01"], ["c02", "c03"]))
    assert any("1 patients have cases in two splits: p0" in note for note in data.notes)


def test_subsets_are_nested_and_leave_the_other_cases(splits):
    previous: set[str] = set()
    for count in (1, 5, 10, 19, 20):
        data = dataset(20, num_test=2)
        data.train.reverse()
        data.validation = ["v"]
        choose_subset(data, count)
        assert len(data.train) == count
        assert previous <= set(data.train)
        assert (data.validation, len(data.test)) == (["v"], 2)
        assert data.notes == [f"trains on {count} of 20 training cases"]
        assert data.train == sorted(data.train, reverse=True)
        previous = set(data.train)
    data = dataset(20)
    choose_subset(data, 10)
    assert data.train != dataset(20).train[:10]


def test_a_subset_keeps_patients_whole():
    previous: set[str] = set()
    for count in range(1, 13):
        data = dataset(12, patients=4)
        choose_subset(data, count)
        patients = {data.groups[name] for name in data.train}
        assert len(data.train) == 3 * len(patients)
        assert len(patients) == max(1, count // 3)
        assert previous <= set(data.train)
        previous = set(data.train)
    assert data.notes == ["trains on 12 of 12 training cases, 4 of 4 patients"]


@pytest.mark.parametrize("count", [0, 21])
def test_impossible_subsets(count):
    with pytest.raises(ValueError, match=f"num_train_cases is {count} of 20 training cases: expected 1 to 20"):
        choose_subset(dataset(20), count)


def test_impossible_settings():
    with pytest.raises(ValueError, match="num_train_cases is 0"):
        DataArguments(num_train_cases=0)
    with pytest.raises(ValueError, match=r"train_fraction is 1.5: expected a share"):
        DataArguments(train_fraction=1.5)
    with pytest.raises(ValueError, match="num_train_cases and train_fraction are both given"):
        DataArguments(num_train_cases=3, train_fraction=0.5)


def test_training_reads_folds_and_subsets(tmp_path, splits):
    root = write_folders(tmp_path / "data", make_scans(6))
    path = splits(NAMES[2:], NAMES[:2])
    data = read_training_data(SamedTrainingArguments(data_dir=str(root), splits=str(path), num_train_cases=2))
    assert (len(data.train), data.validation, data.selection) == (2, NAMES[:2], NAMES[:2])
    assert set(data.train) < set(NAMES[2:])
    half = read_training_data(SamedTrainingArguments(data_dir=str(root), splits=str(path), train_fraction=0.5))
    assert half.train == data.train
    with pytest.raises(ValueError, match=r"fold is 1, but .* declares no folds: give --num_folds too, or --splits"):
        read_training_data(SamedTrainingArguments(data_dir=str(root), fold=1))


def selection(data_dir, **settings) -> tuple[int, int]:
    """The number of validation cases, and of those that are scored during a training."""
    data = read_training_data(SamedTrainingArguments(data_dir=str(data_dir), **settings))
    return len(data.validation), len(data.selection)


def test_which_validation_cases_choose_the_best_adapter(tmp_path):
    root = write_folders(tmp_path / "data", make_scans(6))
    assert selection(root) == (1, 1)
    assert selection(root, num_validation_cases="all") == (1, 1)
    assert selection(root, num_validation_cases=3) == (3, 3)
    assert selection(root, num_validation_cases=0) == (0, 0)
    folds = {"num_folds": 2}
    assert selection(root, **folds) == (3, 3)
    assert selection(root, **folds, num_validation_cases="all") == (3, 3)
    assert selection(root, **folds, num_validation_cases=2) == (3, 2)
    assert selection(root, **folds, num_validation_cases=0) == (3, 0)
    assert selection(root, **folds, num_validation_cases=9) == (3, 3)
    # The preset's 0 is a number of cases to hold out.
    assert selection(root, preset="samed") == (0, 0)
    assert selection(root, preset="samed", **folds) == (3, 3)


def test_the_scored_cases_are_evenly_spaced():
    data = dataset(5)
    data.validation = [f"v{index:02d}" for index in range(30)]
    divide_cases(data)
    assert data.selection == data.validation
    divide_cases(data, num_validation=3)
    assert data.selection == ["v00", "v10", "v20"]


@pytest.mark.slow
def test_evaluate_scores_the_fold_of_the_file(tiny_adapter, tiny_data, tmp_path, splits):
    from samed_hf.cli import main

    names = read_data(tiny_data).train
    path = splits(content=[{"train": names[1:], "val": names[:1]}, {"train": names[:4], "val": names[4:]}])
    command = ["evaluate", str(tiny_adapter), "--data", str(tiny_data), "--output", str(tmp_path / "scores")]
    assert main([*command, "--splits", str(path), "--fold", "1", "--split", "validation"]) == 0
    assert list(json.loads((tmp_path / "scores" / "metrics.json").read_text())["per_case"]) == names[4:]
    assert main([*command, "--splits", str(path), "--num_folds", "2"]) == 2
    assert main([*command, "--fold", "1"]) == 2


@pytest.mark.slow
def test_validate_takes_the_file(tmp_path, splits, capsys):
    from samed_hf.cli import main

    root = write_folders(tmp_path / "data", make_scans(6))
    path = splits(NAMES[1:5], NAMES[:1])
    main(["validate", str(root), "--splits", str(path), "--output", str(tmp_path / "checked")])
    fingerprint = json.loads((tmp_path / "checked" / "fingerprint.json").read_text())
    assert {split: fingerprint["cases"][split] for split in ("train", "validation")} == {"train": 4, "validation": 1}
    assert f"--splits {path}" in capsys.readouterr().out
    assert read_data(root).validation == []
