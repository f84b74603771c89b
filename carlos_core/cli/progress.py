"""How far a command is, on stderr: a bar in a terminal, now and then a line elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from ..foreign import printable
from .output import console_of

if TYPE_CHECKING:
    from ..progress import Progress

_EVERY_S = 10.0
"""So often a line is written where there is no terminal."""


class Shown:
    """Shows progress. Use it within `showing`."""

    def __init__(self, bar: RichProgress | None) -> None:
        self._bar = bar
        self._task = None if bar is None else bar.add_task("", total=None, visible=False)
        self._next = time.monotonic() + _EVERY_S
        self._last = ""

    def __call__(self, progress: Progress) -> None:
        self.tell(progress.done, progress.total, progress.note)

    def tell(self, done: int, total: int, note: str = "") -> None:
        """done, total: in any unit; a total of 0 is not known."""
        self._last = printable(note) or self._last
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, total=max(total, done) or None, completed=done, description=self._last, visible=True)
        elif self._last and time.monotonic() >= self._next:
            self.say(self._last)

    def say(self, line: str) -> None:
        """Write a line that stays."""
        self._next = time.monotonic() + _EVERY_S
        if self._bar is not None:
            self._bar.console.print(printable(line), soft_wrap=True)
        else:
            sys.stderr.write(printable(line) + "\n")
            sys.stderr.flush()


@contextmanager
def showing() -> Iterator[Shown]:
    """Show progress while something goes on; the bar is gone afterwards."""
    if not sys.stderr.isatty():
        yield Shown(None)
        return
    columns = (BarColumn(bar_width=20), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with RichProgress(*columns, console=console_of(sys.stderr), transient=True) as bar:
        yield Shown(bar)
