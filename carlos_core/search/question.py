"""A query of Auto LoRA, from what was read in it to LoRAs with weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..errors import RetrievalError
from ..progress import OnProgress
from . import reasons
from .calibration import LIKELY, WEAK, Background, confidences, p_values
from .content import ContentTails
from .keeping import keeping
from .language import knows_other_languages, other_language
from .limits import ANY, CALIBRATED, ChoiceRules, SearchLimits
from .matches import Confidence, Matches, own_weight
from .queries import but_not
from .reading import Reading
from .selection import CANDIDATES, Pick, Selection, check_rules, parts_of, select
from .understanding import Understanding, Verdict, understand
from .weights import MAX_OVERDRIVE

if TYPE_CHECKING:
    from .searcher import Searcher

_LEVELS = {"clear": LIKELY, "likely": LIKELY, "weak": WEAK}
"""Up to which corrected p-value a phrase counts as an effect, for each `min_confidence`. "clear" is asked of a match alone: the
bank of content is too small to tell phrases of content from effects that surely."""

_LONG = 12
"""A query of more words or of several parts that asks for no effect is only looked at as a whole, to say what comes nearest:
encoding it with all prompts would take longer than all else."""


class Best(NamedTuple):
    """The row, as a place in ranking order, that fits something best, and its z-score."""

    row: int
    z: float


@dataclass(frozen=True, eq=False)
class _Forbidden:
    """What a LoRA must not do. z: [R], of the rows that do it; -inf for the others, all of them if no LoRA does just that."""

    signature: Tensor
    z: Tensor

    @property
    def is_known(self) -> bool:
        return bool(torch.isfinite(self.z).any())


@dataclass(eq=False)
class Question:
    """A reading of a query, asked of a library. It is also the `understanding.Judge` of that library.

    A LoRA that does what the query forbids is barred from all that it does not do better. What no LoRA does is projected
    out, as a negative query is.
    """

    searcher: Searcher
    reading: Reading
    negative: str
    rules: ChoiceRules
    limits: SearchLimits
    ranking: str
    on_progress: OnProgress | None = None
    candidates: int = CANDIDATES
    """How many matches of each search are considered."""

    minds_installed: bool = False
    """Whether the surest installed LoRA of each search is considered, too, however many come before it."""

    _looked: dict[str, Best | None] = field(default_factory=dict, init=False, repr=False)
    """What texts find when they are looked at."""

    def selection(self) -> Selection:
        """The LoRAs for the query; none if nothing fits. Raises what `Searcher.choose` does.

        Where no row may be chosen, that is told without the encoder, which may have to be fetched.
        """
        check_rules(self.rules)
        selection = self._chosen()
        blocked, is_asked = self._what_is_in_the_way(selection), not self._why_not_asked and self._n_allowed > 0
        idle = reasons.idle_negative(self, selection) if is_asked and not blocked else ""
        notes = (*selection.notes, *([idle] if idle else []))
        if selection.picks:
            return replace(selection, reason=f"{selection.reason} {blocked}".strip(), notes=notes)
        why_not = selection.reason or self._why_no_effects(self.understanding, advises=not blocked)
        is_unfit = is_asked and not blocked
        return replace(selection, reason=f"{blocked} {why_not}".strip(), notes=notes, is_unfit=is_unfit)

    def _chosen(self) -> Selection:
        """The LoRAs; none and no reason for content alone, as `_why_no_effects` says why."""
        reading = self.reading
        if not reading.query.strip():
            self.searcher.signature(reading.query)
        understanding = self.understanding
        why_not = self._why_not_asked
        if why_not:
            return self._nothing(why_not, understanding)
        if not self._n_allowed:
            return self._nothing(self.limits.why_nothing(self.searcher.db, self.searcher.installed), understanding)
        if not understanding.content or understanding.fits_together:
            texts = [effect.text for effect in understanding.effects]
            selection = self._selected(reading.text, texts if len(texts) > 1 else None, understanding)
            # It may be joined by words at which `select` does not part it.
            if selection.picks or not understanding.effects:
                return selection
        if understanding.effects:
            texts = [effect.text for effect in understanding.effects]
            selection = self._selected(", ".join(texts), texts, understanding)
            return replace(selection, reason=f"{selection.reason} {reasons.why_not_all(self, understanding)}".strip())
        return self._nothing("", understanding)

    def _what_is_in_the_way(self, selection: Selection) -> str:
        """What would fit if nothing were unwanted, for a query of which something gets no LoRA; empty if that is nothing."""
        negative, forbidden = self.negative.strip(), self.reading.forbidden
        if (
            not (negative or forbidden)
            or not self._n_allowed
            or self._why_not_asked
            or not reasons.lacks_something(selection, self.rules, self.reading)
        ):
            return ""
        wishes = replace(self.reading, forbidden=())
        free = replace(self, negative="", reading=wishes)
        if not self._may_get_more_as(free):
            return ""
        by_negative = f"negative_query ({negative!r})"
        by_query = f"what the query does not want ({reasons.quoted([phrase.text for phrase in forbidden])})"
        if not (negative and forbidden):
            return reasons.in_the_way(selection, {by_negative if negative else by_query: free._chosen()})
        freed = {by_negative: replace(self, negative=""), by_query: replace(self, reading=wishes)}
        said = reasons.in_the_way(selection, {cause: question._chosen_if_possible() for cause, question in freed.items()})
        return said or reasons.in_the_way(selection, {f"{by_negative} and {by_query}": free._chosen()})

    def _may_get_more_as(self, free: Question) -> bool:
        """Whether some part of the query, as it is looked at, finds another LoRA or a surer one where nothing is unwanted."""
        text = self.reading.text
        phrases = (phrase for wish in self.reading.wishes for phrase in wish.options)
        texts = [
            text,
            *parts_of(text),
            *(phrase.part(*run) for phrase in phrases for run in phrase.runs),
            *self.understanding.unfit,
        ]
        return self.finds_other_as(free, texts)

    def finds_other_as(self, free: Question, texts: Sequence[str]) -> bool:
        """Whether one of some texts, as it is looked at, may find another LoRA or a surer one where less is unwanted."""
        return self._background is None or any(
            then is not None and (now is None or then.row != now.row or self._is_sure(then.z) > self._is_sure(now.z))
            for now, then in zip(self._looks(texts), free._looks(texts), strict=True)
        )

    def _chosen_if_possible(self) -> Selection:
        """As `_chosen`; nothing where what is asked for is all unwanted."""
        try:
            return self._chosen()
        except RetrievalError as error:
            return self._nothing(error.what, self.understanding)

    @property
    def _why_not_asked(self) -> str:
        """Why the query asks for nothing that could be looked for; empty if it does."""
        if not self.reading.wishes:
            return reasons.why_empty(self.reading)
        return reasons.why_language(self._language) if self._language is not None else ""

    @cached_property
    def understanding(self) -> Understanding:
        """What the query asks for; the effects in it are looked for unless everything is taken or nothing may be."""
        understanding = self.by_words
        # Other rules than these are refused by `select`.
        level = _LEVELS.get(self.rules.min_confidence)
        if not self.reading.wishes or level is None or not self._n_allowed or self._language is not None:
            return understanding
        found = understand(self.reading, self, level, self.searcher.content_words, reads_all_letters=self._knows_other_languages)
        return replace(found, did_you_mean=understanding.did_you_mean)

    @cached_property
    def _language(self) -> str | None:
        """The language of the query if the encoder does not know it; None if everything is taken, however badly it fits."""
        takes_all = self._knows_other_languages or self.rules.min_confidence == ANY
        return None if takes_all else other_language(self.reading.query)

    @property
    def _knows_other_languages(self) -> bool:
        return knows_other_languages(str(self.searcher.db.encoder_id))

    @property
    def by_words(self) -> Understanding:
        """What the words alone say, without the library's effects. It needs no encoder."""
        return Understanding(self.reading, did_you_mean=self.searcher.spelling.suggestions(self.reading))

    def search(self, text: str) -> Matches:
        """The best LoRAs for a text, without what the query forbids."""
        return self.matches(text, self.searcher.signature(text))

    def matches(self, text: str, signature: Tensor) -> Matches:
        """The same for a text's signature."""
        signature, barred = self._without_negative(signature), torch.zeros(0, dtype=torch.bool)
        if self._forbidden:
            # Nothing is left of "snow, no snow".
            try:
                signature, barred = self._without_forbidden(signature)
            except RetrievalError as error:
                return Matches(text, str(self.searcher.db.encoder_id), (), error.what, signature)
        barred_ids = {self._ids[row] for row in torch.nonzero(barred).flatten().tolist()}
        limits = self.limits.without(barred_ids)
        found = self.searcher.find(
            signature, limits, self.candidates, query=text, ranking=self.ranking, background=self._background
        )
        return self._with_installed(found, signature, limits) if self.minds_installed else found

    def _with_installed(self, matches: Matches, signature: Tensor, limits: SearchLimits) -> Matches:
        """Matches and, if it is not among them, the surest one that is installed: by cosine, others may come before it."""
        if not self.searcher.installed:
            return matches
        here, background = replace(limits, installed_only=True), self._background
        ranking = self.ranking if background is None else CALIBRATED
        surest = self.searcher.find(signature, here, 1, ranking=ranking, background=background).items
        ids = {match.lora_id for match in surest} - {match.lora_id for match in matches.items}
        if not ids:
            return matches
        # Its confidence is that among all.
        further = self.searcher.placed(ids, signature, limits, ranking=self.ranking, background=background)
        return replace(matches, items=(*matches.items, *further))

    def looks(self, texts: Sequence[str]) -> list[float | None]:
        """See `understanding.Judge`."""
        return [None if best is None else best.z for best in self._looks(texts)]

    def _looks(self, texts: Sequence[str]) -> list[Best | None]:
        new = [text for text in dict.fromkeys(texts) if text not in self._looked]
        self._looked |= zip(new, map(self.best, self.searcher.looks(new)), strict=True)
        return [self._looked[text] for text in texts]

    def closer_looks(self, texts: Sequence[str]) -> list[float | None]:
        """See `understanding.Judge`."""
        found = map(self.best, self.searcher.looks(texts, closer=True))
        return [None if best is None else best.z for best in found]

    def verdicts(self, texts: Sequence[str]) -> list[Verdict | None]:
        """See `understanding.Judge`."""
        return [self._verdict(signature) for signature in self.searcher.signatures(texts)]

    def _verdict(self, signature: Tensor) -> Verdict | None:
        best = self.best(signature)
        if best is None:
            return None
        return Verdict(self._ids[best.row], best.z, self._is_sure(best.z))

    def _is_sure(self, z: float) -> bool:
        return self.rules.min_confidence == ANY or self._confidence(z).reaches(self.rules.min_confidence)

    def p_value(self, z: float, *, is_content: bool) -> float:
        """See `understanding.Judge`."""
        return max(self._confidence(z).p_value, self._tails.p_value(z, is_known=is_content))

    def best(self, signature: Tensor) -> Best | None:
        """The row that fits a signature best."""
        if not bool(signature.any()):
            return None
        try:
            signature, barred = self._without_forbidden(self._without_negative(signature))
        except RetrievalError:
            return None
        z = self._z(signature).masked_fill(~self._allowed | barred, -torch.inf)
        row = int(z.argmax())
        return Best(row, float(z[row])) if bool(torch.isfinite(z[row])) else None

    def _without_negative(self, signature: Tensor) -> Tensor:
        """A signature without the negative query. Raises RetrievalError if nothing is left of it."""
        if self._negative is None:
            return signature
        try:
            return but_not(signature, self._negative)
        except RetrievalError as error:
            raise RetrievalError(
                f"What is to be avoided, by negative_query ({self.negative.strip()!r}), is all that was looked for.", error.hint
            ) from error

    def _without_forbidden(self, signature: Tensor) -> tuple[Tensor, Tensor]:
        """A signature without what no LoRA does, and the rows, [R] bool, that do what is forbidden rather than what it asks for.

        Raises RetrievalError if nothing is left of the signature.
        """
        barred = torch.zeros(len(self._ids), dtype=torch.bool)
        for forbidden in self._forbidden:
            if not forbidden.is_known:
                signature = but_not(signature, forbidden.signature)
        if any(forbidden.is_known for forbidden in self._forbidden):
            asked = self._z(signature)
            for forbidden in self._forbidden:
                barred |= torch.isfinite(forbidden.z) & ~(asked > forbidden.z)
        return signature, barred

    def _z(self, signature: Tensor) -> Tensor:
        return self.searcher.z_scores(signature, self.searcher.background(self.on_progress))

    def _confidence(self, z: float) -> Confidence:
        return confidences(torch.tensor([z]), self._n_allowed)[0]

    @cached_property
    def _background(self) -> Background | None:
        is_sure = self.ranking == CALIBRATED or self.rules.min_confidence != ANY
        return self.searcher.background(self.on_progress) if is_sure else None

    @cached_property
    def _ids(self) -> list[str]:
        """Ids in ranking order."""
        ids = self.searcher.db.column("lora_id")
        return [ids[row] for row in self.searcher.db.ranking_arrays.rows.tolist()]

    @cached_property
    def _allowed(self) -> Tensor:
        """The rows that may be chosen, in ranking order. [R] bool."""
        return self.limits.mask(self.searcher.db, self.searcher.installed) & (self.searcher.db.ranking_arrays.norms > 0)

    @cached_property
    def _n_allowed(self) -> int:
        return int(self._allowed.sum())

    @cached_property
    def _tails(self) -> ContentTails:
        return self.searcher.content_tails(self.searcher.background(self.on_progress), self._allowed, self.on_progress)

    @cached_property
    def _negative(self) -> Tensor | None:
        return self.searcher.signature(self.negative) if self.negative.strip() else None

    @cached_property
    def _forbidden(self) -> list[_Forbidden]:
        texts = [phrase.part(start, end) for phrase in self.reading.forbidden for start, end in phrase.runs]
        signatures = dict(zip(texts, self.searcher.signatures(texts), strict=True))
        found = []
        for phrase in self.reading.forbidden:
            doing = [self._doing(signatures[phrase.part(start, end)]) for start, end in phrase.runs]
            found.append(_Forbidden(signatures[phrase.text], torch.stack(doing).max(0).values))
        return found

    def _doing(self, signature: Tensor) -> Tensor:
        """z-scores of the rows that surely do something, or of the best if it is not just any; -inf for the others. [R]."""
        z = self._z(signature).masked_fill(~self._allowed, -torch.inf)
        p = p_values(z, self._n_allowed)
        does_it = torch.isfinite(z) & (p <= LIKELY)
        if not bool(does_it.any()):
            best = int(z.argmax())
            does_it[best] = p[best] <= WEAK
        return z.masked_fill(~does_it, -torch.inf)

    def _selected(self, text: str, parts: Sequence[str] | None, understanding: Understanding) -> Selection:
        texts = parts_of(text) if parts is None else parts
        if len(texts) > 1 and self._n_allowed:
            # Encoded together, before they are asked for one by one.
            self.searcher.signatures([text, *texts])
        selection = select(text, self.search, self.rules, self.limits.max_strength, parts_are=parts)
        factors = _emphasis(selection.picks, understanding)
        picks = self._emphasised(selection.picks, factors)
        picks, taken = keeping(picks, self._alone(picks, factors), self.rules)
        notes = (*selection.notes, *(taken.notes if taken is not None else ()))
        query = self.reading.query.strip()
        return replace(selection, query=query, picks=picks, understanding=understanding, notes=notes, keeping=taken)

    def _emphasised(self, picks: tuple[Pick, ...], factors: Sequence[float]) -> tuple[Pick, ...]:
        """Picks with more weight for what is emphasised and less for what is played down, within the limits of weights."""
        if all(factor == 1 for factor in factors):
            return picks
        wanted = [pick.weight * factor for pick, factor in zip(picks, factors, strict=True)]
        weights = [min(weight, most) for weight, most in zip(wanted, self._tops(picks), strict=True)]
        share = min(1.0, self.rules.strength_budget / sum(weights))
        return tuple(replace(pick, weight=round(weight * share, 3)) for pick, weight in zip(picks, weights, strict=True))

    def _alone(self, picks: Sequence[Pick], factors: Sequence[float]) -> list[float]:
        """The weight that each LoRA might have alone: its own, or more if it is emphasised; never less."""
        own = [own_weight(pick.match, self.rules) * max(1.0, factor) for pick, factor in zip(picks, factors, strict=True)]
        return [min(weight, most) for weight, most in zip(own, self._tops(picks), strict=True)]

    def _tops(self, picks: Sequence[Pick]) -> list[float]:
        """The most weight that each LoRA may get."""
        strongest = [self.limits.max_strength / max(pick.match.vector.strength, 1e-12) for pick in picks]
        own = [own_weight(pick.match, self.rules) for pick in picks]
        return [min(MAX_OVERDRIVE * weight, most) for weight, most in zip(own, strongest, strict=True)]

    def _why_no_effects(self, understanding: Understanding, *, advises: bool) -> str:
        """Why content alone gets nothing."""
        is_long = len(self.reading.text.split()) > _LONG
        if len(understanding.content) > 1 or is_long:
            of_parts = "" if is_long else reasons.why_not_all(self, understanding)
            return f"{reasons.what_is_nearest(self, advises=advises)} {of_parts}".strip()
        selection = self._selected(self.reading.text, None, understanding)
        return reasons.why_content(self.reading, selection.picks[0].match) if selection.picks else selection.reason

    def _nothing(self, reason: str, understanding: Understanding) -> Selection:
        return Selection(self.reading.query.strip(), (), reason, understanding=understanding)


def _emphasis(picks: Sequence[Pick], understanding: Understanding) -> list[float]:
    """By how much the query emphasises what each LoRA is for; 1 where it does not."""
    of_text = {effect.text: effect.weight for effect in understanding.effects}
    of_lora = {effect.lora_id: effect.weight for effect in understanding.effects}
    return [of_text.get(pick.part, of_lora.get(pick.match.lora_id, 1.0)) for pick in picks]
