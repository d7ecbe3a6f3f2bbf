"""Set-up of a training run: checked settings and data, model with adapter, plan of the steps."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, ProjectConfiguration, set_seed
from transformers.utils import CONFIG_NAME

from ..data import CaseDataset, CaseStore, make_processor
from ..data.processor import slice_side
from ..model import SamedConfig, SamedForSemanticSegmentation, SamedImageProcessor, make_random_sam, samed_lora_config
from ..model.download import describe_access, fetch_json, pin_revision
from ..model.lora import prepare_encoder
from ..utils.atomic import atomic_directory, write_text
from ..utils.packaged import is_directory
from .arguments import ResolvedTrainingArguments, SamedTrainingArguments
from .checkpointing.checkpoints import find_checkpoint, list_checkpoints
from .checkpointing.provenance import compare_provenance, find_provenance
from .checkpointing.run_directory import archive_directories
from .data import open_store, read_training_data
from .distributed.fsdp import adapter_weights
from .distributed.logging import get_logger
from .optimizers import check_optimizer
from .plan import TrainingPlan, describe_run

__all__ = ["TrainingRun", "check_base", "refuse_deepspeed", "set_up_run", "start_run"]

# Files and directories of one run, besides its checkpoints, which the next run in the directory doesn't continue.
_PRODUCTS = ["adapter_config.json", "adapter_model.safetensors", "config.json", "preprocessor_config.json", "README.md"]
_PRODUCTS += ["metrics.json", "metrics.csv", "overlay.png", "examples", "training_curve.png", "training_log.csv"]
_PRODUCTS += ["training_report.html", "training_settings.json", "best", "watch"]

logger = get_logger(__name__)


@dataclass
class TrainingRun:
    """Inputs and results of a training."""

    args: ResolvedTrainingArguments
    accelerator: Accelerator
    data: CaseDataset  # divided into training, validation and test
    store: CaseStore
    model: SamedForSemanticSegmentation  # with its adapter, unwrapped
    processor: SamedImageProcessor
    plan: TrainingPlan
    log: list[dict[str, Any]] = field(default_factory=list)  # a row for each optimizer step, on the main process
    seconds: float = 0.0  # duration of the training
    record: dict[str, Any] = field(default_factory=dict)  # of [`find_provenance`], on the main process

    @property
    def output_dir(self) -> Path:
        """The output directory of the run."""
        return Path(self.args.output_dir)

    @property
    def num_slices(self) -> int:
        """Number of training slices."""
        return sum(map(self.store.num_slices, self.data.train))

    def describe(self) -> str:
        """Describe the run in lines of text, with differences from the run whose settings file was given."""
        saved, now = self.args.saved_run, self.accelerator.num_processes
        differences = compare_provenance(saved.get("run", {}), self.record)
        if saved.get("num_processes") not in (None, now):
            differences.insert(0, f"{now} processes instead of {saved['num_processes']}")
        description = describe_run(
            self.args, self.plan, self.data, self.processor, self.model, self.num_slices, self.accelerator
        )
        return "\n".join([description, *(f"differs     from the run of its config: {item}" for item in differences)])

    def save_adapter(self, directory: Path) -> None:
        """Save the current adapter; every process must call, and the main one writes."""
        weights = adapter_weights(self.model)
        if self.accelerator.is_main_process:
            self.model.save_pretrained(directory, image_processor=self.processor, state_dict=weights)

    def write_settings(self, directory: Path) -> None:
        """Write `training_settings.json`: the settings by name, the cases, and under "run" the data and provenance.

        `samed-hf train --config` with this file trains the same adapter.
        """
        args, data, num_processes = self.args, self.data, self.accelerator.num_processes
        settings = args.to_dict() | {"num_processes": num_processes}
        if args.max_train_steps is not None and not args.asks_for_epochs:
            settings["num_train_epochs"] = None  # a number would change the horizon of the decay
        if args.preset:
            settings["deviations"] = args.deviations(num_processes, input_size=self.processor.input_size)
        settings["cases"] = {split: getattr(data, split) for split in ("train", "validation", "test")}
        about = {
            "data": data.about.get("name"),
            "synthetic": bool(data.about.get("synthetic")),
            "random_base": args.uses_random_sam,
            "layout": data.layout,
            **{f"{split}_cases": len(names) for split, names in settings["cases"].items()},
            "selection_cases": len(data.selection),
            "trainable_parameters": sum(one.numel() for one in self.model.parameters() if one.requires_grad),
            "optimizer_steps": self.log[-1]["step"] if self.log else 0,
            "seconds": round(self.seconds, 1),
        }
        settings["run"] = {key: value for key, value in about.items() if value is not None} | self.record
        write_text(directory / "training_settings.json", json.dumps(settings, indent=2) + "\n")


def set_up_run(settings: SamedTrainingArguments) -> TrainingRun:
    """Check settings and data and build the model; nothing is written before all checks have passed."""
    data = None if settings.uses_phantom else read_training_data(settings)
    args, accelerator = start_run(settings, data)
    if accelerator.device.type == "cpu" and accelerator.num_processes == 1 and torch.get_num_threads() == 1:
        # `accelerate launch` sets one thread by default.
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(cores)
    set_seed(args.seed)
    output_dir, checkpoint = Path(args.output_dir), None
    if args.resume_from_checkpoint is not None:
        checkpoint = find_checkpoint(output_dir, args.resume_from_checkpoint, quiet=True)
    with accelerator.main_process_first():
        first = accelerator.is_local_main_process
        data = data or read_training_data(args)
        store = open_store(args, data, make_processor(args, data, args.image_size), decode=first)
        if first:
            _archive_earlier_run(args)
        base = str(output_dir / "base_model") if args.uses_random_sam else args.model_name_or_path
        if first and args.uses_random_sam and (args.resume_from_checkpoint is None or not Path(base).is_dir()):
            with atomic_directory(base) as temporary:  # a resumed run keeps its own
                make_random_sam(temporary, image_size=args.image_size, seed=args.seed)
    model = _make_model(args, base, store)
    plan = TrainingPlan.of(args, sum(map(store.num_slices, data.train)), accelerator.num_processes)
    # The values in use, for the settings that are saved.
    args.lr_warmup_steps, args.mixed_precision = plan.warmup, accelerator.mixed_precision
    run = TrainingRun(args, accelerator, data, store, model, store.processor, plan)
    if accelerator.is_main_process:
        run.record = find_provenance(data, store, model, accelerator.device)
        if checkpoint is None:  # a resumed run has the file, and its checkpoint may still be refused
            output_dir.mkdir(parents=True, exist_ok=True)
            run.write_settings(output_dir)
    return run


def start_run(
    settings: SamedTrainingArguments, data: CaseDataset | None
) -> tuple[ResolvedTrainingArguments, Accelerator]:
    """Fill in the defaults, `image_size` by the slices of the data, make the accelerator, and check the base model."""
    # Explicit, so that processes without an accelerator form a group whatever launched them.
    cpu, side = not torch.accelerator.is_available(), None
    if data is not None and settings.image_size is None and settings.uses_small_sam:
        side = slice_side(data, make_processor(settings, data, None))
    args = settings.fill_defaults(PartialState(cpu=cpu).num_processes, side)
    tracker = None if args.report_to == "none" else args.report_to
    accelerator = Accelerator(
        cpu=cpu,
        mixed_precision=args.mixed_precision,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        log_with=tracker,
        project_config=ProjectConfiguration(args.output_dir, logging_dir=str(Path(args.output_dir) / "runs")),
    )
    # Accelerate silently ignores a tracker that isn't installed.
    if tracker and not accelerator.log_with:
        raise ValueError(f"report_to is {tracker!r}, which isn't installed: pip install {tracker}, or give none.")
    if args.frozen_dtype == "bfloat16" and accelerator.mixed_precision != "bf16":
        raise ValueError(f"frozen_dtype is bfloat16 and mixed_precision {accelerator.mixed_precision}: expected bf16.")
    check_optimizer(args, accelerator.device)
    if accelerator.distributed_type == DistributedType.FSDP and not accelerator.is_fsdp2:
        raise ValueError("fsdp_version is 1: expected 2, as in examples/accelerate/fsdp2.yaml.")
    if args.checkpointing_steps != 0 or args.resume_from_checkpoint is not None:
        refuse_deepspeed(accelerator)
    check_base(args)
    return args, accelerator


def refuse_deepspeed(accelerator: Accelerator) -> None:
    """Raise a `ValueError` if DeepSpeed runs the training, before a checkpoint is written or read."""
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        raise ValueError(
            "DeepSpeed's checkpoints are pickles, which could execute code, so none are written or read: give "
            "--checkpointing_steps 0 without --resume_from_checkpoint, or use DDP or FSDP2."
        )


def check_base(args: ResolvedTrainingArguments) -> None:
    """Check that the base model, if one is given, is a plain SAM, and make the path of a directory absolute."""
    if args.uses_random_sam:
        return
    base = args.model_name_or_path
    if is_directory(base):
        # The adapter stores it, and may be loaded from another working directory.
        base = args.model_name_or_path = str(Path(base).resolve())
    check_plain_sam(base, args.image_size, {"revision": args.model_revision, "token": args.hub_token})


def check_plain_sam(base: str, image_size: int, options: dict[str, Any]) -> None:
    """Check by its config.json that a directory or Hub id is a plain SAM; `options` are of the download."""
    try:
        content = fetch_json(base, CONFIG_NAME, options)
        if not content:
            raise OSError("it has no config.json")
        if content.get("model_type") == SamedConfig.model_type:
            raise ValueError(
                f"model_name_or_path {base!r} is a SAMed model: expected the plain SAM it was made from, e.g. "
                "facebook/sam-vit-base."
            )
        SamedConfig.from_dict(content, image_size=image_size)
    except ConnectionError:
        raise
    except OSError as error:
        advice = describe_access(base, error) or "Expected a directory or Hub id of a plain SAM: facebook/sam-vit-base."
        raise FileNotFoundError(
            f"model_name_or_path {base!r} can't be loaded. {advice} ({str(error).splitlines()[0]})"
        ) from error


def _archive_earlier_run(args: ResolvedTrainingArguments) -> None:
    """Move the files of an earlier run to `earlier-N`, unless this one can resume it."""
    output_dir = Path(args.output_dir)
    has_ended = (output_dir / "adapter_model.safetensors").is_file() and not list_checkpoints(output_dir)
    if args.resume_from_checkpoint is not None and not has_ended:
        return
    names = [*_PRODUCTS, "base_model"] if args.uses_random_sam else _PRODUCTS
    if old := [*list_checkpoints(output_dir), *(path for name in names if (path := output_dir / name).exists())]:
        directory = archive_directories(output_dir, old)
        logger.info(f"note        files of an earlier run in {output_dir} were moved to {directory}")


def _make_model(args: ResolvedTrainingArguments, base: str, store: CaseStore) -> SamedForSemanticSegmentation:
    model = SamedForSemanticSegmentation.from_pretrained(
        base,
        image_size=args.image_size,
        id2label=store.data.id2label,
        channel_projection=store.processor.num_projected,
        dice_weight=args.dice_weight,
        loss_resolution=args.loss_resolution,
        regions={name: list(labels) for name, labels in store.data.regions.items()} or None,
        revision=args.model_revision,
        token=args.hub_token,
    )
    if model._hf_peft_config_loaded:
        raise ValueError(f"model_name_or_path {base!r} is an adapter: give the plain SAM it was trained on.")
    lora = samed_lora_config(args.rank, args.variant, args.lora_targets, args.encoder)
    # The exact commit, so that the adapter is never loaded onto other weights.
    revision = pin_revision(base, {"revision": args.model_revision, "token": args.hub_token})["revision"]
    lora.revision = args.model_revision = getattr(revision, "resolved", revision)
    model.add_adapter(lora)
    prepare_encoder(model, bfloat16=args.frozen_dtype == "bfloat16", checkpointing=args.gradient_checkpointing)
    model.image_processor = store.processor
    return model
