"""A tensor as a few bytes. Two models differ in nearly every tensor, and a few values of each tell them apart."""

from __future__ import annotations

import torch
from torch import Tensor

_SAMPLES = 64
_COMPUTED = (torch.float16, torch.bfloat16, torch.float32)


def sampled_bytes(tensor: Tensor, used_as: torch.dtype | None = None) -> bytes:
    """A tensor by its shape, type and a few of its values. used_as: a type that it counts as if it were cast to.

    Raises RuntimeError or TypeError for a tensor without values, or with none that can be read.
    """
    flat = tensor.detach().reshape(-1)
    if flat.numel() > _SAMPLES:
        places = torch.linspace(0, flat.numel() - 1, _SAMPLES, dtype=torch.float64).long().to(flat.device)
        # torch 2.1 picks no values out of 8-bit floats.
        flat = flat.view(torch.uint8)[places].view(flat.dtype) if flat.element_size() == 1 else flat[places]
    # Only a type that models compute in: 8-bit floats have their meaning only together with their scales.
    if used_as in _COMPUTED and tensor.dtype in _COMPUTED:
        flat = flat.to(used_as)
    values = flat.to("cpu", torch.float64).numpy().tobytes()
    return f"{tuple(tensor.shape)}{flat.dtype}".encode() + values
