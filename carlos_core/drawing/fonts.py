"""Text of any script, measured and drawn with the fonts that come with this package: the same picture on every machine."""

from __future__ import annotations

import gzip
import re
import unicodedata
from functools import cache, lru_cache
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from PIL import ImageFont
from PIL.ImageDraw import ImageDraw

from ..foreign import printable

_DATA = Path(__file__).parent / "data"
_FILES = ("DejaVuSansCondensed.ttf.gz", "DroidSansFallback.ttf.gz", "unifont.otf.gz")
"""The first that has a character draws it: European scripts, Arabic and Hebrew; Chinese, Japanese and Korean; all others, which
are made of pixels."""

_LINE = 1.3
_LONGEST = 300
"""Characters of a text that are looked at: more than any line of a picture holds."""

_MISSING = "\u25a1"
"""Drawn for what no font has, such as most emoji."""

_NOTHING = "\uffff"
"""No character: every font draws its mark for missing ones."""

_BASIC_PLANE = 0xFFFF
"""The last character of Unicode's first plane. Beyond are symbols, and letters in fancy styles."""

_ELLIPSIS = "…"
_BLANKS = re.compile(r"\s+")
_JOINS = frozenset("\u200c\u200d")
_UNDRAWN = re.compile("[\u200b\u200e\u200f\u2060\ufe00-\ufe0f\ufeff\U000e0000-\U000e0fff]")
"""Marks that are seen by their effect alone, which the fonts do not have."""

_PILED = re.compile("([\u0300-\u036f]{2})[\u0300-\u036f]+")
"""Accents upon accents, which would reach into other lines."""


class Run(NamedTuple):
    """Characters that one font draws."""

    text: str
    font: ImageFont.FreeTypeFont


def line_height(size: int) -> int:
    """Pixels from one line to the next."""
    return round(size * _LINE)


def width_of(text: str, size: int) -> float:
    """Width of a text in pixels as `draw_text` draws it. size: of its letters, pixels."""
    return sum(run.font.getlength(run.text) for run in _runs(one_line(text), size))


def draw_text(draw: ImageDraw, at: tuple[float, float], text: str, size: int, colour: str) -> None:
    """Draw a text as one line.

    Args:
        draw: of the picture.
        at: the left end of the line's upper edge, pixels; the line is `line_height(size)` high.
        text: whatever it holds, it is drawn in one line.
        size: of its letters, pixels.
        colour: as Pillow names it.
    """
    x, y = at
    # All fonts stand on the same line.
    base = y + (line_height(size) + size * 0.73) / 2
    for run in _runs(one_line(text), size):
        draw.text((x, base), run.text, fill=colour, font=run.font, anchor="ls")
        x += run.font.getlength(run.text)


def cut(text: str, size: int, width: float) -> str:
    """A text that is at most `width` pixels wide, with an ellipsis where it was cut off."""
    whole = one_line(text)
    if whole == _spaced(text) and width_of(whole, size) <= width:
        return whole
    kept = whole.removesuffix(_ELLIPSIS)
    shortest, longest = 0, len(kept)
    while shortest < longest:
        middle = (shortest + longest + 1) // 2
        if width_of(_ended(kept[:middle]), size) <= width:
            shortest = middle
        else:
            longest = middle - 1
    return _ended(kept[:shortest])


def wrapped(text: str, size: int, width: float, lines: int) -> list[str]:
    """A text in at most so many lines that are at most `width` pixels wide, the last one with an ellipsis if it was cut off.

    It is broken between words, or anywhere in a word that is wider than a line.
    """
    rest, found = one_line(text, lines * _LONGEST), list[str]()
    while rest and len(found) < lines - 1:
        line = _first_line(rest, size, width)
        found.append(line.rstrip())
        rest = rest[len(line) :].lstrip()
    return [*found, cut(rest, size, width)] if rest else found


def one_line(text: str, most: int = _LONGEST) -> str:
    """A text as it is drawn: one line, without what no font can draw, cut off where no picture would have room for it.

    most: characters.
    """
    whole = _spaced(text)
    return whole if len(whole) <= most else _ended(whole[:most])


def _spaced(text: str) -> str:
    """A little more of a text than is ever drawn, with single blanks."""
    some = _PILED.sub(r"\1", _UNDRAWN.sub("", text[: 4 * _LONGEST]))
    return printable(_BLANKS.sub(" ", some).strip())


def _ended(text: str) -> str:
    return text.rstrip() + _ELLIPSIS


def _first_line(text: str, size: int, width: float) -> str:
    """What of a text fits into a line: whole words, or as many characters of the first word as it takes, at least one."""
    if width_of(text, size) <= width:
        return text
    ends = [found.end() for found in _BLANKS.finditer(text)]
    words = max((end for end in ends if width_of(text[:end].rstrip(), size) <= width), default=0)
    if words:
        return text[:words]
    fitting = 1
    while fitting < len(text) and width_of(text[: fitting + 1], size) <= width:
        fitting += 1
    return text[:fitting]


@lru_cache(maxsize=1024)
def _runs(text: str, size: int) -> tuple[Run, ...]:
    """A line, as the fonts share it."""
    places: list[int] = []
    drawn = ""
    for written in text:
        character = _plainer(written)
        place = _place(character)
        # A mark belongs to the letter before it: another font could not put it there.
        if places and (unicodedata.combining(character) or character in _JOINS or character == " "):
            place = places[-1]
        places.append(len(_FILES) - 1 if place is None else place)
        drawn += _MISSING if place is None else character
    groups = groupby(zip(places, drawn, strict=True), key=lambda pair: pair[0])
    return tuple(Run("".join(character for _, character in group), _font(place, size)) for place, group in groups)


def _plainer(character: str) -> str:
    """A character, or what it stands for if only that can be drawn: letters in fancy styles are letters."""
    plain = unicodedata.normalize("NFKC", character) if ord(character) > _BASIC_PLANE else character
    return plain if len(plain) == 1 else character


@lru_cache(maxsize=4096)
def _place(character: str) -> int | None:
    """Which font draws a character; None if none does."""
    return next((place for place in range(len(_FILES)) if _has(place, character)), None)


def _has(place: int, character: str) -> bool:
    font = _font(place, 16, ImageFont.Layout.BASIC)
    return bytes(font.getmask(character)) != _mark_of_missing(place) or character.isspace()


@cache
def _mark_of_missing(place: int) -> bytes:
    return bytes(_font(place, 16, ImageFont.Layout.BASIC).getmask(_NOTHING))


@lru_cache(maxsize=64)
def _font(place: int, size: int, layout: ImageFont.Layout | None = None) -> ImageFont.FreeTypeFont:
    """layout: None for the best there is: with libraqm, letters join and run from right to left where their script does."""
    return ImageFont.truetype(BytesIO(_content(place)), size, layout_engine=layout)


@cache
def _content(place: int) -> bytes:
    return gzip.decompress((_DATA / _FILES[place]).read_bytes())
