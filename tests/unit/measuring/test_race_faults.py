"""Races in which something is broken: a picture, a file's name, what was kept. The rest of the race goes on as if it were not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from carlos_core.generator import Generated, Job
from carlos_core.measuring.base_check import BaseCheck
from carlos_core.measuring.plan import Plan
from carlos_core.measuring.race import Race
from carlos_core.measuring.race_field import Candidate
from carlos_core.measuring.race_terms import ALL_TAKEN, KNOWN, RaceRules
from carlos_core.progress import OnProgress, Progress
from tests.support.miniworld import labels
from tests.support.replayed import EVALUATIONS, Pool, ReplayedGenerator, lora_files, replayed_indexer
from tests.unit.measuring.test_race import BEST, question, run

PIXELS = "blocky square pixels"


class BrokenPicture(ReplayedGenerator):
    """A generator that makes no picture without a LoRA of one place of the plan."""

    broken = 17

    def generate(self, jobs: Sequence[Job], on_progress: OnProgress | None = None) -> Generated:
        made = super().generate(jobs, on_progress)
        for place, job in enumerate(jobs):
            if not job.loras and self._place[job.prompt, job.seed] == self.broken:
                made.images[place] = float("nan")
        return made


def test_a_broken_picture_without_a_lora_throws_nobody_out(pool: Pool, tmp_path: Path) -> None:
    indexer = replayed_indexer(pool, tmp_path)
    indexer = replace(indexer, studio=replace(indexer.studio, generator=BrokenPicture(pool)))
    result = run(indexer, pool, PIXELS)
    (choice,) = result.choice
    assert labels()[choice.candidate.lora.name]["label"] == "pixel art"
    assert (result.reason, result.failed) == (ALL_TAKEN, ())
    (note,) = result.notes
    assert note.startswith("No LoRA got more than 16 pairs of pictures: The picture of ")
    assert result.rows_written == len(pool.features)


def test_a_name_that_no_database_can_keep_costs_no_other_row(pool: Pool, tmp_path: Path) -> None:
    loras = lora_files(pool)
    loras[3] = replace(loras[3], name="st\udcffyle.safetensors")
    indexer = replayed_indexer(pool, tmp_path)
    result = run(indexer, pool, PIXELS, loras=loras)
    (failure,) = result.failed
    assert "is not valid text" in failure.reason
    assert len(indexer.target.read()) == result.rows_written == len(loras) - 1


def test_a_damaged_journal_is_one_failure(pool: Pool, tmp_path: Path) -> None:
    run(replayed_indexer(pool, tmp_path), pool, "on fire")
    journal = sorted((tmp_path / "loras").glob("*.journal"))[5]
    journal.write_bytes(b"\0" * journal.stat().st_size)
    result = run(replayed_indexer(pool, tmp_path), pool, PIXELS)
    (failure,) = result.failed
    assert "is not a journal of this version" in failure.reason
    assert result.reason == KNOWN


def test_known_rows_and_a_lora_beyond_the_limits_do_not_make_a_race_spend_its_budget(pool: Pool, tmp_path: Path) -> None:
    """Where the budget suffices for four pairs of each that has no row, two of each are not taken first."""
    quick, loras = replayed_indexer(pool, tmp_path / "quick", preset="quick"), lora_files(pool)
    strong = next(lora for lora in loras if labels()[lora.name]["kind"] == "strong")
    ordinary = [lora for lora in loras if labels()[lora.name]["kind"] == "ordinary"]
    new = [*ordinary[:4], strong]
    rows = {lora.name: quick.index(lora).row for lora in loras if lora not in new}
    candidates = [Candidate(lora, rows.get(lora.name)) for lora in loras]
    rules = RaceRules(top_k=1, max_model_evaluations=170 * EVALUATIONS)
    result = Race(replayed_indexer(pool, tmp_path / "race", quick.target), candidates, question(pool, "on fire"), rules).run()
    assert result.reason == KNOWN
    assert result.model_evaluations < rules.max_model_evaluations / 2


class AnyPrompt(ReplayedGenerator):
    """A generator that plays the pool's pictures for any prompt, one after another."""

    def generate(self, jobs: Sequence[Job], on_progress: OnProgress | None = None) -> Generated:
        for job in jobs:
            self._place.setdefault((job.prompt, job.seed), len(self._place) % self._pool.pairs)
        return super().generate(jobs, on_progress)


@pytest.mark.parametrize("check", [None, BaseCheck(None, is_strict=True)])
def test_a_check_that_makes_no_picture_takes_nothing_of_the_budget(pool: Pool, tmp_path: Path, check: BaseCheck | None) -> None:
    indexer = replayed_indexer(pool, tmp_path, base_check=check)
    plan = Plan.of_prompt("a house by a lake", 112)
    indexer = replace(indexer, plan=plan, studio=replace(indexer.studio, generator=AnyPrompt(pool)))
    candidates, rules = [Candidate(lora) for lora in lora_files(pool)[:2]], RaceRules(top_k=1, max_model_evaluations=100)
    result = Race(indexer, candidates, question(pool, PIXELS), rules, keeps_rows=False).run()
    assert result.model_evaluations == 6 * EVALUATIONS
    assert result.leaders


def test_the_bar_of_a_race_never_goes_back(pool: Pool, tmp_path: Path) -> None:
    told: list[Progress] = []
    candidates = [Candidate(lora) for lora in lora_files(pool)]
    Race(replayed_indexer(pool, tmp_path), candidates, question(pool, PIXELS), BEST).run(told.append)
    done = [progress.done for progress in told]
    assert done == sorted(done)
