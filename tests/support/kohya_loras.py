"""LoRA files in the ways in which they are named, for any model of diffusers: random, and known to the bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

Layer = tuple[str, str, Sequence[str]]
"""What a layer is called in the file, the component, and diffusers' names of the layer or of its parts, from the top."""


def write_lora(
    path: Path,
    pipe: Any,
    layers: Sequence[Layer],
    *,
    halves: tuple[str, str],
    alpha: float | None = None,
    ranks: Sequence[int] = (2,),
    seed: int = 0,
) -> dict[tuple[str, str], Tensor]:
    """Write a LoRA of a few layers, and say what it adds to which weight at a weight of 1.

    halves: what follows a layer's name for the two matrices, the one that is applied first first. alpha: None for a file without.
    ranks: of the layers in turn, from the first again after the last.
    Returns (component, layer) -> what is added.
    """
    random = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    added: dict[tuple[str, str], Tensor] = {}
    for (name, component, parts), rank in zip(layers, cycle(ranks), strict=False):
        weights = [getattr(pipe, component).get_submodule(part).weight for part in parts]
        rows = [weight.shape[0] for weight in weights]
        down = torch.randn(rank, *weights[0].shape[1:], generator=random) * 0.3
        up = torch.randn(sum(rows), rank, *[1] * (weights[0].ndim - 2), generator=random) * 0.3
        tensors[f"{name}.{halves[0]}"], tensors[f"{name}.{halves[1]}"] = down, up
        if alpha is not None:
            tensors[f"{name}.alpha"] = torch.tensor(alpha)
        scale = 1.0 if alpha is None else alpha / rank
        whole = (up.flatten(1) @ down.flatten(1)).reshape(sum(rows), *weights[0].shape[1:]) * scale
        added |= {(component, part): piece for part, piece in zip(parts, whole.split(rows), strict=True)}
    save_file(tensors, path)
    return added


def add(pipe: Any, added: Mapping[tuple[str, str], Tensor], weight: float) -> None:
    """Add what a LoRA adds to a pipeline's weights."""
    with torch.no_grad():
        for (component, layer), change in added.items():
            getattr(pipe, component).get_submodule(layer).weight += weight * change
