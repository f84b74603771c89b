"""Answers of commands: tables for people, one JSON object for programs."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from ..errors import CarlosError
from ..facts_text import facts_text
from ..foreign import printable
from .codes import DONE

ENVELOPE = 1
"""Version of the JSON envelope. Keys are added to it; one that is taken away or means something else makes it a 2."""

_WIDE = 100_000
"""Columns where no terminal breaks lines: then each row of a table is one line."""


@dataclass(frozen=True)
class Table:
    """Rows for people. Of what does not fit into the width, names go on in the next line: nothing is cut off."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Sequence[str] = ()
    """Columns that are aligned right."""


@dataclass(frozen=True)
class Answer:
    """What a command came to."""

    result: Mapping[str, Any]
    """For programs; the documented keys of the command."""

    shown: Sequence[str | Table]
    """For people."""

    notes: Sequence[str] = ()
    """What is to be said besides, for both."""

    code: int = DONE
    """The exit status, see `codes`."""


def show(command: str, answer: Answer, *, as_json: bool) -> None:
    """Write an answer to stdout."""
    if as_json:
        _write({"carlos": ENVELOPE, "command": command, "ok": True, "result": answer.result, "notes": list(answer.notes)})
        return
    console = console_of(sys.stdout)
    for part in (*answer.shown, *answer.notes):
        _show(console, part)


def show_error(command: str, error: CarlosError, *, as_json: bool) -> None:
    """Write an error: as JSON to stdout, in words to stderr."""
    if as_json:
        kind = type(error).__name__
        said = {"what": error.what, "hint": error.hint, "kind": kind}
        _write({"carlos": ENVELOPE, "command": command, "ok": False, "error": said})
        return
    console = console_of(sys.stderr)
    _show(console, f"carlos {command}: {error}".replace("carlos :", "carlos:"))


def console_of(stream: Any) -> Console:
    """A console that colours and breaks lines only in a terminal."""
    return Console(file=stream, highlight=False, markup=False, emoji=False, width=None if stream.isatty() else _WIDE)


def _write(facts: Mapping[str, Any]) -> None:
    sys.stdout.write(facts_text(facts) + "\n")
    sys.stdout.flush()


def _show(console: Console, part: str | Table) -> None:
    if isinstance(part, str):
        console.print(Text(printable(part)))
        return
    table = RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in part.header:
        is_number = name in part.numbers
        table.add_column(name, justify="right" if is_number else "left", no_wrap=is_number, overflow="fold")
    for row in part.rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        console.file.write(line.rstrip() + "\n")
