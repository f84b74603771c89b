"""Small charts on a canvas: where a value stands in a range, and a curve with error bars."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw

from . import fonts, theme
from .canvas import Box, Canvas, Ink

_FINER = 3
"""Lines are drawn so many times as large and then reduced: Pillow draws them with steps."""

_TICK = 20


class Range(NamedTuple):
    """What values there are: the least, the quartiles, the greatest."""

    least: float
    lower: float
    middle: float
    upper: float
    greatest: float


_LEAST_TOP, _MOST_TOP = 1e-9, 1e9
"""Between which values a curve's scale may end."""


class CurveDot(NamedTuple):
    """A point of a curve."""

    x: float
    y: float
    error: float | None = None
    """Half of its error bar; None for no bar."""

    note: str = ""
    """Below its x."""

    is_on_line: bool = True


def range_strip(canvas: Canvas, box: Box, value: float, within: Range, error: float | None = None) -> None:
    """A value as a dot on a track from the least value to the greatest, or to itself if that is beyond.

    The middle half of all values is a broad band, the median a line. error: half of the value's error bar.
    """
    least, greatest = min(within.least, value), max(within.greatest, value)
    plot = _Plot(canvas, box)
    margin = box.height / 2

    def x(number: float) -> float:
        share = (number - least) / (greatest - least) if greatest > least else 0.5
        return margin + share * (box.width - 2 * margin)

    middle = box.height / 2
    plot.block((0, middle - 3, box.width, middle + 3), theme.TRACK)
    plot.block((x(within.lower), middle - 9, max(x(within.upper), x(within.lower) + 2), middle + 9), theme.TRACK)
    plot.block((x(within.middle) - 1.5, middle - 13, x(within.middle) + 1.5, middle + 13), theme.QUIET)
    if error is not None:
        ends = [x(min(max(value + side * error, least), greatest)) for side in (-1, 1)]
        plot.line([(ends[0], middle), (ends[1], middle)], theme.TEXT, 3)
    plot.circle((x(value), middle), 9, theme.ACCENT)
    plot.done()


def curve(canvas: Canvas, box: Box, dots: Sequence[CurveDot], marked: float | None = None) -> None:
    """A curve from the origin on, with a scale. dots: at least one. marked: an x to be marked by a line across."""
    font = _TICK
    step = fonts.line_height(font)
    has_notes = any(dot.note for dot in dots)
    inner = Box(box.left + 44, box.top + 8, box.width - 44 - 24, box.height - 8 - step * (2 if has_notes else 1) - 8)
    right = max([abs(dot.x) for dot in dots] + [abs(marked or 0)]) or 1.0
    sign = -1 if min(dot.x for dot in dots) < 0 else 1
    top = 1.1 * max(dot.y + (dot.error or 0) for dot in dots)
    if not _LEAST_TOP < top < _MOST_TOP:
        # Nothing to see, or numbers that make no sense: points lie on the edges then.
        top = 1.0
    plot = _Plot(canvas, Box(box.left, box.top, box.width, box.height))

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            inner.left - box.left + sign * x / right * inner.width,
            inner.bottom - box.top - min(max(y / top, 0.0), 1.0) * inner.height,
        )

    for y in _steps(top):
        plot.line([place(0, y), (inner.right - box.left, place(0, y)[1])], theme.TRACK, 1)
    if marked is not None:
        plot.line([place(marked, 0), place(marked, top)], theme.GOOD, 3)
    plot.line([place(dot.x, dot.y) for dot in dots if dot.is_on_line], theme.ACCENT, 3)
    for dot in dots:
        if dot.error is not None:
            low, high = place(dot.x, dot.y - dot.error), place(dot.x, dot.y + dot.error)
            plot.line([low, high], theme.TEXT, 3)
            for end in (low, high):
                plot.line([(end[0] - 7, end[1]), (end[0] + 7, end[1])], theme.TEXT, 3)
        plot.circle(place(dot.x, dot.y), 7, theme.ACCENT if dot.is_on_line else theme.TEXT)
    plot.done()
    for y in _steps(top):
        canvas.write_right((inner.left - 10, box.top + place(0, y)[1] - step / 2), f"{y:g}", Ink(font, theme.QUIET), 40)
    ended = float("-inf")
    for dot in sorted((dot for dot in dots if dot.is_on_line), key=lambda dot: abs(dot.x)):
        texts = (f"{dot.x:g}", dot.note)
        centre, half = box.left + place(dot.x, 0)[0], max(fonts.width_of(text, font) for text in texts) / 2
        if centre - half < ended + 4:
            continue
        ended = centre + half
        for line, text in enumerate(texts):
            left = centre - fonts.width_of(text, font) / 2
            canvas.write((left, inner.bottom + 6 + line * step), text, Ink(font, theme.QUIET))


class _Plot:
    """Lines and circles in a box of a canvas; with `done` they are there."""

    def __init__(self, canvas: Canvas, box: Box) -> None:
        self._canvas, self._box = canvas, box
        under = canvas.picture.crop((box.left, box.top, box.right, box.bottom))
        self._picture = under.resize((box.width * _FINER, box.height * _FINER), Image.Resampling.NEAREST)
        self._draw = ImageDraw.Draw(self._picture)

    def line(self, points: Sequence[tuple[float, float]], colour: str, width: float) -> None:
        finer = [(x * _FINER, y * _FINER) for x, y in points]
        if len(finer) > 1:
            self._draw.line(finer, fill=colour, width=round(width * _FINER), joint="curve")

    def block(self, edges: tuple[float, float, float, float], colour: str) -> None:
        left, top, right, bottom = (edge * _FINER for edge in edges)
        self._draw.rounded_rectangle((left, top, max(left, right), bottom), 3 * _FINER, fill=colour)

    def circle(self, centre: tuple[float, float], radius: float, colour: str) -> None:
        (x, y), r = (coordinate * _FINER for coordinate in centre), radius * _FINER
        self._draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)

    def done(self) -> None:
        smaller = self._picture.resize((self._box.width, self._box.height), Image.Resampling.BOX)
        self._canvas.picture.paste(smaller, (self._box.left, self._box.top))


def _steps(top: float) -> list[float]:
    """Round numbers from 0 up to `top`, three to six of them."""
    power = 10.0 ** math.floor(math.log10(top))
    size = next(size for size in (power / 5, power / 2, power, 2 * power) if top / size < 6)
    return [round(k * size, 9) for k in range(int(top / size) + 1)]
