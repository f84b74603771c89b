"""The layers of a loaded model that LoRAs can change: their names in LoRA files, and the shapes of their weights."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any

import comfy.lora
import comfy.utils

from ..storage import short_hash
from .families import class_of_model

Shape = tuple[int, ...]


class ModelLayers:
    """The layers of a MODEL and a CLIP (either may be None), as ComfyUI's own key maps name them.

    key_map: name of a layer in a LoRA file -> key of its weight, or (key, (dim, start, length)) for a part of one. The model and
    the text encoder have no key in common.
    shapes: key -> shape of the weight as it computes, whatever form it is kept in (GGUF, scaled fp8 and other quantised storage).
    """

    def __init__(self, model: Any, clip: Any) -> None:
        self.key_map: dict[str, Any] = {}
        self.shapes: dict[str, Shape] = {}
        self._class = "" if model is None else class_of_model(model)
        if model is not None:
            comfy.lora.model_lora_keys_unet(model.model, self.key_map)
            self.shapes.update(shapes_of(model.model, model.model.state_dict()))
        if clip is not None:
            comfy.lora.model_lora_keys_clip(clip.cond_stage_model, self.key_map)
            self.shapes.update(shapes_of(clip.patcher.model, clip.patcher.model.state_dict()))

    @cached_property
    def identity(self) -> str:
        """16 hex digits for all that decides which LoRA fits: equal for every checkpoint of the same layers."""
        names = sorted((name, repr(target)) for name, target in self.key_map.items())
        return short_hash(repr((self._class, names, sorted(self.shapes.items()))), 16)


def shapes_of(module: Any, keys: Iterable[str]) -> dict[str, Shape]:
    """Shapes of a module's tensors by key, as the module itself computes with them.

    The state dict of a quantised module has tensors of other shapes (packed values, scales), or of none that can be read.
    """
    shapes = {}
    for key in keys:
        try:
            tensor = comfy.utils.get_attr(module, key)
        except AttributeError:
            # In the state dict alone, such as the scale of a quantised weight: no LoRA changes it.
            continue
        if tensor is not None:
            shapes[key] = tuple(int(size) for size in tensor.shape)
    return shapes


def model_key(model: Any) -> str:
    """What a LoRA must fit, in one name: ComfyUI's exact class of the model, and 8 hex digits for the shapes of its layers.

    The same for every checkpoint of one architecture and size, in whatever precision and quantisation: "SDXL-1a2b3c4d".
    """
    weights = (key for key in model.model.state_dict() if key.startswith("diffusion_model.") and key.endswith(".weight"))
    return f"{class_of_model(model)}-{short_hash(repr(sorted(shapes_of(model.model, weights).items())), 8)}"
