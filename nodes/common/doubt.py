"""What a report says above a list of matches that may not fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...carlos_core.search.matches import Confidence, Matches
    from ...carlos_core.search.understanding import Understanding

_DOUBT = "Probably nothing fits: for an effect that none of these LoRAs has, the best would look this good {:.0%} of the time."


def lines(matches: Matches, understanding: Understanding | None) -> list[str]:
    """Why no LoRA is passed on, or that none may fit. understanding: what was read in the query, if it was read."""
    return _judged(matches, understanding) if matches.is_judged else _doubt(matches.surest, understanding)


def _judged(matches: Matches, understanding: Understanding | None) -> list[str]:
    """Why no LoRA is passed on, or what a low confidence says beside one that is sure enough for a part of the query."""
    if matches.doubt:
        return [f"No LoRA is passed on. {matches.doubt}"]
    effects = () if understanding is None else understanding.effects
    is_unsure = any(match.is_sure and match.confidence is not None and not match.confidence.fits for match in matches.items)
    is_of_part = is_unsure and any(effect.text != matches.query for effect in effects)
    said = "The confidence is that of the whole query. A LoRA that fits one of its effects surely enough is passed on, too."
    return [said] if is_of_part else []


def _doubt(surest: Confidence | None, understanding: Understanding | None) -> list[str]:
    """That not even the surest match fits, where it was not asked how sure it must be."""
    if surest is None or surest.fits:
        return []
    if understanding is not None and understanding.effects:
        return ["No LoRA fits the query as a whole surely, but some fit parts of it: see Effects. Auto LoRA takes one for each."]
    return [_DOUBT.format(surest.p_value)]
