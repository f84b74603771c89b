"""Which matches of a list are as sure as was asked for, and why none of them is applied."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..progress import OnProgress
from .limits import COMPOSED, ChoiceRules, SearchLimits
from .matches import Match, Matches
from .question import Question
from .reading import read
from .selection import CANDIDATES, Selection

if TYPE_CHECKING:
    from .searcher import Searcher

_NAMED = 3
"""So many LoRAs that are not installed are named."""


def mark_sure(
    searcher: Searcher,
    matches: Matches,
    min_confidence: str,
    limits: SearchLimits,
    ranking: str,
    on_progress: OnProgress | None = None,
) -> tuple[Matches, Selection]:
    """The matches of a query, each marked by whether `Searcher.choose` would hold it for sure enough, and what it would choose.

    What fits the query or one of its effects best is among them: if it was not, it takes the place of one that is not sure. If
    no such LoRA is installed, the best installed one that is sure takes the place of one that is not installed.

    Args:
        searcher: what found them.
        matches: what was found for the query as a whole.
        min_confidence: one of CONFIDENCES.
        limits: which LoRAs might be found.
        ranking: as that of the search.
        on_progress: called while banks are encoded.

    Raises what `Searcher.choose` does.
    """
    n = max(CANDIDATES, len(matches))
    # More than one LoRA, so that each effect is looked for.
    rules = ChoiceRules(COMPOSED, max_loras=2, min_confidence=min_confidence)
    question = Question(searcher, read(matches.query), "", rules, limits, ranking, on_progress, n, minds_installed=True)
    selection = question.selection()
    items = _with_leaders(searcher, matches, selection, limits, ranking)
    items = tuple(replace(match, is_sure=match.lora_id in selection.fitting) for match in items)
    marked = replace(matches, items=items, is_judged=True)
    is_doubted = bool(items) and not marked.installed
    return replace(marked, doubt=_why_doubted(marked, selection, min_confidence) if is_doubted else ""), selection


def _with_leaders(
    searcher: Searcher, matches: Matches, selection: Selection, limits: SearchLimits, ranking: str
) -> tuple[Match, ...]:
    """Matches with those that fit the query or an effect of it best, in the order of the ranking, and no more than before."""
    effects = selection.understanding.effects if selection.understanding is not None else ()
    leaders = {pick.match.lora_id for pick in selection.picks}
    leaders |= {effect.lora_id for effect in effects if effect.lora_id in selection.fitting}
    at_hand = selection.fitting & searcher.installed.keys()
    items = matches.items
    missing = (leaders | at_hand) - {match.lora_id for match in items}
    if not missing or matches.signature is None:
        return items
    background = searcher.background()
    ranked = searcher.placed(missing, matches.signature, limits, ranking=ranking, background=background)
    items = _with(items, [match for match in ranked if match.lora_id in leaders], keeps=selection.fitting)
    if any(match.lora_id in at_hand for match in items):
        return items
    return _with(items, [match for match in ranked if match.lora_id in at_hand][:1], keeps=searcher.installed.keys())


def _with(items: Sequence[Match], further: Sequence[Match], keeps: Collection[str]) -> tuple[Match, ...]:
    """Items with others in the places of their last ones, except for those that it keeps; best first."""
    going = [match.lora_id for match in items if match.lora_id not in keeps]
    n_going = len(further[: len(going)])
    left = [match for match in items if match.lora_id not in going[len(going) - n_going :]]
    return tuple(sorted([*left, *further[:n_going]], key=lambda match: match.rank))


def _why_doubted(matches: Matches, selection: Selection, min_confidence: str) -> str:
    """Why none of the matches is applied."""
    sure = [match.name for match in matches.items if match.is_sure]
    if not sure:
        return selection.reason
    named = ", ".join(sure[:_NAMED]) + (f" and {len(sure) - _NAMED} more" if len(sure) > _NAMED else "")
    is_one = len(sure) == 1
    said = f"What fits surely enough is not installed: {named}. Put {'it' if is_one else 'one of them'} into models/loras."
    if all(match.file is None for match in matches.items):
        return said
    return f"{said} No LoRA that is installed fits as well as min_confidence ({min_confidence}) asks."
