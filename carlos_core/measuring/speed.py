"""How long a picture takes, as far as it is known from earlier runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from statistics import median_low
from typing import Any

import torch

from .kept_facts import SPEEDS, KeptFacts

UNKNOWN = "the time is told after the first batch"

_SOON_S = 5.0
_LEAST_DONE = 0.05
"""Seconds, and part of the usual work, before which its speed says little: models are loaded for the first pictures."""


class ModelSpeed:
    """Seconds that one forward pass takes, by the shape of the model, the size of its pictures and the device.

    Every checkpoint of a shape takes as long, so that what one has shown holds for all. It is kept in `speeds.json`, too.
    """

    def __init__(self, working_directory: Path, model_key: str, size: tuple[int, int]) -> None:
        """model_key: of the model; nothing is kept for one without. size: width and height in pixels."""
        self._kept = KeptFacts(working_directory / SPEEDS)
        self._model_key, self._size = model_key, size

    @property
    def seconds_per_evaluation(self) -> float | None:
        """As of pictures, with their share of text encoding, decoding and CLIP; of a mere trial where none was made yet.

        None if neither is known.
        """
        return _seconds(self._kept.get(self.key)) if self._model_key else None

    def keep(self, seconds: float) -> None:
        """Keep what a trial has shown."""
        if self._model_key:
            self._kept.keep(self.key, seconds)

    def facts(self, seconds: float) -> dict[str, float]:
        """The same as a fact to be kept with others."""
        return {self.key: seconds} if self._model_key else {}

    @property
    def key(self) -> str:
        """What stands for the shape, the size and the device."""
        width, height = self._size
        return f"one evaluation of {self._model_key} at {width} x {height} on {_device_name()}"


class Speed:
    """Seconds a picture takes with one generator on this machine: from the batches of this run, otherwise from earlier runs.

    What earlier runs found is in `speeds.json` of the working folder, by the generator's fingerprint and the device's name.
    It is only used for estimates: a file that cannot be read or written counts as missing.
    """

    def __init__(
        self, working_directory: Path, fingerprint: str, of_model: ModelSpeed | None = None, evaluations_per_picture: int = 0
    ) -> None:
        """of_model: what is told how long the evaluations of each picture take, if their number is given."""
        self._kept = KeptFacts(working_directory / SPEEDS)
        self._key = f"{fingerprint} on {_device_name()}"
        self._earlier = _seconds(self._kept.get(self._key))
        self._of_model, self._evaluations = of_model, evaluations_per_picture
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
        self._kept.keep_all(self._facts(median_low(self._batches)))

    def _facts(self, per_picture: float) -> Mapping[str, float]:
        of_model = self._of_model.facts(per_picture / self._evaluations) if self._of_model and self._evaluations else {}
        return {self._key: per_picture, **of_model}


def in_words(seconds: float) -> str:
    """A length of time for people: "about 25 min"."""
    if seconds < 90:
        return f"about {seconds:.0f} s"
    if seconds < 90 * 60:
        return f"about {seconds / 60:.0f} min"
    return f"about {seconds / 3600:.0f} h" if seconds >= 10 * 3600 else f"about {seconds / 3600:.1f} h"


def so_far(seconds: float, done: int, usual: int) -> str:
    """How long work has taken of which nobody knows the end, and takes in all if it is like others; empty if it is too early.

    seconds: since it began. done: what was made since, in a unit of the work's own. usual: what is made in all, usually.
    """
    if seconds < _SOON_S or done < usual * _LEAST_DONE:
        return ""
    rest = f"usually {in_words(seconds * usual / done)} in all" if done < usual else "longer than usual"
    return f"{in_words(seconds)} so far, {rest}"


def _seconds(kept: Any) -> float | None:
    """A length of time as it was kept; None for what is none."""
    return float(kept) if isinstance(kept, (int, float)) and 0 < kept < math.inf else None


def _device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "the CPU or an accelerator other than CUDA"
