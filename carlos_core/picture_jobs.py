"""What every generator does with the jobs that it gets, whatever program makes the pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .errors import GenerationError
from .generator import Job, LoraUse
from .memory import is_out_of_memory
from .progress import OnProgress, Progress

FileStates = tuple[tuple[int, int] | None, ...]
"""Size and time of the last change of each LoRA's file; None for one that is not there."""


@dataclass
class StepReporter:
    """Tells how far a call of `generate` is, in sampler steps of all its pictures together."""

    total: int
    on_progress: OnProgress | None
    done: int = 0
    """Steps of the sampler calls that came to their end."""

    def step(self, further: int) -> None:
        """further: steps of the sampler call that runs."""
        if self.on_progress is not None:
            self.on_progress(Progress(self.done + further, self.total))


def places_by_side(jobs: Sequence[Job]) -> dict[tuple[LoraUse, ...], list[int]]:
    """LoRAs -> places among the jobs of those that are made with them."""
    found: dict[tuple[LoraUse, ...], list[int]] = {}
    for place, job in enumerate(jobs):
        found.setdefault(job.loras, []).append(place)
    return found


def texts_by_side(jobs: Sequence[Job], text_of: Callable[[Job], str]) -> dict[tuple[LoraUse, ...], list[str]]:
    """LoRAs -> the texts that are encoded with them: the empty one, and those of the jobs."""
    return {loras: ["", *(text_of(jobs[place]) for place in places)] for loras, places in places_by_side(jobs).items()}


def states_of(loras: Sequence[LoraUse]) -> FileStates:
    """How the files of some LoRAs are now."""
    return tuple(_state_of(lora.path) for lora in loras)


@contextmanager
def too_little_memory_said(width: int, height: int) -> Iterator[None]:
    """Raises GenerationError in place of what a device says when memory runs out, though pictures are made one by one."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise GenerationError(
            f"There is too little memory for one picture of {width} x {height}.",
            "Choose a smaller width and height, or close other programs.",
        ) from error


def _state_of(path: Path) -> tuple[int, int] | None:
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_size, facts.st_mtime_ns
