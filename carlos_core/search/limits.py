"""Which LoRAs may be found at all. Light enough for the widgets of a node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..counting import counted
from ..loras.family import family_of_name, fits
from .matches import CONFIDENCE_WORDS

if TYPE_CHECKING:
    from ..database.database import MetricsDatabase
    from ..records import LoraRecord

MAX_STRENGTH = 9.8
MIN_CONSISTENCY = 0.041
"""The published limits (arXiv 2512.08826): stronger LoRAs break the picture, less consistent ones do not do one single thing."""

PUBLISHED, CALIBRATED = "published", "calibrated"
RANKINGS = (PUBLISHED, CALIBRATED)
"""By the cosine of the published formula, or by how far a row stands out from its own background (`calibration`)."""

BEST_ONE, TOP_K_EQUAL, COMPOSED = "best one", "top k equal", "composed"
MODES = (BEST_ONE, TOP_K_EQUAL, COMPOSED)
"""How many LoRAs are put together, and with which weights; see `selection.select`."""

KEEP_CONTENT = 0.5
"""`keep_content` at which LoRAs together change pictures no more than the strongest of them does alone: see `keeping`."""

ANY = "any"
CONFIDENCES = (ANY, *CONFIDENCE_WORDS[1:])
"""How sure a match must be to be taken; "any" takes the best, however unsure it is."""

NO_NSFW_LIMIT = 32
"""CivitAI's highest level. A model's level is the sum of the levels of its pictures: 1, 2, 4, 8, 16, 32."""

TOO_STRONG, NO_ONE_EFFECT, NO_CHANGE = "too strong", "no one effect", "changes nothing"
"""Why limits miss a LoRA, whatever is asked for."""

_UNSEEN_STRENGTH = 0.005
"""A strength that reports show as 0.00: rounding, not an effect."""

_PUBLISHED_IMAGES = 4480
"""Pictures behind a published row: the full protocol (arXiv 2512.08826)."""

_ANY_CONSISTENCY = -1.0

_FAMILIES_NAMED = 3


MAY_BE_TAKEN = ("may be taken", "may be taken")


class Filter(NamedTuple):
    """One limit, and what it leaves."""

    name: str
    """For scripts."""

    said: str
    """How many are left, in words."""

    left: int
    """How many rows pass this limit and all before it."""


class _Step(NamedTuple):
    """One limit."""

    name: str
    said: tuple[str, str]
    """What is said of one row and of several that it keeps."""

    keeps: Tensor
    """Which rows, in ranking order. [R] bool."""


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

    keep_content: float = KEEP_CONTENT
    """Between effect and content, in [0, 1]: see `keeping.kept`. 0 for weights as large as the other rules allow."""


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

    others_are: tuple[str, str] = MAY_BE_TAKEN
    """What is said of one row and of several that are not excluded."""

    fitting: Collection[str] = ()
    """Ids of rows whose file is known to fit the model: `base_model` does not limit them."""

    unfit: Collection[str] = ()
    """Ids of rows whose file is known not to fit the model. They are not found."""

    model: str = ""
    """What kind of model the limits were narrowed to, for the words; empty if there is none."""

    def without(self, lora_ids: Collection[str]) -> SearchLimits:
        """These limits without some LoRAs."""
        return replace(self, exclude={*self.exclude, *lora_ids}, others_are=MAY_BE_TAKEN) if lora_ids else self

    def mask(self, db: MetricsDatabase, installed: Collection[str]) -> Tensor:
        """The rows within all limits, in ranking order. [R] bool. installed: ids of the LoRAs on this machine."""
        arrays = db.ranking_arrays
        mask = self.chosen(db, installed) & self.within(arrays.strength, arrays.consistency)
        return mask & self._aligned(db) if self.min_alignment > 0 else mask

    def within(self, strength: Tensor, consistency: Tensor) -> Tensor:
        """Which values are within the limits. strength, consistency: [R], NaN where the consistency is undefined. [R] bool."""
        return self._within_strength(strength) & self._within_consistency(consistency)

    def _within_strength(self, strength: Tensor) -> Tensor:
        return strength <= self.max_strength

    def _within_consistency(self, consistency: Tensor) -> Tensor:
        return torch.nan_to_num(consistency, nan=_ANY_CONSISTENCY) >= self.min_consistency

    def misses_of(self, row: LoraRecord) -> tuple[Miss, ...]:
        """Why no search within these limits will ever find the LoRA of a row; empty if one may."""
        return self.misses(row.strength, row.consistency, has_effect=changes_pictures(row.strength, row.noise_floor))

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
        chosen = torch.ones(len(db), dtype=torch.bool)
        for step in self._choosing(db, installed):
            chosen &= step.keeps
        return chosen

    def why_left_out(self, db: MetricsDatabase, installed: Collection[str], place: int) -> str:
        """Which limit on files and CivitAI's facts leaves out a row, in words; empty if none does.

        installed: ids of the LoRAs on this machine. place: of the row, in ranking order.
        """
        said = next((step.said[0] for step in self._choosing(db, installed) if not step.keeps[place]), None)
        return "" if said is None else f"only what {said} is listed."

    def filters(self, db: MetricsDatabase, installed: Collection[str], *, by_effect: bool = True) -> list[Filter]:
        """What is left after each limit, one by one. A limit that leaves out nothing is named only if it is installed_only or a
        base model that was chosen.

        installed: ids of the LoRAs on this machine. by_effect: whether the limits on what was measured count.
        """
        left, found = torch.ones(len(db), dtype=torch.bool), list[Filter]()
        for step in [*self._choosing(db, installed), *(self._measured(db) if by_effect else [])]:
            kept = left & step.keeps
            n_left, n_kept = int(left.sum()), int(kept.sum())
            is_chosen = step.name == "installed" or (step.name == "base_model" and isinstance(self.base_model, str))
            if n_kept < n_left or is_chosen:
                others = _families(db, left & ~step.keeps) if step.name in ("model", "base_model") and n_kept < n_left else ""
                found.append(Filter(step.name, counted(n_kept, *step.said) + others, n_kept))
            left = kept
            if not n_kept:
                break
        return found

    def other_families(self, db: MetricsDatabase, installed: Collection[str]) -> list[str]:
        """The families of the rows that only the base model or the model leaves out, the commonest first; of labels, where known.

        installed: ids of the LoRAs on this machine.
        """
        others = replace(self, base_model=None, unfit=()).mask(db, installed) & ~self.mask(db, installed)
        labels, rows = db.column("base_model"), db.ranking_arrays.rows[others.numpy()].tolist()
        return [family for family, _ in Counter(family_of_name(labels[row]) for row in rows).most_common() if family]

    def why_nothing(self, db: MetricsDatabase, installed: Collection[str]) -> str:
        """Why no row was found, and what to do about it."""
        n_rows = len(db)
        if n_rows == 0:
            return "The database is empty: index some LoRAs first."
        left, filtered = int(self.chosen(db, installed).sum()), told(self.filters(db, installed), n_rows)
        if left == 0:
            filters = "installed, of the chosen base model and within the other filters"
            if n_rows == 1:
                return f"The only LoRA in the database is not {filters}. {filtered}"
            return f"None of the {n_rows} LoRAs in the database is {filters}. {filtered}"
        limits = f"strength <= {self.max_strength:g}, consistency >= {self.min_consistency:g}"
        if self.min_alignment > 0:
            limits += f", alignment >= {self.min_alignment:g}"
        none = "The only LoRA that is left does not have" if left == 1 else f"None of the {left} LoRAs has"
        return f"{none} {limits} and an effect: loosen the limits. {filtered}"

    def _choosing(self, db: MetricsDatabase, installed: Collection[str]) -> list[_Step]:
        """The limits on files and CivitAI's facts."""
        ids, order, steps = db.column("lora_id"), torch.from_numpy(db.ranking_arrays.rows), list[_Step]()

        def add(name: str, said: tuple[str, str], keeps: Iterable[bool]) -> None:
            """keeps: for each row of the table."""
            steps.append(_Step(name, said, torch.tensor(list(keeps), dtype=torch.bool)[order]))

        if self.installed_only:
            add("installed", ("is installed", "are installed"), (lora_id in installed for lora_id in ids))
        if self.exclude:
            add("exclude", self.others_are, (lora_id not in self.exclude for lora_id in ids))
        if self.unfit:
            fit = f"layers that fit this {self.model} model".replace("  ", " ")
            add("model", (f"has {fit}", f"have {fit}"), (lora_id not in self.unfit for lora_id in ids))
        if self.base_model is not None:
            labels = db.column("base_model")
            fitting = {label for label in set(labels) if fits(label, self.base_model)}
            keeps = (lora_id in self.fitting or label in fitting for lora_id, label in zip(ids, labels, strict=True))
            add("base_model", self._said_of_base_model, keeps)
        if self.max_nsfw_level < NO_NSFW_LIMIT:
            said = f"max_nsfw_level <= {self.max_nsfw_level}"
            levels = db.column("nsfw_level")
            add(
                "max_nsfw_level",
                (f"has {said}", f"have {said}"),
                (_highest_level(level or 0) <= self.max_nsfw_level for level in levels),
            )
        if self.min_downloads > 0:
            said = f"at least {counted(self.min_downloads, 'download')}"
            counts = db.column("download_count")
            add(
                "min_downloads",
                (f"has {said}", f"have {said}"),
                (count is None or count >= self.min_downloads for count in counts),
            )
        return steps

    def _measured(self, db: MetricsDatabase) -> list[_Step]:
        """The limits on what was measured."""
        arrays = db.ranking_arrays
        steps = [
            ("max_strength", f"strength <= {self.max_strength:g}", self._within_strength(arrays.strength)),
            ("min_consistency", f"consistency >= {self.min_consistency:g}", self._within_consistency(arrays.consistency)),
        ]
        if self.min_alignment > 0:
            steps.append(("min_alignment", f"alignment >= {self.min_alignment:g}", self._aligned(db)))
        steps.append(("effect", "an effect", arrays.norms > 0))
        return [_Step(name, (f"has {said}", f"have {said}"), keeps) for name, said, keeps in steps]

    @property
    def _said_of_base_model(self) -> tuple[str, str]:
        if isinstance(self.base_model, str):
            return f"is for {self.base_model} or does not say for what", f"are for {self.base_model} or do not say for what"
        model = f"this {self.model} model".replace("  ", " ")
        return f"is for {model}, by its layers or label", f"are for {model}, by their layers or labels"

    def _aligned(self, db: MetricsDatabase) -> Tensor:
        """Which rows are within `min_alignment`, in ranking order. [R] bool."""
        columns = zip(db.column("alignment"), db.column("n_images"), strict=True)
        keeps = [self._is_aligned(alignment, n_images) for alignment, n_images in columns]
        return torch.tensor(keeps, dtype=torch.bool)[torch.from_numpy(db.ranking_arrays.rows)]

    def _is_aligned(self, alignment: float | None, n_images: int | None) -> bool:
        if alignment is None:
            return (n_images or _PUBLISHED_IMAGES) >= _PUBLISHED_IMAGES
        return alignment >= self.min_alignment


def changes_pictures(strength: float, noise_floor: float | None) -> bool:
    """Whether a LoRA changes pictures at all, in whatever direction: decides between NO_CHANGE and NO_ONE_EFFECT for all reports.

    Args:
        strength: as measured, raw CLIP units.
        noise_floor: the strength that the host's own noise looks like, in the same units; None if it is not known.
    """
    return strength >= _UNSEEN_STRENGTH and (noise_floor is None or strength > noise_floor)


PUBLISHED_LIMITS = SearchLimits()
DEFAULT_RULES = ChoiceRules()


def told(filters: Sequence[Filter], n_rows: int) -> str:
    """Filters as a sentence; empty if none leaves out anything. n_rows: how many rows the database has."""
    if not filters or filters[-1].left == n_rows:
        return ""
    return f"Of {counted(n_rows, 'LoRA')} in the database {'; of these '.join(each.said for each in filters)}."


def _families(db: MetricsDatabase, left_out: Tensor) -> str:
    """Of which families rows are: " (left out: 22 for SD 3, 5 others)". left_out: [R] bool, in ranking order, some of it true."""
    labels, rows = db.column("base_model"), db.ranking_arrays.rows[left_out.numpy()].tolist()
    count = Counter(family_of_name(label) for label in (labels[row] for row in rows))
    most = count.most_common(_FAMILIES_NAMED)
    named = [f"{n} for {family}" if family else counted(n, "does not say", "do not say") for family, n in most]
    rest = len(rows) - sum(n for _, n in most)
    return f" (left out: {', '.join([*named, *([counted(rest, 'other')] if rest else [])])})"


def _highest_level(levels: int) -> int:
    return 1 << (levels.bit_length() - 1) if levels > 0 else 0
