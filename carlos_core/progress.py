"""How far a piece of work is: one shape for measuring, scanning, fetching and encoding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Progress:
    """done, total: in the work's own unit (sampler steps, files, bytes, phrases, rows); total is 0 where it is not known, and
    may change while a measurement learns how many pictures it needs.

    note: what is known by now, for people; empty if there is nothing to say. image: [H, W, 3], the newest picture, or None.
    """

    done: int
    total: int
    note: str = ""
    image: Tensor | None = None


OnProgress = Callable[[Progress], None]
"""Called while work goes on. It may raise, to cancel: what was finished before is kept."""


def titled(on_progress: OnProgress | None, title: str) -> OnProgress | None:
    """The same callback, with `title` before each note."""
    if on_progress is None:
        return None

    def tell(progress: Progress) -> None:
        note = f"{title}{progress.note}" if progress.note else ""
        on_progress(Progress(progress.done, progress.total, note, progress.image))

    return tell
