"""The optimizer of a training: fused AdamW or Adam, SGD with momentum, or AdamW with 8-bit moments."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from ..utils.text import one_line
from .arguments import ResolvedTrainingArguments

__all__ = ["check_optimizer", "make_optimizer"]

_FUSED = ("cpu", "cuda", "mps", "xpu")  # devices with a fused AdamW and Adam in PyTorch
_EIGHT_BIT = ("cuda", "xpu")  # devices with an 8-bit AdamW in bitsandbytes


def make_optimizer(
    parameters: Iterable[nn.Parameter], args: ResolvedTrainingArguments, device: torch.device
) -> torch.optim.Optimizer:
    """Make the optimizer named by `args.optimizer`, with the run's learning rate and weight decay.

    The momentum of SGD is 0.9, as in TransUNet's training (arXiv 2102.04306, section 4.2).
    """
    check_optimizer(args, device)
    options: dict[str, Any] = {"lr": args.learning_rate, "weight_decay": args.weight_decay}
    if args.optimizer == "sgd":
        return torch.optim.SGD(parameters, **options, momentum=0.9)
    options["betas"] = (0.9, 0.999)
    if args.optimizer == "adamw_8bit":
        from bitsandbytes.optim import AdamW8bit

        return AdamW8bit(parameters, **options)
    kind = torch.optim.Adam if args.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, **options, fused=device.type in _FUSED)


def check_optimizer(args: ResolvedTrainingArguments, device: torch.device) -> None:
    """Check that the optimizer can run: adamw_8bit needs a GPU and a working bitsandbytes."""
    if args.optimizer != "adamw_8bit":
        return
    if device.type not in _EIGHT_BIT:
        raise ValueError(
            f"optimizer is adamw_8bit, but the run is on {device.type}: expected a GPU of CUDA or XPU; leave the flag "
            "out, for adamw."
        )
    if find_spec("bitsandbytes") is None:
        raise ValueError(
            "optimizer is adamw_8bit, but bitsandbytes isn't installed: pip install 'samed_hf[8bit]', or leave the "
            "flag out, for adamw."
        )
    try:
        import bitsandbytes.optim  # noqa: F401
    except Exception as error:  # a GPU library that fails to load raises errors of many types
        raise ValueError(f"optimizer is adamw_8bit, but bitsandbytes can't be loaded ({one_line(error)}).") from error
