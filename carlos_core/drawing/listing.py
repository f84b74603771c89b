"""LoRAs in their order, as a picture: a row for each, or a sentence why there is none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from PIL import Image

from . import fonts, theme
from .canvas import Box, Canvas, Ink
from .pair import Pair

WIDTH = 928
"""Pixels. Nodes show it at about half that, as large as their width and a height of 220 allow: letters of 23 are then 10 high."""

MOST_ROWS = 12

_TITLE, _NAME, _SMALL = 30, 27, 23
_MARGIN = 14
_GAP = 8
_TITLE_LINES, _NOTES, _NOTE_LINES = 2, 8, 6
_PADDING = 8
_GAUGES = 300
"""Width of the bars with their labels and numbers."""

_LABEL, _NUMBER = 128, 66
_BAR, _BAND = 12, 20
"""Heights of a bar, and of what it stands before."""

_APART = "·"
_AROUND = 6
"""Pixels before and behind what is between parts."""

_LEAST_OF_PART = 4
"""So many letters of a part are worth drawing."""


class Said(NamedTuple):
    """Words and their colour."""

    text: str
    colour: str = theme.TEXT


@dataclass(frozen=True)
class Gauge:
    """A number, as a bar."""

    label: str
    value: float | None
    """None if it is undefined."""

    digits: int = 2
    usual: tuple[float, float] | None = None
    """Between which values most others are: a band behind the bar, if the listing says what it is."""

    most: float = 0.0
    """What a full bar stands for, at least."""

    @property
    def shown(self) -> str:
        """The number in figures."""
        return "-" if self.value is None or not math.isfinite(self.value) else f"{self.value + 0.0:.{self.digits}f}"

    def share(self, value: float) -> float:
        """Where on the bar a value is, in [0, 1]; a weight below 0 by its size. Half as much again as is usual fills it."""
        full = max(self.most, 1.5 * self.usual[1] if self.usual is not None else 0.0)
        size = abs(value) if self.most else value
        return min(max(size / full, 0.0), 1.0) if full > 0 and math.isfinite(value) else 0.0


@dataclass(frozen=True, eq=False)
class Row:
    """A LoRA."""

    name: str
    lines: tuple[tuple[Said, ...], ...]
    """Each in parts. Those that a row has no room for go on in its last one."""

    gauges: tuple[Gauge, ...]
    """At most three."""

    pair: Pair | None = None
    """What it does to a picture, if that was kept."""

    heading: str = ""
    """Written above it: what begins with this row."""


@dataclass(frozen=True, eq=False)
class Listing:
    """LoRAs in their order."""

    title: Said
    notes: tuple[Said, ...]
    """Sentences below the title."""

    rows: tuple[Row, ...] = ()
    """Only `MOST_ROWS` of them are drawn."""

    n_rows: int = 0
    """How many there are, drawn or not."""

    usual_of: str = ""
    """What the bands are, in a few words; empty: there are none."""


class _Layout(NamedTuple):
    """What the rows of a listing have, and how high that makes them."""

    has_pairs: bool
    has_bands: bool
    n_gauges: int

    figures_width: float
    """Of the widest number of a row, pixels."""

    @property
    def is_low(self) -> bool:
        """Whether a bar stands beside the name: without pictures, rows need not be higher."""
        return not self.has_pairs and self.n_gauges <= 2

    @property
    def n_lines(self) -> int:
        """Lines of a row below the name."""
        return 1 if self.is_low else max(self.n_gauges, 2)

    @property
    def inside(self) -> int:
        """Height of a row without its padding, pixels."""
        return fonts.line_height(_NAME) + self.n_lines * fonts.line_height(_SMALL)

    @property
    def row(self) -> int:
        return self.inside + 2 * _PADDING


def picture_of_listing(listing: Listing) -> Image.Image:
    """A listing as a picture, `WIDTH` wide and as high as its rows need."""
    rows = listing.rows[:MOST_ROWS]
    n_more = listing.n_rows - len(rows)
    layout = _Layout(
        any(row.pair is not None for row in rows),
        bool(rows and listing.usual_of),
        max((len(row.gauges) for row in rows), default=0),
        max((fonts.width_of(str(place), _NAME) for place in range(1, len(rows) + 1)), default=0.0),
    )
    # What the text above the rows needs is only known once it is drawn.
    head = Canvas(WIDTH, _most_above())
    top = _head(head, listing, layout)
    headings = sum(bool(row.heading) for row in rows)
    below = fonts.line_height(_SMALL) + _GAP if n_more > 0 else 0
    height = top + len(rows) * (layout.row + _GAP) + headings * _heading_height() + below + _MARGIN - _GAP
    canvas = Canvas(WIDTH, height)
    canvas.picture.paste(head.picture.crop((0, 0, WIDTH, top)), (0, 0))
    for place, row in enumerate(rows, start=1):
        if row.heading:
            canvas.write((_MARGIN, top), row.heading, Ink(_SMALL, theme.QUIET), WIDTH - 2 * _MARGIN)
            top += _heading_height()
        _row(canvas, Box(_MARGIN, top, WIDTH - 2 * _MARGIN, layout.row), str(place), row, layout)
        top += layout.row + _GAP
    if n_more > 0:
        canvas.write((_MARGIN, top), f"and {n_more:,} more, in the report", Ink(_SMALL, theme.QUIET), WIDTH - 2 * _MARGIN)
    return canvas.picture


def _most_above() -> int:
    notes = _NOTES * (_NOTE_LINES * fonts.line_height(_SMALL) + _GAP)
    return _MARGIN + _TITLE_LINES * fonts.line_height(_TITLE) + notes + 2 * fonts.line_height(_SMALL)


def _heading_height() -> int:
    return fonts.line_height(_SMALL) + _GAP // 2


def _head(canvas: Canvas, listing: Listing, layout: _Layout) -> int:
    """Title, notes and what the columns are. Returns where the rows begin, y."""
    width, y, quiet = WIDTH - 2 * _MARGIN, _MARGIN - 4, Ink(_SMALL, theme.QUIET)
    end, usual_of = WIDTH - _MARGIN - _PADDING, listing.usual_of if layout.has_bands else ""
    if usual_of and fonts.width_of(listing.title.text, _TITLE) + fonts.width_of(usual_of, _SMALL) < width - 6 * _GAP:
        # There is room beside the title.
        canvas.write_right((end, y + 4), usual_of, quiet, width)
        usual_of = ""
    ink = Ink(_TITLE, listing.title.colour)
    y = canvas.write_lines(Box(_MARGIN, y, width, _TITLE_LINES * fonts.line_height(_TITLE)), listing.title.text, ink)
    for note in listing.notes[:_NOTES]:
        ink = Ink(_SMALL, note.colour)
        y = canvas.write_lines(Box(_MARGIN, y + 4, width, _NOTE_LINES * fonts.line_height(_SMALL)), note.text, ink)
    if layout.has_pairs:
        left, side = _MARGIN + _PADDING, layout.inside
        canvas.write((left, y), "without", quiet, side)
        canvas.write((left + side + _GAP, y), "with", quiet, side)
    canvas.write_right((end, y), usual_of, quiet, WIDTH / 2)
    return y + (fonts.line_height(_SMALL) if layout.has_pairs or usual_of else 0) + _GAP


def _row(canvas: Canvas, box: Box, number: str, row: Row, layout: _Layout) -> None:
    canvas.panel(box)
    x, y = box.left + _PADDING, box.top + _PADDING
    if layout.has_pairs:
        pair = Box(x, y, 2 * layout.inside + _GAP, layout.inside)
        _thumbnails(canvas, pair, row.pair)
        x = pair.right + 2 * _GAP
    x += round(layout.figures_width)
    canvas.write_right((x, y), number, Ink(_NAME, theme.QUIET), layout.figures_width + 1)
    x += 2 * _GAP
    end, right = box.right - _PADDING, box.right - _PADDING - _GAUGES
    beside = right - 2 * _GAP - x
    canvas.write((x, y), row.name, Ink(_NAME), beside if layout.is_low else end - x)
    below, step = y + fonts.line_height(_NAME), fonts.line_height(_SMALL)
    n_whole = layout.n_lines - 1
    rest = [part for line in row.lines[n_whole:] for part in line]
    for place, line in enumerate([*row.lines[:n_whole], rest]):
        _parts(canvas, (x, below + place * step), line, beside)
    top = below - step if layout.is_low else below
    for place, gauge in enumerate(row.gauges):
        _gauge(canvas, Box(right, top + place * step, _GAUGES, step), gauge, has_band=layout.has_bands)


def _parts(canvas: Canvas, at: tuple[float, float], parts: Sequence[Said], width: float) -> None:
    """Parts of a line, one after the other, as far as they fit."""
    x, end = at[0], at[0] + width
    for place, part in enumerate(part for part in parts if part.text):
        if place:
            # Of a part that is cut off, a few letters must be left.
            least = f"{_APART}{part.text[:_LEAST_OF_PART]}…" if len(part.text) > _LEAST_OF_PART else f"{_APART}{part.text}"
            if x + 2 * _AROUND + fonts.width_of(least, _SMALL) > end:
                return
            x = canvas.write((x + _AROUND, at[1]), _APART, Ink(_SMALL, theme.QUIET)) + _AROUND
        x = canvas.write((x, at[1]), part.text, Ink(_SMALL, part.colour), end - x)


def _gauge(canvas: Canvas, box: Box, gauge: Gauge, *, has_band: bool) -> None:
    y = box.top + (box.height - fonts.line_height(_SMALL)) / 2
    canvas.write((box.left, y), gauge.label, Ink(_SMALL, theme.QUIET), _LABEL)
    canvas.write_right((box.right, y), gauge.shown, Ink(_SMALL), _NUMBER)
    left, width = box.left + _LABEL + _GAP, box.width - _LABEL - _NUMBER - 2 * _GAP
    middle = box.top + box.height // 2
    track = Box(left, middle - _BAR // 2, width, _BAR)
    band = None
    if has_band and gauge.usual is not None:
        low, high = (round(gauge.share(value) * width) for value in gauge.usual)
        band = Box(left + low, middle - _BAND // 2, max(high - low, 2), _BAND)
    canvas.bar(track, gauge.share(gauge.value) if gauge.value is not None else 0.0, band=band)


def _thumbnails(canvas: Canvas, box: Box, pair: Pair | None) -> None:
    """Both pictures in squares side by side."""
    side = box.height
    if pair is None:
        line = fonts.line_height(_SMALL)
        canvas.write((box.left, box.top + (side - line) / 2), "no pictures kept", Ink(_SMALL, theme.QUIET), box.width)
        return
    canvas.thumbnail(pair.without, Box(box.left, box.top, side, side))
    canvas.thumbnail(pair.with_lora, Box(box.right - side, box.top, side, side))
