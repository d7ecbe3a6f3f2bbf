from .arguments import SamedTrainingArguments
from .loop import train
from .presets import PRESETS
from .run import run_training
from .settings_file import parse_arguments

__all__ = ["PRESETS", "SamedTrainingArguments", "parse_arguments", "run_training", "train"]
