"""How far a piece of work is: one form for measuring, scanning, fetching and encoding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Progress:
    """How far a piece of work is, in its own unit: sampler steps, files, bytes, phrases or rows."""

    done: int
    total: int
    """0 if it is not known. May change while a measurement learns how many pictures it needs."""
    note: str = ""
    """What is known by now, for people; empty if there is nothing to say."""
    image: Tensor | None = None
    """[H, W, 3], the newest picture, or None."""


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
