"""From pictures as float tensors to the pixels that CLIP was trained on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class PixelFormat:
    """What an image tower expects: a square of `size` x `size` pixels, colours normalised by this mean and standard deviation."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def pixels_of(images: Tensor, format: PixelFormat) -> Tensor:
    """CLIP's own preprocessing: shorter side to `size` (antialiased bicubic), centre crop, normalise.

    images: [B, H, W, C >= 3], values in [0, 1], any device. Result: [B, 3, size, size] float32.
    Pictures are rounded to 8 bits before and after resizing, as PIL does: a picture that was saved and opened again gives the
    same pixels.
    """
    pixels = _to_8_bits(images[..., :3].float().movedim(-1, 1) * 255.0)
    height, width = pixels.shape[-2:]
    if min(height, width) != format.size:
        # The longer side is cut off, not rounded, as torchvision's Resize does.
        size = format.size
        target = (size, size * width // height) if height <= width else (size * height // width, size)
        pixels = _to_8_bits(functional.interpolate(pixels, size=target, mode="bicubic", antialias=True))
    height, width = pixels.shape[-2:]
    top, left = round((height - format.size) / 2), round((width - format.size) / 2)
    pixels = pixels[..., top : top + format.size, left : left + format.size] / 255.0
    mean = torch.tensor(format.mean, device=pixels.device).view(3, 1, 1)
    std = torch.tensor(format.std, device=pixels.device).view(3, 1, 1)
    return (pixels - mean) / std


def _to_8_bits(pixels: Tensor) -> Tensor:
    """Round to whole numbers in [0, 255]; NaN stays NaN, so that a broken picture is noticed."""
    return pixels.round().clamp(0, 255)
