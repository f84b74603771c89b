"""Texts and conditionings in ComfyUI's form: a tensor, and a dict of what belongs to it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..generator import Job

Conditioning = tuple[Tensor, dict[str, Any]]


def text_of(job: Job) -> str:
    """Prompt and trigger words as ComfyUI's tokenizer gets them."""
    return ", ".join([job.prompt, *(escape_emphasis(trigger) for trigger in job.triggers)])


def escape_emphasis(text: str) -> str:
    """Text that ComfyUI reads literally: it takes plain brackets as emphasis."""
    return text.replace("(", r"\(").replace(")", r"\)")


def form_of(conditioning: Conditioning) -> Any:
    """What is equal for texts that a model makes inputs of one shape of."""
    tensor, extras = conditioning
    described = tuple(
        (key, tuple(value.shape) if isinstance(value, Tensor) else repr(value)) for key, value in sorted(extras.items())
    )
    return tuple(tensor.shape), described


def size_of(conditioning: Conditioning) -> int:
    """Bytes that a conditioning takes."""
    tensor, extras = conditioning
    return sum(value.nbytes for value in (tensor, *extras.values()) if isinstance(value, Tensor))


def zeroed(conditioning: Conditioning) -> Conditioning:
    """The conditioning that diffusers uses for a missing negative prompt of SDXL."""
    tensor, extras = conditioning
    zeros = {key: torch.zeros_like(value) if key == "pooled_output" else value for key, value in extras.items()}
    return torch.zeros_like(tensor), zeros
