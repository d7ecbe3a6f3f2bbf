"""The settings of a training: their metadata, and a parser that imports nothing heavy."""

import subprocess
import sys

import pytest

from samed_hf.model import lora
from samed_hf.scoring.measures import Measures
from samed_hf.training.arguments import LORA_TARGETS, SamedTrainingArguments
from samed_hf.training.presets import PRESETS
from samed_hf.training.settings_file import make_parser
from samed_hf.utils.settings import field_names


def test_variants_encoders_and_targets_are_those_of_lora():
    items = SamedTrainingArguments.__dataclass_fields__
    assert items["variant"].metadata["choices"] == tuple(lora.VARIANTS)
    assert items["encoder"].metadata["choices"] == lora.ENCODERS
    assert tuple(lora.LORA_TARGETS) == LORA_TARGETS


def test_lora_targets_are_resolved_in_one_order_and_only_with_lora():
    def targets(**settings):
        return SamedTrainingArguments(**settings).fill_defaults().lora_targets

    assert (targets(), targets(preset="samed")) == ("q,v", "q,v")
    assert targets(lora_targets="mlp, v,q") == "q,v,mlp"
    assert (targets(encoder="frozen"), targets(encoder="full", preset="samed")) == (None, None)


def test_bad_recipes_are_all_named():
    with pytest.raises(ValueError, match="lora_targets is 'q,q'") as error:
        SamedTrainingArguments(lora_targets="q,q", encoder="full", frozen_dtype="bfloat16", dice_weight=1.5)
    for part in ("lora_targets is q,q with encoder full", "frozen_dtype is bfloat16", "dice_weight is 1.5"):
        assert part in str(error.value)
    for bad in ("", "q,x", "q,"):
        with pytest.raises(ValueError, match="lora_targets"):
            SamedTrainingArguments(lora_targets=bad)
    for bad in ("none", "LoRA"):
        with pytest.raises(ValueError, match=f"encoder is '{bad}'"):
            SamedTrainingArguments(encoder=bad)


@pytest.mark.parametrize(
    ("base", "resolution", "rate"),
    [(None, "low", 0.003), ("random", "low", 0.003), ("samed_hf/small", "full", 0.003), ("user/sam", "low", 0.005)],
)
def test_defaults_of_the_base_models(base, resolution, rate):
    args = SamedTrainingArguments(model_name_or_path=base).fill_defaults()
    assert (args.loss_resolution, args.learning_rate) == (resolution, rate)
    assert args.model_name_or_path == (base or "random")
    given = SamedTrainingArguments(model_name_or_path=base, loss_resolution="low").fill_defaults()
    assert given.loss_resolution == "low"


def test_paths_names_of_data_and_the_token_are_private():
    assert set(field_names(SamedTrainingArguments, "private")) == {
        *("data_dir", "dataset_name", "cache_dir", "output_dir", "model_name_or_path", "resume_from_checkpoint"),
        *("hub_token", "splits"),
    }
    assert not set(field_names(SamedTrainingArguments, "private")) & set(field_names(SamedTrainingArguments, "on_card"))


def test_settings_that_determine_the_weights_are_compared_on_resume():
    names = set(field_names(SamedTrainingArguments, "resume"))
    assert {"learning_rate", "weight_decay", "seed", "rank", "ema_decay", "optimizer", "plane", "fold"} <= names
    assert {"num_folds", "num_train_cases", "train_fraction"} <= names
    assert {"lora_targets", "encoder", "dice_weight", "loss_resolution"} <= names
    assert not names & {"max_train_steps", "eval_steps", "save_best", "report_to", "output_dir"}


@pytest.mark.parametrize("preset", PRESETS)
def test_every_setting_of_a_preset_is_a_flag_or_known_to_be_none(preset):
    assert set(PRESETS[preset]) - set(field_names(SamedTrainingArguments, "help")) == {
        "effective_batch_size",
        "input_size",
    }


@pytest.mark.parametrize(
    ("flags", "name", "value"),
    [
        (["--rank", "8"], "rank", 8),
        (["--learning-rate", "0.1"], "learning_rate", 0.1),
        (["--gradient_checkpointing"], "gradient_checkpointing", True),
        (["--gradient_checkpointing", "no"], "gradient_checkpointing", False),
        ([], "save_best", True),
        (["--no_save_best"], "save_best", False),
        (["--no-save-best"], "save_best", False),
        (["--intensity_window", "-125", "275"], "intensity_window", [-125.0, 275.0]),
        (["--label_names", "background", "liver"], "label_names", ["background", "liver"]),
        (["--max_train_steps=3"], "max_train_steps", 3),
    ],
)
def test_a_flag_for_each_setting(flags, name, value):
    assert getattr(make_parser().parse_args(flags), name) == value


def test_the_help_imports_nothing_heavy():
    script = (
        "import sys; sys.argv = ['samed-hf', 'train', '--help']\n"
        "from samed_hf.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'peft', 'nibabel', 'scipy', 'accelerate'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "--learning_rate" in result.stdout
    assert result.stdout.splitlines()[-1] == "[]"


def test_the_scores_are_those_of_evaluate():
    args = SamedTrainingArguments(metrics="dice, nsd,lesions", nsd_tolerance_mm="disc=1,bar=2.5", lesion_min_iou=0.5)
    assert args.measures == Measures(("dice", "nsd", "lesions"), {"disc": 1.0, "bar": 2.5}, 0.5)
    assert SamedTrainingArguments().measures == Measures()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"metrics": "dice,kappa"}, "'kappa'"),
        ({"metrics": "dice,iou", "preset": "samed"}, "'iou'"),
        ({"metrics": "nsd", "nsd_tolerance_mm": "near"}, "near"),
        ({"nsd_tolerance_mm": "3"}, "nsd_tolerance_mm is 3.0"),
        ({"lesion_min_iou": 0.5}, "lesion_min_iou is 0.5"),
    ],
)
def test_scores_that_cannot_be_computed_are_refused(changes, named):
    with pytest.raises(ValueError, match=named):
        SamedTrainingArguments(**changes)
