"""Configuration of a SAMed model: SAM's sub-configs, the input size, the labels and the loss weight."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, cast

from huggingface_hub.dataclasses import strict
from transformers import SamConfig

if TYPE_CHECKING:
    from transformers.models.sam.configuration_sam import SamMaskDecoderConfig, SamPromptEncoderConfig, SamVisionConfig

__all__ = ["OVERRIDES", "SamedConfig"]

# Keys of a published adapter's config.json that name its base model; they are no settings of the model.
BASE_KEYS = ("base_model_name_or_path", "base_model_revision")
# Arguments of `from_pretrained` that replace values of a checkpoint's config.json.
OVERRIDES = ("image_size", "id2label", "label2id", "num_labels", "dice_weight")


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
        id2label (`dict[int, str]`, *optional*): name of each class, keys 0, 1, …; class 0 is the background.
        num_labels (`int`, *optional*): number of classes, background included, if they have no names.
    """

    model_type = "samed"
    # Trainer.evaluate and Trainer.predict return the logits alone.
    keys_to_ignore_at_inference: ClassVar = ["iou_scores", "cross_entropy", "dice", "hidden_states", "attentions"]

    dice_weight: float = 0.8
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
        super().__post_init__(**kwargs)
        if self.image_size is None:
            self.image_size = self.vision_config.image_size
        self.sync_subconfigs()

    @property
    def tokens_per_side(self) -> int:
        """Rows and columns of tokens in the image encoder."""
        return self.image_size // cast(int, self.vision_config.patch_size)

    def sync_subconfigs(self) -> None:
        """Check the values and copy `image_size` and the number of labels into the sub-configs."""
        patch_size = cast(int, self.vision_config.patch_size)  # SAM's patches are square
        if not isinstance(self.image_size, int) or self.image_size <= 0 or self.image_size % patch_size:
            raise ValueError(
                f"image_size is {self.image_size!r}: expected a positive multiple of {patch_size}, the patch size; "
                f"the nearest is {max(1, round(float(self.image_size) / patch_size)) * patch_size}."
            )
        if sorted(self.id2label) != list(range(len(self.id2label))) or self.num_labels < 2:
            raise ValueError(
                f"id2label has the keys {sorted(self.id2label)}: expected 0, 1, … without a gap and at least two, "
                "where 0 is the background, e.g. {0: 'background', 1: 'spleen'}."
            )
        if not 0.0 <= self.dice_weight <= 1.0:
            raise ValueError(f"dice_weight is {self.dice_weight}: expected a number in [0, 1].")
        self.label2id = {name: index for index, name in self.id2label.items()}
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
        config_dict, unused = super().get_config_dict(*args, **kwargs)
        if not config_dict:
            raise OSError(
                f"{args[0] if args else ''!r} has no config.json: expected a directory or Hub id of SAM or SAMed."
            )
        return cls._as_samed(config_dict), unused

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
        given = {key: kwargs.pop(key) for key in OVERRIDES if kwargs.get(key) is not None}
        names, count, own = given.pop("id2label", None), given.pop("num_labels", None), config_dict.get("id2label")
        if names is not None:
            names = {int(key): name for key, name in names.items()}
            if count not in (None, len(names)):
                raise ValueError(
                    f"num_labels is {count} but id2label names {len(names)} labels: give one of the two, the "
                    "background counted."
                )
        elif count is not None and count != len(own or {}):
            names = {0: "background"} | {i: f"label_{i}" for i in range(1, count)}
        elif not own:
            config_dict["id2label"] = {0: "background", 1: "label_1"}
        if names is not None:
            given["id2label"] = names
            for values, key in ((given, "label2id"), (config_dict, "label2id"), (config_dict, "num_labels")):
                values.pop(key, None)
        return super().from_dict(config_dict | given, **kwargs)
