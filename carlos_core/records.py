"""What is known about a LoRA: the nouns that every room shares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np


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


@dataclass(frozen=True)
class LayerFit:
    """How many of a LoRA's layers a model has, in the LoRA's shape."""

    layers: int
    of: int

    @property
    def fits(self) -> bool:
        """Whether the LoRA is for such a model: at least half of its layers fit.

        LoRAs for other models of the same names often share a few shapes; ComfyUI applies those few, and the LoRA does not do
        what it was trained for.
        """
        return self.layers > 0 and 2 * self.layers >= self.of


@dataclass(frozen=True)
class LoraMetadata:
    """What people and tools say about a LoRA. None: they do not say.

    base_model: the family if it is known, else the words of who says it. trigger_words: empty if it has none.
    nsfw_level: the sum of the levels of its pictures on CivitAI.
    """

    version_id: int | None = None
    model_id: int | None = None
    model_name: str | None = None
    base_model: str | None = None
    trigger_words: tuple[str, ...] | None = None
    nsfw_level: int | None = None
    download_count: int | None = None
    preview_url: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class LoraRecord:
    """One row of the database. `lora_id` is unique: `str(version_id)` for LoRAs known on CivitAI, else "sha256:<16 hex>".

    direction: [D] float32. strength_se, consistency_se: standard errors with the prompt as the unit. alignment: expected
    cosine of the measured direction with the one that endless prompts would give. indexed_at: ISO 8601, UTC. strength_curve,
    suggested_weight: from a scale sweep by the row's protocol; empty and None if there was none. extra: columns of other
    programs, by name.
    """

    lora_id: str
    direction: np.ndarray
    strength: float
    consistency: float | None
    metadata: LoraMetadata = LoraMetadata()
    file_name: str | None = None
    sha256: str | None = None
    n_images: int | None = None
    n_prompts: int | None = None
    alignment: float | None = None
    strength_se: float | None = None
    consistency_se: float | None = None
    topics: tuple[TopicEffect, ...] = ()
    strength_curve: tuple[CurvePoint, ...] = ()
    suggested_weight: float | None = None
    protocol_id: str | None = None
    encoder_id: str | None = None
    indexed_at: str | None = None
    notes: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def vector(self) -> LoraVector:
        return LoraVector(self.direction, self.strength, self.consistency)

    @property
    def measured(self) -> MeasuredRow:
        has_curve = bool(self.strength_curve)
        return MeasuredRow(self.lora_id, self.file_name, self.protocol_id, self.n_images, self.strength, self.notes, has_curve)

    @property
    def name(self) -> str:
        """The best name there is for people: the model's, else the file's, else the published folder's, else the id."""
        return self.metadata.model_name or self.file_name or self.extra.get("folder_name") or self.lora_id


class MeasuredRow(NamedTuple):
    """How a row was measured: what decides whether its LoRA must be measured again."""

    lora_id: str
    file_name: str | None
    protocol_id: str | None
    n_images: int | None
    strength: float
    notes: tuple[str, ...]
    has_curve: bool


class LoraIdentity(NamedTuple):
    """Which LoRA a row or a file is, as far as it is known. file_name: "/" between folders in rows; as listed for files."""

    lora_id: str
    sha256: str | None = None
    version_id: int | None = None
    model_id: int | None = None
    file_name: str | None = None


@dataclass(frozen=True)
class AppliedLora:
    """A LoRA that is chosen to be applied, from the choice to the graph, the report, the picture's metadata and back.

    file: as in ComfyUI's list. weight: for model and CLIP. score: cosine with the query that it was chosen for, None if that is
    not known.
    """

    file: str
    weight: float
    trigger_words: tuple[str, ...] = ()
    lora_id: str = ""
    score: float | None = None


@dataclass(frozen=True, eq=False)
class IndexingResult:
    """A LoRA's row in a database, after `index_lora`. row: by column, as in the reference package. is_new: it was measured just
    now, not found there."""

    lora_id: str
    record: LoraRecord
    row: Mapping[str, Any]
    is_new: bool

    @property
    def vector(self) -> LoraVector:
        return self.record.vector
