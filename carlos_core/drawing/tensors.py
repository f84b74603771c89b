"""From pictures as Pillow has them to pictures as ComfyUI has them, and back."""

from __future__ import annotations

import struct

import numpy as np
import torch
from PIL import Image
from torch import Tensor

DAMAGE = (OSError, ValueError, SyntaxError, TypeError, LookupError, struct.error, Image.DecompressionBombError)
"""What Pillow raises over a damaged picture."""


def picture_of(image: Tensor) -> Image.Image:
    """A float picture [H, W, 3] in [0, 1] as an 8-bit one."""
    return Image.fromarray((image[..., :3].float().cpu().clamp(0, 1) * 255.0).round().to(torch.uint8).numpy())


def as_tensor(picture: Image.Image) -> Tensor:
    """An 8-bit picture as a batch of one, [1, H, W, 3] float in [0, 1]."""
    return torch.from_numpy(np.asarray(picture.convert("RGB"), dtype=np.float32) / 255.0)[None]
