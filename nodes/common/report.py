"""Reports: readable text whose last line is the same facts as strict JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ...carlos_core.counting import counted
from ...carlos_core.counting import number as number  # noqa: PLC0414
from ...carlos_core.facts_text import facts_text as facts_text  # noqa: PLC0414
from ...carlos_core.foreign import printable

if TYPE_CHECKING:
    from ...carlos_core.database.database import MetricsDatabase


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
    return Report("\n".join([*map(printable, lines), said]), said)


def database_line(database: MetricsDatabase) -> str:
    """Which database a node has used, in words."""
    of = database_facts(database)
    name = f"database {of['file']}" if of["file"] else "a database without a file"
    read_only = " (bundled, read-only)" if database.read_only else ""
    return f"{name}{read_only}: {counted(of['rows'], 'LoRA')}, encoder {of['encoder_id'] or 'unknown'}"


def database_facts(database: MetricsDatabase) -> dict[str, Any]:
    """Which database a node has used, as scripts read it. file: null if it has none."""
    file = database.path.name if database.path is not None else None
    return {"file": file, "rows": len(database), "encoder_id": database.encoder_id}


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table in columns of equal width; numbers are aligned right, words left."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        return "  ".join(
            cell.rjust(width) if _is_number(rows, column) else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()

    return [line(header), *map(line, rows)]


def _is_number(rows: Sequence[Sequence[str]], column: int) -> bool:
    return all(row[column].replace(".", "").replace("-", "").isdigit() or row[column] == "-" for row in rows)
