"""How long a picture takes, as far as it is known from earlier runs."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import median_low

import torch

from .kept_facts import SPEEDS, KeptFacts

UNKNOWN = "the time is told after the first batch"


class Speed:
    """Seconds a picture takes with one generator on this machine: from the batches of this run, otherwise from earlier runs.

    What earlier runs found is in `speeds.json` of the working folder, by the generator's fingerprint and the device's name.
    It is only used for estimates: a file that cannot be read or written counts as missing.
    """

    def __init__(self, working_directory: Path, fingerprint: str) -> None:
        self._kept = KeptFacts(working_directory / SPEEDS)
        self._key = f"{fingerprint} on {_device_name()}"
        earlier = self._kept.get(self._key)
        self._earlier = float(earlier) if isinstance(earlier, (int, float)) and 0 < earlier < math.inf else None
        self._batches: list[float] = []

    @property
    def seconds_per_picture(self) -> float | None:
        """The (lower) median over the batches: the first of a run takes longer, since models are loaded then.

        None before the first batch of a generator that was never used here.
        """
        return median_low(self._batches) if self._batches else self._earlier

    def add(self, seconds: float, pictures: int) -> None:
        """Take in a batch and save the speed for later runs. After a first batch it is saved only if none was known."""
        self._batches.append(seconds / pictures)
        if len(self._batches) == 1 and self._earlier is not None:
            return
        self._kept.keep(self._key, self.seconds_per_picture)


def in_words(seconds: float) -> str:
    """A length of time for people: "about 25 min"."""
    if seconds < 90:
        return f"about {seconds:.0f} s"
    if seconds < 90 * 60:
        return f"about {seconds / 60:.0f} min"
    return f"about {seconds / 3600:.0f} h" if seconds >= 10 * 3600 else f"about {seconds / 3600:.1f} h"


def _device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "the CPU or an accelerator other than CUDA"
