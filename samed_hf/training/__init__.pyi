from .arguments import SamedTrainingArguments
from .loop import train
from .presets import PRESETS
from .run import run_training
from .settings_file import parse_arguments
from .trainer import SamedTrainer

__all__ = ["PRESETS", "SamedTrainer", "SamedTrainingArguments", "parse_arguments", "run_training", "train"]
