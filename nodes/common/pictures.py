"""LoRAs in their order as a picture: on the node, and as an output. Nothing that fails here ends a search."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image

from ...carlos_core.drawing import theme
from ...carlos_core.drawing.card import short_name
from ...carlos_core.drawing.listing import WIDTH, Gauge, Listing, Row, Said, picture_of_listing
from ...carlos_core.errors import CarlosError
from ..host import runtime
from .shown import shown

if TYPE_CHECKING:
    from torch import Tensor

    from ...carlos_core.database.database import MetricsDatabase
    from ...carlos_core.drawing.pair import Pair
    from ...carlos_core.records import LoraRecord
    from ...carlos_core.search.matches import Confidence, Match
    from .model_fit import ForModel

logger = logging.getLogger(__name__)

_SURE = {
    "none": Said("no better than chance", theme.QUIET),
    "weak": Said("weak match", theme.DOUBTFUL),
    "likely": Said("likely match", theme.GOOD),
    "clear": Said("clear match", theme.GOOD),
}
_NOT_SURE_ENOUGH, _NOT_ALIKE = Said("not sure enough", theme.DOUBTFUL), Said("not alike enough", theme.DOUBTFUL)
_INSTALLED, _NOT_INSTALLED = Said("installed", theme.GOOD), Said("not installed", theme.QUIET)
_FITS, _MAY_FIT = Said("fits", theme.GOOD), Said("may fit", theme.QUIET)

_LEAST = 10
"""From so many LoRAs on it is said where most of them are."""

_FAILURES = (CarlosError, OSError, ValueError, RuntimeError, MemoryError, SyntaxError, Image.DecompressionBombError)
"""What a broken picture or a missing font may raise. A cancel is none of these."""


def pair_of(record: LoraRecord) -> Pair | None:
    """What a LoRA does to a picture; None if no such picture was kept."""
    return next(iter(runtime.gallery().pairs(record)), None)


class Rows:
    """Rows of a picture about LoRAs of one database."""

    def __init__(self, database: MetricsDatabase, allowed: ForModel | None = None) -> None:
        """allowed: among which LoRAs they were found; None if no model had a say."""
        arrays = database.ranking_arrays
        self._usual = arrays.usual_strength, arrays.usual_consistency
        self._fitting = allowed.fitting if allowed is not None and allowed.model else None
        self.usual_of = "light part of a bar: 9 of 10 LoRAs" if len(database) >= _LEAST else ""

    def of_match(self, match: Match, *, by_effect: bool = True) -> Row:
        """by_effect: if not, names were searched, and the score is how much of one was asked for."""
        said = _sure(match) if by_effect else (Said(f"{match.score:.0%} of its name", theme.QUIET),)
        return self.of_record(match.record, match.name, said, is_installed=match.file is not None)

    def of_record(self, record: LoraRecord, name: str, said: Iterable[Said], *, is_installed: bool, heading: str = "") -> Row:
        """name: for people. said: the line below it. heading: written above it."""
        fits = () if self._fitting is None else (_FITS if record.lora_id in self._fitting else _MAY_FIT,)
        files = (_INSTALLED if is_installed else _NOT_INSTALLED, *fits)
        return Row(short_name(name), (tuple(said), files, (_family(record),)), self._measured(record), _pair(record), heading)

    def of_applied(
        self, record: LoraRecord, name: str, weight: Gauge, confidence: Confidence | None = None, part: str = ""
    ) -> Row:
        """A LoRA that has just been applied: it is at hand by now, and fits.

        weight: its own, from `weights`. confidence: how sure the match was. part: of the query, that it was chosen for.
        """
        how_sure = () if confidence is None else (sure(confidence),)
        wanted = (Said(f"“{part}”"),) if part else ()
        lines = ((*how_sure, _INSTALLED), wanted or (_FITS,), (*((_FITS,) if wanted else ()), _family(record)))
        return Row(short_name(name), lines, (weight, *self._measured(record)), _pair(record))

    def _measured(self, record: LoraRecord) -> tuple[Gauge, Gauge]:
        of_strength, of_consistency = self._usual
        return (
            Gauge("strength", record.strength, 2, of_strength),
            Gauge("consistency", record.consistency, 3, of_consistency),
        )

    def listing(self, title: Said, notes: Iterable[Said], rows: Iterable[Row] = (), n_rows: int = 0) -> Listing:
        """rows: what is drawn. n_rows: how many there are."""
        return Listing(title, tuple(notes), tuple(rows), n_rows, self.usual_of)


def drawn(listing: Listing, text: str) -> tuple[Tensor, dict[str, Any]]:
    """A listing as the output of `sockets.picture_output`, [1, H, W, 3] float in [0, 1], and what the node shows with its report.

    One that cannot be drawn is an empty picture.
    """
    try:
        picture = picture_of_listing(listing)
    except _FAILURES as error:
        logger.warning("carlos: the list cannot be drawn: %s", error)
        picture = Image.new("RGB", (WIDTH, WIDTH // 8), theme.GROUND)
    return shown(picture, text)


def sure(confidence: Confidence) -> Said:
    """How sure a match is, in words."""
    return _SURE[confidence.word]


def _sure(match: Match) -> tuple[Said, ...]:
    known = Said(f"score {match.score:.3f}", theme.QUIET) if match.confidence is None else sure(match.confidence)
    # What is no better than chance need not be called unsure as well.
    is_said = match.is_sure or (match.confidence is not None and not match.confidence.reaches("weak"))
    return (known,) if is_said else (known, _NOT_ALIKE if match.confidence is None else _NOT_SURE_ENOUGH)


def weights(values: Sequence[float]) -> list[Gauge]:
    """Weights of LoRAs that are applied together. A bar is full at 1, or at the largest of them."""
    most = max([1.0, *map(abs, values)])
    return [Gauge("weight", value, 2, most=most) for value in values]


def _family(record: LoraRecord) -> Said:
    return Said(record.metadata.base_model or "base model unknown", theme.QUIET)


def _pair(record: LoraRecord) -> Pair | None:
    try:
        return pair_of(record)
    except _FAILURES as error:
        logger.warning("carlos: a thumbnail of %s cannot be shown: %s", record.lora_id, error)
        return None
