"""A picture in the making: text of any script, bars, dots and thumbnails on the theme's ground."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from PIL import Image, ImageDraw

from . import fonts, theme

_FINER = 4
"""Round shapes are drawn so many times as large and then reduced: Pillow draws them with steps."""


class Box(NamedTuple):
    """A rectangle, pixels."""

    left: int
    top: int
    width: int
    height: int

    @property
    def right(self) -> int:
        return self.left + self.width

    @property
    def bottom(self) -> int:
        return self.top + self.height


class Ink(NamedTuple):
    """How words are written."""

    size: int
    """Of the letters, pixels."""

    colour: str = theme.TEXT


class Canvas:
    """A picture of a fixed size that is drawn on."""

    def __init__(self, width: int, height: int, ground: str = theme.GROUND) -> None:
        """width, height: pixels."""
        self.picture = Image.new("RGB", (width, height), ground)
        self._draw = ImageDraw.Draw(self.picture)

    def write(self, at: tuple[float, float], text: str, ink: Ink, width: float | None = None) -> float:
        """Write one line; it is cut off with an ellipsis where it is wider than `width`. Returns where it ends, x.

        at: the left end of the line's upper edge; the line is `fonts.line_height(ink.size)` high.
        """
        shown = text if width is None else fonts.cut(text, ink.size, width)
        fonts.draw_text(self._draw, at, shown, ink.size, ink.colour)
        return at[0] + fonts.width_of(shown, ink.size)

    def write_right(self, at: tuple[float, float], text: str, ink: Ink, width: float) -> None:
        """Write one line that ends at `at`, the right end of its upper edge, and is at most `width` wide."""
        shown = fonts.cut(text, ink.size, width)
        fonts.draw_text(self._draw, (at[0] - fonts.width_of(shown, ink.size), at[1]), shown, ink.size, ink.colour)

    def write_lines(self, within: Box, text: str, ink: Ink) -> int:
        """Write as many lines as a box holds. Returns the lower edge of the last one, y."""
        step = fonts.line_height(ink.size)
        lines = fonts.wrapped(text, ink.size, within.width, max(1, within.height // step))
        for place, line in enumerate(lines):
            self.write((within.left, within.top + place * step), line, ink)
        return within.top + len(lines) * step

    def panel(self, box: Box, colour: str = theme.PANEL, radius: int = 8) -> None:
        """A filled rectangle with round corners. radius: at most half of its shorter side."""
        self._fill(box._replace(left=box.left + radius, width=box.width - 2 * radius), colour)
        self._fill(box._replace(top=box.top + radius, height=box.height - 2 * radius), colour)
        disc = _disc(2 * radius)
        for x, left in ((box.left, 0), (box.right - radius, radius)):
            for y, top in ((box.top, 0), (box.bottom - radius, radius)):
                self.picture.paste(colour, (x, y), disc.crop((left, top, left + radius, top + radius)))

    def dot(self, centre: tuple[float, float], radius: float, colour: str) -> None:
        """A filled circle."""
        disc = _disc(round(2 * radius))
        self.picture.paste(colour, (round(centre[0] - radius), round(centre[1] - radius)), disc)

    def bar(self, box: Box, share: float, colour: str = theme.ACCENT, band: Box | None = None) -> None:
        """A bar that is filled from the left.

        Args:
            box: where it is.
            share: how much of it is filled, cut to [0, 1].
            colour: of what is filled.
            band: a part that is marked behind it, as high as one likes.
        """
        self._fill(box, theme.TRACK)
        if band is not None:
            self._fill(band, theme.BAND)
        self._fill(box._replace(width=round(box.width * min(max(share, 0.0), 1.0))), colour)

    def _fill(self, box: Box, colour: str) -> None:
        if box.width > 0 and box.height > 0:
            self._draw.rectangle((box.left, box.top, box.right - 1, box.bottom - 1), fill=colour)

    def thumbnail(self, picture: Image.Image, box: Box) -> None:
        """A picture in the middle of a box, as large as the box allows."""
        scale = min(box.width / picture.width, box.height / picture.height)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        small = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
        self.picture.paste(small, (box.left + (box.width - size[0]) // 2, box.top + (box.height - size[1]) // 2))


@lru_cache(maxsize=64)
def _disc(diameter: int) -> Image.Image:
    """A circle as a mask, as wide as high."""
    large = Image.new("L", (diameter * _FINER, diameter * _FINER), 0)
    ImageDraw.Draw(large).ellipse((0, 0, large.width - 1, large.height - 1), fill=255)
    return large.resize((diameter, diameter), Image.Resampling.BOX)
