"""A LoRA's card: all that is known of it, as one picture. What is not known is left out."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from ..counting import counted
from ..foreign import ForeignFacts
from ..loras.family import family_of_name
from ..loras.trigger_words import used
from ..records import NO_EFFECT, LoraRecord
from . import fonts, theme
from .canvas import Box, Canvas, Ink
from .charts import CurveDot, Range, curve, range_strip
from .pair import Pair

if TYPE_CHECKING:
    from ..search.portrait import Portrait

WIDTH = 1024
"""Pixels. Everything can be read at half of it."""

_EDGE, _INNER = 20, 20
_TITLE, _SAID, _HEAD, _BODY, _SMALL = 40, 30, 26, 24, 20
_LABEL = 160
"""Width of the names of facts."""

_COLUMNS = 4
_MOST_TOPICS = 10
_MOST_NOTES = 6
_PROMPT_LINES = 3

_DIGITS = {"strength": 2, "consistency": 3, "alignment": 3}
"""What is shown as a place in a range, and with how many digits."""

_QUIET = Ink(_SMALL, theme.QUIET)


_MOST_STRENGTH = 1e6
"""Raw CLIP units. What a foreign database has beyond makes no sense, and no scale."""


def short_name(name: str) -> str:
    """A LoRA's name as pictures show it: that of a file without what all files' names end in."""
    return name.removesuffix(".safetensors") or name


class Shown(NamedTuple):
    """A pair of pictures, and what it stands for."""

    pair: Pair
    caption: str


class _Part(NamedTuple):
    """A part of a card."""

    height: int
    draw: Callable[[Canvas, int, int], object]
    """Onto a canvas, from x and y on."""


class _Panel(NamedTuple):
    """Parts below each other, below a title."""

    title: str
    parts: Callable[[int], list[_Part]]
    """For a width; empty where nothing is known."""

    def inside(self, width: int) -> list[_Part]:
        parts = self.parts(width - 2 * _INNER)
        return (
            [_line(self.title, Ink(_HEAD, theme.QUIET), width - 2 * _INNER, after=8), *parts] if parts and self.title else parts
        )


def card(portrait: Portrait, shown: Sequence[Shown] = (), about_pictures: str = "") -> Image.Image:
    """The card of a LoRA, 1024 pixels wide and as high as it must be.

    Args:
        portrait: the LoRA among those of its library.
        shown: pairs of pictures without and with it; the first four are shown.
        about_pictures: what to say of them all, in a line.
    """
    row = portrait.record
    among = f"Among {portrait.n_loras:,} LoRAs" if portrait.n_loras > 1 else "What was measured"
    rows = [
        [_Panel("", lambda width: _header(row, width))],
        [_Panel("Without it (above) and with it (below)", lambda width: _pictures(shown[:_COLUMNS], about_pictures, width))],
        [
            _Panel(among, lambda width: _metrics(portrait, width)),
            _Panel("Most like it", lambda width: _neighbours(portrait, width)),
        ],
        [
            _Panel("Strength by weight", lambda width: _curve(portrait, width)),
            _Panel("Strength by topic", lambda width: _topics(row, width)),
        ],
        [_Panel("How it was measured", lambda width: _provenance(portrait, width))],
    ]
    return _drawn(rows)


def empty_card(title: str, reason: str) -> Image.Image:
    """In place of a card, where there is no LoRA to show. reason: why, and what to do."""
    return _drawn([[_Panel("", lambda width: [_line(title, Ink(_TITLE), width, 3), _line(reason, Ink(_BODY), width, 8)])]])


def _drawn(rows: Sequence[Sequence[_Panel]]) -> Image.Image:
    """Panels in rows, those that hold nothing left out."""
    laid = [each for panels in rows if (each := _beside(panels)) is not None]
    canvas = Canvas(WIDTH, sum(part.height + _EDGE for part in laid) + _EDGE)
    y = _EDGE
    for part in laid:
        part.draw(canvas, _EDGE, y)
        y += part.height + _EDGE
    return canvas.picture


def _beside(panels: Sequence[_Panel]) -> _Part | None:
    """Panels side by side and of one height, those that hold nothing left out; None if all do."""
    there = [panel for panel in panels if panel.inside(WIDTH)]
    if not there:
        return None
    width = (WIDTH - 2 * _EDGE - (len(there) - 1) * _EDGE) // len(there)
    insides = [panel.inside(width) for panel in there]
    height = 2 * _INNER + max(sum(part.height for part in parts) for parts in insides)

    def draw(canvas: Canvas, x: int, y: int) -> None:
        for place, parts in enumerate(insides):
            left, below = x + place * (width + _EDGE), y + _INNER
            canvas.panel(Box(left, y, width, height), radius=12)
            for part in parts:
                part.draw(canvas, left + _INNER, below)
                below += part.height

    return _Part(height, draw)


def _line(text: str, ink: Ink, width: int, lines: int = 1, after: int = 4) -> _Part:
    """A text in at most so many lines."""
    step = fonts.line_height(ink.size)
    n_lines = len(fonts.wrapped(text, ink.size, width, lines))
    return _Part(n_lines * step + after, lambda canvas, x, y: canvas.write_lines(Box(x, y, width, n_lines * step), text, ink))


def _fact(label: str, text: str, width: int, lines: int = 2) -> _Part:
    """A name and what it says."""
    step = fonts.line_height(_BODY)
    n_lines = max(1, len(fonts.wrapped(text, _BODY, width - _LABEL, lines)))

    def draw(canvas: Canvas, x: int, y: int) -> None:
        canvas.write((x, y), label, Ink(_BODY, theme.QUIET), _LABEL - 10)
        canvas.write_lines(Box(x + _LABEL, y, width - _LABEL, n_lines * step), text, Ink(_BODY))

    return _Part(n_lines * step + 4, draw)


def _header(row: LoraRecord, width: int) -> list[_Part]:
    parts = [_line(short_name(row.name), Ink(_TITLE), width, 2)]
    if row.described_as:
        parts.append(_line(row.described_as, Ink(_SAID, theme.ACCENT), width, 3, 12))
    if row.strength == 0 or NO_EFFECT in row.notes:
        parts.append(_line("Changes nothing that could be told from chance.", Ink(_BODY, theme.DOUBTFUL), width, 1, 10))
    return [*parts, *(_fact(label, text, width, 3) for label, text in _said(row))]


def _said(row: LoraRecord) -> Iterator[tuple[str, str]]:
    """What people say of a LoRA."""
    said = row.metadata
    if row.file_name and row.file_name != row.name:
        yield "file", row.file_name
    family = family_of_name(said.base_model)
    if said.base_model:
        yield "made for", f"{family} ({said.base_model})" if family not in (None, said.base_model) else said.base_model
    if said.trigger_words is not None:
        yield "trigger words", ", ".join(used(said.trigger_words)) or "none"
    if said.version_id is not None:
        yield "on CivitAI", f"version {said.version_id}" + (f", model {said.model_id}" if said.model_id is not None else "")


def _pictures(shown: Sequence[Shown], about: str, width: int) -> list[_Part]:
    if not shown:
        return []
    gap = 12
    side = (width - (_COLUMNS - 1) * gap) // _COLUMNS
    height = round(side * max(each.pair.without.height / each.pair.without.width for each in shown))
    height = min(max(height, side // 3), 2 * side)
    # Apart from the column beside it, or the prompts run into one another.
    step, beside = fonts.line_height(_SMALL), side - gap
    n_lines = max(len(fonts.wrapped(each.pair.prompt, _SMALL, beside, _PROMPT_LINES)) for each in shown)

    def draw(canvas: Canvas, x: int, y: int) -> None:
        for place, (pair, caption) in enumerate(shown):
            left = x + place * (side + gap)
            canvas.thumbnail(pair.without, Box(left, y, side, height))
            canvas.thumbnail(pair.with_lora, Box(left, y + height + gap // 2, side, height))
            below = y + 2 * height + gap
            canvas.write((left, below), caption, Ink(_BODY), side)
            canvas.write_lines(Box(left, below + fonts.line_height(_BODY), beside, n_lines * step), pair.prompt, _QUIET)

    whole = 2 * height + gap + fonts.line_height(_BODY) + n_lines * step + 8
    return [_Part(whole, draw), *([_line(about, _QUIET, width, 2, 0)] if about else [])]


def _metrics(portrait: Portrait, width: int) -> list[_Part]:
    row = portrait.record
    errors = {"strength": row.strength_se, "consistency": row.consistency_se}
    parts = []
    for name, digits in _DIGITS.items():
        value, spread = _finite(getattr(row, name)), portrait.spreads.get(name)
        if value is not None:
            within = Range(*spread) if spread is not None and portrait.n_loras > 1 else None
            parts.append(_metric(name, value, _finite(errors.get(name)), within, digits, width))
    if parts and portrait.n_loras > 1:
        parts.append(_line("Dot: this one. Broad: the middle half of all. Stroke: their median.", _QUIET, width, 2, 0))
    return parts


def _metric(name: str, value: float, error: float | None, within: Range | None, digits: int, width: int) -> _Part:
    line, strip, small = fonts.line_height(_BODY), 34, fonts.line_height(_SMALL)
    said = f"{value:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")

    def draw(canvas: Canvas, x: int, y: int) -> None:
        canvas.write((x, y), name, Ink(_BODY))
        canvas.write_right((x + width, y), said, Ink(_BODY), width - 160)
        if within is not None:
            range_strip(canvas, Box(x, y + line, width, strip), value, within, error)
            below = y + line + strip - 4
            canvas.write((x, below), f"{min(within.least, value):.{digits}f}", _QUIET)
            canvas.write_right((x + width, below), f"{max(within.greatest, value):.{digits}f}", _QUIET, 160)

    return _Part(line + 6 if within is None else line + strip + small + 4, draw)


def _curve(portrait: Portrait, width: int) -> list[_Part]:
    row = portrait.record
    dots = []
    for point in row.strength_curve:
        weight, strength, cosine = _finite(point.weight), _finite(point.strength), _finite(point.alignment)
        if weight is not None and strength is not None and 0 <= strength <= _MOST_STRENGTH:
            error = _finite(point.strength_se)
            dots.append(CurveDot(weight, strength, error, "" if cosine is None else f"{cosine:.2f}"))
    if len(dots) < 2:
        return []
    has_cosines = any(dot.note for dot in dots)
    own, suggested = portrait.weight, _finite(row.suggested_weight)
    if own is not None:
        dots.append(CurveDot(own, row.strength, _finite(row.strength_se), is_on_line=False))
    # As high as the topics beside it.
    height = 340 if len(row.topics) > 6 else 270
    parts = [_Part(height, lambda canvas, x, y: curve(canvas, Box(x, y, width, height), dots, suggested))]
    if suggested is not None:
        parts.append(_line(f"Suggested weight: {suggested:.2f}", Ink(_BODY, theme.GOOD), width))
    legend = ["First line: the weight."]
    if has_cosines:
        legend.append("Second: how far the effect still points the row's way (1: all of it).")
    if not dots[-1].is_on_line:
        legend.append("White: the row itself.")
    if any(dot.error is not None for dot in dots):
        legend.append("Bars: the standard error.")
    return [*parts, _line(" ".join(legend), _QUIET, width, 4, 0)]


def _topics(row: LoraRecord, width: int) -> list[_Part]:
    found = ((effect.topic or "-", _finite(effect.vector.strength)) for effect in row.topics)
    measured = sorted(((name, value) for name, value in found if value is not None), key=lambda topic: (-topic[1], topic[0]))
    if not measured or measured[0][1] <= 0:
        return []
    most = measured[0][1]
    parts = [_bar(name, value / most, f"{value:.2f}", width) for name, value in measured[:_MOST_TOPICS]]
    if len(measured) > _MOST_TOPICS:
        parts.append(_line(f"and {counted(len(measured) - _MOST_TOPICS, 'weaker topic')}", _QUIET, width, 1, 0))
    return parts


def _neighbours(portrait: Portrait, width: int) -> list[_Part]:
    if not portrait.neighbours:
        return []
    rows = [_bar(short_name(near.record.name), near.cosine, f"{near.cosine:.2f}", width) for near in portrait.neighbours]
    return [*rows, _line("1: the same effect, 0: nothing in common.", _QUIET, width, 2, 0)]


def _bar(name: str, share: float, value: str, width: int) -> _Part:
    """A name and a value above a bar. share: how much of it is filled."""
    line = fonts.line_height(_BODY)

    def draw(canvas: Canvas, x: int, y: int) -> None:
        canvas.write((x, y), name, Ink(_BODY), width - 90)
        canvas.write_right((x + width, y), value, Ink(_BODY), 80)
        canvas.bar(Box(x, y + line + 1, width, 7), share)

    return _Part(line + 15, draw)


def _provenance(portrait: Portrait, width: int) -> list[_Part]:
    """Two facts beside each other where both are short."""
    half = (width - _EDGE) // 2
    parts: list[_Part] = []
    waiting: _Part | None = None
    for label, text in _measured(portrait):
        is_short = bool(label) and fonts.width_of(text, _BODY) <= half - _LABEL
        part = _fact(label, text, half if is_short else width, 3)
        if is_short and waiting is not None:
            parts[-1] = _both(waiting, part, half + _EDGE)
            waiting = None
        else:
            parts.append(part)
            waiting = part if is_short else None
    return parts


def _both(left: _Part, right: _Part, away: int) -> _Part:
    """Two parts beside each other. away: from the left end of the one to that of the other."""

    def draw(canvas: Canvas, x: int, y: int) -> None:
        left.draw(canvas, x, y)
        right.draw(canvas, x + away, y)

    return _Part(max(left.height, right.height), draw)


def _measured(portrait: Portrait) -> Iterator[tuple[str, str]]:
    row, protocol = portrait.record, ForeignFacts(portrait.protocol)
    if row.indexed_at:
        yield "when", row.indexed_at[:16].replace("T", " ")
    if row.n_images:
        of_prompts = f" of {counted(row.n_prompts, 'prompt')}" if row.n_prompts else ""
        yield "pictures", f"{counted(row.n_images, 'pair')}{of_prompts}"
    sampling = [
        protocol.text("preset"),
        *([f"{steps} steps"] if (steps := protocol.number("steps", 32)) is not None else []),
        *([f"cfg {cfg:g}"] if (cfg := protocol.decimal("cfg", 32)) is not None else []),
        protocol.text("sampler"),
        protocol.text("scheduler"),
        *([f"weight {portrait.weight:g}"] if portrait.weight is not None else []),
    ]
    said = ", ".join(part for part in sampling if part)
    if said:
        yield "protocol", f"{said} ({row.protocol_id})" if row.protocol_id else said
    model = row.model_key or protocol.text("model")
    if model:
        yield "model", model
    if row.encoder_id:
        yield "seen by", row.encoder_id
    on = _environment(row.measured_on)
    machine = ", ".join(part for part in (on.text("device"), on.text("weights"), on.text("host")) if part)
    if machine:
        yield "on", machine
    noise = _finite(row.noise_floor)
    if noise is not None:
        yield "noise", "none: the same picture comes out twice" if noise == 0 else f"strength {noise:.3f} by noise alone"
    if row.extra.get("source"):
        yield "source", str(row.extra["source"])
    notes = [note for note in row.notes if note != NO_EFFECT]
    for place, note in enumerate(notes[:_MOST_NOTES]):
        yield ("notes" if not place else "", note)
    if len(notes) > _MOST_NOTES:
        yield "", f"and {counted(len(notes) - _MOST_NOTES, 'more note')}"


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _environment(measured_on: str | None) -> ForeignFacts:
    """What a row says of where it was measured; without a fact if that cannot be read."""
    try:
        return ForeignFacts(json.loads(measured_on or "{}"))
    except (ValueError, RecursionError):
        return ForeignFacts({})
