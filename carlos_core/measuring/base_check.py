"""Do the pictures without a LoRA show what they were asked for? Where they do not, nothing that is measured on them means much.

Calibrated on the mini-world under both of its CLIPs (`studies/base_check.py`): right, burnt, without their text, noise.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import UnsuitableSamplingError
from ..progress import OnProgress
from .first_pictures import FEWEST, centred_units, first_pictures, of_different_prompts
from .kept_facts import BASE_CHECKS, KeptFacts
from .plan import Shot
from .studio import LOOK, Studio

MATCHED = 0.75
"""A picture's own prompt is nearer to it than this share of the other prompts, on average; by chance it is 0.5."""

VARIETY = 0.25
"""Distance of the features from their mean, of their length: less, and all pictures are nearly the same."""

CLIPPED = 0.08
"""Share of values at the ends of their range from which pictures may be burnt."""

CLEAR = 0.97
"""Like `MATCHED`: less, and pictures may be burnt."""

LOSS = 0.04
"""Cosine of pictures with their prompts that guidance may cost. It does not cost any where a model is made for it."""

UNSUITABLE = "the pictures without the LoRA do not suit"
"""Beginning of the note of rows that were measured on such pictures."""

NOTHING_SHOWN, ALL_ALIKE, BURNT = "nothing shown", "all alike", "burnt"

_IN_WORDS = {
    NOTHING_SHOWN: "CLIP cannot tell which prompt a picture is of",
    ALL_ALIKE: "they are nearly all the same, whatever the prompt",
    BURNT: "they are burnt: with few steps and cfg 1 they show their prompts much better",
}


@dataclass(frozen=True)
class Looks:
    """What CLIP sees in pictures of different prompts."""

    matched: float
    """Mean share of the other prompts that are further from a picture than its own, in [0, 1]; 0.5 by chance."""

    alignment: float
    """Mean cosine of pictures and their prompts, once the mean of each kind is taken away, in [-1, 1]."""

    variety: float
    """Mean distance of the features from their mean, of their mean length; 0 if all are the same."""

    @classmethod
    def of(cls, pictures: np.ndarray, texts: np.ndarray) -> Looks:
        """pictures, texts: their features, [N, D], in the same order."""
        pictures = pictures.astype(np.float64)
        cosines = centred_units(pictures) @ centred_units(texts).T
        own = np.diag(cosines)
        further = (cosines < own[:, None]).sum(axis=1) / (len(own) - 1)
        length = float(np.linalg.norm(pictures, axis=1).mean())
        distance = float(np.linalg.norm(pictures - pictures.mean(axis=0), axis=1).mean())
        variety = distance / length if length else 0.0
        return cls(float(further.mean()), float(own.mean()), variety)


@dataclass(frozen=True)
class Checked:
    """What came of looking at the pictures without a LoRA."""

    problem: str = ""
    """NOTHING_SHOWN, ALL_ALIKE or BURNT; empty if they are right, or there are too few to tell."""

    base_evaluations: int = 0
    """Forward passes that this run spent on pictures of the measurement."""

    other_evaluations: int = 0
    """Those that it spent on others, to compare with, and to warm the model up."""

    @property
    def note(self) -> str:
        """In words, for a row; empty if the pictures are right."""
        return f"{UNSUITABLE}: {_IN_WORDS[self.problem]}" if self.problem else ""


class BaseCheck:
    """Looks at the first pictures without a LoRA, once for each generator and set of prompts."""

    def __init__(self, few_steps: Callable[[], Studio] | None, *, is_strict: bool) -> None:
        """Nothing is made yet.

        Args:
            few_steps: a studio for the same model that samples with few steps and without guidance. None if pictures are made
                that way already.
            is_strict: pictures that do not suit are an error; otherwise they are noted.
        """
        self._few_steps = few_steps
        self._is_strict = is_strict

    def look(self, studio: Studio, shots: Sequence[Shot], on_progress: OnProgress | None = None) -> Checked:
        """Make the first pictures without a LoRA and without its words, if they are not there, and look at them.

        Raises UnsuitableSamplingError, if it is strict, where they do not show their prompts.
        """
        if not _can_tell(shots):
            return Checked()
        known = _known(studio, shots)
        checked = self._looked(studio, shots, on_progress) if known is None else Checked(known)
        if known is None:
            KeptFacts(studio.folder / BASE_CHECKS).keep(_key(studio, shots), checked.problem)
        if checked.problem and self._is_strict:
            raise UnsuitableSamplingError(
                f"With these settings the model's pictures do not show their prompts: {_IN_WORDS[checked.problem]}.",
                "For a model that is made for few steps, wire its own KSampler to it in this workflow, or choose sampling "
                "'as given' with steps, cfg, sampler and scheduler that suit it; 'preset' measures all the same.",
            )
        return checked

    def makes_pictures(self, studio: Studio, shots: Sequence[Shot]) -> bool:
        """Whether `look` needs pictures: not where there are too few to tell, or what it found earlier is kept."""
        return _can_tell(shots) and _known(studio, shots) is None

    def _looked(self, studio: Studio, shots: Sequence[Shot], on_progress: OnProgress | None) -> Checked:
        texts = studio.encoder.encode_texts([shot.prompt.text for shot in of_different_prompts(shots)]).numpy()
        base = first_pictures(studio, shots, on_progress)
        looks, evaluations, warm_up = Looks.of(base.features, texts), base.evaluations, base.warm_up_evaluations
        if looks.matched < MATCHED:
            return Checked(NOTHING_SHOWN, evaluations, warm_up)
        if looks.variety < VARIETY:
            return Checked(ALL_ALIKE, evaluations, warm_up)
        clipped = studio.clipped
        is_clear = clipped is not None and clipped < CLIPPED and looks.matched >= CLEAR
        if is_clear or self._few_steps is None:
            return Checked("", evaluations, warm_up)
        few = first_pictures(self._few_steps().trial, shots, on_progress)
        is_burnt = looks.alignment < Looks.of(few.features, texts).alignment - LOSS
        return Checked(BURNT if is_burnt else "", evaluations, warm_up + few.evaluations + few.warm_up_evaluations)


def _can_tell(shots: Sequence[Shot]) -> bool:
    return len(shots) >= LOOK and len(of_different_prompts(shots)) >= FEWEST


def _known(studio: Studio, shots: Sequence[Shot]) -> str | None:
    """The problem that was found earlier, empty if there was none; None if nobody has looked."""
    kept = KeptFacts(studio.folder / BASE_CHECKS).get(_key(studio, shots))
    return kept if kept in ("", *_IN_WORDS) else None


def _key(studio: Studio, shots: Sequence[Shot]) -> str:
    shown = of_different_prompts(shots)
    pictures = hashlib.sha256("\0".join(f"{shot.prompt.text} {shot.seed}" for shot in shown).encode()).hexdigest()[:16]
    return json.dumps([studio.generator.fingerprint, studio.encoder.encoder_id, pictures])
