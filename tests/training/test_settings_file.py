"""Settings from a file, and flags over them."""

import json

import pytest

from samed_hf.training.arguments import SamedTrainingArguments
from samed_hf.training.settings_file import NO_FLAGS, parse_command, read_settings


def write(folder, content, name="settings.json"):
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_a_flag_wins_over_the_file_and_the_file_over_the_default(tmp_path):
    path = write(tmp_path, {"rank": 8, "learning_rate": 1, "save_best": False, "intensity_window": [-125, 275]})
    args, dry_run = parse_command(["--config", path, "--rank", "2", "--seed", "7"])
    assert (args.rank, args.learning_rate, args.save_best, args.seed) == (2, 1.0, False, 7)
    assert args.intensity_window == [-125.0, 275.0]
    assert args.weight_decay == SamedTrainingArguments.weight_decay
    assert (dry_run, args.saved_run) == (False, {})
    assert parse_command(["--config", path, "--save_best"])[0].save_best is True


def test_yaml_reads_as_json_does(tmp_path):
    text = "learning_rate: 1e-3\nlabel_names:\n  - background\n  - liver\nlr_power: 2\nmixed_precision: 'no'\nrank: 3\n"
    args, dry_run = parse_command(["--config", write(tmp_path, text, "run.yaml"), "--dry_run"])
    assert dry_run
    assert (args.learning_rate, args.lr_power, args.rank, args.mixed_precision) == (0.001, 2.0, 3, "no")
    assert args.label_names == ["background", "liver"]


def test_every_setting_goes_to_a_file_and_back(tmp_path):
    given = SamedTrainingArguments(
        ema_decay=0.999, label_names=["a", "b"], gradient_checkpointing=True, save_best=False
    )
    given = given.fill_defaults()
    assert parse_command(["--config", write(tmp_path, given.to_dict())])[0].to_dict() == given.to_dict()


@pytest.mark.parametrize(
    ("value", "expected"),
    [("all", "all"), (7, 7), ("7", 7), (0, 0), (None, None), ("some", None), (-1, None)],
)
def test_a_number_of_validation_cases_or_all(tmp_path, value, expected):
    path = write(tmp_path, {"num_validation_cases": value})
    if value is not None and expected is None:
        with pytest.raises(ValueError, match=f"num_validation_cases is '?{value}'?: expected a number of cases"):
            parse_command(["--config", path])
        return
    args = parse_command(["--config", path])[0]
    assert (args.num_validation_cases, type(args.num_validation_cases)) == (expected, type(expected))
    assert parse_command(["--config", write(tmp_path, args.to_dict())])[0] == args
    if value is not None:
        assert parse_command(["--num_validation_cases", str(value)])[0].num_validation_cases == expected


def test_other_keys_of_a_runs_file_are_accepted(tmp_path):
    besides = {name: {"anything": [1]} for name in NO_FLAGS}
    path = write(tmp_path, {"rank": 3, "resume_from_checkpoint": "latest"} | besides)
    settings, saved = read_settings(path)
    assert settings == {"rank": 3, "loss_resolution": "low"}
    assert saved == besides
    assert parse_command(["--config", path])[0].saved_run == besides


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"learning_rte": 0.1}, "unknown key 'learning_rte': the nearest setting is 'learning_rate'"),
        ({"Max-Train-Steps": 3}, "the nearest setting is 'max_train_steps'"),
        ({"dry_run": True}, "'dry_run', which is only a flag"),
        ({"rank": "four"}, "rank: invalid int value: 'four'"),
        ({"rank": None}, "rank: null is not allowed"),
        ({"rank": [1, 2]}, "rank: .* a single one"),
        ({"rank": True}, "rank: true is not allowed"),
        ({"label_names": "liver"}, "label_names: 'liver' is not allowed: expected a list"),
        ({"gradient_checkpointing": "perhaps"}, "gradient_checkpointing: "),
        ({"seed": 0.5, "rank": {}}, "seed: .*; rank: "),
        ([1], "no mapping of settings"),
        ("{", "can't be read"),
    ],
)
def test_values_that_no_flag_accepts_are_errors(tmp_path, content, expected):
    with pytest.raises(ValueError, match=expected) as error:
        read_settings(write(tmp_path, content))
    assert "settings.json" in str(error.value)


def test_an_unquoted_no_in_yaml_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="mixed_precision: false is not allowed; YAML"):
        read_settings(write(tmp_path, "mixed_precision: no\n", "run.yml"))


def test_a_run_of_an_earlier_version_had_the_loss_of_the_logits(tmp_path):
    path = tmp_path / "training_settings.json"
    for content, expected in (({"rank": 4, "run": {}}, "low"), ({"rank": 4}, None)):
        path.write_text(json.dumps(content))
        assert read_settings(path)[0].get("loss_resolution") == expected


def test_values_out_of_range_are_refused_as_flags_are(tmp_path):
    with pytest.raises(ValueError, match="rank is 0: expected a number of at least 1"):
        parse_command(["--config", write(tmp_path, {"rank": 0})])


def test_a_file_of_another_kind_or_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\.toml"):
        read_settings(write(tmp_path, "", "run.toml"))
    with pytest.raises(FileNotFoundError, match=r"gone\.yaml"):
        read_settings(tmp_path / "gone.yaml")
