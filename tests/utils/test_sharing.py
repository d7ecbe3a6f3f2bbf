"""Shares of equal size, and the merge of parts."""

import json

import pytest

from samed_hf.utils.sharing import Shard, balanced_shares, complete_parts, merge_parts, method_differences, read_parts


def test_shares_are_balanced_and_depend_on_nothing_else():
    # 9 + 2, 7 + 3, 5 + 4 + 1; each share is in the order of the items.
    assert balanced_shares([1, 9, 7, 3, 5, 4, 2], 3) == [[1, 6], [2, 3], [0, 4, 5]]
    assert balanced_shares([0, 0, 0, 0], 2) == [[0, 2], [1, 3]]
    assert balanced_shares([5], 3) == [[0], [], []]
    assert balanced_shares([], 2) == [[], []]


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/0", "-1/4", "a/b", "1/2/3", ""])
def test_shards_count_from_1(text):
    with pytest.raises(ValueError, match="expected INDEX/COUNT"):
        Shard.parse(text)
    assert Shard.parse("3/16") == Shard(3, 16)
    assert Shard(3, 16).file_name("predictions.json") == "predictions-3-of-16.json"


def write_parts(directory, method, names="abcd", count=2):
    """Part 1 has the cases of even numbers."""
    items = [(name, 1) for name in names]
    for index in range(1, count + 1):
        numbers = list(range(index - 1, len(names), count))
        cases = [{"name": names[number], "status": "done"} for number in numbers]
        part = {"method": method, "cases": cases, "shard": Shard(index, count).describe(items, numbers)}
        (directory / Shard(index, count).file_name("run.json")).write_text(json.dumps(part))


def test_parts_merge_in_the_order_of_one_run(tmp_path):
    write_parts(tmp_path, {"tta": False}, count=3)
    (tmp_path / "run-1-of-2.json").write_text("{}")
    parts = read_parts(tmp_path, "run.json", 3)
    assert [path.name for path in parts] == ["run-1-of-3.json", "run-2-of-3.json", "run-3-of-3.json"]
    assert complete_parts(next(iter(parts.values())), parts.values())
    assert [case["name"] for case in merge_parts(parts)["cases"]] == list("abcd")
    assert "shard" not in merge_parts(parts)
    last = parts.popitem()[1]
    assert not complete_parts(last, parts.values())
    with pytest.raises(ValueError, match=r"--shard 3/3 is missing"):
        merge_parts(parts)
    with pytest.raises(ValueError, match=r"run-1-of-2\.json isn't a list of cases"):
        read_parts(tmp_path, "run.json")


def test_parts_of_other_runs_do_not_merge(tmp_path):
    for name, method, cases in (("a", False, "abcd"), ("b", True, "abcd"), ("c", False, "abc")):
        (tmp_path / name).mkdir()
        write_parts(tmp_path / name, {"tta": method, "models": ["x"]}, cases)
    one, other, fewer = (read_parts(tmp_path / name, "run.json") for name in "abc")
    first, second = (list(parts.items())[index] for parts, index in ((one, 0), (other, 1)))
    with pytest.raises(ValueError, match=r"run-2-of-2\.json differ in their method: tta False, not True"):
        merge_parts(dict([first, second]))
    assert not complete_parts(first[1], [first[1], second[1]])
    third = list(fewer.items())[1]
    with pytest.raises(ValueError, match="different lists of cases"):
        merge_parts(dict([first, third]))
    assert not complete_parts(first[1], [first[1], third[1]])


def test_runs_with_a_case_twice_do_not_merge(tmp_path):
    runs = {tmp_path / name: {"method": {}, "cases": [{"name": "x", "status": "done"}]} for name in "ab"}
    with pytest.raises(ValueError, match="The case x is in two of"):
        merge_parts(runs)


def test_differences_of_methods():
    now = {"dtype": "float32", "models": ["a"], "labels": ["liver"]}
    assert method_differences(now, dict(now)) == ""
    assert method_differences(now, now | {"models": ["b"]}) == "another adapter or base model"
    # The weights are rounded with the type.
    assert method_differences(now, now | {"models": ["b"], "dtype": "bfloat16"}) == "dtype float32, not bfloat16"
    assert method_differences({"models": ["a"]}, {"models": ["a"], "frames": "0"}) == "frames None, not 0"
