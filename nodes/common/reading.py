"""What was read in a query, as lines and facts of a report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...carlos_core.search.understanding import Understanding

_TITLES = (("forbidden", "Not wanted"), ("content", "Content, or nothing fits it"), ("ignored", "Weighs nothing"))


def lines(understanding: Understanding | None) -> list[str]:
    """What was read as what, where that is more than effects, and what may be misspelt."""
    if understanding is None:
        return []
    facts = facts_of(understanding)
    said = [f"{title}: {'; '.join(facts[key])}." for key, title in _TITLES if facts[key]]
    effects = "; ".join(effect.text for effect in understanding.effects)
    # Without effects and content, nothing was looked for.
    found = [f"Effects: {effects or 'none'}."] if said and (effects or understanding.content) else []
    return [*(suggestion.text for suggestion in understanding.did_you_mean), *found, *said]


def facts_of(understanding: Understanding | None) -> dict[str, Any]:
    """The same for the last line of a report; empty if no query was read."""
    return {} if understanding is None else understanding.facts
