"""Applying LoRAs to ComfyUI's MODEL and CLIP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.utils
from torch import Tensor

from ..errors import LoraError
from ..foreign import printable
from ..generator import LoraFit
from ..loras.header import check_ordinary
from .families import class_of_model
from .layers import ModelLayers
from .lora_fit import FittingPatches


def load_lora(path: Path) -> dict[str, Tensor]:
    """Tensors of a LoRA file by name. Raises LoraError if it cannot be read.

    They are in the file, not in memory: whoever changes it changes them (`in_memory`).
    """
    check_ordinary(path)
    try:
        return comfy.utils.load_torch_file(str(path), safe_load=True)
    except Exception as error:  # ComfyUI passes on whatever the format's reader raises; none of it is a cancellation
        what = printable(f"The LoRA {path.name} cannot be loaded ({error}).")
        raise LoraError(what, "Check that the file is whole.") from error


def in_memory(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors in memory.

    For work that takes minutes: a file that is written over meanwhile would change them, and one that is cut ends the process.
    """
    return {name: tensor.clone() for name, tensor in tensors.items()}


def apply_lora(
    model: Any, clip: Any, tensors: dict[str, Tensor], name: str, weight: float, clip_weight: float
) -> tuple[Any, Any, LoraFit]:
    """Model and text encoder with a LoRA applied to clones of them, and how much of it fitted.

    Layers of the right name and another width are left out: ComfyUI would log an error for each at every picture, or stop.
    A model or text encoder that the LoRA does not touch comes back as it is.

    Raises LoraError, with the counts, if none of its tensors fits the model or some are not finite, and for a file whose tensors
    make no sense.

    Args:
        model: ComfyUI's MODEL, or None.
        clip: ComfyUI's CLIP, or None.
        tensors: the LoRA's tensors by name; see `load_lora`.
        name: the LoRA's name in errors.
        weight: strength for the model.
        clip_weight: strength for the text encoder.
    """
    fitting = FittingPatches(tensors, name, ModelLayers(model, clip))
    fit = LoraFit(
        matched=fitting.matched,
        total=fitting.total,
        model=class_of_model(model) if model is not None else "",
        of_other_shape=fitting.of_other_shape,
    )
    fit.check(name, fitting.n_broken)
    patched_model, patched_clip = set(), set()
    if model is not None:
        clone = model.clone()
        patched_model = set(clone.add_patches(fitting.patches, weight))
        # An untouched one is passed on as it is: a clone would be loaded again, and its texts encoded again.
        model = clone if patched_model else model
    if clip is not None:
        clone = clip.clone()
        patched_clip = set(clone.add_patches(fitting.patches, clip_weight))
        clip = clone if patched_clip else clip
    return model, clip, fit
