"""What each LoRA does, in words: the phrases that its measured direction fits, before all phrases and all other LoRAs.

A phrase's z-score with a LoRA is that of `calibration`: the direction without what all LoRAs of the database share, against the
phrase without what all phrases share, in units of what the LoRA reaches with the bank. How often the best of all phrases would
look as good by chance (Sidak) decides with the levels of a search: "likely" or better is said as it is, the best one that is
"weak" with "perhaps", anything less is not said. `studies/describing.py` compares this with other ways.

A phrase that says what one before it says, to the encoder or by its words, is left out. The user's own phrases are
what the user wants to read: one of them takes the place of one of the bank that says the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..progress import Progress
from ..prompts.prompt_set import Prompt, PromptSet
from ..records import NO_EFFECT
from ..storage import short_hash
from ..vectors import units_of
from .calibration import CalibratedRows, p_values, probes_of, word_for
from .limits import MIN_CONSISTENCY, NO_CHANGE, NO_ONE_EFFECT, changes_pictures

if TYPE_CHECKING:
    from ..database.database import MetricsDatabase
    from ..database.target import Target
    from ..progress import OnProgress
    from .searcher import Searcher

FITS, PERHAPS, UNNAMED = "fits", "perhaps", "unnamed"
KINDS = (FITS, PERHAPS, UNNAMED, NO_ONE_EFFECT, NO_CHANGE)
"""Phrases fit; one may fit; none does, though there is an effect; pictures change, each in its own way; nothing changes."""

MOST_PHRASES = 3
_SAME = 0.8
"""Cosine of two phrases' signatures, without what all share, from which on one repeats the other: most of their variance."""

_LOOKED_AT = 24
"""So many of the best phrases of a LoRA are looked at for some that differ."""

_ROWS_AT_ONCE = 4096
_GROWTH = 0.1
"""A description stands until the LoRAs that it was told among are a tenth more or fewer."""

_METHOD = 1
"""Changes when the same phrases and rows give other descriptions."""


@dataclass(frozen=True)
class Mark:
    """What descriptions depend on, besides a row itself."""

    phrases: str
    """`Describer.phrases_hash`."""

    loras: int
    """`Describer.n_loras`."""

    def of_row(self, indexed_at: str | None) -> str:
        """What is kept beside a description, as `LoraRecord.described_by`. indexed_at: when the row was measured."""
        return json.dumps({"phrases": self.phrases, "loras": self.loras, "indexed_at": indexed_at})

    def holds(self, described_by: str | None, indexed_at: str | None) -> bool:
        """Whether a description still stands: of this measurement, by these phrases, among about as many LoRAs."""
        try:
            facts = json.loads(described_by or "")
            is_told_so = (facts["phrases"], facts["indexed_at"]) == (self.phrases, indexed_at)
            return is_told_so and abs(self.loras - facts["loras"]) <= _GROWTH * facts["loras"]
        except (ValueError, TypeError, KeyError, RecursionError):
            return False


@dataclass(frozen=True)
class PhraseFit:
    """A phrase that a LoRA's direction fits."""

    phrase: str
    z: float
    """Standard deviations above what the LoRA reaches with unrelated phrases."""

    word: str
    """How sure it is: "clear", "likely" or "weak"."""


@dataclass(frozen=True)
class Description:
    """What a LoRA does, as far as phrases can say it."""

    lora_id: str
    kind: str
    """One of KINDS."""

    phrases: tuple[PhraseFit, ...] = ()
    """The best first, at most MOST_PHRASES."""

    @property
    def text(self) -> str:
        """In a few words, for a report."""
        said = ", ".join(fit.phrase for fit in self.phrases)
        if self.kind == NO_ONE_EFFECT and said:
            return f"no one effect, most like {said}"
        return {FITS: said, PERHAPS: f"perhaps {said}", UNNAMED: "no phrase fits"}.get(self.kind, self.kind)


class Describer:
    """Describes the LoRAs of a searcher's database by its bank of effects and by phrases of the user's own."""

    def __init__(self, searcher: Searcher, own: Sequence[str] = ()) -> None:
        """Nothing is encoded yet. own: further phrases; those of the bank are left out."""
        self._searcher = searcher
        known = {text.casefold() for text in searcher.bank.texts}
        self._own = tuple(text for text in own if text.casefold() not in known)
        self._phrases: _Phrases | None = None

    @property
    def phrases_hash(self) -> str:
        """12 hex digits that name the phrases, and how LoRAs are held against them."""
        searcher = self._searcher
        parts = [searcher.bank.content_hash, searcher.prompts.content_hash, list(self._own), _METHOD]
        return short_hash(json.dumps(parts, ensure_ascii=False), 12)

    @property
    def n_phrases(self) -> int:
        return len(self._searcher.bank) + len(self._own)

    @property
    def n_loras(self) -> int:
        """How many LoRAs of the database have a direction: so many a LoRA is told among, itself included."""
        return int((self._searcher.db.ranking_arrays.norms > 0).sum())

    @property
    def mark(self) -> Mark:
        """By which phrases and among how many LoRAs descriptions are told now."""
        return Mark(self.phrases_hash, self.n_loras)

    def stale(self) -> list[str]:
        """Ids of the rows without a description by these phrases among about as many LoRAs. Nothing is encoded."""
        database, mark = self._searcher.db, self.mark
        columns = map(database.column, ("lora_id", "indexed_at", "described_as", "described_by"))
        rows = zip(*columns, strict=True)
        return [lora_id for lora_id, indexed_at, words, by in rows if words is None or not mark.holds(by, indexed_at)]

    def describe(self, lora_ids: Collection[str] | None = None, on_progress: OnProgress | None = None) -> list[Description]:
        """Descriptions of some rows, or of all, in table order.

        The first time, the phrases are encoded and kept, as `Searcher.background` does. However many rows there are, the
        memory is bounded. Raises EncoderError, and RetrievalError for a bank that changes nothing in the encoder's eyes.
        """
        database = self._searcher.db
        ids = database.column("lora_id")
        wanted = set(ids if lora_ids is None else lora_ids)
        # In ranking order, as the calibrated rows are.
        places = [place for place, row in enumerate(database.ranking_arrays.rows.tolist()) if ids[row] in wanted]
        if not places:
            return []
        kinds = _kinds(database)
        found: dict[int, Description] = {}
        has_direction = database.ranking_arrays.norms > 0
        tellable = [place for place in places if has_direction[place]]
        fits = dict(zip(tellable, self._fits(tellable, on_progress), strict=True)) if tellable else {}
        for place in places:
            row = int(database.ranking_arrays.rows[place])
            found[row] = _description(ids[row], kinds[row], fits.get(place, ()))
        return [found[row] for row in sorted(found)]

    def _fits(self, places: Sequence[int], on_progress: OnProgress | None) -> Iterator[tuple[PhraseFit, ...]]:
        """The phrases that fit rows, at places in ranking order."""
        rows = self._searcher.calibrated_rows(on_progress)
        if self._phrases is None:
            self._phrases = self._encoded(rows, on_progress)
        for start in range(0, len(places), _ROWS_AT_ONCE):
            if on_progress is not None and len(places) > _ROWS_AT_ONCE:
                on_progress(Progress(start, len(places), f"describing LoRAs: {start} of {len(places)}"))
            part = torch.tensor(places[start : start + _ROWS_AT_ONCE])
            z = (rows.centred[part] @ self._phrases.probes.T - rows.mean[part, None]) / rows.deviation[part, None]
            best = torch.topk(z, min(_LOOKED_AT, z.shape[1]), dim=1)
            sure = p_values(best.values, z.shape[1])
            for scores, p, indices in zip(best.values.tolist(), sure.tolist(), best.indices.tolist(), strict=True):
                words = [word_for(value) for value in p]
                candidates = [
                    (index, PhraseFit(self._phrases.texts[index], score, word))
                    for index, score, word in zip(indices, scores, words, strict=True)
                    if word != "none"
                ]
                yield self._phrases.differing(candidates)

    def _encoded(self, rows: CalibratedRows, on_progress: OnProgress | None) -> _Phrases:
        searcher, bank = self._searcher, self._searcher.bank
        texts, signatures = list(bank.texts), searcher.encoded(bank)
        own_set = PromptSet("own", tuple(Prompt(text, "own", "own") for text in self._own))
        own = searcher.encoded(own_set, on_progress) if self._own else signatures[:0]
        is_probed, is_own = (torch.linalg.vector_norm(part, dim=1) > 0 for part in (signatures, own))
        texts = [text for text, is_there in zip([*texts, *self._own], [*is_probed, *is_own], strict=True) if is_there]
        # Those of the bank as they were made without their own tenth of it; the user's own as a query is.
        probes = torch.cat([rows.background.probes, probes_of(own[is_own], rows.background)])
        units = units_of(torch.cat([signatures[is_probed], own[is_own]]).double())
        return _Phrases(tuple(texts), probes, units_of(units - rows.background.mean), int(is_probed.sum()))


@dataclass(frozen=True, eq=False)
class _Phrases:
    """texts: N, those of the bank first. probes: [N, D]. centred: [N, D], unit signatures without what the bank shares, of length
    1 again."""

    texts: tuple[str, ...]
    probes: Tensor
    centred: Tensor
    n_of_bank: int

    def differing(self, candidates: Sequence[tuple[int, PhraseFit]]) -> tuple[PhraseFit, ...]:
        """The first of some phrases, the best first, that do not repeat each other. Weak ones: only the best, and only alone."""
        taken: list[tuple[int, PhraseFit]] = []
        for index, fit in candidates:
            if taken and fit.word == "weak":
                break
            alike = [place for place, (other, _fit) in enumerate(taken) if self._are_alike(index, other)]
            if not alike and len(taken) < MOST_PHRASES:
                taken.append((index, fit))
            elif len(alike) == 1 and index >= self.n_of_bank > taken[alike[0]][0]:
                taken[alike[0]] = index, fit
        return tuple(fit for _index, fit in taken)

    def _are_alike(self, one: int, other: int) -> bool:
        words, others = (set(re.findall(r"\w+", self.texts[index].casefold())) for index in (one, other))
        if words and others and (words <= others or others <= words):
            return True
        return float(self.centred[one] @ self.centred[other]) >= _SAME


def _kinds(database: MetricsDatabase) -> list[str]:
    """What measurements alone say of each row, in table order: NO_CHANGE, NO_ONE_EFFECT, or "" where phrases are to say it."""

    def kind(strength: float, consistency: float | None, noise: float | None, notes: Sequence[str] | None) -> str:
        if not changes_pictures(strength, noise):
            return NO_CHANGE
        # The note is given where pictures change, too, if they do so in no direction that can be told from chance.
        is_one = consistency is not None and consistency >= MIN_CONSISTENCY and NO_EFFECT not in (notes or ())
        return "" if is_one else NO_ONE_EFFECT

    columns = ("strength", "consistency", "noise_floor", "notes")
    return list(map(kind, *(database.column(name) for name in columns)))


def _description(lora_id: str, kind: str, fits: tuple[PhraseFit, ...]) -> Description:
    is_sure = bool(fits) and fits[0].word != "weak"
    if kind == NO_CHANGE:
        return Description(lora_id, NO_CHANGE)
    if kind == NO_ONE_EFFECT:
        return Description(lora_id, kind, fits if is_sure else ())
    return Description(lora_id, (FITS if is_sure else PERHAPS) if fits else UNNAMED, fits)


def keep_with_rows(target: Target, described: MetricsDatabase, descriptions: Sequence[Description], mark: Mark) -> int:
    """Keep descriptions with their rows; returns how many rows changed. Nothing is written if none would.

    A row that was measured again, or is gone, since `described` was read keeps what it has. Raises DatabaseError.
    """
    measured = dict(zip(described.column("lora_id"), described.column("indexed_at"), strict=True))
    words = {description.lora_id: description.text for description in descriptions}
    if not _changes(described, measured, words, mark):
        return 0
    changed: list[str] = []

    def change(database: MetricsDatabase) -> None:
        changed[:] = _changes(database, measured, words, mark)
        database.set_values("described_as", {lora_id: words[lora_id] for lora_id in changed})
        database.set_values("described_by", {lora_id: mark.of_row(measured[lora_id]) for lora_id in changed})

    target.change(change)
    return len(changed)


def _changes(database: MetricsDatabase, measured: Mapping[str, str | None], words: Mapping[str, str], mark: Mark) -> list[str]:
    """Ids of the rows that are as they were measured and do not say this yet."""
    columns = (database.column(name) for name in ("lora_id", "indexed_at", "described_as", "described_by"))
    return [
        lora_id
        for lora_id, indexed_at, said, by in zip(*columns, strict=True)
        if lora_id in words and measured[lora_id] == indexed_at and (said, by) != (words[lora_id], mark.of_row(indexed_at))
    ]
