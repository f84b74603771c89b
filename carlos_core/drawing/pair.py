"""What a LoRA does, to be seen."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True, eq=False)
class Pair:
    """A picture without a LoRA, and the same one with it."""

    prompt: str
    """Its text, without trigger words."""

    seed: int
    without: Image.Image
    """RGB, as `with_lora`."""

    with_lora: Image.Image
