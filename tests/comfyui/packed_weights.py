"""The weights of a checkpoint, and which of them a quantised file packs."""

from __future__ import annotations

from safetensors.torch import load_file
from torch import Tensor

PREFIX = "model.diffusion_model."
BLOCKS = ("joint_blocks.", "input_blocks.", "middle_block.", "output_blocks.", "layers.")
"""Of the diffusion models: the mini-world's, SDXL's, Z-Image's."""

CHANGED = f"{PREFIX}joint_blocks.1.x_block.mlp.fc1.weight"


def weights_of(checkpoint: str, change: str = "") -> dict[str, Tensor]:
    """Tensors of a checkpoint. change: a number that is added to each weight of one layer of the mini-world's."""
    tensors = load_file(checkpoint)
    if change:
        tensors[CHANGED] = tensors[CHANGED] + float(change)
    return tensors


def is_packed(name: str, weight: Tensor) -> bool:
    """Whether a weight is one of those that are packed: matrices of the blocks, as in the files that people have."""
    return name.startswith(tuple(PREFIX + block for block in BLOCKS)) and name.endswith(".weight") and weight.ndim == 2
