"""Sentences, and what each of them found, as one picture: LoRAs with pictures before and after, or why there is none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image

from . import fonts, theme
from .canvas import Box, Canvas, Ink
from .listing import Said
from .pair import Pair

WIDTH = 1024
"""Pixels."""

MOST_PAIRS = 4

_SIDE = 128
_EDGE, _INNER, _GAP = 16, 18, 8
_TITLE, _QUERY, _NAME, _SMALL = 30, 28, 27, 21
_LABEL = 74
"""Width of what stands before the pictures."""


class Answered(NamedTuple):
    """A sentence, and what came of it."""

    query: str
    name: str
    """Of the LoRA, or that there is none."""

    said: Sequence[Said]
    """What else there is to say, each from a line of its own on."""

    pairs: Sequence[Pair] = ()
    """Square pictures without and with the LoRA; the first four are drawn."""


def picture_of_answers(title: str, answers: Sequence[Answered]) -> Image.Image:
    """Sentences below each other, `WIDTH` wide and as high as they need."""
    heights = [_height(each) for each in answers]
    head = fonts.line_height(_TITLE) + _GAP
    canvas = Canvas(WIDTH, 2 * _EDGE - _GAP + head + sum(heights) + (len(answers) - 1) * _EDGE)
    canvas.write((_EDGE, _EDGE - _GAP), title, Ink(_TITLE), WIDTH - 2 * _EDGE)
    y = _EDGE - _GAP + head + _GAP
    for answered, height in zip(answers, heights, strict=True):
        _draw(canvas, Box(_EDGE, y, WIDTH - 2 * _EDGE, height), answered)
        y += height + _EDGE
    return canvas.picture


def _height(answered: Answered) -> int:
    if answered.pairs:
        return 2 * _INNER + 2 * _SIDE + _GAP
    lines = sum(len(fonts.wrapped(said.text, _SMALL, WIDTH - 2 * (_EDGE + _INNER), 3)) for said in answered.said)
    return 2 * _INNER + fonts.line_height(_QUERY) + fonts.line_height(_NAME) + lines * fonts.line_height(_SMALL)


def _draw(canvas: Canvas, box: Box, answered: Answered) -> None:
    canvas.panel(box, radius=12)
    shown = answered.pairs[:MOST_PAIRS]
    left, right = box.left + _INNER, box.right - _INNER
    if shown:
        right -= len(shown) * (_SIDE + _GAP) - _GAP
        for place, pair in enumerate(shown):
            x = right + place * (_SIDE + _GAP)
            canvas.thumbnail(pair.without, Box(x, box.top + _INNER, _SIDE, _SIDE))
            canvas.thumbnail(pair.with_lora, Box(x, box.top + _INNER + _SIDE + _GAP, _SIDE, _SIDE))
        for place, label in enumerate(("without", "with")):
            middle = box.top + _INNER + place * (_SIDE + _GAP) + (_SIDE - fonts.line_height(_SMALL)) / 2
            canvas.write_right((right - _GAP, middle), label, Ink(_SMALL, theme.QUIET), _LABEL)
        right -= _LABEL + 2 * _GAP
    _write(canvas, Box(left, box.top + _INNER, right - left, box.height - 2 * _INNER), answered)


def _write(canvas: Canvas, box: Box, answered: Answered) -> None:
    lines = 2 if answered.pairs else 1
    query = Box(box.left, box.top, box.width, lines * fonts.line_height(_QUERY))
    y = canvas.write_lines(query, f"“{answered.query}”", Ink(_QUERY, theme.ACCENT))
    y += _GAP if answered.pairs else 0
    canvas.write((box.left, y), answered.name, Ink(_NAME), box.width)
    y += fonts.line_height(_NAME)
    for said in answered.said:
        y = canvas.write_lines(Box(box.left, y, box.width, 3 * fonts.line_height(_SMALL)), said.text, Ink(_SMALL, said.colour))
