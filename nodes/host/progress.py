"""A node's progress bar and its line of text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import comfy.utils

from ...carlos_core.counting import counted
from ...carlos_core.drawing.tensors import picture_of
from ...carlos_core.foreign import printable
from ...carlos_core.progress import OnProgress, Progress
from . import server

_PREVIEW_SIDE = 512


def bar() -> OnProgress:
    """A callback that moves a new progress bar. It raises when the user cancels."""
    progress_bar = comfy.utils.ProgressBar(1)
    return lambda progress: progress_bar.update_absolute(progress.done, max(progress.total, progress.done, 1))


@dataclass
class Tally:
    """What a run has come to so far, for when it is cancelled."""

    pictures: int = 0
    """Finished and kept."""

    loras: int | None = None
    """Measured and saved; None for a run of one LoRA."""

    def __str__(self) -> str:
        if not self.pictures and not self.loras:
            return "cancelled: no picture was finished yet"
        loras = "" if self.loras is None else f"{counted(self.loras, 'LoRA')} indexed, "
        return f"cancelled: {loras}{counted(self.pictures, 'picture')} kept, run again to go on"


class NodeProgress:
    """A node's progress bar with the newest picture, and its line of text. Moving it raises when the user cancels."""

    def __init__(self, node_id: str | None, title: Callable[[], str] = str, tally: Tally | None = None) -> None:
        """title: what each line begins with. tally: counts the pictures that were kept."""
        self._bar = comfy.utils.ProgressBar(1)
        self._node_id = node_id
        self._title = title
        self._tally = tally or Tally()

    def say(self, text: str) -> None:
        """Show a line of text on the node, if there is a server with a client to show it to."""
        running = server.running()
        if running is not None and self._node_id and hasattr(running, "send_progress_text"):
            running.send_progress_text(printable(f"{self._title()}{text}"), self._node_id)

    def __call__(self, progress: Progress) -> None:
        # Before the bar is moved, which is where a cancel comes.
        self._tally.pictures += progress.kept
        preview = None if progress.image is None else ("JPEG", picture_of(progress.image), _PREVIEW_SIDE)
        self._bar.update_absolute(progress.done, max(progress.total, progress.done, 1), preview)
        if progress.note:
            self.say(progress.note)
