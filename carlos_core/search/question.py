"""A query of Auto LoRA, from what was read in it to LoRAs with weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import RetrievalError
from ..progress import OnProgress
from .calibration import LIKELY, WEAK, Background, confidences, word_for
from .content import ContentTails, corrected
from .keeping import keeping
from .language import knows_other_languages, other_language
from .limits import ANY, CALIBRATED, ChoiceRules, SearchLimits
from .matches import Confidence, Match, Matches, matches_at
from .queries import but_not
from .reading import Reading, plain_word
from .selection import CANDIDATES, Pick, Selection, own_weight, parts_of, select, with_nearest
from .understanding import MIXED_SHARE, Understanding, Verdict, judged, understand
from .weights import MAX_OVERDRIVE

if TYPE_CHECKING:
    from .searcher import Searcher

_LEVELS = {"clear": LIKELY, "likely": LIKELY, "weak": WEAK}
"""Up to which corrected p-value a phrase counts as an effect, for each `min_confidence`. "clear" is asked of a match alone: the
bank of content is too small to tell phrases of content from effects that surely."""

_LONG = 12
"""A query of more words or of several parts that asks for no effect is only looked at as a whole, to say what comes nearest:
encoding it with all prompts would take longer than all else."""

_FEW = 4
"""Of so many things in a query the report says for each that nothing fits it; in more, most are what the picture shows."""


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

    def selection(self) -> Selection:
        """The LoRAs for the query; none if nothing fits. Raises what `Searcher.choose` does."""
        selection = self._chosen()
        return replace(selection, reason=f"{selection.reason} {self._what_is_in_the_way(selection)}".strip())

    def _chosen(self) -> Selection:
        reading = self.reading
        if not reading.query.strip():
            self.searcher.signature(reading.query)
        understanding = self.understanding
        why_not = self._why_not_asked
        if why_not:
            return self._nothing(why_not, understanding)
        if not understanding.content or understanding.fits_together:
            texts = [effect.text for effect in understanding.effects]
            selection = self._selected(reading.text, texts if len(texts) > 1 else None, understanding)
            # It may be joined by words at which `select` does not part it.
            if selection.picks or not understanding.effects:
                return selection
        if understanding.effects:
            texts = [effect.text for effect in understanding.effects]
            selection = self._selected(", ".join(texts), texts, understanding)
            return replace(selection, reason=f"{selection.reason} {self._why_not_all(understanding)}".strip())
        return self._without_effects(understanding)

    def _what_is_in_the_way(self, selection: Selection) -> str:
        """What would fit if nothing were unwanted, for a query of which something gets no LoRA; empty if that is nothing."""
        negative, forbidden = self.negative.strip(), self.reading.forbidden
        if not (negative or forbidden) or not self._n_allowed or self._why_not_asked:
            return ""
        unwanted = [f"negative_query ({negative!r})"] if negative else []
        unwanted += [f"what the query does not want ({_quoted([phrase.text for phrase in forbidden])})"] if forbidden else []
        free = replace(self, negative="", reading=replace(self.reading, forbidden=()))._chosen()
        if not selection.picks and free.picks:
            return f"What is in the way is {' and '.join(unwanted)}: otherwise {free.picks[0].match.name} would fit."
        pushed_out = _pushed_out(selection, free)
        return f"In the way of {_quoted(pushed_out)} is {' and '.join(unwanted)}." if pushed_out else ""

    @property
    def _why_not_asked(self) -> str:
        """Why the query asks for nothing that could be looked for; empty if it does."""
        if not self.reading.wishes:
            return _why_empty(self.reading)
        return _why_language(self._language) if self._language is not None else ""

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
        return self._matches(text, self.searcher.signature(text))

    def _matches(self, text: str, signature: Tensor) -> Matches:
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
        return [self._best_z(signature) for signature in self.searcher.looks(texts)]

    def closer_looks(self, texts: Sequence[str]) -> list[float | None]:
        """See `understanding.Judge`."""
        return [self._best_z(signature) for signature in self.searcher.looks(texts, closer=True)]

    def verdicts(self, texts: Sequence[str]) -> list[Verdict | None]:
        """See `understanding.Judge`."""
        return [self._verdict(signature) for signature in self.searcher.signatures(texts)]

    def _verdict(self, signature: Tensor) -> Verdict | None:
        best = self._best(signature)
        if best is None:
            return None
        row, z = best
        return Verdict(self._ids[row], z, self._confidence(z).reaches(self.rules.min_confidence))

    def p_value(self, z: float, *, is_content: bool) -> float:
        """See `understanding.Judge`."""
        return max(self._confidence(z).p_value, self._tails.p_value(z, is_known=is_content))

    def _best_z(self, signature: Tensor) -> float | None:
        best = self._best(signature)
        return None if best is None else best[1]

    def _best(self, signature: Tensor) -> tuple[int, float] | None:
        """The row that fits a signature best, and its z-score."""
        if not bool(signature.any()):
            return None
        try:
            signature, barred = self._without_forbidden(self._without_negative(signature))
        except RetrievalError:
            return None
        z = self._z(signature).masked_fill(~self._allowed | barred, -torch.inf)
        row = int(z.argmax())
        return (row, float(z[row])) if bool(torch.isfinite(z[row])) else None

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
        sure = confidences(z, self._n_allowed)
        does_it = torch.tensor([bool(torch.isfinite(each)) and one.fits for each, one in zip(z, sure, strict=True)])
        if not bool(does_it.any()) and sure[int(z.argmax())].reaches("weak"):
            does_it[int(z.argmax())] = True
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

    def _without_effects(self, understanding: Understanding) -> Selection:
        """Nothing, for content alone; the reason says why."""
        is_long = len(self.reading.text.split()) > _LONG
        if len(understanding.content) > 1 or is_long:
            of_parts = "" if is_long else self._why_not_all(understanding)
            return self._nothing(f"{self._what_is_nearest()} {of_parts}".strip(), understanding)
        selection = self._selected(self.reading.text, None, understanding)
        if not selection.picks:
            return selection
        return self._nothing(_why_content(self.reading, selection.picks[0].match), understanding)

    def _why_not_all(self, understanding: Understanding) -> str:
        """Which parts of a query nothing fits, where it names so few things that each is to be told."""
        left = understanding.unfit
        n = len(left) + len(understanding.effects)
        if not left or n > _FEW:
            return ""
        signatures = zip(left, self.searcher.signatures(left), strict=True)
        nearest = (with_nearest(text, self._nearest(text, towards, n)) for text, towards in signatures)
        return f"Nothing fits {' nor '.join(nearest)}."

    def _nearest(self, text: str, signature: Tensor, n: int) -> Match | None:
        """The LoRA that comes nearest to one of `n` things, as sure as `understand` holds it there; None if there is none."""
        best = self._best(signature)
        if best is None:
            return None
        row, z = best
        words = self.searcher.content_words
        alone = judged(self, z, is_content=all(plain_word(word) in words for word in text.split()))
        p_value = min(1.0, corrected(alone, n) / MIXED_SHARE)
        sure = Confidence(z, p_value, word_for(p_value))
        (match,) = matches_at(self.searcher.db, [row], [0.0], self.searcher.installed, [sure])
        # One that is as sure as this, and content all the same: another part explains it.
        return replace(match, confidence=None) if sure.reaches(self.rules.min_confidence) else match

    def _what_is_nearest(self) -> str:
        """Why a prompt gets nothing."""
        text = self.reading.text
        matches = self._matches(text, self.searcher.looks([text])[0])
        if not matches.items:
            return matches.reason
        best = matches.items[0]
        if best.confidence is not None and best.confidence.reaches(self.rules.min_confidence):
            return _why_content(self.reading, best)
        return _why_no_effect(self.reading, best)

    def _nothing(self, reason: str, understanding: Understanding) -> Selection:
        return Selection(self.reading.query.strip(), (), reason, understanding=understanding)


def _pushed_out(selection: Selection, free: Selection) -> list[str]:
    """The parts of a query that get a LoRA only if nothing is unwanted. free: the selection then."""
    ids = {pick.match.lora_id for pick in selection.picks}
    gone = [pick.part for pick in free.picks if pick.match.lora_id not in ids] if len(free.picks) > len(ids) else []
    unfit = selection.understanding.unfit if selection.understanding is not None else ()
    effects = free.understanding.effects if free.understanding is not None else ()
    return list(dict.fromkeys([*gone, *(effect.text for effect in effects if effect.text in unfit)]))


def _quoted(texts: Sequence[str]) -> str:
    return ", ".join(map(repr, texts))


def _emphasis(picks: Sequence[Pick], understanding: Understanding) -> list[float]:
    """By how much the query emphasises what each LoRA is for; 1 where it does not."""
    of_text = {effect.text: effect.weight for effect in understanding.effects}
    of_lora = {effect.lora_id: effect.weight for effect in understanding.effects}
    return [of_text.get(pick.part, of_lora.get(pick.match.lora_id, 1.0)) for pick in picks]


def _why_empty(reading: Reading) -> str:
    if reading.forbidden:
        return "The query only says what is not wanted: no LoRA is needed for that."
    return "The query asks for no effect: it holds only words and marks that say nothing alone."


def _why_language(language: str) -> str:
    return f"The query seems to be in {language}, which the encoder hardly knows: ask in English."


def _why_no_effect(reading: Reading, nearest: Match) -> str:
    return (
        f"Nothing in {reading.query.strip()!r} asks surely enough for what a LoRA of this library does (what comes nearest is "
        f"{nearest.name}): name the effect alone, or lower min_confidence."
    )


def _why_content(reading: Reading, best: Match) -> str:
    return (
        f"Nothing fits {reading.query.strip()!r}: phrases that ask for no effect find LoRAs that fit as well as {best.name} does."
    )
