"""Several databases into one: of a LoRA that more than one of them knows, the better row stays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import DatabaseError
from .presets import CUSTOM, PRESETS

if TYPE_CHECKING:
    from ..database.database import MetricsDatabase
    from ..database.target import Target
    from ..records import MeasuredRow


@dataclass
class Merged:
    """What became of rows that were brought into a database, by id there."""

    added: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    """A better row of the same LoRA came."""

    kept: list[str] = field(default_factory=list)
    """The row that was there is as good or better."""


def merge_into(target: Target, sources: Iterable[MetricsDatabase]) -> Merged:
    """Bring the rows of databases into another one, which is written once. Raises DatabaseError; then nothing is changed.

    Rows of one content are of one LoRA, whatever they are called. Of two, the better one stays (`is_better`).
    """
    sources = list(sources)
    merged: list[Merged] = []

    def bring(database: MetricsDatabase) -> None:
        merged.append(Merged())
        for source in sources:
            _bring(database, source, merged[-1])

    target.change(bring)
    return merged[-1]


def is_better(row: MeasuredRow, by: Mapping[str, Any], other: MeasuredRow, other_by: Mapping[str, Any]) -> bool | None:
    """Whether a row was measured better than another one of the same LoRA; None if neither was.

    Of two presets the fuller one is better (`race` < `quick` < `standard` < `paper`), and beside `custom` the one with more
    pairs of pictures: the order that an indexing run goes by. What has no preset, as the published rows, counts as `custom`.

    Args:
        row: a row.
        by: its protocol, as its database describes it.
        other: the other row.
        other_by: its protocol.
    """
    presets = [described.get("preset", CUSTOM) for described in (by, other_by)]
    if all(preset in PRESETS for preset in presets):
        ours, theirs = (list(PRESETS).index(preset) for preset in presets)
    else:
        ours, theirs = row.n_images or 0, other.n_images or 0
    return None if ours == theirs else ours > theirs


def _bring(database: MetricsDatabase, source: MetricsDatabase, merged: Merged) -> None:
    if source.check_encoder() != database.check_encoder():
        raise DatabaseError(
            f"The rows of {source.name} were measured with {source.encoder_id}, those of {database.name} with "
            f"{database.encoder_id}.",
            "Rows of different encoders belong in different databases.",
        )
    new: list[str] = []
    for identity, measured in zip(source.identities, source.measured, strict=True):
        lora_id = database.id_of(identity.lora_id, identity.sha256)
        there = database.row(lora_id)
        if there is None:
            new.append(identity.lora_id)
            continue
        record = source.row(identity.lora_id)
        assert record is not None, "it is one of its rows"
        described = source.protocols.get(measured.protocol_id or "") or {}
        theirs = database.protocols.get(there.protocol_id or "") or {}
        better = is_better(measured, described, there.measured, theirs)
        is_newer = (record.indexed_at or "") > (there.indexed_at or "")
        if better or (better is None and is_newer):
            database.upsert(record, described or None)
            merged.replaced.append(lora_id)
        else:
            merged.kept.append(lora_id)
    merged.added += database.add_rows(source, new)
