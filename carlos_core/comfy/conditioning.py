"""Texts and conditionings in ComfyUI's form: a tensor, and a dict of what belongs to it."""

from __future__ import annotations

from collections.abc import Sequence
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
    """What must be equal for two conditionings to share a batch."""
    tensor, extras = conditioning
    described = tuple(
        (key, tuple(value.shape) if isinstance(value, Tensor) else repr(value)) for key, value in sorted(extras.items())
    )
    return tuple(tensor.shape), described


def size_of(conditioning: Conditioning) -> int:
    """Bytes that a conditioning takes."""
    tensor, extras = conditioning
    return sum(value.nbytes for value in (tensor, *extras.values()) if isinstance(value, Tensor))


def joined(conditionings: Sequence[Conditioning]) -> list[list[Any]]:
    """One conditioning for a batch: picture i is guided by entry i."""
    extras = {
        key: torch.cat([other[key] for _, other in conditionings]) if isinstance(value, Tensor) else value
        for key, value in conditionings[0][1].items()
    }
    return [[torch.cat([tensor for tensor, _ in conditionings]), extras]]


def zeroed(conditioning: Conditioning) -> Conditioning:
    """The conditioning that diffusers uses for a missing negative prompt of SDXL."""
    tensor, extras = conditioning
    zeros = {key: torch.zeros_like(value) if key == "pooled_output" else value for key, value in extras.items()}
    return torch.zeros_like(tensor), zeros
