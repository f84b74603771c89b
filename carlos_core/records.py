"""The few nouns that everybody shares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class LoraVector:
    """What a LoRA does, as measured.

    direction: [D] float32, raw CLIP units. strength: raw CLIP units, >= 0.
    consistency: mean cosine over pairs, in [-1/(n-1), 1]; None where it is undefined (a LoRA without effect).
    """

    direction: np.ndarray
    strength: float
    consistency: float | None


@dataclass(frozen=True, eq=False)
class TopicEffect:
    """What a LoRA does to pictures of one topic of the prompt set."""

    topic: str
    n_images: int
    vector: LoraVector


@dataclass(frozen=True)
class CurvePoint:
    """What a LoRA does at one weight, on a few prompts. strength: raw CLIP units. alignment: cosine of the mean difference with
    the row's direction, in [-1, 1]; None where nothing changed on average."""

    weight: float
    strength: float
    alignment: float | None


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

    row: every column of the database row. file: name of the installed LoRA file as in ComfyUI's list, None if not installed.
    confidence: None if no background was at hand.
    """

    rank: int
    lora_id: str
    score: float
    row: Mapping[str, Any]
    vector: LoraVector
    file: str | None = None
    confidence: Confidence | None = None

    @property
    def version_id(self) -> str | None:
        """The CivitAI version as text, None for a LoRA that is not known there."""
        version_id = self.row.get("version_id")
        return None if version_id is None else str(version_id)

    @property
    def name(self) -> str:
        """The best name there is for people: the model's, else the file's, else the published folder's, else the id."""
        names = (self.row.get(column) for column in ("model_name", "file_name", "folder_name"))
        return next(filter(None, names), self.lora_id)

    @property
    def trigger_words(self) -> tuple[str, ...]:
        return tuple(self.row.get("trigger_words") or ())


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


@dataclass(frozen=True, kw_only=True, eq=False)
class LoraRecord:
    """One row of the database. `lora_id` is unique: `str(version_id)` for LoRAs known on CivitAI, else "sha256:<16 hex>".

    direction: [D] float32. strength_se, consistency_se: standard errors with the prompt as the unit. alignment: expected
    cosine of the measured direction with the one that endless prompts would give. indexed_at: ISO 8601, UTC. strength_curve,
    suggested_weight: from a scale sweep by the row's protocol; empty and None if there was none.
    """

    lora_id: str
    direction: np.ndarray
    strength: float
    consistency: float | None
    version_id: int | None = None
    model_id: int | None = None
    model_name: str | None = None
    file_name: str | None = None
    sha256: str | None = None
    base_model: str | None = None
    trigger_words: tuple[str, ...] = field(default=())
    nsfw_level: int | None = None
    download_count: int | None = None
    preview_url: str | None = None
    n_images: int | None = None
    n_prompts: int | None = None
    alignment: float | None = None
    strength_se: float | None = None
    consistency_se: float | None = None
    topics: tuple[TopicEffect, ...] = field(default=())
    strength_curve: tuple[CurvePoint, ...] = field(default=())
    suggested_weight: float | None = None
    protocol_id: str | None = None
    encoder_id: str | None = None
    indexed_at: str | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def vector(self) -> LoraVector:
        return LoraVector(self.direction, self.strength, self.consistency)


class LoraIdentity(NamedTuple):
    """What a row knows about which LoRA it is. file_name: "/" between folders."""

    lora_id: str
    sha256: str | None = None
    version_id: int | None = None
    model_id: int | None = None
    file_name: str | None = None


@dataclass(frozen=True, eq=False)
class IndexingResult:
    """A LoRA's row in a database, after `index_lora`. is_new: it was measured just now, not found there."""

    lora_id: str
    row: Mapping[str, Any]
    vector: LoraVector
    is_new: bool
