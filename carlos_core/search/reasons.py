"""Why a question gets no LoRA, or not for all that it asks for, in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from .calibration import word_for
from .content import corrected
from .limits import BEST_ONE, ChoiceRules
from .matches import Confidence, Match, matches_at
from .reading import Reading, plain_word
from .selection import Selection, parts_of, with_nearest
from .understanding import MIXED_SHARE, Understanding, judged

if TYPE_CHECKING:
    from torch import Tensor

    from .question import Question

_FEW = 4
"""Of so many things in a query the report says for each that nothing fits it; in more, most are what the picture shows."""


def lacks_something(selection: Selection, rules: ChoiceRules, reading: Reading) -> bool:
    """Whether a part of a query may have been left without a LoRA because of what is unwanted."""
    most = 1 if rules.mode == BEST_ONE else rules.max_loras
    n_asked = min(most, len(parts_of(reading.text)))
    is_unfit = selection.understanding is not None and bool(selection.understanding.unfit)
    return len(selection.picks) < n_asked or is_unfit


def in_the_way(selection: Selection, freed: Mapping[str, Selection]) -> str:
    """What keeps LoRAs from what the query asks for; empty if nothing does.

    freed: what is unwanted, in words -> the choice without it.
    """
    causes: dict[str, tuple[str, ...]] = {}
    for cause, free in freed.items():
        lost = _pushed_out(selection, free) if selection.picks else [pick.match.name for pick in free.picks[:1]]
        for each in lost:
            causes[each] = (*causes.get(each, ()), cause)
    lost_by = {those: [each for each, its in causes.items() if its == those] for those in dict.fromkeys(causes.values())}
    if selection.picks:
        return " ".join(f"In the way of {quoted(lost)} is {' or '.join(those)}." for those, lost in lost_by.items())
    return " ".join(
        f"What is in the way is {' or '.join(those)}: otherwise {lost[0]} would fit." for those, lost in lost_by.items()
    )


def _pushed_out(selection: Selection, free: Selection) -> list[str]:
    """The parts of a query that get a LoRA only if less is unwanted. free: the selection then."""
    ids = {pick.match.lora_id for pick in selection.picks}
    gone = [pick.part for pick in free.picks if pick.match.lora_id not in ids] if len(free.picks) > len(ids) else []
    unfit = selection.understanding.unfit if selection.understanding is not None else ()
    effects = free.understanding.effects if free.understanding is not None else ()
    return list(dict.fromkeys([*gone, *(effect.text for effect in effects if effect.text in unfit)]))


def idle_negative(question: Question, selection: Selection) -> str:
    """That a negative query plays no part in what was chosen; empty if it does, or if there is none."""
    negative = question.negative.strip()
    texts = [pick.part for pick in selection.picks] or [question.reading.text]
    if not negative or question.finds_other_as(replace(question, negative=""), texts):
        return ""
    same = "the same LoRAs come first" if selection.picks else "nothing fits either"
    return f"negative_query ({negative!r}) plays no part here: without it, {same}."


def quoted(texts: Sequence[str]) -> str:
    """Texts in quotes: "'snow', 'fog'"."""
    return ", ".join(map(repr, texts))


def why_empty(reading: Reading) -> str:
    """Why a query asks for nothing."""
    if reading.forbidden:
        return "The query only says what is not wanted: no LoRA is needed for that."
    return "The query asks for no effect: it holds only words and marks that say nothing alone."


def why_language(language: str) -> str:
    """Why a query in a language that the encoder hardly knows is not looked for."""
    return f"The query seems to be in {language}, which the encoder hardly knows: ask in English."


def why_content(reading: Reading, best: Match) -> str:
    """Why a match that looks sure is not taken."""
    return (
        f"Nothing fits {reading.query.strip()!r}: phrases that ask for no effect find LoRAs that fit as well as {best.name} does."
    )


def why_not_all(question: Question, understanding: Understanding) -> str:
    """Which parts of a query nothing fits, where it names so few things that each is to be told."""
    left = understanding.unfit
    n = len(left) + len(understanding.effects)
    if not left or n > _FEW:
        return ""
    signatures = zip(left, question.searcher.signatures(left), strict=True)
    nearest = (with_nearest(text, _nearest(question, text, towards, n)) for text, towards in signatures)
    return f"Nothing fits {' nor '.join(nearest)}."


def _nearest(question: Question, text: str, signature: Tensor, n: int) -> Match | None:
    """The LoRA that comes nearest to one of `n` things, as sure as `understand` holds it there; None if there is none."""
    best = question.best(signature)
    if best is None:
        return None
    words = question.searcher.content_words
    alone = judged(question, best.z, is_content=all(plain_word(word) in words for word in text.split()))
    p_value = min(1.0, corrected(alone, n) / MIXED_SHARE)
    sure = Confidence(best.z, p_value, word_for(p_value))
    (match,) = matches_at(question.searcher.db, [best.row], [0.0], question.searcher.installed, [sure])
    # One that is as sure as this, and content all the same: another part explains it.
    return replace(match, confidence=None) if sure.reaches(question.rules.min_confidence) else match


def what_is_nearest(question: Question, *, advises: bool) -> str:
    """Why a prompt gets nothing. advises: whether to say how to ask instead."""
    reading = question.reading
    matches = question.matches(reading.text, question.searcher.looks([reading.text])[0])
    if not matches.items:
        return matches.reason
    best = matches.items[0]
    if best.confidence is not None and best.confidence.reaches(question.rules.min_confidence):
        return why_content(reading, best)
    advice = ": name the effect alone, or lower min_confidence" if advises else ""
    return (
        f"Nothing in {reading.query.strip()!r} asks surely enough for what a LoRA of this library does (what comes nearest is "
        f"{best.name}){advice}."
    )
