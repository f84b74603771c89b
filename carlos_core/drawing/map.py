"""A library's map as a picture: colour is the family, size the strength, opacity the consistency."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageColor

from ..counting import counted
from . import fonts, theme
from .canvas import Box, Canvas, Ink
from .card import short_name

if TYPE_CHECKING:
    from ..search.library_map import LibraryMap, Name

WIDTH = 1024
"""Pixels. Everything can be read at half of it."""

COLOURS = ("#e69f00", "#56b4e9", "#2fbf8f", "#f0e442", "#e8743b", "#d895c0")
"""Of families, the most frequent first: after Okabe and Ito, so that colour-blind people tell them apart, and light enough for a
dark ground."""

OTHERS, UNKNOWN = "#77818f", "#b8ad9c"

_EDGE, _INNER = 20, 20
_FIELD = 760
_MARGIN = 48
_TITLE, _ROW = 34, 34
_LEAST, _MOST = 3.0, 16.0
"""Radius of the weakest and of the strongest LoRA, pixels."""

_ROOMY = 300
"""LoRAs that have room at that size: of more, all are smaller."""

_FAINTEST, _FULLEST = 0.25, 0.95
_LABEL = 22
_LONGEST_LABEL = 300
_SMALL = Ink(20, theme.QUIET)


_Edges = tuple[float, float, float, float]
"""Left, top, right, bottom, pixels."""


class _Label(NamedTuple):
    """A name beside a dot."""

    spot: np.ndarray
    """[2], of the dot, pixels."""

    radius: float
    """What the label must not cover around it."""

    text: str
    is_marked: bool


def draw_map(library: LibraryMap, title: str, query: str = "") -> Image.Image:
    """A library's map, 1024 pixels wide.

    Args:
        library: where its LoRAs lie.
        title: what is shown, in a line.
        query: what is looked for, in words.
    """
    families = _colours(library)
    legend = _legend_rows(library, families)
    inside, small, title_line = WIDTH - 2 * _EDGE, fonts.line_height(_SMALL.size), fonts.line_height(_TITLE)
    about = _about(library)
    n_lines = len(fonts.wrapped(about, _SMALL.size, inside, 3))
    head = title_line + n_lines * small + 14
    canvas = Canvas(WIDTH, _EDGE + head + _FIELD + 12 + len(legend) * _ROW + small + _EDGE)
    canvas.write((_EDGE, _EDGE), title, Ink(_TITLE), inside)
    canvas.write_lines(Box(_EDGE, _EDGE + title_line + 4, inside, n_lines * small), about, _SMALL)
    field = Box(_EDGE, _EDGE + head, inside, _FIELD)
    canvas.panel(field, radius=12)
    if library.dots:
        _draw_field(canvas, field, library, families, query)
    else:
        canvas.write((field.left + 2 * _INNER, field.top + 2 * _INNER), "No LoRA to show.", Ink(26, theme.QUIET))
    y = field.bottom + 12
    for row in legend:
        x = float(_EDGE + 6)
        for colour, text in row:
            canvas.dot((x + 8, y + 16), 9, colour)
            x = canvas.write((x + 26, y), text, Ink(_LABEL)) + 26
        y += _ROW
    canvas.write((_EDGE, y), _marks(library), _SMALL, inside)
    return canvas.picture


def _about(library: LibraryMap) -> str:
    share = sum(library.shares)
    drawn = f" {len(library.dots):,} of {library.n_loras:,} are drawn." if len(library.dots) < library.n_loras else ""
    none = f" {counted(library.n_without_effect, 'LoRA')} without effect left out." if library.n_without_effect else ""
    near = "Near each other: a like effect."
    return f"{near} The map shows {share:.0%} of all differences; the rest has no room in a plane.{drawn}{none}"


def _marks(library: LibraryMap) -> str:
    """What size, opacity and rings say."""
    has_nearest = any(name.cosine is not None and not name.is_marked for name in library.names)
    rings = " White rings: most like what is green." if has_nearest else ""
    return f"Larger: stronger. Fainter: its effect is less alike from picture to picture.{rings}"


def _colours(library: LibraryMap) -> dict[str | None, str]:
    """Family -> colour: the most frequent families have their own."""
    named = [family for family in library.families if family is not None]
    own: dict[str | None, str] = {
        family: COLOURS[place] if place < len(COLOURS) else OTHERS for place, family in enumerate(named)
    }
    return {**dict.fromkeys((dot.family for dot in library.dots), OTHERS), **own, None: UNKNOWN}


def _legend_rows(library: LibraryMap, colours: Mapping[str | None, str]) -> list[list[tuple[str, str]]]:
    """Colours and their words, as many in a line as there is room for."""
    counts: Counter[tuple[str, str]] = Counter()
    for family, n in library.families.items():
        colour = colours[family]
        counts[colour, "unknown" if family is None else "others" if colour == OTHERS else family] += n
    entries = [(colour, f"{text}: {n:,}") for (colour, text), n in counts.items()]
    rows: list[list[tuple[str, str]]] = []
    left = 0.0
    for entry in entries:
        width = 52 + fonts.width_of(entry[1], _LABEL)
        if not rows or left < width:
            rows.append([])
            left = WIDTH - 2.0 * _EDGE
        rows[-1].append(entry)
        left -= width
    return rows


def _draw_field(canvas: Canvas, field: Box, library: LibraryMap, colours: Mapping[str | None, str], query: str) -> None:
    places = [(dot.x, dot.y) for dot in library.dots] + ([library.query] if library.query is not None else [])
    spots = _spots(np.array(places), field)
    radii = _radii([dot.strength for dot in library.dots])
    opacities = _opacities([dot.consistency for dot in library.dots])
    pixels = np.asarray(canvas.picture, dtype=np.float32).copy()
    # Small ones come on top.
    for place in sorted(range(len(library.dots)), key=lambda place: (-radii[place], place)):
        _blend(pixels, spots[place], radii[place], colours[library.dots[place].family], opacities[place])
    shown = _named(library)
    if library.query is not None:
        for _name, place in shown:
            _line(pixels, spots[-1], spots[place], theme.GOOD)
        _ring(pixels, spots[-1], 11, theme.GOOD)
        _blend(pixels, spots[-1], 6, theme.TEXT, 1.0)
    for name, place in shown:
        _ring(pixels, spots[place], radii[place] + 3, theme.GOOD if name.is_marked else theme.TEXT)
    labels = [_Label(spots[place], radii[place] + 4, short_name(name.record.name), name.is_marked) for name, place in shown]
    if library.query is not None:
        labels.insert(0, _Label(spots[-1], 13, query, is_marked=True))
    placed = _placed(labels, field, spots)
    for label, box in placed:
        _line(pixels, label.spot, np.clip(label.spot, box[:2], box[2:]), theme.QUIET, start=label.radius)
    for _label, box in placed:
        _darken(pixels, box)
    canvas.picture.paste(Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8)))
    for label, box in placed:
        colour = theme.GOOD if label.is_marked else theme.TEXT
        canvas.write((box[0] + 4, box[1] + 1), fonts.cut(label.text, _LABEL, _LONGEST_LABEL), Ink(_LABEL, colour))


def _named(library: LibraryMap) -> list[tuple[Name, int]]:
    """The names with the places of their dots."""
    where = {(dot.x, dot.y): place for place, dot in enumerate(library.dots)}
    return [(name, where[name.x, name.y]) for name in library.names]


def _spots(places: np.ndarray, field: Box) -> np.ndarray:
    """Places of a plane as pixels within a box, equally long along both axes. [N, 2]."""
    low, high = places.min(axis=0), places.max(axis=0)
    room = np.array([field.width - 2 * _MARGIN, field.height - 2 * _MARGIN], dtype=np.float64)
    extent = np.maximum(high - low, 1e-9)
    scale = float((room / extent).min()) if (high - low).max() > 1e-6 else 0.0
    centred = (places - (low + high) / 2) * scale * np.array([1, -1])
    return centred + np.array([field.left + field.width / 2, field.top + field.height / 2])


def _radii(strengths: Sequence[float]) -> list[float]:
    """The circles grow with the strength, up to that which few exceed."""
    most = float(np.quantile(strengths, 0.98)) or 1.0
    room = min(1.0, max(0.4, (_ROOMY / len(strengths)) ** 0.5))
    return [_LEAST + (_MOST - _LEAST) * room * min(max(strength, 0.0) / most, 1.0) for strength in strengths]


def _opacities(consistencies: Sequence[float | None]) -> list[float]:
    known = [value for value in consistencies if value is not None]
    most = max(float(np.quantile(known, 0.9)), 1e-6) if known else 1.0
    return [_FAINTEST + (_FULLEST - _FAINTEST) * min(max(value or 0.0, 0.0) / most, 1.0) for value in consistencies]


def _patch(pixels: np.ndarray, spot: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """A part of a picture around a spot, and the distance of each of its pixels from the spot."""
    left, top = (max(0, int(value - reach) - 1) for value in spot)
    right, bottom = (int(value + reach) + 2 for value in spot)
    part = pixels[top:bottom, left:right]
    y, x = np.ogrid[top : top + part.shape[0], left : left + part.shape[1]]
    return part, np.hypot(x + 0.5 - spot[0], y + 0.5 - spot[1])


def _blend(pixels: np.ndarray, spot: np.ndarray, radius: float, colour: str, opacity: float) -> None:
    """A filled circle that lets through what is below it."""
    part, distance = _patch(pixels, spot, radius)
    cover = opacity * np.clip(radius - distance + 0.5, 0, 1)[..., None]
    part += cover * (np.array(ImageColor.getrgb(colour), dtype=np.float32) - part)


def _ring(pixels: np.ndarray, spot: np.ndarray, radius: float, colour: str) -> None:
    """A circle's line, on a dark one that sets it off from what is below."""
    part, distance = _patch(pixels, spot, radius + 5)
    for breadth, tint in ((3.6, theme.GROUND), (1.8, colour)):
        cover = np.clip(breadth - np.abs(distance - radius), 0, 1)[..., None]
        part += cover * (np.array(ImageColor.getrgb(tint), dtype=np.float32) - part)


def _line(pixels: np.ndarray, begin: np.ndarray, end: np.ndarray, colour: str, start: float = 0.0) -> None:
    """A thin line, on a dark one as a ring. start: pixels from its beginning that are left out."""
    length = float(np.hypot(*(end - begin)))
    if length <= start:
        return
    shares = np.linspace(start / length, 1, max(2, int((length - start) * 1.5)))
    for breadth, tint, opacity in ((2.2, theme.GROUND, 0.3), (0.9, colour, 0.6)):
        for share in shares:
            _blend(pixels, begin + share * (end - begin), breadth, tint, opacity)


def _darken(pixels: np.ndarray, box: _Edges) -> None:
    """A ground for words."""
    left, top, right, bottom = (int(value) for value in box)
    part = pixels[top:bottom, left:right]
    part += 0.85 * (np.array(ImageColor.getrgb(theme.GROUND), dtype=np.float32) - part)


def _placed(labels: Sequence[_Label], field: Box, spots: np.ndarray) -> list[tuple[_Label, _Edges]]:
    """Where labels stand, so that none covers another one or a dot with a label, and few cover other dots.

    Those without room are left out. spots: of all dots, [N, 2].
    """
    dots = [(label.spot, label.radius) for label in labels]
    taken = [(float(x - radius), float(y - radius), float(x + radius), float(y + radius)) for (x, y), radius in dots]
    placed = []
    for label in labels:
        width = fonts.width_of(fonts.cut(label.text, _LABEL, _LONGEST_LABEL), _LABEL)
        free = [(away, box) for away, box in _boxes(label, width) if _is_free(box, field, taken)]
        if free:
            # A label near its dot is worth a few dots below it.
            box = min(free, key=lambda place: _covered(place[1], spots) + place[0] / 4)[1]
            taken.append(box)
            placed.append((label, box))
    return placed


def _covered(box: _Edges, spots: np.ndarray) -> int:
    """How many dots lie below a label."""
    x, y = spots[:, 0], spots[:, 1]
    return int(((x > box[0] - 6) & (x < box[2] + 6) & (y > box[1] - 6) & (y < box[3] + 6)).sum())


def _boxes(label: _Label, width: float) -> Iterator[tuple[float, _Edges]]:
    """Where a label of this width may stand beside its dot, and how far away that is, pixels."""
    height, wide = fonts.line_height(_LABEL) + 2.0, width + 8
    x, y = (float(value) for value in label.spot)
    for away in (label.radius + 5, label.radius + 24, label.radius + 52, label.radius + 90, label.radius + 140):
        slant = 0.7 * away
        for left, top in (
            (x + away, y - height / 2),
            (x - away - wide, y - height / 2),
            (x - wide / 2, y - away - height),
            (x - wide / 2, y + away),
            (x + slant, y - slant - height),
            (x - slant - wide, y - slant - height),
            (x + slant, y + slant),
            (x - slant - wide, y + slant),
        ):
            yield away, (left, top, left + wide, top + height)


def _is_free(box: _Edges, field: Box, taken: Sequence[_Edges]) -> bool:
    left, top, right, bottom = box
    is_inside = left >= field.left + 4 and top >= field.top + 4 and right <= field.right - 4 and bottom <= field.bottom - 4
    return is_inside and not any(left < other[2] and other[0] < right and top < other[3] and other[1] < bottom for other in taken)
