"""What Auto LoRA says of what it applied: in its report, for programs, and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...carlos_core.counting import counted
from ...carlos_core.drawing import theme
from ...carlos_core.drawing.listing import Listing, Row, Said
from ...carlos_core.loras.listed import posix
from ...carlos_core.search import limits
from . import descriptions, names, pictures, preferred, race_report, reading, start, weak_loras
from .auto_choice import Selected
from .choice import facts_of
from .report import database_facts, database_line, number, table

if TYPE_CHECKING:
    from ...carlos_core.database.database import MetricsDatabase
    from ...carlos_core.records import AppliedLora
    from ...carlos_core.search.selection import Selection
    from .applying import Applied
    from .racing import Raced

_GIVEN = (
    "The input choice was given: its {}, and query and all other settings are not used. Empty choice to have LoRAs chosen again."
)


@dataclass(frozen=True, eq=False)
class Told:
    """What is said of a choice."""

    lines: list[str]
    """Of the report."""

    facts: dict[str, Any]
    """For the report's JSON."""

    listing: Listing
    """The choice as a picture."""


def of_given(query: str, applied: Applied, unlike: Sequence[str], database: MetricsDatabase) -> Told:
    """Of a choice that the node was given. unlike: which LoRAs of it are not what was measured, in words."""
    loras = applied.loras
    lines = [_GIVEN.format(counted(len(loras), "LoRA is applied as it is", "LoRAs are applied as they are"))]
    notes = [*unlike, *applied.warnings]
    facts = _facts(query, loras, "chosen before", notes, database)
    return Told([*lines, *notes, database_line(database)], facts, _chosen_before(loras, [*lines, *notes], database))


def of_choice(
    query: str,
    selected: Selected,
    applied: Applied,
    not_applied: Sequence[str],
    *,
    database: MetricsDatabase,
    raced: Raced | None,
) -> Told:
    """Of a choice that the node made.

    Args:
        query: what was asked.
        selected: what is applied, and how it was chosen.
        applied: the same on the model.
        not_applied: which LoRAs were left out because they could not be applied, in words.
        database: where they were found.
        raced: the race that went before, if there was one.
    """
    selection, rules, allowed, gone, then, first = selected
    chosen = [pick.match for pick in selection.picks]
    ids = {match.lora_id for match in chosen}
    of_race = [] if raced is None else [race_report.in_short(raced)]
    named = names.notes_of(query, database, allowed, is_lost=not chosen, chosen=ids)
    weak = weak_loras.notes_of_choice(database, selection, rules)
    made_for = preferred.notes_of(allowed.preference, chosen, database)
    after = [*allowed.notes, *gone, *not_applied, *applied.warnings]
    notes = [*of_race, *selection.notes, *named, *weak, *made_for, *after]
    filters = allowed.limits.filters(database, allowed.installed)
    # Where nothing was found, the reason may have them already.
    of_filters = limits.told(filters, len(database))
    filtered = [of_filters] if of_filters and of_filters not in selection.reason else []
    of_start = start.lines(first)
    facts = {
        **_facts(query, applied.loras, selection.reason, notes, database),
        "next": then,
        "left_out": allowed.facts,
        **preferred.facts_of(allowed.preference, chosen),
        "reading": reading.facts_of(selection.understanding),
        "filters": [each._asdict() for each in filters],
        "keep_content": None if selection.keeping is None else selection.keeping.facts,
        **start.facts_of(first),
        **({} if raced is None else {"race": raced.facts}),
    }
    lines = [
        *_table(selection, applied.loras, descriptions.of_matches(database, chosen), then),
        *of_start,
        *reading.lines(selection.understanding, database, lists_effects=False),
        *notes,
        *filtered,
        database_line(database),
    ]
    kept = () if selection.keeping is None else selection.keeping.notes
    doubts = [*([then] if then else []), *of_race, *kept, *weak, *gone, *not_applied, *applied.warnings, *of_start]
    return Told(lines, facts, _listing(selection, doubts, database))


def _facts(
    query: str, loras: Sequence[AppliedLora], reason: str, notes: Sequence[str], database: MetricsDatabase
) -> dict[str, Any]:
    """What a report's JSON always has."""
    return {
        "query": query.strip(),
        "choice": [facts_of(lora) for lora in loras],
        "reason": reason,
        "notes": list(notes),
        "next": "",
        "left_out": {},
        "reading": reading.facts_of(None),
        "filters": [],
        "database": database_facts(database),
        "keep_content": None,
    }


def _table(selection: Selection, chosen: Sequence[AppliedLora], words: Mapping[str, str], then: str) -> list[str]:
    """What was chosen. then: what to do next, where nothing is applied."""
    if not chosen:
        return [selection.reason, *([then] if then else [])]
    # By the whole query: of several LoRAs each does a part of it.
    score = "score" if len(chosen) == 1 else "score for all"
    header = ("for", "LoRA", "weight", score, "confidence", "strength", "file", *descriptions.column(words))
    cells = [
        (
            pick.part,
            pick.match.name,
            number(pick.weight, 2),
            number(pick.score),
            pick.match.confidence.word if pick.match.confidence else "-",
            number(pick.match.vector.strength, 2),
            posix(lora.file),
            *descriptions.cell(words, pick.match.lora_id),
        )
        for pick, lora in zip(selection.picks, chosen, strict=True)
    ]
    return [f"LoRAs for {selection.query!r}: {selection.reason}".strip(": "), *table(header, cells)]


def _listing(selection: Selection, doubts: Sequence[str], database: MetricsDatabase) -> Listing:
    """What was chosen, as a picture. doubts: what was left out and why, and what of the LoRAs has no effect."""
    rows, notes = pictures.Rows(database), [Said(line, theme.DOUBTFUL) for line in doubts]
    if not selection.picks:
        return rows.listing(Said("No LoRA is applied", theme.DOUBTFUL), [Said(selection.reason), *notes])
    drawn = []
    weights = pictures.weights([pick.weight for pick in selection.picks])
    for pick, weight in zip(selection.picks, weights, strict=True):
        part = "" if pick.part == selection.query else pick.part
        drawn.append(rows.of_applied(pick.match.record, pick.match.name, weight, pick.match.confidence, part))
    title = Said(f"LoRAs for “{selection.query}”")
    return rows.listing(title, [Said(selection.reason, theme.QUIET), *notes], drawn, len(drawn))


def _chosen_before(loras: Sequence[AppliedLora], notes: Sequence[str], database: MetricsDatabase) -> Listing:
    """A choice made before, as a picture. notes: what the report says of it."""
    rows, drawn = pictures.Rows(database), []
    for lora, weight in zip(loras, pictures.weights([lora.weight for lora in loras]), strict=True):
        record = database.row(lora.lora_id)
        drawn.append(Row(posix(lora.file), (), (weight,)) if record is None else rows.of_applied(record, record.name, weight))
    return rows.listing(Said("LoRAs chosen before"), [Said(line, theme.QUIET) for line in notes], drawn, len(drawn))
