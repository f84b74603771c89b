"""Which LoRAs may be found at all. Light enough for the widgets of a node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..loras.family import family_of_name, fits
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

_FAMILIES_NAMED = 3


class Filter(NamedTuple):
    """One limit, and what it leaves."""

    name: str
    """For scripts."""

    said: str
    """How many are left, in words."""

    left: int
    """How many rows pass this limit and all before it."""


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

    unfit: Collection[str] = ()
    """Ids of rows whose file is known not to fit the model. They are not found."""

    model: str = ""
    """What kind of model the limits were narrowed to, for the words; empty if there is none."""

    def mask(self, db: MetricsDatabase, installed: Collection[str]) -> Tensor:
        """The rows within all limits, in ranking order. [R] bool. installed: ids of the LoRAs on this machine."""
        arrays = db.ranking_arrays
        mask = self.chosen(db, installed) & self.within(arrays.strength, arrays.consistency)
        return mask & torch.tensor(self._aligned(db), dtype=torch.bool) if self.min_alignment > 0 else mask

    def within(self, strength: Tensor, consistency: Tensor) -> Tensor:
        """Which values are within the limits. strength, consistency: [R], NaN where the consistency is undefined. [R] bool."""
        return self._within_strength(strength) & self._within_consistency(consistency)

    def _within_strength(self, strength: Tensor) -> Tensor:
        return strength <= self.max_strength

    def _within_consistency(self, consistency: Tensor) -> Tensor:
        return torch.nan_to_num(consistency, nan=_ANY_CONSISTENCY) >= self.min_consistency

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
        chosen = torch.ones(len(rows), dtype=torch.bool)
        for _name, _said, keeps in self._choosing(db, installed):
            chosen &= torch.tensor(keeps, dtype=torch.bool)
        return chosen[rows]

    def filters(self, db: MetricsDatabase, installed: Collection[str], *, by_effect: bool = True) -> list[Filter]:
        """What is left after each limit, one by one. A limit that leaves out nothing is named only if it is installed_only or a
        base model that was chosen.

        installed: ids of the LoRAs on this machine. by_effect: whether the limits on what was measured count.
        """
        arrays, families = db.ranking_arrays, db.column("base_model")
        rows = arrays.rows.tolist()
        steps: list[tuple[str, str, Sequence[bool] | Tensor]] = [
            (name, said, [keeps[row] for row in rows]) for name, said, keeps in self._choosing(db, installed)
        ]
        measured: list[tuple[str, str, Sequence[bool] | Tensor]] = [
            ("max_strength", f"have strength <= {self.max_strength:g}", self._within_strength(arrays.strength)),
            ("min_consistency", f"have consistency >= {self.min_consistency:g}", self._within_consistency(arrays.consistency)),
            ("min_alignment", f"have alignment >= {self.min_alignment:g}", self._aligned(db)),
            ("effect", "have an effect", arrays.norms > 0),
        ]
        left, found = list(range(len(rows))), []
        for name, said, keeps in [*steps, *(measured if by_effect else [])]:
            kept = [place for place in left if bool(keeps[place])]
            is_chosen = name == "installed" or (name == "base_model" and isinstance(self.base_model, str))
            if len(kept) < len(left) or is_chosen:
                by_family = name in ("model", "base_model")
                others = _families(families[rows[place]] for place in left if not keeps[place]) if by_family else ""
                found.append(Filter(name, f"{len(kept)} {said}{others}", len(kept)))
            left = kept
            if not left:
                break
        return found

    def told(self, db: MetricsDatabase, installed: Collection[str], *, by_effect: bool = True) -> str:
        """The filters as a sentence; empty if none leaves out anything. Arguments as of `filters`."""
        found = self.filters(db, installed, by_effect=by_effect)
        if not found or found[-1].left == len(db):
            return ""
        return f"Of {len(db)} LoRAs in the database {'; of these '.join(each.said for each in found)}."

    def why_nothing(self, db: MetricsDatabase, installed: Collection[str]) -> str:
        """Why no row was found, and what to do about it."""
        n_rows = len(db)
        if n_rows == 0:
            return "The database is empty: index some LoRAs first."
        left = int(self.chosen(db, installed).sum())
        if left == 0:
            filters = "installed, of the chosen base model and within the other filters"
            return f"None of the {n_rows} LoRAs in the database is {filters}. {self.told(db, installed)}"
        limits = f"strength <= {self.max_strength:g}, consistency >= {self.min_consistency:g}"
        if self.min_alignment > 0:
            limits += f", alignment >= {self.min_alignment:g}"
        return f"None of the {left} LoRAs has {limits} and an effect: loosen the limits. {self.told(db, installed)}"

    def _choosing(self, db: MetricsDatabase, installed: Collection[str]) -> list[tuple[str, str, Sequence[bool]]]:
        """The limits on files and CivitAI's facts: name, words, and which rows of the table each keeps."""
        ids, steps = db.column("lora_id"), list[tuple[str, str, Sequence[bool]]]()
        if self.installed_only:
            steps.append(("installed", "are installed", [lora_id in installed for lora_id in ids]))
        if self.exclude:
            steps.append(("exclude", "are left to take", [lora_id not in self.exclude for lora_id in ids]))
        if self.unfit:
            said = f"have layers that fit this {self.model} model".replace("  ", " ")
            steps.append(("model", said, [lora_id not in self.unfit for lora_id in ids]))
        if self.base_model is not None:
            labels = zip(ids, db.column("base_model"), strict=True)
            keeps = [lora_id in self.fitting or fits(label, self.base_model) for lora_id, label in labels]
            steps.append(("base_model", self._said_of_base_model, keeps))
        if self.max_nsfw_level < NO_NSFW_LIMIT:
            levels = [_highest_level(level or 0) <= self.max_nsfw_level for level in db.column("nsfw_level")]
            steps.append(("max_nsfw_level", f"have max_nsfw_level <= {self.max_nsfw_level}", levels))
        if self.min_downloads > 0:
            counts = [count is None or count >= self.min_downloads for count in db.column("download_count")]
            steps.append(("min_downloads", f"have at least {self.min_downloads} downloads", counts))
        return steps

    @property
    def _said_of_base_model(self) -> str:
        if isinstance(self.base_model, str):
            return f"are for {self.base_model} or do not say for what"
        return f"are for this {self.model} model, by their layers or labels".replace("  ", " ")

    def _aligned(self, db: MetricsDatabase) -> list[bool]:
        """Which rows are within `min_alignment`, in ranking order."""
        columns = db.column("alignment"), db.column("n_images")
        places = db.ranking_arrays.rows.tolist()
        return [self.min_alignment <= 0 or self._is_aligned(columns[0][row], columns[1][row]) for row in places]

    def _is_aligned(self, alignment: float | None, n_images: int | None) -> bool:
        if alignment is None:
            return (n_images or _PUBLISHED_IMAGES) >= _PUBLISHED_IMAGES
        return alignment >= self.min_alignment


PUBLISHED_LIMITS = SearchLimits()
DEFAULT_RULES = ChoiceRules()


def _families(labels: Iterable[str | None]) -> str:
    """How many rows of other families there are: " (22 for SD 3)"."""
    count = Counter(family_of_name(label) for label in labels)
    named = [f"{n} for {family}" if family else f"{n} do not say" for family, n in count.most_common(_FAMILIES_NAMED)]
    return f" ({', '.join(named)})" if named else ""


def _highest_level(levels: int) -> int:
    return 1 << (levels.bit_length() - 1) if levels > 0 else 0
