"""What commands say of LoRAs and databases, as programs read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..counting import number
from ..database import told
from ..database.told import database_line as database_line  # noqa: PLC0414
from ..loras.listed import posix as posix  # noqa: PLC0414
from .output import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..database.database import MetricsDatabase
    from ..loras.matching import Resolved
    from ..records import LoraRecord
    from ..search.matches import Match
    from .places import Places


def lora_facts(record: LoraRecord, file: str | None, places: Places) -> dict[str, Any]:
    """Who a LoRA is and how it is used. file: its name as listed; None if it is not here."""
    from ..loras.trigger_words import used

    entry = places.library.entry(file) if file is not None else None
    words = record.metadata.trigger_words
    if words is None and entry is not None:
        # The published rows do not say; the file or a sidecar may.
        words = entry.metadata.trigger_words
    named = posix(file) if file is not None else record.file_name
    return {
        "lora_id": record.lora_id,
        "name": named if record.name == record.lora_id and named else record.name,
        "file": named,
        "path": str(entry.path) if entry is not None else None,
        "installed": file is not None,
        "trigger_words": list(used(words or ())),
        "suggested_weight": record.suggested_weight,
        "strength": record.strength,
        "consistency": record.consistency,
        "base_model": record.metadata.base_model,
        "version_id": record.metadata.version_id,
        "described_as": record.described_as,
    }


def match_facts(match: Match, files: Mapping[str, Resolved], places: Places) -> dict[str, Any]:
    """A match of a search."""
    where = files.get(match.lora_id)
    sure = match.confidence
    return {
        "rank": match.rank,
        **lora_facts(match.record, match.file, places),
        "score": match.score,
        "confidence": None if sure is None else sure.word,
        "p_value": None if sure is None else sure.p_value,
        "sure_enough": match.is_sure,
        "found_by": where.by if where is not None and match.file is not None else None,
    }


def matches_table(matches: Sequence[Mapping[str, Any]], score: str = "score") -> Table:
    """Matches, given as their facts. score: what the scores are called."""
    has_confidence = any(match.get("confidence") for match in matches)
    is_described = any(match["described_as"] for match in matches)
    header = (
        *("#", "LoRA", score),
        *(["confidence"] if has_confidence else []),
        *("strength", "installed", "base model"),
        *(["nearest phrases"] if is_described else []),
    )
    rows = [
        (
            str(match["rank"]),
            match["name"],
            number(match["score"]),
            *([match["confidence"] or "-"] if has_confidence else []),
            number(match["strength"], 2),
            "yes" if match["installed"] else "no",
            match["base_model"] or "-",
            *([match["described_as"] or "-"] if is_described else []),
        )
        for match in matches
    ]
    return Table(header, rows, ("#", score, "strength"))


def database_facts(database: MetricsDatabase) -> dict[str, Any]:
    """Which database was used, and where it is."""
    path = str(database.path) if database.path is not None else None
    return {**told.database_facts(database), "path": path, "read_only": database.read_only}
