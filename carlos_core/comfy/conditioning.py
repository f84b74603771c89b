"""Texts and conditionings in ComfyUI's form: a tensor, and a dict of what belongs to it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..generator import Job
from ..loras.trigger_words import escape_emphasis

Conditioning = tuple[Tensor, dict[str, Any]]


def text_of(job: Job) -> str:
    """Prompt and trigger words as ComfyUI's tokenizer gets them."""
    return ", ".join([job.prompt, *(escape_emphasis(trigger) for trigger in job.triggers)])


def form_of(conditioning: Conditioning) -> Any:
    """What is equal for texts that a model makes inputs of one shape of."""
    tensor, extras = conditioning
    return tuple(tensor.shape), tuple((key, _form_of_extra(value)) for key, value in sorted(extras.items()))


def _form_of_extra(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return repr(value)
    # A mask: some models count the tokens that it leaves.
    return (tuple(value.shape), int(value.sum())) if not value.is_floating_point() and value.ndim == 2 else tuple(value.shape)


def size_of(conditioning: Conditioning) -> int:
    """Bytes that a conditioning takes."""
    tensor, extras = conditioning
    return sum(value.nbytes for value in (tensor, *extras.values()) if isinstance(value, Tensor))


def zeroed(conditioning: Conditioning) -> Conditioning:
    """The conditioning that diffusers uses for a missing negative prompt of SDXL."""
    tensor, extras = conditioning
    zeros = {key: torch.zeros_like(value) if key == "pooled_output" else value for key, value in extras.items()}
    return torch.zeros_like(tensor), zeros
