"""What a training run starts from: data looked through, model with its adapter, the plan of its steps."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import ProjectConfiguration, set_seed
from transformers import PreTrainedConfig
from transformers.utils.hub import resolve_revision

from ..data.cache import CaseStore
from ..data.dataset import CaseDataset
from ..data.processor import make_processor, slice_side
from ..model.configuration_samed import SamedConfig
from ..model.lora import cast_frozen, samed_lora_config
from ..model.modeling_samed import SamedForSemanticSegmentation
from ..model.random_sam import make_random_sam
from ..utils.atomic import atomic_directory
from .arguments import SamedTrainingArguments
from .checkpointing.checkpoints import find_checkpoint, list_checkpoints
from .checkpointing.record import make_record
from .checkpointing.run_directory import archive_directories
from .data import open_store, read_training_data
from .distributed.logging import get_logger
from .optimizers import check_optimizer
from .run import TrainingPlan, TrainingRun

__all__ = ["TrainingPlan", "TrainingRun", "check_base", "make_accelerator", "set_up_run"]

logger = get_logger(__name__)


def set_up_run(args: SamedTrainingArguments) -> TrainingRun:
    """Check settings and data and build the model; nothing is written before all that can be refused was looked at.

    Raises:
        ValueError, FileNotFoundError: bad settings, data or base model.
    """
    # Said outright, so that several processes without an accelerator find each other, however they were started.
    cpu = not torch.accelerator.is_available()
    num_processes = PartialState(cpu=cpu).num_processes
    output_dir = Path(args.output_dir)
    data, side = None, None
    if not args.uses_phantom:
        data = read_training_data(args)
        processor = make_processor(args, data, args.image_size)
        side = slice_side(data, processor) if args.uses_random_sam and args.image_size is None else None
    args.fill_defaults(num_processes, side)
    accelerator = make_accelerator(args, cpu)
    _use_all_cores(accelerator)
    set_seed(args.seed)
    if not args.uses_random_sam:
        check_base(args)
    checkpoint = None
    if args.resume_from_checkpoint is not None:
        checkpoint = find_checkpoint(output_dir, args.resume_from_checkpoint, quiet=True)
    with accelerator.main_process_first():
        first = accelerator.is_local_main_process
        store = None if data is None else _store(args, data, accelerator, first)
        if first and (args.resume_from_checkpoint is None or _has_ended(output_dir)):
            _move_earlier_run(output_dir, args.uses_random_sam)
        if data is None:
            data = read_training_data(args)
            store = _store(args, data, accelerator, first)
        base = args.model_name_or_path or _ensure_random_sam(output_dir / "base_model", args)
    model = _make_model(args, base, store)
    num_slices = sum(store.num_slices(name) for name in data.train)
    plan = TrainingPlan.of(args, num_slices, accelerator.num_processes)
    # What was left to the run or to Accelerate is known now, and belongs to the settings that are saved.
    args.lr_warmup_steps, args.mixed_precision = plan.warmup, accelerator.mixed_precision
    run = TrainingRun(args, accelerator, data, store, model, store.processor, plan)
    if accelerator.is_main_process:
        run.record = make_record(data, store, base, args.model_revision, accelerator.device)
        if checkpoint is None:  # that of a run continued is there, and may yet refuse this one
            output_dir.mkdir(parents=True, exist_ok=True)
            run.write_settings(output_dir)
    return run


def _store(args: SamedTrainingArguments, data: CaseDataset, accelerator: Accelerator, decode: bool) -> CaseStore:
    return open_store(args, data, make_processor(args, data, args.image_size), decode=decode)


def make_accelerator(args: SamedTrainingArguments, cpu: bool) -> Accelerator:
    """Accelerate's engine for settings whose defaults are filled in; what can't go together is refused."""
    tracker = None if args.report_to == "none" else args.report_to
    accelerator = Accelerator(
        cpu=cpu,
        mixed_precision=args.mixed_precision,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        log_with=tracker,
        project_config=ProjectConfiguration(args.output_dir, logging_dir=str(Path(args.output_dir) / "runs")),
    )
    # Accelerate leaves out a tracker that isn't installed without a word.
    if tracker and not accelerator.log_with:
        raise ValueError(
            f"report_to is {tracker!r}, which isn't installed: pip install {tracker}, or --report_to none."
        )
    if args.frozen_dtype == "bfloat16" and accelerator.mixed_precision != "bf16":
        raise ValueError(
            f"frozen_dtype is bfloat16 and mixed_precision {accelerator.mixed_precision}: expected bf16 beside it, in "
            "which the frozen weights are used as bfloat16 anyway."
        )
    check_optimizer(args, accelerator.device)
    return accelerator


def _use_all_cores(accelerator: Accelerator) -> None:
    """Give a single process on the CPU all its cores: `accelerate launch` leaves it one thread if not told better."""
    if accelerator.device.type == "cpu" and accelerator.num_processes == 1 and torch.get_num_threads() == 1:
        available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(available)


def check_base(args: SamedTrainingArguments) -> None:
    """Refuse a base model that can't be found or isn't a plain SAM; a folder's place is made absolute."""
    if Path(args.model_name_or_path).is_dir():
        # The adapter names it, and is to find it from wherever it is loaded.
        args.model_name_or_path = str(Path(args.model_name_or_path).resolve())
    try:
        content, _ = PreTrainedConfig.get_config_dict(
            args.model_name_or_path, revision=args.model_revision, token=args.hub_token
        )
        if not content:
            raise OSError("no config.json there")
        if content.get("model_type") == SamedConfig.model_type:
            raise ValueError(
                f"model_name_or_path {args.model_name_or_path!r} is a SAMed model: expected the plain SAM it was made "
                "from, e.g. facebook/sam-vit-base."
            )
        SamedConfig.from_dict(content, image_size=args.image_size)
    except OSError as error:
        raise FileNotFoundError(
            f"model_name_or_path {args.model_name_or_path!r} can't be loaded: expected a folder or Hub id of a plain "
            f"SAM, e.g. facebook/sam-vit-base. ({str(error).splitlines()[0]})"
        ) from error


# What a training leaves in its folder, apart from the phantom, which is always the same.
_PRODUCTS = (
    "checkpoint-*",
    "adapter_config.json",
    "adapter_model.safetensors",
    "config.json",
    "preprocessor_config.json",
    "README.md",
    "metrics.json",
    "metrics.csv",
    "overlay.png",
    "examples",
    "training_curve.png",
    "training_log.csv",
    "training_report.html",
    "training_settings.json",
    "best",
    "watch",
)


def _has_ended(output_dir: Path) -> bool:
    """Whether a run ended there and left nothing to go on from."""
    return (output_dir / "adapter_model.safetensors").is_file() and not list_checkpoints(output_dir)


def _move_earlier_run(output_dir: Path, with_base: bool) -> None:
    """Keep what an earlier run left, together and out of the way: mixed with this one's it would tell lies."""
    patterns = (*_PRODUCTS, "base_model") if with_base else _PRODUCTS
    old = sorted({path for pattern in patterns for path in output_dir.glob(pattern)})
    if not old:
        return
    folder = archive_directories(output_dir, old)
    logger.info(f"note        what an earlier run left in {output_dir} was moved to {folder}")


def _ensure_random_sam(folder: Path, args: SamedTrainingArguments) -> Path:
    """A small SAM of random weights: the run's own one when it is continued, else a new one."""
    if args.resume_from_checkpoint is None or not folder.is_dir():
        with atomic_directory(folder) as temporary:
            make_random_sam(temporary, image_size=args.image_size, seed=args.seed)
    return folder


def _make_model(args: SamedTrainingArguments, base: str | Path, store: CaseStore) -> SamedForSemanticSegmentation:
    id2label = store.data.id2label
    model = SamedForSemanticSegmentation.from_pretrained(
        base, image_size=args.image_size, id2label=id2label, revision=args.model_revision, token=args.hub_token
    )
    if model._hf_peft_config_loaded:
        raise ValueError(f"model_name_or_path {str(base)!r} is an adapter: give the plain SAM it was trained on.")
    lora = samed_lora_config(args.rank, variant=args.variant)
    # The very commit trained on, so that the adapter never meets another one's weights.
    revision = resolve_revision(str(base), args.model_revision, token=args.hub_token)
    lora.revision = args.model_revision = getattr(revision, "resolved", revision)
    model.add_adapter(lora)
    if args.frozen_dtype == "bfloat16":
        cast_frozen(model, torch.bfloat16)
    if args.gradient_checkpointing:
        model.activation_checkpointing_enable()
    model.image_processor = store.processor
    return model
