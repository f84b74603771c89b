"""What the reports of indexing say in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ... import carlos_core as carlos
from ...carlos_core.counting import counted
from ...carlos_core.drawing.card import short_name
from ...carlos_core.measuring.run_facts import misses_of
from ...carlos_core.search.limits import NO_CHANGE, TOO_STRONG
from . import descriptions
from .indexing import curve_lines
from .report import number, said_once, table

if TYPE_CHECKING:
    from ...carlos_core.measuring.failures import Failure
    from ...carlos_core.measuring.outcome import Outcome
    from ...carlos_core.records import LayerFit, LoraRecord
    from ...carlos_core.search.limits import Miss

_YES = "yes"
_NAMED = 3

_DETAILS = "Details:"
"""Begins the lines that say how something was measured. What it came to stands above."""


@dataclass(frozen=True)
class Noted:
    """What is to be said of a file that could be measured all the same."""

    file: str
    note: str


@dataclass(frozen=True)
class LibraryRun:
    """What came of the LoRAs of a library run."""

    outcomes: Sequence[Outcome]
    """Of those that are in the database."""

    misfits: Sequence[Failure]
    """Those for other models than the one that is loaded."""

    failures: Sequence[Failure]
    noted: Sequence[Noted]
    words: Mapping[str, str]
    """What LoRAs do, by id."""

    left: Sequence[str] = ()
    """Files that the run did not come to, because it gave way to another workflow."""

    @property
    def new(self) -> list[Outcome]:
        """Those measured just now."""
        return [outcome for outcome in self.outcomes if outcome.is_new]

    @property
    def in_short(self) -> str:
        """What was done: "2 measured, 1 known already, 1 for other models, 0 failed"."""
        others = f", {len(self.misfits)} for other models" if self.misfits else ""
        known = len(self.outcomes) - len(self.new)
        left = f", {len(self.left)} left" if self.left else ""
        return f"{len(self.new)} measured, {known} known already{others}, {len(self.failures)} failed{left}"

    @property
    def on_node(self) -> str:
        """What was done, for the node itself: only what happened."""
        known = len(self.outcomes) - len(self.new)
        counts = (
            (len(self.new), "measured"),
            (known, "known already"),
            (len(self.misfits), "for other models"),
            (len(self.failures), "failed"),
        )
        return f"done: {', '.join(f'{n:,} {what}' for n, what in counts if n) or 'there was nothing to do'}"


def lora_in_short(outcome: Outcome) -> str:
    """What came of one LoRA, for the node itself."""
    row, status = outcome.row, "measured" if outcome.is_new else "known already"
    name = short_name(outcome.lora.name or row.name)
    return f"done: {name} {status}, strength {number(row.strength, 2)}, consistency {number(row.consistency)}"


def lora_lines(outcome: Outcome, does: str | None, details: Sequence[str]) -> list[str]:
    """The report of one LoRA: what was done and what to do next; then what was measured, and how.

    does: what the LoRA does, in words, if that is known. details: further lines for those who want to know.
    """
    row, version = outcome.row, outcome.row.metadata.version_id
    of_version = "" if version is None else f" (CivitAI version {version})"
    change = "" if outcome.change is None else str(outcome.change)
    misses = misses_of(outcome)
    unfound = f"searches with the usual limits will not find it: {'; '.join(map(str, misses))}" if misses else ""
    return [
        f"{outcome.lora.name or row.name}: {outcome.status}{of_version}",
        *([] if does is None else [f"what it does: {does}"]),
        *filter(None, (change, unfound)),
        _next_for(misses),
        _DETAILS,
        *_measured(row),
        *(note for note in outcome.notes if note != change),
        *outcome.file_notes,
        *details,
    ]


def _measured(row: LoraRecord) -> list[str]:
    """What was measured of one LoRA."""
    topics = sorted(row.topics, key=lambda effect: -effect.vector.strength)
    by_topic = ", ".join(f"{effect.topic} {number(effect.vector.strength, 1)}" for effect in topics)
    return [
        f"strength {number(row.strength, 2)} +- {number(row.strength_se, 2)}, "
        f"consistency {number(row.consistency)} +- {number(row.consistency_se)}, "
        f"from {row.n_images} pairs of pictures of {row.n_prompts} prompts",
        *([] if row.alignment is None else [f"direction known to a cosine of about {number(row.alignment)}"]),
        *([f"strength by topic: {by_topic}"] if topics else []),
        *curve_lines(row),
    ]


def _next_for(misses: Sequence[Miss]) -> str:
    """What can be done with a LoRA now."""
    whys = [miss.why for miss in misses]
    if NO_CHANGE in whys:
        return "Next: if it should do something, index it with the checkpoint and trigger words that it was made for."
    if not whys:
        return "Next: ask for what it does with Auto LoRA or LoRA Retriever, on this database."
    limits = " and ".join(f"{'raise' if miss.why == TOO_STRONG else 'lower'} {miss.limit}" for miss in misses)
    return f"Next: to find it all the same, {limits} in Auto LoRA or LoRA Retriever."


def library_lines(run: LibraryRun, details: Sequence[str]) -> list[str]:
    """The report of a library run: what was done and what to do next; a table; what failed and what is odd, where what is said of
    many files is said once; then the details.

    details: lines for those who want to know how it was measured.
    """
    n_all = len(run.outcomes) + len(run.misfits) + len(run.failures) + len(run.left)
    lines = [
        f"{len(run.outcomes)} of {counted(n_all, 'LoRA is', 'LoRAs are')} in the database: {run.in_short}.",
        *_nexts(run),
    ]
    if run.outcomes:
        header = ("status", "LoRA", "found", "strength", "consistency", "images", "alignment", *descriptions.column(run.words))
        rows = [(*_cells(outcome), *descriptions.cell(run.words, outcome.row.lora_id)) for outcome in run.outcomes]
        lines += table(header, rows)
    noted = [carlos.Failure(note.file, note.note) for note in run.noted]
    said = (("failed", run.failures), ("for other models", run.misfits), ("noted", noted))
    return [
        *lines,
        *_not_found(run.outcomes),
        *(line for word, failures in said for line in said_once(word, failures)),
        _DETAILS,
        *details,
    ]


def _of_other_programs(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """How many rows stay whose pictures another program made."""
    counts = Counter(outcome.other_program for outcome in outcomes if outcome.other_program)
    for program, count in counts.items():
        were = counted(count, "LoRA was", "LoRAs were")
        yield f"{were} measured with {program}, on a model of this shape, and stay: overwrite measures them here."


def _nexts(run: LibraryRun) -> Iterator[str]:
    """What can be done now, in a few lines."""
    if run.left:
        left = counted(len(run.left), "LoRA is", "LoRAs are")
        yield f"Another workflow waits, and the run gave way to it: {left} left. Run again to go on; all rows are saved."
    missed = sum(bool(misses_of(outcome)) for outcome in run.outcomes)
    if missed < len(run.outcomes):
        yield "Next: ask for what they do with Auto LoRA or LoRA Retriever, on this database."
    if missed:
        yield f"{counted(missed, 'LoRA')} will not be found with the usual limits: see the column found."
    yield from _of_other_programs(run.outcomes)
    if run.misfits:
        yield f"To measure those for other models, load a checkpoint of their kind: {_named(run.misfits)}."
    if run.failures:
        yield f"What failed, and what to do about it, is listed below: {_named(run.failures)}."


def _named(failures: Sequence[Failure]) -> str:
    """The first names, and how many there are more."""
    names = [failure.file for failure in failures]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"


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


def _cells(outcome: Outcome) -> tuple[str, ...]:
    row = outcome.row
    found = ", ".join(miss.why for miss in misses_of(outcome)) or _YES
    numbers = (number(row.strength, 2), number(row.consistency), str(row.n_images), number(row.alignment))
    return (outcome.status, outcome.lora.name, found, *numbers)
