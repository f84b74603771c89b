"""Making the pictures of a plan batch by batch: each is kept as features as soon as it is made, and none is made twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from ..clip.encoder import Encoder
from ..errors import BrokenPictureError
from ..generator import Generator, Job, LoraUse
from ..loras.lora_file import LoraFile
from .contact_sheet import PAIRS, keep_thumbnail
from .feature_store import Entry, Journal
from .plan import Shot
from .speed import Speed, in_words


@dataclass(frozen=True, eq=False)
class Progress:
    """How far a measurement is: sampler steps of single pictures, done and in all (an estimate, if it may end early).

    image: [H, W, 3], the newest picture, or None. note: what is known by now, for people; empty between two looks.
    """

    done: int
    total: int
    image: Tensor | None = None
    note: str = ""


OnProgress = Callable[[Progress], None]
"""It may raise, to cancel: pictures finished before are kept."""


@dataclass(frozen=True, eq=False)
class Side:
    """The pictures without a LoRA, or those with it at one weight."""

    journal: Journal
    loras: tuple[LoraUse, ...]
    triggers: tuple[str, ...]

    def text(self, shot: Shot) -> str:
        return ", ".join([shot.prompt.text, *self.triggers])

    def job(self, shot: Shot) -> Job:
        return Job(shot.prompt.text, shot.seed, self.loras, self.triggers)

    def entry(self, shot: Shot) -> Entry:
        """What is kept of a picture that has been made."""
        entry = self.journal.get(self.text(shot), shot.seed)
        assert entry is not None, "every picture of the plan has been made"
        return entry

    def is_missing(self, part: Sequence[Shot]) -> bool:
        """A batch is made again as a whole if one of its pictures is missing: its companions decide the last bits."""
        return any(self.journal.get(self.text(shot), shot.seed) is None for shot in part)

    def missing(self, shots: Sequence[Shot], batch: int) -> np.ndarray:
        """Which pictures are yet to be made. [N] bool."""
        parts = [shots[place : place + batch] for place in range(0, len(shots), batch)]
        return np.array([is_missing for part in parts for is_missing in [self.is_missing(part)] * len(part)], dtype=bool)


def base_side(triggers: tuple[str, ...], generator: Generator, encoder_id: str, dimension: int, working_directory: Path) -> Side:
    """The pictures without a LoRA, shared by all LoRAs of one generator and encoder."""
    return Side(Journal(working_directory / "base", _common(generator, encoder_id), dimension), (), triggers)


def lora_side(
    lora: LoraFile, weight: float, generator: Generator, encoder_id: str, dimension: int, working_directory: Path
) -> Side:
    """The pictures with the LoRA at a weight."""
    own = {**_common(generator, encoder_id), "lora": lora.sha256, "weight": weight}
    journal = Journal(working_directory / "loras", own, dimension)
    return Side(journal, (LoraUse(lora.path, weight),), lora.trigger_words)


def _common(generator: Generator, encoder_id: str) -> dict[str, str]:
    return {"generator": generator.fingerprint, "encoder": encoder_id}


def diff(base: Side, with_lora: Side, shot: Shot) -> np.ndarray:
    """e(with the LoRA) - e(without it). [D] float64."""
    return with_lora.entry(shot).features.astype(np.float64) - base.entry(shot).features


class Work:
    """Making pictures, and telling how far it is and how long it will take.

    sides: all that will be made of `shots`. expected: pictures of each side that it is likely to come to, all of them if 0.
    thumbnails: how many pictures of each side are also kept to be looked at.
    evaluations: forward passes that were spent on each side here.
    """

    def __init__(
        self,
        generator: Generator,
        encoder: Encoder,
        sides: Sequence[Side],
        shots: Sequence[Shot],
        batch: int,
        speed: Speed,
        on_progress: OnProgress | None,
        expected: int = 0,
        thumbnails: int = PAIRS,
    ) -> None:
        self._generator, self._encoder, self._shots, self._batch = generator, encoder, shots, batch
        self._on_progress, self._speed = on_progress, speed
        self._missing = {side: side.missing(shots, batch) for side in sides}
        self._done = 0
        self._has_looked = False
        self._shown = shots[:thumbnails]
        self._expected = min(expected or len(shots), len(shots))
        self.evaluations = dict.fromkeys(sides, 0)

    def make(self, side: Side, start: int, end: int) -> None:
        """Make what is missing of one side's pictures from `start` to `end`, both multiples of the batch."""
        missing = self._missing[side]
        if missing[start:end].any():
            side.journal.begin()
        self._generator.prepare([side.job(self._shots[place]) for place in range(start, end) if missing[place]])
        for place in range(start, end, self._batch):
            part = self._shots[place : min(place + self._batch, end)]
            image = None
            if missing[place]:
                begin = time.monotonic()
                evaluations, image = _make(side, part, self._shown, self._generator, self._encoder, self._report)
                self._speed.add(time.monotonic() - begin, len(part))
                self.evaluations[side] += evaluations
            missing[place : place + len(part)] = False
            self._done += len(part) * self._generator.steps
            pictures = f"{self._done // self._generator.steps} of about {len(self._missing) * self._expected} pictures"
            self._tell(0, image, pictures + self._time_left())

    def expect(self, images_needed: int | None, alignment: float | None, taken: int) -> None:
        """Take in how many pictures it will be, and say so."""
        self._expected = min(max(images_needed or len(self._shots), taken), len(self._shots))
        self._has_looked = True
        known = "no direction yet" if alignment is None else f"direction known to {alignment:.3f}"
        left = ", done" if taken == self._expected else self._time_left()
        self._tell(0, None, f"{known} after {taken} images{left}")

    def _time_left(self) -> str:
        """By what is missing of the pictures expected; before the first look, also by what is missing of all."""
        seconds = self._speed.seconds_per_picture
        expected, most = (sum(int(missing[:end].sum()) for missing in self._missing.values()) for end in (self._expected, None))
        if seconds is None or not expected:
            return ""
        limit = f", at most {in_words(most * seconds)}" if most > expected and not self._has_looked else ""
        return f", {in_words(expected * seconds)} left{limit}"

    def _report(self, step: int, steps: int) -> None:
        del steps
        self._tell(step, None)

    def _tell(self, step: int, image: Tensor | None, note: str = "") -> None:
        if self._on_progress is not None:
            total = len(self._missing) * self._expected * self._generator.steps
            self._on_progress(Progress(self._done + step, max(total, self._done + step), image, note))


def _make(
    side: Side,
    part: Sequence[Shot],
    shown: Sequence[Shot],
    generator: Generator,
    encoder: Encoder,
    on_step: Callable[[int, int], None],
) -> tuple[int, Tensor]:
    """Make one batch and keep its features. Returns the forward passes it took and one of its pictures."""
    generated = generator.generate([side.job(shot) for shot in part], on_step)
    features = encoder.encode_images(generated.images).numpy()
    broken = [shot for shot, row in zip(part, features, strict=True) if not np.isfinite(row).all()]
    if broken:
        raise BrokenPictureError(
            f"The picture of {broken[0].prompt.text!r} with seed {broken[0].seed} is broken (NaN).",
            "Run the model in higher precision (--force-fp32, or --fp32-vae), or lower the LoRA's weight.",
        )
    evaluations = generated.model_evaluations // len(part)
    side.journal.append([(side.text(shot), shot.seed, row, evaluations) for shot, row in zip(part, features, strict=True)])
    for shot, image in zip(part, generated.images, strict=True):
        if shot in shown:
            keep_thumbnail(side.journal, side.text(shot), shot.seed, image)
    return generated.model_evaluations, generated.images[0]
