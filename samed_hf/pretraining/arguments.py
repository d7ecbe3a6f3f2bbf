"""Settings of a pretraining, one field for each flag of `samed-hf pretrain`."""

from __future__ import annotations

from dataclasses import dataclass

from ..utils.settings import setting

__all__ = ["PretrainingArguments"]


@dataclass
class PretrainingArguments:
    """Settings of a pretraining; the text of each is in its field."""

    output_dir: str = setting("outputs/small_sam", "Directory of the model and of its checkpoints.")
    model_name_or_path: str | None = setting(None, "Plain SAM to go on from [a small, untrained one].", resume=True)
    image_size: int = setting(128, "Side of the images in pixels, a multiple of 16.", minimum=16, resume=True)
    max_train_steps: int = setting(10_000, "Optimizer steps.", minimum=1, resume=True)
    per_device_train_batch_size: int = setting(16, "Images per step and process.", minimum=1, resume=True)
    num_prompts: int = setting(4, "Masks to ask for in each image.", minimum=1, resume=True)
    learning_rate: float = setting(1e-3, "Highest learning rate; it falls as a cosine.", minimum=0, resume=True)
    lr_warmup_steps: int = setting(100, "Steps of warmup.", minimum=0, resume=True)
    dense_steps: int = setting(
        300, "Steps of the dense objective alone, before prompts are added.", minimum=0, resume=True
    )
    contrast_weight: float = setting(0.5, "Weight of the contrast between regions.", minimum=0, resume=True)
    image_weight: float = setting(
        0.1, "Weight of the reconstruction of the clean image and its edges.", minimum=0, resume=True
    )
    weight_decay: float = setting(0.02, "Weight decay of AdamW.", minimum=0, resume=True)
    max_grad_norm: float = setting(1.0, "Largest norm of the gradient.", minimum=0, resume=True)
    eval_steps: int = setting(500, "Steps between measurements of the IoU.", minimum=1)
    num_validation_images: int = setting(200, "Images that the IoU is measured on, the same in every run.", minimum=1)
    checkpointing_steps: int = setting(500, "Steps between checkpoints.", minimum=1)
    mixed_precision: str = setting("no", "no, bf16 or fp16.", choices=("no", "bf16", "fp16"), resume=True)
    dataloader_num_workers: int = setting(0, "Worker processes that draw images.", minimum=0)
    seed: int = setting(0, "Seed of weights and images.", minimum=0, resume=True)
    resume: bool = setting(False, "Resume from the last complete checkpoint in output_dir, if there is one.")
