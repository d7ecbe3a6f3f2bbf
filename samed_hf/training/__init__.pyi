from .arguments import SamedTrainingArguments
from .loop import train
from .pipeline import run_training
from .presets import PRESETS
from .settings_file import parse_arguments

__all__ = ["PRESETS", "SamedTrainingArguments", "parse_arguments", "run_training", "train"]
