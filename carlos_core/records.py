"""What is known about a LoRA: the types that all parts of the package share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

RACE = "race"
"""The name of the least preset: quick's first pictures, as many as a race gave a LoRA (`measuring.race.Race`)."""

NO_EFFECT = "no measurable effect"
"""A note of rows whose pictures show no direction that could be told from chance."""


@dataclass(frozen=True, eq=False)
class LoraVector:
    """What a LoRA does, as measured."""

    direction: np.ndarray
    """[D] float32, raw CLIP units."""
    strength: float
    """Raw CLIP units, >= 0."""
    consistency: float | None
    """Mean cosine over pairs, in [-1/(n-1), 1]; None if it is undefined (a LoRA without effect)."""


@dataclass(frozen=True, eq=False)
class TopicEffect:
    """What a LoRA does to pictures of one topic of the prompt set."""

    topic: str
    n_images: int
    vector: LoraVector


@dataclass(frozen=True)
class CurvePoint:
    """What a LoRA does at one weight, on a few prompts."""

    weight: float
    strength: float
    """Raw CLIP units, >= 0."""
    alignment: float | None
    """Cosine of the mean difference with the row's direction, in [-1, 1]; None if nothing changed on average."""
    strength_se: float | None = None
    """Standard error over the prompts; None if it is not known."""


@dataclass(frozen=True)
class LayerFit:
    """How many of a LoRA's layers a model has, in the LoRA's shape."""

    layers: int
    """Layers of the file that fit."""

    of: int
    """Layers of the file."""

    of_other_shape: int = 0
    """Layers that have the name of one of the model's, but another shape."""

    @property
    def fits(self) -> bool:
        """Whether the LoRA is for such a model: at least half of its layers fit.

        LoRAs for other models of the same names often share a few shapes; ComfyUI applies those few, and the LoRA does not do
        what it was trained for.
        """
        return self.layers > 0 and 2 * self.layers >= self.of


@dataclass(frozen=True)
class LoraMetadata:
    """What people and tools say about a LoRA. None: they do not say."""

    version_id: int | None = None
    """Id of the version on CivitAI."""
    model_id: int | None = None
    """Id of the model on CivitAI, which may have several versions."""
    model_name: str | None = None
    base_model: str | None = None
    """The family if it is known, otherwise the words of the source."""
    trigger_words: tuple[str, ...] | None = None
    """Words, and entries with commas, which are alternatives (`trigger_words.used`). Empty if it is known to have none."""
    nsfw_level: int | None = None
    """The sum of the levels of its pictures on CivitAI."""
    download_count: int | None = None
    preview_url: str | None = None
    """Address of its first picture on CivitAI that is not a video."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LoraRecord:
    """One row of the database."""

    lora_id: str
    """Unique: `str(version_id)` for a LoRA known on CivitAI, otherwise `id_of_content`; see `MetricsDatabase.id_of`."""
    direction: np.ndarray
    """[D] float32, raw CLIP units."""
    strength: float
    """Raw CLIP units, >= 0."""
    consistency: float | None
    """See `LoraVector.consistency`."""
    metadata: LoraMetadata = LoraMetadata()
    file_name: str | None = None
    """With "/" between folders."""
    sha256: str | None = None
    """Of the whole file, 64 hex digits."""
    n_images: int | None = None
    n_prompts: int | None = None
    alignment: float | None = None
    """Expected cosine of the measured direction with the one that infinitely many prompts would give."""
    strength_se: float | None = None
    """Standard error, with the prompt as the unit."""
    consistency_se: float | None = None
    """Standard error, with the prompt as the unit."""
    topics: tuple[TopicEffect, ...] = ()
    strength_curve: tuple[CurvePoint, ...] = ()
    """From a scale sweep by the row's protocol; empty if there was none."""
    suggested_weight: float | None = None
    """From the same sweep; None if there was none."""
    protocol_id: str | None = None
    model_key: str | None = None
    """What kind of model it was measured on: equal for every checkpoint of one architecture and size."""
    encoder_id: str | None = None
    measured_on: str | None = None
    """What its measurement ended on: JSON with the fields of `generator.Environment`. Pictures that were kept may be older."""
    noise_floor: float | None = None
    """Strength that the host's noise alone may have, raw CLIP units: 0 where the same picture comes out twice."""
    indexed_at: str | None = None
    """ISO 8601, UTC."""
    notes: tuple[str, ...] = ()
    described_as: str | None = None
    """What it does, in a few words (`search.describing`); None if nobody has said it since it was measured."""
    described_by: str | None = None
    """By which phrases and among how many LoRAs it was told: JSON, `search.describing.Mark.of_row`."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Columns of other programs, by name."""

    @property
    def vector(self) -> LoraVector:
        return LoraVector(self.direction, self.strength, self.consistency)

    @property
    def measured(self) -> MeasuredRow:
        return MeasuredRow(
            self.lora_id,
            self.file_name,
            self.protocol_id,
            self.model_key,
            self.n_images,
            self.strength,
            self.notes,
            has_curve=bool(self.strength_curve),
            checkpoint=checkpoint_of(self.measured_on),
        )

    @property
    def name(self) -> str:
        """The best name for people: the first there is of the model's, the file's, the published folder's, and the id."""
        return self.metadata.model_name or self.file_name or self.extra.get("folder_name") or self.lora_id


class MeasuredRow(NamedTuple):
    """How a row was measured: what decides whether its LoRA must be measured again."""

    lora_id: str
    file_name: str | None
    protocol_id: str | None
    model_key: str | None
    n_images: int | None
    strength: float
    notes: tuple[str, ...]
    has_curve: bool
    checkpoint: str = ""
    """`generator.Environment.checkpoint`; empty if the row does not say."""


def checkpoint_of(measured_on: str | None) -> str:
    """The checkpoint that a row's `measured_on` names; empty if it names none."""
    try:
        found = json.loads(measured_on or "{}")
    except (ValueError, RecursionError):
        return ""
    checkpoint = found.get("checkpoint") if isinstance(found, dict) else None
    return checkpoint if isinstance(checkpoint, str) else ""


def id_of_content(sha256: str) -> str:
    """The id of a LoRA that is known by its content alone. sha256: of the whole file, 64 hex digits."""
    return f"sha256:{sha256[:16]}"


class LoraIdentity(NamedTuple):
    """Which LoRA a row or a file is, as far as it is known."""

    lora_id: str
    """Empty for files."""
    sha256: str | None = None
    version_id: int | None = None
    model_id: int | None = None
    file_name: str | None = None
    """With "/" between folders in rows; as listed for files."""


@dataclass(frozen=True)
class AppliedLora:
    """A LoRA that is chosen to be applied, from the choice to the graph, the report, the picture's metadata and back."""

    file: str
    """As in ComfyUI's list."""
    weight: float
    """For model and CLIP."""
    trigger_words: tuple[str, ...] = ()
    lora_id: str = ""
    score: float | None = None
    """Cosine with the query that it was chosen for, in [-1, 1]; None if it is not known."""


@dataclass(frozen=True, eq=False)
class IndexingResult:
    """A LoRA's row in a database, after `index_lora`."""

    lora_id: str
    record: LoraRecord
    row: Mapping[str, Any]
    """The same row by column, as in the reference package."""
    is_new: bool
    """Whether it was measured just now; otherwise it was found in the database."""

    @property
    def vector(self) -> LoraVector:
        return self.record.vector
