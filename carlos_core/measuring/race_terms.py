"""What a race is asked, when it is over, and what it came to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..errors import RetrievalError
from ..records import LoraRecord
from ..search.calibration import Background
from ..search.limits import PUBLISHED_LIMITS, SearchLimits
from ..search.matches import Confidence
from .failures import Failure
from .race_field import Candidate
from .race_scores import Yardstick
from .settings import RACE_EVALUATIONS

KNOWN = "the best are known"
NOTHING_FITS = "nothing fits"
BUDGET_SPENT = "max_model_evaluations are spent"
TIME_SPENT = "max_minutes are over"
ALL_TAKEN = "all pictures are taken"
CANCELLED = "cancelled"
ALL_FAILED = "none could be measured"
REASONS = (KNOWN, NOTHING_FITS, BUDGET_SPENT, TIME_SPENT, ALL_TAKEN, CANCELLED, ALL_FAILED)
"""Why a race ended. Only the first two keep the confidence that was asked for; after others the result says what was reached."""

_LOOKED_AT_ALL = (KNOWN, NOTHING_FITS, ALL_TAKEN)


@dataclass(frozen=True)
class RaceRules:
    """When a race is over."""

    top_k: int = 3
    """How many LoRAs are looked for, at least 1."""

    confidence: float = 0.9
    """How sure it must be that none of the chosen ones is worse than it should be, in (0, 1): the true score of each is at most
    `tolerance` below that of every LoRA that was not chosen."""

    max_model_evaluations: int = RACE_EVALUATIONS
    """Forward passes of the diffusion model at most, those of the pictures without a LoRA included; 0 for no limit.

    The trial for the steps that suffice counts, but is made however few these are; so are the pictures of few steps that others
    are compared with once for each model, if those may be burnt."""

    max_minutes: float = 0.0
    """0 for no limit. A picture that was begun is finished."""

    tolerance: float = 0.02
    """Difference of cosines that does not matter. Differences of z-scores are counted in cosines, too: see `race_scores`."""

    def check(self) -> None:
        """Raises RetrievalError for values that make no sense."""
        if self.top_k < 1:
            raise RetrievalError(f"top_k is {self.top_k}.", "Ask for at least 1 LoRA.")
        if not 0 < self.confidence < 1:
            raise RetrievalError(f"A confidence of {self.confidence:g} makes no sense.", "Choose one between 0 and 1, e.g. 0.9.")
        if self.max_model_evaluations < 0 or self.max_minutes < 0 or self.tolerance < 0:
            raise RetrievalError("The limits of a race are not below 0.", "0 is no limit.")


@dataclass(frozen=True, eq=False)
class RaceQuestion:
    """What is asked."""

    query: str
    """In words, for the report."""

    signature: np.ndarray
    """What the query asks for, [D], any length: `Searcher.signature`."""

    background: Background | None = None
    """`Searcher.background`. With it, candidates are compared by z-score as in the calibrated ranking, and one that is not better
    than chance does not fit. None: they are compared by cosine, as published, and those above 0 fit."""

    limits: SearchLimits = PUBLISHED_LIMITS
    """Of these, strength and consistency count. What is beyond them is not chosen; the other limits decide who takes part."""

    notes: tuple[str, ...] = ()
    """What is to be said of the question."""

    @property
    def yardstick(self) -> Yardstick:
        """What candidates are compared by."""
        if self.background is None:
            return Yardstick.cosine(self.signature)
        probe = self.background.probe(torch.from_numpy(np.asarray(self.signature, dtype=np.float64)))
        return Yardstick.calibrated(probe.numpy(), self.background.probes.numpy())


@dataclass(frozen=True, eq=False)
class RaceChoice:
    """A chosen LoRA."""

    candidate: Candidate
    lora_id: str
    """Of its row in the database, or that its row would get: several files may claim to be one version."""

    score: float
    """Cosine of the query's signature with what the LoRA does, as far as it is known, in [-1, 1]."""

    score_se: float | None
    """Its standard error; None if it is not known."""

    pairs: int
    """Pairs of pictures behind it in this race or before; a row's own number for one that took part for free."""

    model_evaluations: int
    """Forward passes that this race spent on its side."""

    confidence: Confidence | None = None
    """How sure it is that it fits, as in a search; None without a background."""

    record: LoraRecord | None = None
    """Its row, as the race knows it, whether it was written or not."""

    was_known: bool = False
    """Whether a row stood for it, so that no picture was made or looked at."""

    @property
    def fits(self) -> bool:
        """Whether it does what was asked for."""
        return self.score > 0 if self.confidence is None else self.confidence.fits

    @property
    def facts(self) -> dict[str, Any]:
        """For the report: lora_id, file, score, score_se, model_evaluations."""
        return {
            "lora_id": self.lora_id,
            "file": self.candidate.lora.name,
            "score": self.score,
            "score_se": self.score_se,
            "model_evaluations": self.model_evaluations,
        }


@dataclass(frozen=True, eq=False)
class RaceResult:
    """How a race stands, or ended."""

    query: str
    choice: tuple[RaceChoice, ...]
    """The best, best first; empty if nothing fits."""

    leaders: tuple[RaceChoice, ...]
    """The best whether they fit or not, best first: top_k of them, or all if there are fewer."""

    confidence: float
    """How sure the choice is in the sense of `RaceRules.confidence`, in [0, 1]; if nothing fits, how sure that is."""

    reason: str
    """One of REASONS; empty while the race goes on."""

    model_evaluations: int
    """Forward passes that this race made, those of the base side included."""

    base_model_evaluations: int
    """Those of the base side among them."""

    left: int
    """Candidates that are still in the race."""

    candidates: int
    """All that took part."""

    failed: tuple[Failure, ...] = ()
    """Candidates that could not be measured."""

    rows_written: int = 0
    """Rows that the race added to the database."""

    notes: tuple[str, ...] = ()
    """What is to be said of the pictures that it was run on."""

    @classmethod
    def of_nobody(cls, query: str) -> RaceResult:
        """That of a race without candidates: surely nothing fits."""
        return cls(query, (), (), 1.0, NOTHING_FITS, 0, 0, 0, 0)

    @property
    def fits_none(self) -> bool:
        """Whether it is known that nothing fits."""
        return not self.choice and self.reason == NOTHING_FITS

    def nothing(self, quoted: str) -> str:
        """What is said where nothing was chosen. quoted: the query."""
        return f"Nothing fits {quoted}" if self.reason in _LOOKED_AT_ALL else f"Nothing is known to fit {quoted} yet"

    @property
    def why_no_leaders(self) -> str:
        """Why no candidate may be chosen at all, in a sentence; empty if there are leaders, or no candidates."""
        if self.leaders or not self.candidates:
            return ""
        beyond = self.candidates - len(self.failed) - self.left
        if not beyond and self.left:
            return "The race ended before a LoRA was measured."
        if not beyond:
            return f"None of its LoRAs could be measured: {self.failed[0].file}: {self.failed[0].reason}"
        within = "has an effect within max_strength and min_consistency."
        return f"No LoRA that was measured {within}" if self.left or self.failed else f"No LoRA of the race {within}"

    @property
    def facts(self) -> dict[str, Any]:
        """The report's JSON: query, choice, model_evaluations, confidence, reason, and further keys."""
        return {
            "query": self.query,
            "choice": [choice.facts for choice in self.choice],
            "model_evaluations": self.model_evaluations,
            "base_model_evaluations": self.base_model_evaluations,
            "confidence": self.confidence,
            "reason": self.reason,
            "candidates": self.candidates,
            "left": self.left,
            "failed": [{"file": failure.file, "reason": failure.reason} for failure in self.failed],
            "notes": list(self.notes),
            "nothing": "" if self.choice else f"{self.nothing(repr(self.query))}. {self.why_no_leaders}".strip(),
        }
