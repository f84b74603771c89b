"""What a test on a GPU is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

HAS_GPU = torch.cuda.is_available()

Run = Callable[..., str]
"""Runs a script of this folder with ComfyUI's Python: (script, *arguments) -> what it printed."""


@dataclass(frozen=True)
class Model:
    """A checkpoint, a LoRA for it, the side of pictures in pixels, and whether its pictures show anything."""

    checkpoint: Path
    lora: Path
    size: int
    has_meaning: bool
