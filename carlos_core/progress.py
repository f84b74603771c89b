"""How far a piece of work is: one form for measuring, scanning, fetching and encoding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
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
    note_without_time: str = ""
    """The note without the time that this piece of work will take, for those who tell that of more than this piece."""
    pictures_left: int | None = None
    """Pictures that are still likely to be made for this LoRA; None if it is not known, or if it is other work."""
    kept: int = 0
    """Pictures that were finished and kept since the last call."""


OnProgress = Callable[[Progress], None]
"""Called while work goes on. It may raise, to cancel: what was finished before is kept."""


def titled(on_progress: OnProgress | None, title: str) -> OnProgress | None:
    """The same callback, with `title` before each note."""
    if on_progress is None:
        return None

    def tell(progress: Progress) -> None:
        def with_title(note: str) -> str:
            return f"{title}{note}" if note else ""

        note, short = with_title(progress.note), with_title(progress.note_without_time)
        # What is left of this piece is not what is left of the whole.
        on_progress(replace(progress, note=note, note_without_time=short, pictures_left=None))

    return tell
