"""Answers to a query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ..loras.listed import posix
from ..loras.trigger_words import used
from ..records import LoraRecord, LoraVector

if TYPE_CHECKING:
    from torch import Tensor

    from ..database.database import MetricsDatabase
    from .limits import ChoiceRules

CONFIDENCE_WORDS = ("none", "weak", "likely", "clear")
"""From not better than chance to certain; `calibration` says which p-values they stand for."""


_SAID = {
    "none": "no better than chance",
    "weak": "weak and may be chance",
    "likely": "likely to be right",
    "clear": "clear",
}
"""The words as the end of a sentence that begins "The best match is"."""


@dataclass(frozen=True)
class Confidence:
    """How sure a match is."""

    z: float
    """Standard deviations above what unrelated phrases reach with this LoRA."""

    p_value: float
    """How often the best of the LoRAs to choose from would look this good for an effect that none of them has, in [0, 1]."""

    word: str
    """One of CONFIDENCE_WORDS."""

    @property
    def said(self) -> str:
        """The word for a sentence: "The best match is ..."."""
        return _SAID[self.word]

    @property
    def in_short(self) -> str:
        """The word beside a name: "snow, weak"."""
        return _SAID["none"] if self.word == "none" else self.word

    def reaches(self, word: str) -> bool:
        """Whether this is at least as sure as `word`."""
        return CONFIDENCE_WORDS.index(self.word) >= CONFIDENCE_WORDS.index(word)

    @property
    def fits(self) -> bool:
        """Whether the LoRA does what was asked for, by the usual standard of one false alarm in 20."""
        return self.reaches("likely")


@dataclass(frozen=True, eq=False)
class Match:
    """One row found for a query."""

    rank: int
    """From 1."""

    score: float
    """Cosine with the query's signature. In a search by name: the part of the name that was asked for, in [0, 1]."""

    record: LoraRecord
    file: str | None = None
    """Name of the installed LoRA file, in ComfyUI as in its list; None if not installed."""

    confidence: Confidence | None = None
    """None if the search had no background to compare with."""

    preferred_to: tuple[str, ...] = ()
    """Ids of LoRAs that fit the query a little better and come after this one, which was made for the checkpoint
    (`preference`)."""

    is_sure: bool = True
    """Whether it is as sure as was asked for. One that is not is listed, and not applied."""

    @property
    def lora_id(self) -> str:
        return self.record.lora_id

    @property
    def vector(self) -> LoraVector:
        return self.record.vector

    @property
    def version_id(self) -> str | None:
        """The CivitAI version as text, None for a LoRA that is not known there."""
        version_id = self.record.metadata.version_id
        return None if version_id is None else str(version_id)

    @property
    def name(self) -> str:
        """The best name there is for people: the id only if neither the row nor the list of files has another."""
        name = self.record.name
        return name if name != self.lora_id else posix(self.file or name)

    @property
    def trigger_words(self) -> tuple[str, ...]:
        """Those that go into a prompt."""
        return used(self.record.metadata.trigger_words or ())


@dataclass(frozen=True)
class Matches:
    """Answer to one query."""

    query: str
    encoder_id: str
    items: tuple[Match, ...]
    """Best first; empty when nothing fits."""

    reason: str = ""
    """Why nothing fits; empty if something does."""

    signature: Tensor | None = field(default=None, compare=False, repr=False)
    """[D], what was looked for in the encoder's space, of any length. None for a search by name that found no direction."""

    doubt: str = ""
    """Why none of the matches is applied: none is sure enough, or none that is installed; empty if one is, or if that was not
    asked."""

    is_judged: bool = False
    """Whether it was asked how sure (`sure.mark_sure`) or how alike (`mark_alike`) each must be."""

    def __len__(self) -> int:
        return len(self.items)

    @property
    def surest(self) -> Confidence | None:
        """The confidence of the surest match, wherever it is in the list; None if there is none."""
        return min((match.confidence for match in self.items if match.confidence), key=lambda each: each.p_value, default=None)

    @property
    def installed(self) -> tuple[Match, ...]:
        """What may be applied, best first: at hand, and as sure as was asked for."""
        return tuple(match for match in self.items if match.file is not None and match.is_sure)


def matches_at(
    db: MetricsDatabase,
    indices: Sequence[int],
    scores: Sequence[float],
    installed: Mapping[str, str],
    sure: Sequence[Confidence] | None = None,
) -> tuple[Match, ...]:
    """Matches for rows of a database.

    Args:
        db: the database.
        indices: the rows, as places in `db.ranking_arrays`, the best match first.
        scores: the score of each.
        installed: lora_id -> file name of the LoRAs on this machine.
        sure: the confidence of each, if it is known.
    """
    items = []
    for place, (index, score) in enumerate(zip(indices, scores, strict=True)):
        record = db.row_at(int(db.ranking_arrays.rows[index]))
        items.append(Match(place + 1, score, record, installed.get(record.lora_id), sure[place] if sure is not None else None))
    return tuple(items)


def own_weight(match: Match, rules: ChoiceRules) -> float:
    """The weight of a LoRA when it is applied alone."""
    return (match.record.suggested_weight if rules.takes_suggested else None) or 1.0


def mark_alike(matches: Matches, min_cosine: float) -> Matches:
    """The matches of a search by likeness, each marked by whether its score reaches a cosine. min_cosine: 0 for no limit."""
    if min_cosine <= 0:
        return matches
    items = tuple(replace(match, is_sure=match.score >= min_cosine) for match in matches.items)
    marked = replace(matches, items=items, is_judged=True)
    return replace(marked, doubt=_why_unlike(items, min_cosine) if items and not marked.installed else "")


def _why_unlike(items: Sequence[Match], min_cosine: float) -> str:
    """Why none of some matches is passed on."""
    alike = [match.name for match in items if match.is_sure]
    if alike:
        return f"What is alike enough is not installed: {', '.join(alike)}. Put it into models/loras."
    nearest = f"the nearest, {items[0].name}, has a cosine of {items[0].score:.2f} (1: it does the same, 0: nothing in common)"
    return f"No LoRA is much like it: {nearest}, and min_cosine is {min_cosine:g}."
