"""Answers to a query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..records import LoraRecord, LoraVector

if TYPE_CHECKING:
    from torch import Tensor

    from ..database.database import MetricsDatabase

CONFIDENCE_WORDS = ("none", "weak", "likely", "clear")
"""From no better than chance to certain; `calibration` says which p-values they stand for."""


@dataclass(frozen=True)
class Confidence:
    """How sure a match is. z: standard deviations above what unrelated phrases reach with this LoRA. p_value: how often the
    best of the LoRAs to choose from would look this good for an effect that none of them has, in [0, 1]. word: one of
    CONFIDENCE_WORDS."""

    z: float
    p_value: float
    word: str

    def reaches(self, word: str) -> bool:
        """Whether this is at least as sure as `word`."""
        return CONFIDENCE_WORDS.index(self.word) >= CONFIDENCE_WORDS.index(word)

    @property
    def fits(self) -> bool:
        """Whether the LoRA does what was asked for, by the usual standard of one false alarm in 20."""
        return self.reaches("likely")


@dataclass(frozen=True, eq=False)
class Match:
    """One row found for a query: `rank` counts from 1, `score` is the cosine with the query's signature (of a search by name:
    the part of the name that was asked for, in [0, 1]).

    file: name of the installed LoRA file as in ComfyUI's list, None if not installed. confidence: None if no background was at
    hand.
    """

    rank: int
    score: float
    record: LoraRecord
    file: str | None = None
    confidence: Confidence | None = None

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
        """The best name there is for people."""
        return self.record.name

    @property
    def trigger_words(self) -> tuple[str, ...]:
        return self.record.metadata.trigger_words or ()


@dataclass(frozen=True)
class Matches:
    """Answer to one query, best first; empty when nothing fits, and `reason` then says why.

    signature: [D], what was looked for in the encoder's space, of any length; None where nothing was (a search by name without
    results).
    """

    query: str
    encoder_id: str
    items: tuple[Match, ...]
    reason: str = ""
    signature: Tensor | None = field(default=None, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.items)

    @property
    def installed(self) -> tuple[Match, ...]:
        return tuple(match for match in self.items if match.file is not None)


def matches_at(
    db: MetricsDatabase,
    indices: Sequence[int],
    scores: Sequence[float],
    installed: Mapping[str, str],
    sure: Sequence[Confidence] | None = None,
) -> tuple[Match, ...]:
    """Matches for rows in ranking order, best first. sure: the confidence of each, if it is known."""
    items = []
    for place, (index, score) in enumerate(zip(indices, scores, strict=True)):
        record = db.row_at(int(db.ranking_arrays.rows[index]))
        items.append(Match(place + 1, score, record, installed.get(record.lora_id), sure[place] if sure is not None else None))
    return tuple(items)
