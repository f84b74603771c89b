"""Words on contact sheets: the LoRA's name above, and why there is nothing to see."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..drawing import fonts
from ..drawing.canvas import Box, Canvas, Ink
from ..drawing.tensors import as_tensor

_GROUND = "white"
_INK = Ink(20, "black")
_MARGIN = 6
_LINE = fonts.line_height(_INK.size) + 4
"""Height of a name's line, pixels."""

_GONE = (
    "No pictures to show: their small copies were cleared, or were never made on this computer. The row is complete all the same."
)

_NOTICE_WIDTH, _NOTICE_HEIGHT = 512, 160


def labelled(sheet: Tensor, name: str) -> Tensor:
    """A contact sheet with a name in a line above it. sheet: [1, H, W, 3] float in [0, 1]; the result is a line higher."""
    width = sheet.shape[2]
    line = Canvas(width, _LINE, _GROUND)
    line.write((_MARGIN, 2), name, _INK, width - 2 * _MARGIN)
    return torch.cat([as_tensor(line.picture), sheet], dim=1)


def notice(text: str) -> Tensor:
    """A small picture that says why there is nothing to see. [1, H, W, 3] float in [0, 1]."""
    canvas = Canvas(_NOTICE_WIDTH, _NOTICE_HEIGHT, _GROUND)
    within = Box(_MARGIN, _MARGIN, _NOTICE_WIDTH - 2 * _MARGIN, _NOTICE_HEIGHT - 2 * _MARGIN)
    below = canvas.write_lines(within, text, _INK) + _MARGIN
    return as_tensor(canvas.picture.crop((0, 0, _NOTICE_WIDTH, below)))


def sheet_or_notice(sheet: Tensor | None) -> Tensor:
    """A contact sheet, or words in its place."""
    return notice(_GONE) if sheet is None else sheet


def stacked(sheets: Sequence[Tensor]) -> Tensor:
    """Contact sheets, each [1, H, W, 3], as one batch: smaller ones get white at their right and lower edges."""
    height, width = (max(sheet.shape[side] for sheet in sheets) for side in (1, 2))
    batch = torch.ones(len(sheets), height, width, 3)
    for place, sheet in enumerate(sheets):
        batch[place, : sheet.shape[1], : sheet.shape[2]] = sheet[0]
    return batch
