"""A race of LoRAs that nobody has measured: which of them fit a query best, with as few pictures as that takes.

Every candidate gets a few pairs of pictures, the same (prompt, seed) pairs in the same order, so that the pictures without a
LoRA are made once for all. Its score is known to an error bar then. Those that are clearly behind get no more, and further pairs
go to the others, until the best are known with the confidence asked for.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np
import torch

from ..counting import share
from ..database.database import MetricsDatabase
from ..errors import DatabaseError, RetrievalError
from ..foreign import printable
from ..loras.lora_file import LoraFile
from ..progress import OnProgress, Progress, titled
from ..search.calibration import confidences, least_z
from ..search.matches import Confidence
from .indexer import Indexer
from .race_field import Candidate, Field
from .race_rule import FIRST, Standing, doubling, first_batch, following, round_of, usual_pictures
from .race_scores import Yardstick
from .race_terms import (
    ALL_FAILED,
    ALL_TAKEN,
    BUDGET_SPENT,
    CANCELLED,
    KNOWN,
    NOTHING_FITS,
    TIME_SPENT,
    RaceChoice,
    RaceQuestion,
    RaceResult,
    RaceRules,
)
from .raced_rows import is_raced
from .speed import so_far

logger = logging.getLogger(__name__)

_AHEAD = 1.25
"""A race that takes longer than usual is shown as if it took so many times what it has taken."""

_DOUBTFUL = 0.5
"""Probability that the best one fits, below which it is not said to lead."""


class Race:
    """Runs once. `result` says how it stands, at any time, also after a cancel.

    The same candidates, pictures and rules give the same result, in whatever order the candidates are given. What was made is in
    the studio's feature store at once: a race that was broken off goes on, and one for another query starts from there.
    """

    def __init__(
        self,
        indexer: Indexer,
        candidates: Sequence[Candidate],
        question: RaceQuestion,
        rules: RaceRules | None = None,
        *,
        keeps_rows: bool = True,
        began: float | None = None,
    ) -> None:
        """Nothing is made yet.

        Args:
            indexer: of the preset "race". Its studio makes the pictures, its plan says which (`Plan.of_preset`, or
                `Plan.of_prompt` for the user's own prompt), and its target gets the rows.
            candidates: all that fit the model. The same content twice counts once.
            question: what is asked.
            rules: when it is over.
            keeps_rows: whether rows are written. False for the user's own prompt, whose pictures only fill the feature store.
            began: `time.monotonic` from which `max_minutes` count; None: when it is run.

        Raises RetrievalError for rules or a signature that make no sense.
        """
        self.rules, self.question = rules or RaceRules(), question
        self.rules.check()
        if question.signature.shape != (indexer.studio.encoder.dimension,) or not question.signature.any():
            raise RetrievalError("The query changes nothing in the encoder's eyes.", "Say it in other words.")
        evaluations = indexer.studio.generator.evaluations_per_image
        self._last_read = indexer.target.read()
        # Other rows stand for their LoRAs, which get no pictures.
        new = {each.lora.sha256 for each in candidates if each.row is None or is_raced(each.row, self._last_read)}
        self._batch = first_batch(len(new), self.rules.max_model_evaluations // evaluations)
        self._field = Field(indexer, candidates, (question.yardstick, question.limits), self._batch, keeps_rows=keeps_rows)
        self._keeps_rows, self._began = keeps_rows, began
        self._rows_written = 0
        self._reason = ""
        self._notes: tuple[str, ...] = ()
        self._places: list[int] = []
        self._since, self._before, self._usual = 0.0, 0, 0
        self._standing = Standing.of_nobody()

    def run(self, on_progress: OnProgress | None = None) -> RaceResult:
        """Race to the end.

        Rows are written when it ends, also when it is cancelled; where they cannot be, the result's notes say so. A candidate
        whose file cannot be measured drops out; errors that are not about one LoRA, such as a cancel or one that
        `CarlosError.ends_run`, pass through.
        on_progress: called with how many are left, the leader, and the newest picture; done and total are model evaluations.
        """
        if self._keeps_rows:
            self._field.indexer.check_ready()
        ending = CANCELLED
        try:
            ending = self._run(on_progress)
        finally:
            self._look()
            self._reason = ending
            if self._keeps_rows:
                self._keep_rows()
        self._field.studio.trim()
        return self.result

    def _keep_rows(self) -> None:
        """Write the rows. Where that fails, what was found is no less true, and a cancel is still one: the pictures are kept."""
        try:
            self._rows_written = self._field.keep_rows()
        except DatabaseError as error:
            logger.warning("carlos: the rows of a race were not saved: %s", error)
            self._notes += (f"The rows of this race were not saved, its pictures are kept: {error}",)

    def _run(self, on_progress: OnProgress | None) -> str:
        field, budget = self._field, self.rules.max_model_evaluations
        deadline = (time.monotonic() if self._began is None else self._began) + 60 * self.rules.max_minutes
        field.recall()
        self._since, self._before = time.monotonic(), field.evaluations
        self._usual = usual_pictures(len(field.short_of(self._batch))) * self._per_image
        if field.indexer.base_check is not None and any(runner.row is None for runner in field.runners):
            if budget and field.evaluations + field.cost_of_check > budget:
                return BUDGET_SPENT
            checked = field.indexer.base_check.look(field.studio, field.shots, titled(on_progress, "first without a LoRA: "))
            field.base_evaluations += checked.base_evaluations
            field.other_evaluations += checked.other_evaluations
            self._notes += (checked.note,) if checked.note else ()
            field.notes += self._notes
        while True:
            self._look()
            place = next(iter(field.short_of(self._batch)), None)
            if place is None:
                if ending := self._ending():
                    return ending
                place = self._next()
            if place is None:
                return ALL_TAKEN
            taken = len(field.runners[place].diffs)
            end = min(len(field.shots), taken + round_of(taken, self._batch))
            if budget and field.evaluations + field.cost(place, end) > budget:
                return BUDGET_SPENT
            if self.rules.max_minutes and time.monotonic() >= deadline:
                return TIME_SPENT
            field.take(place, end, self._shown(on_progress, field.runners[place].lora))

    def _next(self) -> int | None:
        """Who gets further pictures; None if nobody can who may still win."""
        field, standing, budget = self._field, self._standing, self.rules.max_model_evaluations
        runners, most = field.runners, len(field.shots)
        own = [runners[place] for place in self._places]
        is_open = np.array([runner.row is None and len(runner.diffs) < most for runner in own], dtype=bool)
        if budget and field.short_of(FIRST, within=True):
            pairs = np.array([runner.pairs for runner in own], dtype=int)
            index = doubling(standing, pairs, is_open, (budget - field.evaluations) // self._per_image)
            return None if index is None else self._places[index]
        # Whether the best one fits may be all that is left to know.
        leader = int(standing.chosen[0]) if standing.confidence >= self.rules.confidence else None
        index = leader if leader is not None and is_open[leader] else following(standing, is_open)
        return None if index is None else self._places[index]

    def _look(self) -> None:
        """Work out how the race stands."""
        field = self._field
        self._places = field.within
        if not self._places:
            self._standing = Standing.of_nobody()
            return
        scores, noise = field.scores(self._places), field.noise_of(self._places)
        least = least_z(len(self._places)) / scores.unit if self.question.background is not None else 0.0
        self._standing = Standing.of(scores, self.rules.top_k, self.rules.tolerance, noise, len(field.unseen), least)

    def _ending(self) -> str:
        """Why the race is over; empty if it is not."""
        runners = self._field.runners
        if runners and all(runner.failure is not None for runner in runners):
            return ALL_FAILED
        if not self._places:
            return NOTHING_FITS
        # Two pairs do not tell for sure who is out: of 1,000, the best one often begins with two bad pictures.
        if self._field.short_of(FIRST, within=True):
            return ""
        if self._nothing_fits >= self.rules.confidence:
            return NOTHING_FITS
        is_known = self._standing.confidence >= self.rules.confidence
        return KNOWN if is_known and self._standing.leader_fits >= self.rules.confidence else ""

    @property
    def _nothing_fits(self) -> float:
        """Probability that nothing fits."""
        if not self._places:
            return float(self._reason == NOTHING_FITS)
        return self._standing.nothing_fits

    @property
    def result(self) -> RaceResult:
        """How the race stands."""
        leaders = self._leaders()
        choice = tuple(leader for leader in leaders if leader.fits)
        field, standing = self._field, self._standing
        nothing = not choice and bool(self._reason)
        reason = NOTHING_FITS if nothing and self._reason == KNOWN else self._reason
        return RaceResult(
            query=self.question.query,
            choice=choice,
            leaders=leaders,
            confidence=standing.confidence if choice else self._nothing_fits,
            reason=reason,
            model_evaluations=field.evaluations,
            base_model_evaluations=field.base_evaluations,
            left=self._left,
            candidates=len(field.runners),
            failed=tuple(runner.failure for runner in field.runners if runner.failure is not None),
            rows_written=self._rows_written,
            notes=(*self.question.notes, *self._notes, *([field.ended] if field.ended else [])),
        )

    @property
    def _left(self) -> int:
        return len(self._field.unseen) + (self._standing.left if self._places else 0)

    def _leaders(self) -> tuple[RaceChoice, ...]:
        if not self._places:
            return ()
        standing, field = self._standing, self._field
        cosines = field.scores(self._places, Yardstick.cosine(self.question.signature))
        chosen = standing.chosen
        sure: Sequence[Confidence | None] = [None] * len(chosen)
        if self.question.background is not None:
            z = torch.from_numpy(standing.scores.mean[chosen] * standing.scores.unit)
            sure = confidences(z, len(self._places))
        database = self._database()
        return tuple(
            self._choice_of(self._places[index], database, (cosines.estimate[index], cosines.se[index]), confidence)
            for index, confidence in zip(chosen, sure, strict=True)
        )

    def _database(self) -> MetricsDatabase:
        """The database, for the ids of rows; as it was last read where somebody has taken its file away since then."""
        with suppress(DatabaseError):
            self._last_read = self._field.indexer.target.read()
        return self._last_read

    def _choice_of(
        self, place: int, database: MetricsDatabase, score: tuple[float, float], confidence: Confidence | None
    ) -> RaceChoice:
        """score: with its standard error."""
        runner, row = self._field.runners[place], self._field.row_of(place)
        lora_id = database.id_of(runner.lora.lora_id, runner.lora.sha256)
        record = None if row is None else replace(row, lora_id=lora_id)
        return RaceChoice(
            runner.candidate,
            lora_id,
            float(score[0]),
            float(score[1]),
            runner.pairs,
            runner.evaluations,
            confidence,
            record,
            was_known=runner.row is not None,
        )

    def _shown(self, on_progress: OnProgress | None, tried: LoraFile) -> OnProgress | None:
        """The callback for the pictures of one visit. tried: whose they are."""
        if on_progress is None:
            return None
        field = self._field
        most = self.rules.max_model_evaluations or len(field.runners) * len(field.shots) * self._per_image
        usual = self._before + self._usual
        note = f"{self._note()}; now {printable(tried.name)}"

        def tell(progress: Progress) -> None:
            done = field.evaluations + progress.done * self._per_image // max(1, field.studio.generator.steps)
            # Nobody knows when it is over: the bar slows down rather than standing still at its end.
            total = max(done, min(most, max(usual, round(_AHEAD * done))))
            took = so_far(time.monotonic() - self._since, done - self._before, self._usual)
            told = f"{note}; {took}" if took else note
            on_progress(replace(progress, done=done, total=total, note=told, note_without_time=note, pictures_left=None))

        return tell

    @property
    def _per_image(self) -> int:
        return self._field.studio.generator.evaluations_per_image

    def _note(self) -> str:
        """How many are left and who leads, in words."""
        runners = self._field.runners
        left = f"{self._left} of {len(runners)} left"
        if not self._places:
            return left
        standing = self._standing
        place = self._places[standing.chosen[0]]
        cosine = self._field.scores([place], Yardstick.cosine(self.question.signature))
        name, score = printable(runners[place].lora.name), f"{cosine.estimate[0]:.2f} ± {cosine.se[0]:.2f}"
        if standing.leader_fits < _DOUBTFUL:
            return f"{left}, so far nothing fits ({share(standing.nothing_fits)} sure); nearest is {name}"
        return f"{left}, {name} leads: {score}, {share(min(standing.confidence, standing.leader_fits))} sure"
