from .arguments import SamedTrainingArguments
from .loop import train
from .presets import PRESETS

__all__ = ["PRESETS", "SamedTrainingArguments", "train"]
