"""Configuration of a SAMed model: SAM's sub-configs, the input size, the labels and the loss weight."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import SamConfig
from transformers.utils import CONFIG_NAME

from ..utils.packaged import locate
from .download import DOWNLOAD_OPTIONS, fetch_file

if TYPE_CHECKING:
    from transformers.models.sam.configuration_sam import SamMaskDecoderConfig, SamPromptEncoderConfig, SamVisionConfig

__all__ = ["OVERRIDES", "SamedConfig", "report_wrong_types"]

_WRONG_TYPES = (TypeError, AttributeError, LookupError, ArithmeticError, NotImplementedError, StrictDataclassError)
# Keys of a published adapter's config.json that name its base model; they are no settings of the model.
BASE_KEYS = ("base_model_name_or_path", "base_model_revision")
MAX_CHANNELS = 64
# Arguments of `from_pretrained` that replace values of a checkpoint's config.json.
OVERRIDES = (
    *("image_size", "id2label", "label2id", "num_labels", "dice_weight", "loss_resolution", "regions"),
    "channel_projection",
)


@strict
class SamedConfig(SamConfig):
    r"""Configuration of [`SamedForSemanticSegmentation`].

    It reads the `config.json` of a plain SAM checkpoint (`model_type` "sam") as well as its own.

    Args:
        vision_config, prompt_encoder_config, mask_decoder_config: SAM's sub-configs, as in [`~transformers.SamConfig`].
            Their image size and number of masks follow `image_size` and `id2label`.
        image_size (`int`, *optional*): height and width of the model's input in pixels, a multiple of the patch size
            (16). Defaults to the vision config's; SAMed uses 512.
        dice_weight (`float`, *optional*, defaults to 0.8): share of the Dice loss, in [0, 1]; cross-entropy has the
            rest (SAMed, section 3.4).
        loss_resolution (`str`, *optional*, defaults to `"low"`): `"low"` compares the logits with labels reduced to
            their size by an order-0 zoom, as SAMed does; `"full"` interpolates the logits to the input's size, as
            predictions do. The zoom keeps the corners, so with "low" outlines end up to 1.5 input pixels too near the
            image's centre at its edges.
        id2label (`dict[int, str]`, *optional*): name of each class, keys 0, 1, …; class 0 is the background.
        num_labels (`int`, *optional*, defaults to 2): number of classes, background included, if they have no names.
        base_fingerprint (`str`, *optional*): of an adapter, hash of the weights of the base model that it was trained
            on.
        regions (`dict[str, list[int]]`, *optional*): by name, the classes whose union a region is. Scores and
            statistics are then of the regions, which may overlap; the classes are exclusive.
        channel_projection (`int`, *optional*): number of channels of `pixel_values`, at most 64, that a trained 1×1
            convolution projects to SAM's three; by default there are three and no projection.
    """

    model_type = "samed"
    # Trainer.evaluate and Trainer.predict return the logits alone.
    keys_to_ignore_at_inference: ClassVar = ["iou_scores", "cross_entropy", "dice", "hidden_states", "attentions"]

    dice_weight: float = 0.8
    loss_resolution: str = "low"
    base_fingerprint: str | None = None
    regions: dict[str, list[int]] | None = None
    channel_projection: int | None = None
    if TYPE_CHECKING:  # the types that SamConfig's fields have after initialisation
        image_size: int
        vision_config: SamVisionConfig
        prompt_encoder_config: SamPromptEncoderConfig
        mask_decoder_config: SamMaskDecoderConfig
        id2label: dict[int, str]
        label2id: dict[str, int]
        num_labels: int
    else:
        image_size: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        kwargs.pop("model_type", None)  # that of SAM's config.json would stay on the instance
        if self.id2label is None:
            self.id2label = _default_names(kwargs.pop("num_labels", None) or 2)
        if not isinstance(self.id2label, dict):
            raise TypeError(f"id2label is {self.id2label!r}: expected a dictionary")
        if not all(str(key).isdigit() for key in self.id2label):
            raise ValueError(f"id2label has the keys {list(self.id2label)}: expected 0, 1, …")
        if type(self.dtype).__name__ not in ("NoneType", "str", "dtype"):
            raise TypeError(f"dtype is {self.dtype!r}: expected a name such as 'float32'")
        super().__post_init__(**kwargs)
        if self.image_size is None:
            self.image_size = self.vision_config.image_size
        self.sync_subconfigs()

    @property
    def tokens_per_side(self) -> int:
        """Rows and columns of tokens in the image encoder."""
        return self.image_size // cast(int, self.vision_config.patch_size)

    def to_dict(self) -> dict[str, Any]:
        """The content of `config.json`, without regions and channel projection if there are none."""
        optional = ("regions", "channel_projection")
        return {key: value for key, value in super().to_dict().items() if value is not None or key not in optional}

    def sync_subconfigs(self) -> None:
        """Check the values and copy `image_size` and the number of labels into the sub-configs."""
        patch_size = cast(int, self.vision_config.patch_size)  # SAM's patches are square
        if not isinstance(self.image_size, int | float):
            raise TypeError(f"image_size is {self.image_size!r}: expected a positive multiple of {patch_size}")
        if not isinstance(self.image_size, int) or self.image_size <= 0 or self.image_size % patch_size:
            raise ValueError(
                f"image_size is {self.image_size!r}: expected a positive multiple of {patch_size}, the patch size; "
                f"the nearest is {max(1, round(self.image_size / patch_size)) * patch_size}."
            )
        if sorted(self.id2label) != list(range(len(self.id2label))) or self.num_labels < 2:
            raise ValueError(
                f"id2label has the keys {sorted(self.id2label)}: expected 0, 1, … without a gap and at least two, "
                "where 0 is the background, e.g. {0: 'background', 1: 'spleen'}."
            )
        if not 0.0 <= self.dice_weight <= 1.0:
            raise ValueError(f"dice_weight is {self.dice_weight}: expected a number in [0, 1].")
        if self.loss_resolution not in ("low", "full"):
            raise ValueError(f"loss_resolution is {self.loss_resolution!r}: expected 'low' or 'full'.")
        labels = [index for members in (self.regions or {}).values() for index in members]
        if self.regions is not None and (
            not labels or not all(self.regions.values()) or {*labels} - {*self.id2label} or 0 in labels
        ):
            raise ValueError(
                f"regions is {self.regions}: expected lists of some of {sorted(self.id2label)[1:]} by name."
            )
        channels = self.channel_projection
        if channels is not None and not (type(channels) is int and 1 <= channels <= MAX_CHANNELS):
            raise ValueError(f"channel_projection is {channels!r}: expected 1 to {MAX_CHANNELS} channels.")
        self.label2id = {name: index for index, name in self.id2label.items()}
        if self.regions:  # JSON sorts them by name
            order = sorted(self.regions, key=lambda name: self.label2id.get(name, self.num_labels))
            self.regions = {name: list(self.regions[name]) for name in order}
        if len(self.label2id) != len(self.id2label):
            raise ValueError(f"id2label names a label twice: {list(self.id2label.values())}. Give each its own name.")
        self.vision_config.image_size = self.image_size
        self.prompt_encoder_config.image_size = self.image_size
        self.prompt_encoder_config.image_embedding_size = self.tokens_per_side
        # SAM counts the masks after the first one; SAMed uses all, one for each class.
        self.mask_decoder_config.num_multimask_outputs = self.num_labels - 1

    @classmethod
    def get_config_dict(cls, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The content of a `config.json`, of SAM or of SAMed, and the unused arguments; as in transformers."""
        name = args[0] if args else kwargs.pop("pretrained_model_name_or_path", None)
        if (
            name is not None and not Path(locate(name)).exists()
        ):  # tells a failed connection, where transformers does not
            fetch_file(str(name), CONFIG_NAME, {key: kwargs[key] for key in DOWNLOAD_OPTIONS if key in kwargs})
        with report_wrong_types(f"The config.json of {str(name)!r}"):
            config_dict, unused = super().get_config_dict(name and locate(name), *args[1:], **kwargs)
            if not config_dict:
                raise OSError(f"{name!r} has no config.json: expected a directory or Hub id of SAM or SAMed.")
            return cls._as_samed(config_dict) | {"_name_or_path": str(name)}, unused

    @classmethod
    def _as_samed(cls, config_dict: dict[str, Any]) -> dict[str, Any]:
        model_type = config_dict.get("model_type", cls.model_type)
        if model_type not in ("sam", cls.model_type):
            raise ValueError(
                f"The checkpoint's model_type is {model_type!r}: expected 'sam' (Segment Anything, e.g. "
                "facebook/sam-vit-base, -large or -huge) or 'samed'. SAM-HQ, SAM 2 and other models are not supported."
            )
        return {k: v for k, v in config_dict.items() if k not in BASE_KEYS} | {"model_type": cls.model_type}

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> SamedConfig:
        """Build from the content of a `config.json`, of SAM or of SAMed; values of `kwargs` replace its own."""
        config_dict = cls._as_samed(config_dict)
        name = config_dict.pop("_name_or_path", None)
        with report_wrong_types(f"The config.json of {name!r}" if name else "The configuration"):
            return cls._from_samed_dict(config_dict, kwargs)

    @classmethod
    def _from_samed_dict(cls, config_dict: dict[str, Any], kwargs: dict[str, Any]) -> SamedConfig:
        given = {key: value for key in OVERRIDES if (value := kwargs.pop(key, None)) is not None}
        if isinstance(vision := kwargs.get("vision_config"), dict) and vision.get("image_size"):
            given.setdefault("image_size", vision["image_size"])
        names, count, own = given.pop("id2label", None), given.pop("num_labels", None), config_dict.get("id2label")
        if names is not None:
            names = {int(key): name for key, name in names.items()}
            if count not in (None, len(names)):
                raise ValueError(
                    f"num_labels is {count} but id2label names {len(names)} labels: give one of the two, the "
                    "background counted."
                )
        elif count is not None and count != len(own or {}):
            names = _default_names(count)
        elif not own:
            config_dict["id2label"] = _default_names(2)
        if names is not None:
            given["id2label"] = names
            for values, key in ((given, "label2id"), (config_dict, "label2id"), (config_dict, "num_labels")):
                values.pop(key, None)
        loaded: Any = super().from_dict(config_dict | given, **kwargs)
        (loaded[0] if kwargs.get("return_unused_kwargs") else loaded).sync_subconfigs()  # to sub-configs of `kwargs`
        return loaded


def _default_names(count: int) -> dict[int, str]:
    return {0: "background"} | {index: f"label_{index}" for index in range(1, count)}


@contextmanager
def report_wrong_types(what: str) -> Iterator[None]:
    """Turn the errors of values of wrong types, as of a list where a number is expected, into a `ValueError`."""
    try:
        yield
    except _WRONG_TYPES as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{what} has a value of a wrong type or lacks one ({reason}): correct it, or fetch it again."
        ) from error
