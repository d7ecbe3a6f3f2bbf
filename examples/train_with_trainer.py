"""Train an adapter with transformers' Trainer: on synthetic patients, or on a data set of your own.

    python examples/train_with_trainer.py [--data_dir DATA_DIR] [--model_name_or_path facebook/sam-vit-base] [FLAGS]

DATA_DIR has any layout that `samed-hf train` reads. FLAGS are those of transformers.TrainingArguments, among them
--resume_from_checkpoint, a directory or "latest". Two processes: `torchrun --nproc_per_node 2` instead of `python`.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from peft import get_peft_model
from transformers import HfArgumentParser, Trainer, TrainerState, TrainingArguments, set_seed
from transformers.trainer_utils import EvalPrediction

from samed_hf import SamedForSemanticSegmentation, samed_lora_config
from samed_hf.cli import run_command
from samed_hf.data import (
    CaseStore,
    DataArguments,
    SliceDataset,
    divide_cases,
    make_processor,
    prepare_phantom,
    read_data,
)
from samed_hf.model import make_random_sam
from samed_hf.scoring import binary_dice


@dataclass
class Arguments:
    data_dir: str | None = field(default=None, metadata={"help": "Data set [synthetic patients]."})
    model_name_or_path: str | None = field(default=None, metadata={"help": "Plain SAM [a small one, random weights]."})
    image_size: int = field(default=256, metadata={"help": "Side of the model's input in pixels; SAMed's is 512."})
    rank: int = field(default=4, metadata={"help": "Rank of LoRA."})


class Slices(SliceDataset):
    """Slices by their number; Trainer doesn't say in which epoch it reads them."""

    def __getitem__(self, index):
        return super().__getitem__((0, index))


def prepare(args: Arguments, output: Path) -> tuple[str, CaseStore]:
    """The base model's directory or Hub id and the decoded cases, divided into training and validation."""
    base = args.model_name_or_path or str(output.resolve() / "base_model")
    if args.model_name_or_path is None and not Path(base).is_dir():
        make_random_sam(base, image_size=args.image_size)
    if args.data_dir is None and not (output / "phantom").is_dir():
        prepare_phantom(output / "phantom")
    data = read_data(args.data_dir or output / "phantom")
    divide_cases(data)
    store = CaseStore(data, make_processor(DataArguments(), data, args.image_size), output / "cache")
    store.prepare([*data.train, *data.validation])
    return base, store


def latest_checkpoint(output: Path) -> str | None:
    """The newest complete checkpoint: Trainer writes trainer_state.json last, and a kill may leave a part of it."""
    for checkpoint in sorted(output.glob("checkpoint-*"), key=lambda path: -int(path.name.rpartition("-")[2])):
        try:
            TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        except (OSError, ValueError):
            print(f"{checkpoint} is incomplete", file=sys.stderr)
        else:
            return str(checkpoint)
    print(f"{output} has no complete checkpoint: training starts from the beginning", file=sys.stderr)
    return None


def main(args: Arguments, training: TrainingArguments) -> None:
    with training.main_process_first():
        base, store = prepare(args, Path(training.output_dir))
    set_seed(training.seed)  # the mask decoder's heads for the labels are drawn
    data, id2label = store.data, store.data.id2label
    model = SamedForSemanticSegmentation.from_pretrained(base, image_size=args.image_size, id2label=id2label)
    model = get_peft_model(model, samed_lora_config(rank=args.rank))

    def compute_metrics(evaluated: EvalPrediction) -> dict[str, float]:
        predicted, labels = evaluated.predictions, evaluated.label_ids
        present = {index: name for index, name in id2label.items() if index and (labels == index).any()}
        scores = {f"dice_{name}": binary_dice(predicted == index, labels == index) for index, name in present.items()}
        return {"dice": float(np.mean(list(scores.values()))), **scores}

    trainer = Trainer(
        model,
        training,
        train_dataset=Slices(store, data.train),
        eval_dataset=Slices(store, data.validation),
        processing_class=store.processor,
        compute_metrics=compute_metrics,
        preprocess_logits_for_metrics=lambda logits, labels: logits.argmax(1),
    )
    resume = training.resume_from_checkpoint
    trainer.train(latest_checkpoint(Path(training.output_dir)) if resume == "latest" else resume)
    trainer.save_model()
    if trainer.is_world_process_zero():
        model.config.save_pretrained(
            training.output_dir
        )  # labels and image size; PEFT saves its own configuration alone


if __name__ == "__main__":
    parser = HfArgumentParser((Arguments, TrainingArguments), description=__doc__)
    parser.set_defaults(output_dir="outputs/trainer", learning_rate=0.003, max_grad_norm=0.5, num_train_epochs=5)
    parser.set_defaults(per_device_train_batch_size=4, eval_strategy="epoch", save_strategy="epoch", save_total_limit=2)
    parser.set_defaults(load_best_model_at_end=True, metric_for_best_model="dice", report_to="none")
    sys.exit(run_command(lambda: main(*parser.parse_args_into_dataclasses())))
