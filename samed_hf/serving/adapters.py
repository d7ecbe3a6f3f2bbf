"""Adapters loaded on demand from an allow-list, whose equal weights are in memory once."""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Mapping
from weakref import WeakValueDictionary

import torch
from torch import nn

from ..inference.onnx_model import OnnxModel
from ..inference.segmenter import Segmenter

__all__ = ["AdapterPool"]

logger = logging.getLogger(__name__)


class AdapterPool:
    """The adapters that a server offers, of which those used last are loaded.

    Adapters of one base share its frozen weights: an adapter that is loaded takes the memory of its own weights. While
    it is being loaded, its base is in memory a second time.

    Args:
        sources: directory or Hub id of each adapter or ensemble by its name; no other is ever loaded.
        max_loaded: the most adapters in memory; the one unused for longest is dropped.
        dtype, base_model_name_or_path: see [`~samed_hf.inference.load_model`].
    """

    def __init__(
        self,
        sources: Mapping[str, str],
        *,
        max_loaded: int = 16,
        dtype: str = "float32",
        base_model_name_or_path: str | None = None,
    ) -> None:
        if max_loaded < 1:
            raise ValueError(f"max_loaded is {max_loaded}: expected at least 1 adapter.")
        self.sources, self.max_loaded, self.dtype = dict(sources), max_loaded, dtype
        self.base_model_name_or_path = base_model_name_or_path
        self.hits = self.misses = 0
        self._loaded: OrderedDict[str, Segmenter] = OrderedDict()
        self._weights: WeakValueDictionary[str, nn.Parameter] = WeakValueDictionary()

    def get(self, name: str) -> Segmenter:
        """The adapter of this name, loaded if it isn't.

        Raises:
            KeyError: it is not on the allow-list.
            ValueError, OSError: it can't be loaded.
        """
        source = self.sources[name]
        if name in self._loaded:
            self.hits += 1
            self._loaded.move_to_end(name)
            return self._loaded[name]
        self.misses += 1
        while len(self._loaded) >= self.max_loaded:
            dropped, _ = self._loaded.popitem(last=False)
            logger.info("dropped     %s, unused for longest", dropped)
        base = self.base_model_name_or_path
        segmenter = Segmenter.load(source, dtype=self.dtype, base_model_name_or_path=base)
        for model in segmenter.models:
            if not isinstance(model, OnnxModel):
                self._share_weights(model)
        self._loaded[name] = segmenter
        return segmenter

    @property
    def loaded(self) -> list[str]:
        """Names of the loaded adapters; the last one was used last."""
        return list(self._loaded)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights of all loaded adapters; those that they share count once."""
        return sum(weight.nbytes for weight in list(self._weights.values()))

    def _share_weights(self, model: nn.Module) -> None:
        """Replace the weights that another loaded model has too by that model's."""
        for module in model.modules():
            for name, weight in module.named_parameters(recurse=False):
                weight.requires_grad_(False)
                setattr(module, name, self._weights.setdefault(_digest(weight), weight))


def _digest(weight: torch.Tensor) -> str:
    content = weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    about = f"{tuple(weight.shape)} {weight.dtype} {weight.device}"
    return f"{about} {hashlib.sha256(content.data).hexdigest()}"
