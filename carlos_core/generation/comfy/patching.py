"""LoRAs onto ComfyUI's MODEL and CLIP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.lora
import comfy.lora_convert
import comfy.utils
from torch import Tensor

from ...errors import LoraError
from ..base import LoraFit
from .families import class_of_model


class _ReadKeys(dict[str, Tensor]):
    """A LoRA's tensors that remembers which of them were taken: ComfyUI only logs those that do not fit."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__(tensors)
        self.taken: set[str] = set()

    def __getitem__(self, key: str) -> Tensor:
        self.taken.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        if key in self:
            self.taken.add(key)
        return super().get(key, default)


def load_lora(path: Path) -> dict[str, Tensor]:
    """Tensors of a LoRA file. Raises LoraError when it cannot be read."""
    try:
        return comfy.utils.load_torch_file(str(path), safe_load=True)
    except Exception as error:  # ComfyUI passes on whatever the format's reader raises; none of it is a cancel
        raise LoraError(f"The LoRA {path.name} cannot be loaded ({error}).", "Check that the file is whole.") from error


def apply_lora(
    model: Any, clip: Any, tensors: dict[str, Tensor], name: str, weight: float, clip_weight: float
) -> tuple[Any, Any, LoraFit]:
    """Model and text encoder (either may be None) with a LoRA applied to clones of them, and how much of it fitted.

    One that the LoRA does not touch comes back as it is.

    Raises LoraError, with the counts, if none of its tensors fits the model.
    """
    key_map: dict[str, Any] = {}
    if model is not None:
        key_map = comfy.lora.model_lora_keys_unet(model.model, key_map)
    if clip is not None:
        key_map = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, key_map)
    read = _ReadKeys(comfy.lora_convert.convert_lora(dict(tensors)))
    patches = comfy.lora.load_lora(read, key_map, log_missing=False)
    patched_model, patched_clip = set(), set()
    if model is not None:
        clone = model.clone()
        patched_model = set(clone.add_patches(patches, weight))
        # An untouched one is passed on as it is: a clone would be loaded anew, and its texts encoded again.
        model = clone if patched_model else model
    if clip is not None:
        clone = clip.clone()
        patched_clip = set(clone.add_patches(patches, clip_weight))
        clip = clone if patched_clip else clip
    fit = LoraFit(
        matched=len(read.taken) if patched_model or patched_clip else 0,
        total=len(read),
        model=class_of_model(model) if model is not None else "",
    )
    if fit.matched == 0:
        raise LoraError(
            f"LoRA does not fit: 0 of {fit.total} keys in '{name}' match this {fit.model or 'text encoder'} model.",
            "Load a checkpoint of the LoRA's own family, or pick another LoRA.",
        )
    return model, clip, fit
