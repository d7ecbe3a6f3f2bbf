"""SAMed: transformers' `SamModel` with split q/k/v attention and a decoder that predicts a mask for every label."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForSemanticSegmentation
from transformers import initialization as init
from transformers.models.sam.modeling_sam import SamModel, SamVisionEncoderOutput
from transformers.utils import ModelOutput

from ..transforms.zoom import nearest_zoom
from .channel_projection import ChannelProjection
from .checkpoint_conversion import register_sam_conversion
from .configuration_samed import SamedConfig
from .image_processing_samed import SamedImageProcessor
from .lora import freeze_unused, is_unused
from .losses import segmentation_loss
from .mask_decoder import SamedMaskDecoder
from .pipeline import register_pipeline
from .pretrained import SamedPreTrainedModel
from .vision_encoder import SamedVisionLayer

__all__ = ["SamedForSemanticSegmentation", "SamedSegmenterOutput"]


@dataclass
class SamedSegmenterOutput(ModelOutput):
    """Output of [`SamedForSemanticSegmentation`].

    Attributes:
        loss: scalar, the weighted sum of `cross_entropy` and `dice`; with `labels` only.
        logits: of shape `(batch_size, num_labels, image_size / 4, image_size / 4)`, background first.
        iou_scores: of shape `(batch_size, num_labels)`, from SAM's IoU head, which is fresh and untrained: meaningless,
            kept for comparison with the original implementation.
        cross_entropy, dice: scalars, the loss's parts.
        hidden_states: the encoder's, each of shape `(batch_size, image_size / 16, image_size / 16, hidden_size)`.
        attentions: the encoder's weights, with eager attention only.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    iou_scores: torch.Tensor | None = None
    cross_entropy: torch.Tensor | None = None
    dice: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class SamedModel(SamModel):
    """`SamModel` with SAMed's attention and decoder, whose label-dependent heads have PyTorch's initialisation."""

    def __init__(self, config: SamedConfig) -> None:
        super().__init__(config)
        vision = config.vision_config
        self.vision_encoder.layers = nn.ModuleList(
            SamedVisionLayer(vision, 0 if index in vision.global_attn_indexes else vision.window_size)
            for index in range(vision.num_hidden_layers)
        )
        self.mask_decoder = SamedMaskDecoder(config.mask_decoder_config)
        self.post_init()

    def embed_no_prompt(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """What SAM's prompt encoder returns without a prompt, and the positions, `(1, channels, height, width)` each.

        Modules are called instead of reading their weights, which are on no device yet if they are offloaded.
        """
        size = self.prompt_encoder.image_embedding_size[0]
        dense = self.prompt_encoder.no_mask_embed(torch.zeros(1, dtype=torch.long, device=device))
        centers = (torch.arange(size, dtype=torch.float32, device=device) + 0.5) / size
        grid = torch.stack(torch.meshgrid(centers, centers, indexing="xy"), dim=-1)
        return dense.reshape(1, -1, 1, 1).expand(-1, -1, size, size), self.shared_image_embedding(grid).permute(
            2, 0, 1
        )[None]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if not getattr(module, "uses_pytorch_init", False):
            return
        if isinstance(module, nn.Embedding):
            init.normal_(module.weight)
        elif isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(module.in_features)
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            init.uniform_(module.bias, -bound, bound)


class SamedForSemanticSegmentation(SamedPreTrainedModel):
    """SAM for semantic segmentation without prompts (SAMed, arXiv 2304.13785).

    `from_pretrained` loads a plain SAM, a SAMed adapter or a merged model, `save_pretrained` writes the adapter alone,
    and `merge_and_unload` returns a model without adapter, which is saved whole.
    """

    def __init__(self, config: SamedConfig) -> None:
        config.sync_subconfigs()
        super().__init__(config)
        self.sam = SamedModel(config)
        if config.channel_projection is not None:
            self.channel_projection = ChannelProjection(config.channel_projection)
        freeze_unused(self)
        self.post_init()

    # A number of pixels can't normalize the Dice loss, so Trainer divides by the number of accumulated batches instead.
    accepts_loss_kwargs = False

    @property
    def _ddp_params_and_buffers_to_ignore(self) -> list[str]:
        """The parameters that never get a gradient, which DistributedDataParallel would wait for and then fail.

        It asks the model that it wraps, which can be a PeftModel. They are frozen, but `get_peft_model` makes those of
        `modules_to_save` trainable. Gradients of zero, another remedy, would let weight decay shrink them.
        """
        names = [name for name, _ in self.named_parameters() if is_unused(name)]
        return names + [f"base_model.model.{name}" for name in names]

    def get_input_embeddings(self) -> nn.Module:
        """The patch embedding."""
        return self.sam.get_input_embeddings()

    @property
    def dtype(self) -> torch.dtype:
        """The weights' data type; the positional matrix, a model's first parameter, is always in float32."""
        return self.sam.vision_encoder.patch_embed.projection.weight.dtype

    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        image_embeddings: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> SamedSegmenterOutput | tuple:
        """Segment a batch of images.

        Args:
            pixel_values: of shape `(batch_size, 3, image_size, image_size)`, from [`SamedImageProcessor`]; with the
                config's `channel_projection`, of as many channels.
            labels: of shape `(batch_size, image_size / 4, image_size / 4)` or `(batch_size, image_size, image_size)`,
                integers in [0, num_labels), or ignored: -100, and 255 if it is no class. The latter are reduced by an
                order-0 zoom (SAMed's low-resolution labels), or the logits are interpolated to them if the config's
                `loss_resolution` is "full".
            image_embeddings: of shape `(batch_size, output_channels, image_size / 16, image_size / 16)`: the encoder's
                output, instead of `pixel_values`.
            output_hidden_states, output_attentions: whether to return those of the encoder; default to the config's.
            return_dict: `False` returns a tuple, the loss first; defaults to the config's.

        Raises:
            ValueError: both or none of `pixel_values` and `image_embeddings`, or `labels` of another shape or dtype.
        """
        if (pixel_values is None) == (image_embeddings is None):
            raise ValueError("Give pixel_values or image_embeddings, exactly one of the two.")
        if pixel_values is not None:
            requested = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
            settings = {key: getattr(self.config, key) if value is None else value for key, value in requested.items()}
            options = {key: value for key, value in settings.items() if value}
            encoded = self.sam.vision_encoder(self._three_channels(pixel_values), return_dict=True, **options)
        else:
            encoded = SamVisionEncoderOutput(last_hidden_state=image_embeddings)
        image_embeddings = encoded.last_hidden_state
        dense, positions = self.sam.embed_no_prompt(image_embeddings.device)
        # The decoder stays in float32 where the encoder is in half precision.
        dtype = self.sam.mask_decoder.iou_token.weight.dtype
        logits, iou_scores = self.sam.mask_decoder(image_embeddings.to(dtype), positions.to(dtype), dense.to(dtype))
        losses = {}
        if labels is not None:
            low = self.to_low_resolution(labels, logits.shape[-1])  # which checks the shape
            labels = labels if self.config.loss_resolution == "full" else low
            losses = segmentation_loss(logits, labels, self.config.dice_weight)._asdict()
        output = SamedSegmenterOutput(  # at once: a ModelOutput has the order of its assignments
            loss=losses.get("loss"),
            logits=logits,
            iou_scores=iou_scores.detach(),  # without a gradient on any path, see _ddp_params_and_buffers_to_ignore
            cross_entropy=losses.get("cross_entropy"),
            dice=losses.get("dice"),
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )
        return_dict = self.config.return_dict if return_dict is None else return_dict
        return output if return_dict else output.to_tuple()

    def get_image_embeddings(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """The encoder's output for `pixel_values`, of shape `(batch_size, output_channels, S / 16, S / 16)`."""
        return self.sam.vision_encoder(self._three_channels(pixel_values), return_dict=True).last_hidden_state

    def _three_channels(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """The encoder's input, in its data type."""
        if (channels := self.config.channel_projection) is not None:
            if pixel_values.ndim != 4 or pixel_values.shape[1] != channels:
                raise ValueError(
                    f"pixel_values have the shape {tuple(pixel_values.shape)}: expected (batch_size, {channels}, "
                    f"{self.config.image_size}, {self.config.image_size}), with the channels that the model projects."
                )
            pixel_values = self.channel_projection(pixel_values.float())
        return pixel_values.to(self.dtype)

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, ChannelProjection):
            module.start_from_means()

    @staticmethod
    def to_low_resolution(labels: torch.Tensor, size: int) -> torch.Tensor:
        """Reduce labels `(batch_size, 4 · size, 4 · size)` by an order-0 zoom; those of side `size` are unchanged."""
        if labels.ndim != 3 or tuple(labels.shape[1:]) not in ((size, size), (4 * size, 4 * size)):
            raise ValueError(
                f"labels have the shape {tuple(labels.shape)}: expected (batch_size, {size}, {size}), that of the "
                f"logits, or (batch_size, {4 * size}, {4 * size}), that of pixel_values."
            )
        return labels if labels.shape[1] == size else nearest_zoom(labels, (size, size))


register_sam_conversion("SamedForSemanticSegmentation")
AutoConfig.register(SamedConfig.model_type, SamedConfig)
AutoImageProcessor.register(
    SamedConfig, image_processor_classes={"pil": SamedImageProcessor, "torchvision": SamedImageProcessor}
)
AutoModel.register(SamedConfig, SamedForSemanticSegmentation)
AutoModelForSemanticSegmentation.register(SamedConfig, SamedForSemanticSegmentation)
register_pipeline(SamedConfig.model_type, SamedForSemanticSegmentation.__name__)
