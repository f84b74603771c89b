"""Words on contact sheets: the LoRA's name above, and why there is nothing to see."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional

from ..foreign import printable

_LETTERS = 20
"""Height of letters, pixels."""

_LINE = 30
"""Height of a line, pixels."""

_GONE = (
    "No pictures to show: their small copies were cleared, or were never made on this computer. The row is complete all the same."
)

_NOTICE_WIDTH = 512
_NOTICE_LETTERS = 44
"""So many letters a line are taken for what fits a notice."""


def labelled(sheet: Tensor, name: str) -> Tensor:
    """A contact sheet with a name in a line above it. sheet: [1, H, W, 3] float in [0, 1]; the result is a line higher."""
    line = torch.from_numpy(np.asarray(text_line(name, sheet.shape[2]), dtype=np.float32) / 255.0)
    return torch.cat([line[None], sheet], dim=1)


def notice(text: str) -> Tensor:
    """A small picture that says why there is nothing to see. [1, H, W, 3] float in [0, 1]."""
    lines = textwrap.wrap(text, _NOTICE_LETTERS)
    rows = [np.asarray(text_line(line, _NOTICE_WIDTH), dtype=np.float32) / 255.0 for line in lines]
    return torch.from_numpy(np.concatenate(rows))[None]


def sheet_or_notice(sheet: Tensor | None) -> Tensor:
    """A contact sheet, or words in its place."""
    return notice(_GONE) if sheet is None else sheet


def stacked(sheets: Sequence[Tensor]) -> Tensor:
    """Contact sheets, each [1, H, W, 3], as one batch: smaller ones get white at their right and lower edges."""
    height, width = (max(sheet.shape[side] for sheet in sheets) for side in (1, 2))
    padded = (functional.pad(each, (0, 0, 0, width - each.shape[2], 0, height - each.shape[1]), value=1.0) for each in sheets)
    return torch.cat(list(padded))


def text_line(text: str, width: int) -> Image.Image:
    """A line of dark letters on white, cut off where it ends. width: pixels."""
    picture = Image.new("RGB", (width, _LINE), "white")
    try:
        font: ImageFont.FreeTypeFont | ImageFont.ImageFont = ImageFont.load_default(size=_LETTERS)
    except (TypeError, ImportError):
        # A Pillow before 10.1 or without FreeType has one small font, which knows Latin letters only.
        font = ImageFont.load_default()
        text = text.encode("latin-1", "replace").decode("latin-1")
    ImageDraw.Draw(picture).text((6, 3), printable(text), fill="black", font=font)
    return picture
