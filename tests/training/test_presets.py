import json

import pytest

from samed_hf.cli import main
from samed_hf.scoring.published import PUBLISHED, compare_with_published, read_metrics
from samed_hf.training.arguments import SamedTrainingArguments
from samed_hf.training.data import read_training_data
from samed_hf.training.plan import TrainingPlan
from samed_hf.training.presets import PRESETS


def filled(num_processes=1, **settings) -> SamedTrainingArguments:
    return SamedTrainingArguments(data_dir="synapse", **settings).fill_defaults(num_processes)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("num_processes", [1, 2, 3])
def test_a_preset_alone_is_the_papers_run_on_any_number_of_processes(preset, num_processes):
    args = filled(num_processes, preset=preset)
    assert args.per_device_train_batch_size * num_processes == 24
    assert args.deviations(num_processes, input_size=224) == []
    plan = TrainingPlan.of(args, num_slices=2211, num_processes=num_processes)
    steps, horizon = (300 * 93, 400 * 93) if preset == "samed_h" else (160 * 93, 200 * 93)
    assert (plan.steps, plan.horizon, plan.warmup) == (steps, horizon, 250)


def test_differences_between_the_presets():
    samed, small, huge = (filled(preset=name) for name in ("samed", "samed_s", "samed_h"))
    assert (samed.variant, small.variant, huge.variant) == ("samed", "samed_s", "samed")
    assert (samed.lr_power, huge.lr_power) == (0.9, 7.0)
    assert (samed.mixed_precision, huge.mixed_precision) == ("no", "fp16")
    assert (samed.model_name_or_path, huge.model_name_or_path) == ("facebook/sam-vit-base", "facebook/sam-vit-huge")
    assert {args.augmentation for args in (samed, small, huge)} == {"samed"}
    assert {args.protocol for args in (samed, small, huge)} == {"samed"}


def test_flags_override_the_preset_and_are_listed():
    args = filled(preset="samed", image_size=256, learning_rate=0.001, per_device_train_batch_size=6, protocol="strict")
    assert args.deviations(1, input_size=None) == [
        "image_size 256 instead of 512",
        "effective_batch_size 6 instead of 24",
        "learning_rate 0.001 instead of 0.005",
        "protocol strict instead of samed",
        "input_size none instead of 224",
    ]
    accumulated = filled(preset="samed", gradient_accumulation_steps=4)
    assert accumulated.per_device_train_batch_size == 6
    assert accumulated.deviations(1) == ["gradient_accumulation_steps 4 instead of 1"]


def test_another_recipe_is_listed():
    args = filled(preset="samed_s", encoder="full", optimizer="sgd", dice_weight=0.5)
    assert args.deviations(1) == [
        "lora_targets none instead of q,v",
        "encoder full instead of lora",
        "optimizer sgd instead of adamw",
        "weight_decay 0.0001 instead of 0.1",
        "dice_weight 0.5 instead of 0.8",
    ]
    assert filled(preset="samed", lora_targets="v,q").deviations(1) == []
    assert filled(preset="samed", lora_targets="o").deviations(1) == ["lora_targets o instead of q,v"]


def test_a_preset_holds_out_no_case_unless_asked_to(tiny_data):
    def held_out(**settings):
        data = read_training_data(SamedTrainingArguments(data_dir=str(tiny_data), **settings))
        return len(data.train), len(data.validation)

    assert held_out() == (5, 1)
    assert held_out(preset="samed") == (6, 0)
    assert held_out(preset="samed", num_validation_cases=2) == (4, 2)


def test_without_a_preset_nothing_is_claimed():
    assert filled(rank=8).deviations(1) == []


def test_a_batch_that_cannot_be_shared():
    with pytest.raises(ValueError, match=r"5 processes with 1 batches a step can't share the preset's 24 slices"):
        filled(5, preset="samed")
    with pytest.raises(ValueError, match="preset is 'best': expected 'samed', 'samed_s', 'samed_h'"):
        SamedTrainingArguments(preset="best")


# Scores beside the paper's.


@pytest.fixture
def metrics() -> dict:
    dice = {name: value / 100 for name, value in PUBLISHED["samed"].per_class.items()}
    return {
        "protocol": "samed",
        "mean": {"dice": 0.80, "hd95": 20.14},
        "per_class": {name: {"dice": value, "hd95": 1.0} for name, value in dice.items()},
        "per_case": {f"case{number:04d}": {} for number in range(12)},
    }


def test_the_published_means_are_those_of_their_organs():
    for name in ("samed", "samed_h"):
        published = PUBLISHED[name]
        assert sum(published.per_class.values()) / 8 == pytest.approx(published.dice, abs=0.006)


def test_compare_organ_by_organ(metrics):
    metrics["per_class"]["liver"]["dice"] = 0.9
    rows = {line[:14].strip(): line[14:].split() for line in compare_with_published(metrics, "samed").splitlines()}
    assert rows["liver"] == ["90.00", "94.80", "-4.80"]
    assert rows["aorta"] == ["87.77", "87.77", "+0.00"]
    assert rows["mean DSC (%)"] == ["80.00", "81.88", "-1.88"]
    assert rows["mean HD95"] == ["20.14", "20.64", "-0.50"]
    assert "note" not in "".join(rows)
    assert "liver              90.00          -           -" in compare_with_published(metrics, "samed_s")


def test_compare_notes_other_protocols_and_missing_labels(metrics):
    table = compare_with_published(metrics | {"protocol": "strict", "per_case": {"case0001": {}}}, "samed")
    assert "note: the protocol is 'strict'" in table
    assert "note: 1 cases" in table
    del metrics["per_class"]["liver"]
    with pytest.raises(ValueError, match="no scores for liver"):
        compare_with_published(metrics, "samed")


def test_compare_on_the_command_line(metrics, tmp_path, capsys):
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    assert main(["compare", str(tmp_path), "--preset", "samed"]) == 0
    assert "mean DSC" in capsys.readouterr().out
    assert read_metrics(tmp_path / "metrics.json") == metrics
    (tmp_path / "metrics.json").write_text('{"mean": 1}')
    for place, message in ((tmp_path, "not a metrics.json"), (tmp_path / "nowhere", "does not exist")):
        assert main(["compare", str(place)]) == 2
        assert message in capsys.readouterr().err
