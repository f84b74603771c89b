"""What the reports of indexing say in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ... import carlos_core as carlos
from . import descriptions
from .indexing import curve_lines, misses_of
from .report import number, table

if TYPE_CHECKING:
    from ...carlos_core.measuring.failures import Failure
    from ...carlos_core.measuring.indexer import Outcome
    from ...carlos_core.records import LayerFit

_YES = "yes"


@dataclass(frozen=True)
class Noted:
    """What is to be said of a file that could be measured all the same."""

    file: str
    note: str


def lora_lines(outcome: Outcome) -> list[str]:
    """The report of one LoRA."""
    row = outcome.row
    topics = sorted(row.topics, key=lambda effect: -effect.vector.strength)
    by_topic = ", ".join(f"{effect.topic} {number(effect.vector.strength, 1)}" for effect in topics)
    version = row.metadata.version_id
    of_version = "" if version is None else f" (CivitAI version {version})"
    return [
        f"{outcome.lora.name or row.name}: {outcome.status}{of_version}",
        f"strength {number(row.strength, 2)} +- {number(row.strength_se, 2)}, "
        f"consistency {number(row.consistency)} +- {number(row.consistency_se)}, "
        f"from {row.n_images} pairs of pictures of {row.n_prompts} prompts",
        *([] if row.alignment is None else [f"direction known to a cosine of about {number(row.alignment)}"]),
        *(f"searches with the usual limits will not find it: {miss}" for miss in misses_of(outcome)),
        *([f"strength by topic: {by_topic}"] if topics else []),
        *curve_lines(row),
        *outcome.notes,
        *outcome.file_notes,
    ]


def library_lines(
    outcomes: Sequence[Outcome], failures: Sequence[Failure], notes: Sequence[Noted], words: Mapping[str, str]
) -> list[str]:
    """The report of a library run: a table, then what failed and what is odd. What is said of many files is said once.

    words: what LoRAs do, by id.
    """
    n_all = len(outcomes) + len(failures)
    lines = [f"{len(outcomes)} of {n_all} LoRAs are in the database, {len(failures)} failed"]
    if outcomes:
        header = ("status", "LoRA", "found", "strength", "consistency", "images", "alignment", *descriptions.column(words))
        lines += table(header, [(*_cells(outcome), *descriptions.cell(words, outcome.row.lora_id)) for outcome in outcomes])
    noted = [carlos.Failure(note.file, note.note) for note in notes]
    return [*lines, *_not_found(outcomes), *_said_once("failed", failures), *_said_once("noted", noted)]


def noted(outcomes: Iterable[Outcome], fits: Mapping[str, LayerFit]) -> Iterator[Noted]:
    """What is to be said of files that are in the database. fits: by name."""
    for outcome in outcomes:
        name = outcome.lora.name
        yield from (Noted(name, note) for note in outcome.file_notes)
        fit = fits.get(name)
        if fit is not None and fit.layers < fit.of:
            yield Noted(name, f"{fit.layers} of {fit.of} layers match this model")
        if not outcome.has_effect:
            yield Noted(name, "no measurable effect")
        if outcome.change is not None:
            yield Noted(name, outcome.change.in_short)


def not_found_facts(outcomes: Iterable[Outcome]) -> list[dict[str, Any]]:
    """The LoRAs that searches with the usual limits will never find, and why, as scripts read it."""
    return [{"file": outcome.lora.name, **vars(miss)} for outcome in outcomes for miss in misses_of(outcome)]


def _not_found(outcomes: Iterable[Outcome]) -> Iterator[str]:
    """A line for each limit, with the LoRAs that it misses and what was measured."""
    by_limit: dict[tuple[str, str, float], list[str]] = {}
    for outcome in outcomes:
        for miss in misses_of(outcome):
            files = by_limit.setdefault((miss.why, miss.limit, miss.bound), [])
            files.append(f"{outcome.lora.name} ({number(miss.value)})")
    for (why, limit, bound), files in by_limit.items():
        yield f"not found by searches with the usual limits: {why} ({limit} is {bound:g}): {', '.join(files)}"


def _said_once(word: str, said: Sequence[Failure]) -> Iterator[str]:
    """A line for each reason; for one that several files share, with their number, and a line with their names."""
    for group in carlos.alike(said):
        if len(group.files) == 1:
            yield f"{word}: {group.files[0]}: {group.reason}"
        else:
            yield f"{word}: {len(group.files)} LoRAs alike: {group.reason}"
            yield f"    they are: {', '.join(group.files)}"


def _cells(outcome: Outcome) -> tuple[str, ...]:
    row = outcome.row
    found = ", ".join(miss.why for miss in misses_of(outcome)) or _YES
    numbers = (number(row.strength, 2), number(row.consistency), str(row.n_images), number(row.alignment))
    return (outcome.status, outcome.lora.name, found, *numbers)
