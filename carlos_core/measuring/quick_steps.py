"""How many sampler steps `quick` takes on a model: the fewest with which its pictures are those of many steps.

Whether four steps suffice depends on the model. Its pictures without a LoRA tell: where CLIP sees in them what it sees in the
same pictures at full steps, the directions of LoRAs agree, too (`studies/quick_steps.py`, where both are known).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from ..errors import BrokenPictureError, CarlosError
from ..loras.lora_file import LoraFile
from ..progress import OnProgress
from ..vectors import cosine
from .first_pictures import FEWEST, centred_units, first_pictures, of_different_prompts
from .kept_facts import QUICK_STEPS, KeptFacts
from .measure import sides_of, take_in
from .plan import Shot
from .protocol import Protocol
from .studio import LOOK, Shoot, Studio, diff

logger = logging.getLogger(__name__)

CANDIDATES = (4, 6, 8, 12)
"""Steps that are tried, from the fewest on."""

ENOUGH = 0.93
"""Agreement from which on steps suffice. In all settings of the study that any draw of prompts took, the directions of ordinary
LoRAs agree with those of full steps to a cosine of 0.936 or more, and half of them to 0.98."""

OWN = 0.9
"""Share of the pictures that must be nearest to their own one at full steps."""

_OF_A_LORA = 12


@dataclass(frozen=True)
class Agreement:
    """How alike the pictures of few and of full steps are, to CLIP."""

    mean: float
    """Mean cosine of their features, once the mean of each kind is taken away; in [-1, 1]."""

    own: float
    """Share of pictures whose nearest one at full steps is that of their own prompt, in [0, 1]."""

    @property
    def is_enough(self) -> bool:
        return self.mean >= ENOUGH and self.own >= OWN


def agreement(few: np.ndarray, full: np.ndarray) -> Agreement:
    """few, full: features of pictures of different prompts, [N, D], in the same order."""
    cosines = centred_units(few) @ centred_units(full).T
    return Agreement(float(np.diag(cosines).mean()), float((cosines.argmax(axis=1) == np.arange(len(few))).mean()))


@dataclass(frozen=True)
class _Choice:
    """What was found out about a model, as it is kept."""

    steps: int
    agreements: dict[str, float] = field(default_factory=dict)
    """By steps, as text: those that were tried."""

    is_enough: bool = True
    lora: str = ""
    """The LoRA that was measured both ways; empty before one was."""

    cosine: float | None = None
    """Of its two directions."""


class QuickSteps:
    """Chooses `quick`'s steps on a model, once, and compares the first LoRA's direction with the one at full steps."""

    def __init__(self, studio_of: Callable[[int], Studio], full: int, shots: Sequence[Shot]) -> None:
        """Nothing is made yet.

        Args:
            studio_of: steps -> a studio whose generator takes them and differs in nothing else.
            full: steps of the pictures that others are compared with.
            shots: of the plan. Those of different prompts among the first 16 are looked at.
        """
        self._studio_of, self._full, self._shots = studio_of, full, tuple(shots)
        self._distinct = of_different_prompts(self._shots)
        studio = studio_of(full)
        self._full_studio = studio.trial
        self._kept = KeptFacts(studio.folder / QUICK_STEPS)
        self._choice: _Choice | None = None
        self._has_failed = False
        self.model_evaluations = 0
        """Forward passes that were spent on finding out, those of pictures that a measurement uses included."""

    @property
    def is_known(self) -> bool:
        """Whether the steps were found out before, so that no picture is made to choose them."""
        if self._choice is None:
            known = self._kept.get(self._key)
            if isinstance(known, dict) and isinstance(known.get("steps"), int) and set(known) == set(asdict(_Choice(0))):
                self._choice = _Choice(**known)
        return self._choice is not None

    def choose(self, on_progress: OnProgress | None = None) -> int:
        """The steps to take: kept ones, or those that its pictures show now. The fewest if there are too few prompts to tell."""
        candidates = [steps for steps in CANDIDATES if steps < self._full]
        if len(self._distinct) < FEWEST or not candidates:
            return (candidates or [self._full])[0]
        if not self.is_known:
            self._choice = self._found(candidates, on_progress)
            if self._choice.agreements:
                self._kept.keep(self._key, asdict(self._choice))
        assert self._choice is not None, "it is known, or was found"
        return self._choice.steps

    def compare(self, studio: Studio, lora: LoraFile, protocol: Protocol, on_progress: OnProgress | None = None) -> None:
        """Measure a LoRA on a dozen prompts at full steps, too, unless another one was: do both directions agree?

        studio: where the LoRA was measured by `protocol` just now.
        """
        choice = self._choice
        if choice is None or choice.cosine is not None or self._has_failed:
            return
        if not choice.agreements or choice.steps == self._full:
            return
        shots = self._distinct[:_OF_A_LORA]
        few, full = sides_of(studio, lora, protocol), sides_of(self._full_studio, lora, protocol)
        shoot = Shoot(self._full_studio, full, shots, on_progress, thumbnails=False)
        try:
            take_in(self._full_studio, lora, protocol.lora_weight)
            for side in full:
                shoot.make(side, 0, len(shots))
        # The row is there. A cancel is none of these.
        except (CarlosError, OSError, RuntimeError, MemoryError) as error:
            logger.warning("carlos: %s was not measured at %d steps: %s", lora.name, self._full, error)
            self._has_failed = True
            return
        self.model_evaluations += sum(shoot.evaluations.values()) + shoot.warm_up_evaluations
        directions = [np.mean([diff(*sides, shot) for shot in shots], axis=0) for sides in (few, full)]
        self._choice = replace(choice, lora=lora.name, cosine=cosine(*directions))
        self._kept.keep(self._key, asdict(self._choice))

    @property
    def facts(self) -> dict[str, Any]:
        """What was found out, for reports."""
        known = asdict(self._choice) if self._choice is not None else {}
        return {**known, "full_steps": self._full, "model_evaluations": self.model_evaluations}

    @property
    def lines(self) -> list[str]:
        """What was found out, in words."""
        choice = self._choice
        if choice is None:
            return [f"too few prompts to see how many steps suffice on this model: fewer than {FEWEST} of the first {LOOK}"]
        found = ", ".join(f"{steps} steps {value:.2f}" for steps, value in choice.agreements.items())
        if not choice.agreements and choice.steps == self._full:
            return [f"quick takes all {self._full} steps: the pictures of fewer are broken"]
        if not choice.agreements:
            return [
                f"quick takes {choice.steps} steps; the pictures of {self._full} steps are broken, so that none can be compared"
            ]
        verdict = "" if choice.is_enough else f"; none is like {self._full}: prefer the preset standard"
        lines = [
            f"quick takes {choice.steps} steps on this model: how like its pictures are to those of {self._full} steps "
            f"({ENOUGH} is enough): {found}{verdict}"
        ]
        if choice.cosine is not None:
            lines.append(
                f"on {_OF_A_LORA} prompts, the direction of {choice.lora} at {choice.steps} and at {self._full} steps: cosine "
                f"{choice.cosine:.2f}. For more steps choose the preset standard, or sampling 'as given'."
            )
        return lines

    @property
    def _key(self) -> str:
        studio = self._full_studio
        return json.dumps([studio.generator.fingerprint, studio.encoder.encoder_id, [shot.seed for shot in self._distinct]])

    def _found(self, candidates: Sequence[int], on_progress: OnProgress | None) -> _Choice:
        agreements: dict[str, float] = {}
        try:
            full = self._features(self._full_studio, on_progress)
        except BrokenPictureError as error:
            logger.warning("carlos: no picture to compare few steps with: %s", error)
            return _Choice(candidates[0], agreements, is_enough=False)
        for steps in candidates:
            try:
                found = agreement(self._features(self._studio_of(steps), on_progress), full)
            except BrokenPictureError as error:
                logger.warning("carlos: %d steps are not enough: %s", steps, error)
                continue
            agreements[str(steps)] = round(found.mean, 4)
            if found.is_enough:
                return _Choice(steps, agreements)
        # Full steps are none too many if they are few, or if nothing can be seen with fewer.
        is_affordable = self._full <= CANDIDATES[-1] or not agreements
        return _Choice(self._full if is_affordable else candidates[-1], agreements, is_enough=is_affordable)

    def _features(self, studio: Studio, on_progress: OnProgress | None) -> np.ndarray:
        """Features of the pictures without a LoRA, [N, D]. They are kept, and a measurement with these steps finds them.

        Not those of large batches, though: most of such a batch would be made in vain.
        """
        studio = studio if studio.batch <= LOOK else studio.trial
        made = first_pictures(studio, self._shots, on_progress, thumbnails=studio is not self._full_studio)
        self.model_evaluations += made.evaluations + made.warm_up_evaluations
        return made.features
