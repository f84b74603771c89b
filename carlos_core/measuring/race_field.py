"""Who takes part in a race, what their pictures say so far, and how more are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..counting import counted
from ..database.database import MetricsDatabase
from ..errors import OF_A_FILE, CarlosError
from ..foreign import printable, reason_of
from ..generator import LoraFit, OnDevice
from ..loras.lora_file import LoraFile, check_unchanged
from ..progress import OnProgress
from ..records import LoraRecord
from ..search.limits import SearchLimits
from .failures import Failure
from .indexer import Indexer
from .measure import Found, check_row, row_of, sides_of, take_in
from .noise_floor import NoiseFloor, noise_floor
from .race_scores import DIMENSION, Scores, Seen, Yardstick, noise_of, scores_of
from .raced_rows import is_raced, keep_raced
from .studio import LOOK, Shoot, Side, diff

_SURE = 2.0
"""Standard errors by which a LoRA is beyond the limits, if it is: it gets no further pictures then."""

_NOISE_PICTURES = 4
"""What `noise_floor` makes where the host makes the same picture twice."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A LoRA that takes part in a race."""

    lora: LoraFile
    row: LoraRecord | None = None
    """Its row, if it was measured already and that row counts for the model. It takes part for free, and gets no pictures, unless
    the row is of the preset "race" itself: then its pictures are found in the feature store, and more may follow."""

    promise: float = 0.0
    """What names and metadata say: the highest comes first. It decides nothing but the order of first pictures."""


class Runner:
    """A candidate in the race."""

    def __init__(self, candidate: Candidate, dimension: int) -> None:
        self.candidate = candidate
        self.diffs = np.zeros((0, dimension))
        """Of the first pairs of the plan, [n, D]."""

        self.row: LoraRecord | None = None
        """The row that stands for it; None if its pictures do."""

        self.evaluations = 0
        """Forward passes that this race spent on its side."""

        self.fit: LoraFit | None = None
        """None as long as the model has not taken it in."""

        self.failure: Failure | None = None

    @property
    def lora(self) -> LoraFile:
        return self.candidate.lora

    @property
    def pairs(self) -> int:
        return len(self.diffs) if self.row is None else self.row.n_images or 0

    @property
    def is_known(self) -> bool:
        """Whether there is anything to score it by."""
        return self.failure is None and (self.row is not None or len(self.diffs) >= 2)

    def seen(self, yardstick: Yardstick) -> Seen:
        return Seen.of(self.diffs, yardstick) if self.row is None else Seen.of_row(self.row, yardstick)

    def noise(self, yardstick: Yardstick) -> np.ndarray:
        """As `race_scores.noise_of`."""
        return noise_of(self.diffs, yardstick) if self.row is None else np.zeros(0)

    @property
    def mean(self) -> np.ndarray:
        """Mean difference, [D]."""
        return self.diffs.mean(0) if self.row is None else self.row.direction.astype(np.float64)

    def is_beyond(self, limits: SearchLimits) -> bool:
        """Whether it may not be chosen: too strong, without one effect, or without any, as far as its pictures say for sure."""
        if self.row is not None:
            return bool(limits.misses_of(self.row))
        n, lengths = len(self.diffs), np.linalg.norm(self.diffs, axis=1)
        moved = self.diffs[lengths > 0] / lengths[lengths > 0, None]
        if n >= 2 and len(moved) < 2:
            return True
        total, n_moved = moved.sum(0), len(moved)
        consistency = float((total @ total - n_moved) / (n_moved * (n_moved - 1)))
        share = min(max(consistency, 0.02), 0.9)
        slack = _SURE * float(np.sqrt((2 * (1 - share) ** 2 / (n * (n - 1)) + 4 * share * (1 - share) / n) / DIMENSION))
        strength = float(lengths.mean()) - _SURE * float(lengths.std(ddof=1)) / n**0.5
        return bool(limits.misses(strength, min(1.0, consistency + slack)))


class Field:
    """All runners, in the order of their contents: sums over all of them come to the same bit, whatever each promises."""

    def __init__(
        self,
        indexer: Indexer,
        candidates: Sequence[Candidate],
        question: tuple[Yardstick, SearchLimits],
        batch: int,
        *,
        keeps_rows: bool,
    ) -> None:
        """Nothing is looked at yet.

        Args:
            indexer: of the race.
            candidates: the same content twice counts once: the first name in the order of names.
            question: what they are scored by, and limits: what is beyond them may not be chosen.
            batch: pictures in a sampler call at most.
            keeps_rows: whether their rows will be kept, which say how far the host's noise goes.
        """
        self.indexer, (self.yardstick, self._limits), self._keeps_rows = indexer, question, keeps_rows
        self.studio = replace(indexer.studio, batch_size=min(indexer.studio.batch, batch))
        self.shots = indexer.plan.shots
        own: dict[str, Candidate] = {}
        for candidate in sorted(candidates, key=lambda each: each.lora.name):
            own.setdefault(candidate.lora.sha256, candidate)
        order = sorted(own.values(), key=lambda each: each.lora.sha256)
        self.runners = [Runner(candidate, indexer.studio.encoder.dimension) for candidate in order]
        self._seen: dict[int, tuple[Seen, np.ndarray, np.ndarray]] = {}
        self._beyond: set[int] = set()
        self.notes = indexer.notes
        """What every row is to say."""
        self.ended = ""
        """Why the plan ends sooner than planned; empty if it does not."""
        self.noise: NoiseFloor | None = None
        """The host's; None as long as it is not known, or where the generator does not tell where it runs."""
        self.base_evaluations = self.lora_evaluations = 0
        # The trial for the steps that suffice was made for this race.
        self.other_evaluations = 0 if indexer.quick_steps is None else indexer.quick_steps.model_evaluations

    @property
    def evaluations(self) -> int:
        """Forward passes that this race made."""
        return self.base_evaluations + self.lora_evaluations + self.other_evaluations

    def recall(self) -> None:
        """Take in what is known already: rows, and pictures in the feature store."""
        database = self.indexer.target.read()
        for place, runner in enumerate(self.runners):
            try:
                self._recall(runner, database)
            except OF_A_FILE as error:
                self._drop(place, error)
                continue
            if runner.is_known:
                self._look(place)

    def _recall(self, runner: Runner, database: MetricsDatabase) -> None:
        row = runner.candidate.row
        kept = self._kept(runner)
        if row is not None and not is_raced(row, database) and (row.n_images or kept + 1) > kept:
            runner.row = row
            return
        if self._keeps_rows:
            check_row(runner.lora, self.studio.encoder.dimension)
        if kept >= 2:
            self._take_in_diffs(runner, kept)

    def _sides(self, runner: Runner) -> tuple[Side, Side]:
        return sides_of(self.studio, runner.lora, self.indexer.protocol)

    def _kept(self, runner: Runner) -> int:
        """How many of the first pairs are in the feature store."""
        base, with_lora = self._sides(runner)
        if not len(with_lora.store):
            return 0
        for place, shot in enumerate(self.shots):
            if base.is_missing([shot]) or with_lora.is_missing([shot]):
                return place
        return len(self.shots)

    def _take_in_diffs(self, runner: Runner, end: int) -> None:
        base, with_lora = self._sides(runner)
        new = [diff(base, with_lora, shot) for shot in self.shots[len(runner.diffs) : end]]
        runner.diffs = np.concatenate([runner.diffs, np.stack(new)])

    def cost(self, place: int, end: int) -> int:
        """Forward passes that it takes to give a runner the first `end` pairs."""
        missing = sum(int(side.missing(self.shots[:end], self.studio.batch).sum()) for side in self._sides(self.runners[place]))
        missing += _NOISE_PICTURES if self._wants_noise else 0
        return missing * self.studio.generator.evaluations_per_image

    @property
    def _wants_noise(self) -> bool:
        return self._keeps_rows and self.noise is None and isinstance(self.studio.generator, OnDevice)

    @property
    def cost_of_check(self) -> int:
        """Forward passes of the pictures without a LoRA that are looked at before one is measured."""
        check = self.indexer.base_check
        if check is None or not check.makes_pictures(self.studio, self.shots):
            return 0
        missing = self.studio.without_lora().missing(self.shots[:LOOK], self.studio.batch)
        return int(missing.sum()) * self.studio.generator.evaluations_per_image

    def take(self, place: int, end: int, on_progress: OnProgress | None) -> None:
        """Give a runner the first `end` pairs. If it cannot be measured it drops out. Raises what is not about this LoRA.

        Where a further picture without a LoRA cannot be made, no LoRA gets a pair of it: the plan ends before it.
        """
        runner = self.runners[place]
        start = len(runner.diffs) // self.studio.batch * self.studio.batch
        try:
            self._take_in(runner)
            base, with_lora = self._sides(runner)
            if not self._make_base(base, start, end, on_progress):
                return
            if self._wants_noise:
                self.noise = noise_floor(self.studio, (base, with_lora), self.shots)
                self.other_evaluations += self.noise.model_evaluations
            self._make(runner, with_lora, start, end, on_progress)
            self._take_in_diffs(runner, end)
        except OF_A_FILE as error:
            self._drop(place, error)
            return
        self._look(place)

    def _drop(self, place: int, error: Exception) -> None:
        """Let a runner drop out. Raises the error if it ends the run."""
        if isinstance(error, CarlosError) and error.ends_run:
            raise error
        runner = self.runners[place]
        runner.failure = Failure(printable(runner.lora.name), reason_of(error))
        self._seen.pop(place, None)

    def _take_in(self, runner: Runner) -> None:
        if runner.fit is None:
            runner.fit = take_in(self.studio, runner.lora, self.indexer.protocol.lora_weight)
        else:
            check_unchanged(runner.lora)

    def _make_base(self, base: Side, start: int, end: int, on_progress: OnProgress | None) -> bool:
        """Make pictures without a LoRA. Returns whether all are there; if not, the plan ends before the first that is not."""
        shoot = Shoot(self.studio, (base,), self.shots[:end], on_progress)
        try:
            shoot.make(base, start, end)
        except OF_A_FILE as error:
            if start == 0 or (isinstance(error, CarlosError) and error.ends_run):
                raise
            self._end_plan(base, error)
            return False
        finally:
            self.base_evaluations += shoot.evaluations[base]
            self.other_evaluations += shoot.warm_up_evaluations
        return True

    def _end_plan(self, base: Side, error: Exception) -> None:
        missing = base.missing(self.shots, self.studio.batch)
        if not missing.any():
            raise error
        n_pairs = int(missing.argmax())
        self.shots = self.shots[:n_pairs]
        self.ended = f"No LoRA got more than {counted(n_pairs, 'pair')} of pictures: {reason_of(error)}"

    def _make(self, runner: Runner, with_lora: Side, start: int, end: int, on_progress: OnProgress | None) -> None:
        shoot = Shoot(self.studio, (with_lora,), self.shots[:end], on_progress)
        try:
            shoot.make(with_lora, start, end)
        finally:
            self.lora_evaluations += shoot.evaluations[with_lora]
            self.other_evaluations += shoot.warm_up_evaluations
            runner.evaluations += shoot.evaluations[with_lora]

    def _look(self, place: int) -> None:
        runner = self.runners[place]
        self._seen[place] = runner.seen(self.yardstick), runner.mean, runner.noise(self.yardstick)
        (self._beyond.add if runner.is_beyond(self._limits) else self._beyond.discard)(place)

    @property
    def unseen(self) -> list[int]:
        """Places of the runners that have no pictures yet."""
        return [place for place, runner in enumerate(self.runners) if not runner.is_known and runner.failure is None]

    def short_of(self, pairs: int, *, within: bool = False) -> list[int]:
        """Places of the runners that have fewer pairs of pictures and could have more, in the order in which they get them.

        within: only of those that may be chosen, as far as is known.
        """
        least = min(pairs, len(self.shots))
        short = (
            place
            for place, runner in enumerate(self.runners)
            if runner.failure is None and runner.row is None and len(runner.diffs) < least
            if not (within and place in self._beyond)
        )
        return sorted(short, key=lambda place: -self.runners[place].candidate.promise)

    @property
    def within(self) -> list[int]:
        """Places of the runners that are known and may be chosen."""
        return sorted(set(self._seen) - self._beyond)

    def scores(self, places: Sequence[int], yardstick: Yardstick | None = None) -> Scores:
        """Scores of known runners. yardstick: another one than the race's own."""
        means = np.stack([self._seen[place][1] for place in places])
        if yardstick is None:
            return scores_of([self._seen[place][0] for place in places], self.yardstick, means)
        return scores_of([self.runners[place].seen(yardstick) for place in places], yardstick, means)

    def noise_of(self, places: Sequence[int]) -> list[np.ndarray]:
        """What known runners' errors are made of, as `race_scores.noise_of`."""
        return [self._seen[place][2] for place in places]

    def row_of(self, place: int) -> LoraRecord | None:
        """A runner's row, from what is known now; None if nothing is."""
        runner = self.runners[place]
        if runner.row is not None or len(runner.diffs) < 2:
            return runner.row
        found = Found(runner.fit or LoraFit(0, 0, ""), None, self.noise, self.notes)
        # Not from the feature store: only the last LoRA's is held open, and another process may have removed those before.
        diffs = zip(self.shots, runner.diffs, strict=False)
        return row_of(self.studio, runner.lora, self.indexer.protocol, diffs, found)

    def keep_rows(self) -> int:
        """Put the rows of those that got pictures into the database, unless it has better ones. Returns how many.

        Raises DatabaseError.
        """
        places = [place for place, runner in enumerate(self.runners) if runner.row is None and runner.is_known]
        return keep_raced(self.indexer, [row for row in map(self.row_of, places) if row is not None])
