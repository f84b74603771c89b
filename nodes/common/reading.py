"""What was read in a query, as lines and facts of a report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...carlos_core.database.database import MetricsDatabase
    from ...carlos_core.search.understanding import Effect, Understanding

_TITLES = (("forbidden", "Not wanted"), ("content", "Content, or nothing fits it"), ("ignored", "Weighs nothing"))


def lines(
    understanding: Understanding | None, database: MetricsDatabase | None = None, *, lists_effects: bool = True
) -> list[str]:
    """What was read as what, where that is more than effects, and what may be misspelt.

    Args:
        understanding: what was read.
        database: names the LoRA that fits an effect best.
        lists_effects: whether the effects are listed in any case, each with its LoRA, if there is a database.
    """
    if understanding is None:
        return []
    facts = facts_of(understanding)
    said = [f"{title}: {'; '.join(facts[key])}." for key, title in _TITLES if facts[key]]
    effects = "; ".join(_effect(effect, database if lists_effects else None) for effect in understanding.effects)
    # Without effects and content, nothing was looked for.
    is_said = bool(said or (lists_effects and database is not None)) and bool(effects or understanding.content)
    found = [f"Effects: {effects or 'none'}."] if is_said else []
    unread = [f"Effects in the query were not looked for. {understanding.why_unread}"] if understanding.why_unread else []
    alone = [f"{_effect(effect, database)} would fit if it were asked for alone." for effect in understanding.alone]
    return [*(suggestion.text for suggestion in understanding.did_you_mean), *found, *unread, *said, *alone]


def facts_of(understanding: Understanding | None) -> dict[str, Any]:
    """The same for the last line of a report; empty if no query was read."""
    return {} if understanding is None else understanding.facts


def _effect(effect: Effect, database: MetricsDatabase | None) -> str:
    record = None if database is None else database.row(effect.lora_id)
    return effect.text if record is None else f"{effect.text} (best: {record.name})"
