"""A node's progress bar and its line of text."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import comfy.utils

from ...carlos_core.counting import counted
from ...carlos_core.drawing.tensors import picture_of
from ...carlos_core.foreign import printable
from ...carlos_core.progress import OnProgress, Progress
from . import server

_PREVIEW_SIDE = 512

_TAKING_OFF_S = 1.0
"""The frontend's delay is 400 ms."""


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
        self._is_said = False

    def say(self, text: str) -> None:
        """Show a line of text on the node, if there is a server with a client to show it to."""
        self._is_said = True
        running = server.running()
        if running is not None and self._node_id and hasattr(running, "send_progress_text"):
            running.send_progress_text(printable(f"{self._title()}{text}"), self._node_id)

    @contextmanager
    def for_a_while(self) -> Iterator[None]:
        """Take away what was said within, once it is true no more. Where it ends in an error, it stays beside that."""
        self._is_said = False
        yield
        if self._is_said:
            self.say("")

    def take_picture_off(self) -> None:
        """Take the newest picture off the node, so that what it returns is seen. Takes a second where somebody looks.

        The frontend shows pictures of a node's progress in place of those of its output, until the node begins again: so it is
        told that the node does. It takes them off with a delay, and must have done so when the output comes.
        """
        if server.is_watched():
            server.forget_progress()
            self._bar.update_absolute(1, 1)
            time.sleep(_TAKING_OFF_S)

    def __call__(self, progress: Progress) -> None:
        # Before the bar is moved, which is where a cancel comes.
        self._tally.pictures += progress.kept
        preview = None if progress.image is None else ("JPEG", picture_of(progress.image), _PREVIEW_SIDE)
        self._bar.update_absolute(progress.done, max(progress.total, progress.done, 1), preview)
        if progress.note:
            self.say(progress.note)
