"""The card of an adapter, rendered from `model_card.md` with what the run measured."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from .files import write_text

__all__ = ["write_card"]

# Settings that hold places on the user's machine, which are nobody else's business.
_PRIVATE = {"data_dir", "output_dir", "model_name_or_path", "resume_from_checkpoint"}


def write_card(
    folder: str | os.PathLike,
    *,
    name: str,
    base_model: str | None,
    random_base: bool,
    id2label: Mapping[int, str],
    image_size: int,
    settings: Mapping[str, Any],
    deviations: Sequence[str] | None,
    metrics: Mapping[str, Any] | None,
    data: str,
) -> None:
    """Write the adapter's `README.md`.

    Args:
        folder: the adapter's folder; the card shows those pictures of the run that lie in it.
        name: title, and name of the repository in the snippets.
        base_model: Hub name of the base model; `None` for one that isn't on the Hub.
        random_base: the base model has random weights.
        id2label: the labels.
        image_size: input size in pixels.
        settings: the training's, by name; places on the machine are left out.
        deviations: where the training leaves the paper's, in words; `None` for one that doesn't claim to follow it.
        metrics: what `metrics.json` holds; `None` says on the card that there are no scores.
        data: what it was trained on, in words.
    """
    card_data = ModelCardData(
        library_name="samed_hf",
        pipeline_tag="image-segmentation",
        license="apache-2.0",
        base_model=base_model,
        base_model_relation="adapter" if base_model else None,
        tags=["medical", "segment-anything", "lora", "peft", "arxiv:2304.13785"],
    )
    card = ModelCard.from_template(
        card_data,
        template_path=str(_template()),
        name=name,
        random_base=random_base,
        labels=[label for index, label in sorted(id2label.items()) if index],
        image_size=image_size,
        settings={key: value for key, value in settings.items() if value is not None and key not in _PRIVATE},
        pictures=[path.name for path in Path(folder).glob("*.png")],
        deviations=deviations,
        metrics=metrics,
        data=data,
    )
    write_text(Path(folder) / "README.md", str(card))


def _template() -> Path:
    """`model_card.md` of the checkout, or of the installed package."""
    places = [Path(__file__).parents[1], Path(sysconfig.get_path("data")) / "share" / "samed_hf"]
    for place in places:
        if (place / "model_card.md").is_file():
            return place / "model_card.md"
    raise FileNotFoundError(f"model_card.md is in none of {', '.join(map(str, places))}: install samed_hf again.")
