"""Which LoRAs may be found at all. Light enough for the widgets of a node."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..loras.family import fits
from .matches import CONFIDENCE_WORDS

if TYPE_CHECKING:
    from ..database.database import MetricsDatabase

MAX_STRENGTH = 9.8
MIN_CONSISTENCY = 0.041
"""The published limits (arXiv 2512.08826): stronger LoRAs break the picture, less consistent ones do not do one single thing."""

PUBLISHED, CALIBRATED = "published", "calibrated"
RANKINGS = (PUBLISHED, CALIBRATED)
"""By the cosine of the published formula, or by how far a row stands out from its own background (`calibration`)."""

BEST_ONE, TOP_K_EQUAL, COMPOSED = "best one", "top k equal", "composed"
MODES = (BEST_ONE, TOP_K_EQUAL, COMPOSED)
"""How many LoRAs are put together, and with which weights; see `selection.select`."""

ANY = "any"
CONFIDENCES = (ANY, *CONFIDENCE_WORDS[1:])
"""How sure a match must be to be taken; "any" takes the best, however unsure it is."""

NO_NSFW_LIMIT = 32
"""CivitAI's highest level. A model's level is the sum of the levels of its pictures: 1, 2, 4, 8, 16, 32."""

TOO_STRONG, NO_ONE_EFFECT, NO_CHANGE = "too strong", "no one effect", "changes nothing"
"""Why limits miss a LoRA, whatever is asked for."""

_PUBLISHED_IMAGES = 4480
"""Pictures behind a published row: the full protocol (arXiv 2512.08826)."""

_ANY_CONSISTENCY = -1.0


@dataclass(frozen=True)
class Miss:
    """Why limits miss a LoRA, whatever is asked for."""

    why: str
    """TOO_STRONG, NO_ONE_EFFECT or NO_CHANGE."""

    limit: str
    """The field of `SearchLimits`, which is also the name of its widget."""

    value: float | None
    """What was measured; None if it is undefined."""

    bound: float

    def __str__(self) -> str:
        """For people: "too strong: strength 10.632, max_strength is 9.8"."""
        measured = "undefined" if self.value is None else f"{self.value:.3f}"
        return f"{self.why}: {self.limit.partition('_')[2]} {measured}, {self.limit} is {self.bound:g}"


@dataclass(frozen=True)
class ChoiceRules:
    """How LoRAs are put together for a query."""

    mode: str = BEST_ONE
    """One of MODES."""

    max_loras: int = 2
    strength_budget: float = 2.0
    """What all weights may add up to."""

    min_confidence: str = "likely"
    """One of CONFIDENCES."""

    takes_suggested: bool = True
    """A LoRA's own weight is what a scale sweep found, if there was one; otherwise, and if this is False, it is 1."""


@dataclass(frozen=True)
class SearchLimits:
    """Limits on what was measured, on the files, and on what CivitAI says; rows about which CivitAI says nothing stay."""

    max_strength: float = MAX_STRENGTH
    """Raw CLIP units."""

    min_consistency: float = MIN_CONSISTENCY
    """In [-1, 1]. A consistency that is undefined is below every limit but -1."""

    min_alignment: float = 0.0
    """Least expected cosine of a row's direction with the full protocol's, in [0, 1]; 0 for no limit. A row without that figure
    stays if it was measured by the full protocol (as the published rows) or does not say on how many pictures. A row of fewer
    pictures is left out: it has no figure because its pictures say nothing about its direction."""

    base_model: str | Collection[str] | None = None
    """Keep rows that fit this family, or one of these (`loras.family.fits`), and rows whose family is not known."""

    installed_only: bool = False
    max_nsfw_level: int = NO_NSFW_LIMIT
    """The highest level that a LoRA's own pictures may have."""

    min_downloads: int = 0
    exclude: Collection[str] = ()
    """Ids that are not to be found."""

    fitting: Collection[str] = ()
    """Ids of rows whose file is known to fit the model: `base_model` does not limit them."""

    def mask(self, db: MetricsDatabase, installed: Collection[str]) -> Tensor:
        """The rows within all limits, in ranking order. [R] bool. installed: ids of the LoRAs on this machine."""
        arrays = db.ranking_arrays
        mask = self.chosen(db, installed) & self.within(arrays.strength, arrays.consistency)
        if self.min_alignment > 0:
            columns = zip(db.column("alignment"), db.column("n_images"), strict=True)
            aligned = [self._is_aligned(alignment, n_images) for alignment, n_images in columns]
            mask &= torch.tensor(aligned, dtype=torch.bool)[torch.from_numpy(arrays.rows)]
        return mask

    def within(self, strength: Tensor, consistency: Tensor) -> Tensor:
        """Which values are within the limits. strength, consistency: [R], NaN where the consistency is undefined. [R] bool."""
        return (strength <= self.max_strength) & (torch.nan_to_num(consistency, nan=_ANY_CONSISTENCY) >= self.min_consistency)

    def misses(self, strength: float, consistency: float | None, *, has_effect: bool = True) -> tuple[Miss, ...]:
        """Why no search within these limits will ever find a LoRA; empty if one may.

        Args:
            strength: as measured, raw CLIP units.
            consistency: as measured; None if it is undefined.
            has_effect: whether the LoRA changes pictures at all.
        """
        known = _ANY_CONSISTENCY if consistency is None else consistency
        is_inconsistent = known < self.min_consistency
        inconsistent = Miss(NO_ONE_EFFECT, "min_consistency", consistency, self.min_consistency)
        if not has_effect or not strength:
            # Of what is only chance, consistency is near 0. A direction of no length is never found.
            nothing = Miss(NO_CHANGE, inconsistent.limit, consistency, self.min_consistency)
            return (nothing,) if is_inconsistent or not strength else ()
        strong = Miss(TOO_STRONG, "max_strength", strength, self.max_strength)
        return (*([strong] if strength > self.max_strength else []), *([inconsistent] if is_inconsistent else []))

    def chosen(self, db: MetricsDatabase, installed: Collection[str]) -> Tensor:
        """The rows within the limits on files and CivitAI's facts, whatever was measured, in ranking order. [R] bool."""
        rows = torch.from_numpy(db.ranking_arrays.rows)
        if not self._chooses:
            return torch.ones(len(rows), dtype=torch.bool)
        names = ("lora_id", "base_model", "nsfw_level", "download_count")
        chosen = [
            lora_id not in self.exclude
            and (not self.installed_only or lora_id in installed)
            and (self.base_model is None or lora_id in self.fitting or fits(family, self.base_model))
            and (self.max_nsfw_level >= NO_NSFW_LIMIT or _highest_level(level or 0) <= self.max_nsfw_level)
            and (downloads is None or downloads >= self.min_downloads)
            for lora_id, family, level, downloads in zip(*map(db.column, names), strict=True)
        ]
        return torch.tensor(chosen, dtype=torch.bool)[rows]

    def why_nothing(self, db: MetricsDatabase, installed: Collection[str]) -> str:
        """Why no row was found, and what to do about it."""
        n_rows = len(db)
        if n_rows == 0:
            return "The database is empty: index some LoRAs first."
        left = int(self.chosen(db, installed).sum())
        if left == 0:
            filters = "installed, of the chosen base model and within the other filters"
            return f"None of the {n_rows} LoRAs in the database is {filters}."
        limits = f"strength <= {self.max_strength:g}, consistency >= {self.min_consistency:g}"
        if self.min_alignment > 0:
            limits += f", alignment >= {self.min_alignment:g}"
        return f"None of the {left} LoRAs has {limits} and an effect: loosen the limits."

    @property
    def _chooses(self) -> bool:
        by_civitai = self.max_nsfw_level < NO_NSFW_LIMIT or self.min_downloads > 0
        return self.base_model is not None or self.installed_only or by_civitai or bool(self.exclude)

    def _is_aligned(self, alignment: float | None, n_images: int | None) -> bool:
        if alignment is None:
            return (n_images or _PUBLISHED_IMAGES) >= _PUBLISHED_IMAGES
        return alignment >= self.min_alignment


PUBLISHED_LIMITS = SearchLimits()
DEFAULT_RULES = ChoiceRules()


def _highest_level(levels: int) -> int:
    return 1 << (levels.bit_length() - 1) if levels > 0 else 0
