"""Reports: readable text whose last line is the same facts as strict JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ...carlos_core.counting import number as number  # noqa: PLC0414
from ...carlos_core.database.told import database_facts as database_facts  # noqa: PLC0414
from ...carlos_core.database.told import database_line as database_line  # noqa: PLC0414
from ...carlos_core.facts_text import facts_text as facts_text  # noqa: PLC0414
from ...carlos_core.foreign import printable
from ...carlos_core.measuring.failures import Failure, alike

_FOR_PROGRAMS = "The same for programs, as JSON:"
"""Comes before the last line, so that nobody else reads on."""


class Report(NamedTuple):
    """What a node says."""

    text: str
    """For people, with the facts as its last line."""

    facts: str
    """The last line alone: one JSON object."""


def report(lines: Sequence[str], facts: Mapping[str, Any]) -> Report:
    """Text for people, then one JSON object on the last line. Numbers that are undefined are null there.

    Whatever names hold, each line stays one, and the text can be written as UTF-8.
    """
    said = facts_text(facts)
    return Report("\n".join([*map(printable, lines), "", _FOR_PROGRAMS, said]), said)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table in columns of equal width; numbers are aligned right, words left."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        return "  ".join(
            cell.rjust(width) if _is_number(rows, column) else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()

    return [line(header), *map(line, rows)]


def said_once(word: str, said: Iterable[Failure]) -> Iterator[str]:
    """A line for each reason; for one that several files share, with their number, and a line with their names."""
    for group in alike(said):
        if len(group.files) == 1:
            yield f"{word}: {group.files[0]}: {group.reason}"
        else:
            yield f"{word}: {len(group.files)} LoRAs alike: {group.reason}"
            yield f"    they are: {', '.join(group.files)}"


def _is_number(rows: Sequence[Sequence[str]], column: int) -> bool:
    return all(row[column].replace(".", "").replace("-", "").isdigit() or row[column] == "-" for row in rows)
