"""Races on pictures of the mini-world that were made once: its 22 LoRAs that a model can take, 48 pairs each."""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from carlos_core.database.database import MetricsDatabase, load_database
from carlos_core.database.target import DatabaseFile
from carlos_core.errors import RetrievalError
from carlos_core.loras.lora_file import LoraFile, read_lora_file
from carlos_core.measuring.base_check import BaseCheck
from carlos_core.measuring.indexer import Indexer
from carlos_core.measuring.outcome import INDEXED
from carlos_core.measuring.plan import Plan
from carlos_core.measuring.presets import PRESETS
from carlos_core.measuring.quick_steps import QuickSteps
from carlos_core.measuring.race import Race
from carlos_core.measuring.race_field import Candidate
from carlos_core.measuring.race_terms import (
    ALL_FAILED,
    ALL_TAKEN,
    BUDGET_SPENT,
    CANCELLED,
    KNOWN,
    NOTHING_FITS,
    TIME_SPENT,
    RaceQuestion,
    RaceResult,
    RaceRules,
)
from carlos_core.measuring.settings import PRESET_NAMES
from carlos_core.progress import Progress
from carlos_core.records import RACE, LoraRecord
from carlos_core.search.calibration import fit_background
from carlos_core.search.limits import SearchLimits
from tests.support.miniworld import MINIWORLD
from tests.support.replayed import EVALUATIONS, Pool, ReplayedGenerator, lora_files, plan_of, replayed_indexer

BEST = RaceRules(top_k=1)
SINGLE = json.loads((MINIWORLD / "queries.json").read_text(encoding="utf-8"))["single"]


def question(pool: Pool, query: str) -> RaceQuestion:
    place = [entry["query"] for entry in SINGLE].index(query)
    return RaceQuestion(query, pool.signatures["single"][place])


def run(
    indexer: Indexer, pool: Pool, query: str = "painted in watercolour", rules: RaceRules = BEST, loras: Sequence[LoraFile] = ()
) -> RaceResult:
    candidates = [Candidate(lora) for lora in loras or lora_files(pool)]
    return Race(indexer, candidates, question(pool, query), rules).run()


def files(result: RaceResult) -> list[str]:
    return [choice.candidate.lora.name for choice in result.choice]


def jobs(indexer: Indexer) -> int:
    generator = indexer.studio.generator
    assert isinstance(generator, ReplayedGenerator)
    return len(generator.jobs)


def database(indexer: Indexer) -> MetricsDatabase:
    return indexer.target.read()


@pytest.mark.parametrize("place", range(0, len(SINGLE), 8))
def test_the_right_lora_wins_with_a_quarter_of_the_pictures_of_all(pool: Pool, tmp_path: Path, place: int) -> None:
    result = run(replayed_indexer(pool, tmp_path), pool, SINGLE[place]["query"])
    assert files(result)[0] in alike(SINGLE[place]["files"][0])
    assert result.reason == KNOWN
    assert result.confidence >= 0.9
    assert result.model_evaluations <= len(pool.features) * pool.pairs * EVALUATIONS / 4


def test_where_the_database_is_taken_away_the_answer_stays(pool: Pool, tmp_path: Path) -> None:
    path, indexer = tmp_path / "rows.parquet", replayed_indexer(pool, tmp_path)
    database(indexer).save_parquet(path)
    indexer = replace(indexer, target=DatabaseFile.of(load_database(path)))

    def take_away(progress: Progress) -> None:
        path.unlink(missing_ok=True)

    candidates = [Candidate(lora) for lora in lora_files(pool)]
    result = Race(indexer, candidates, question(pool, "painted in watercolour"), BEST).run(take_away)
    assert files(result) == ["watercolour_painting.safetensors"]
    assert result.rows_written == 0
    assert any("rows of this race were not saved, its pictures are kept" in note for note in result.notes)


def alike(file: str) -> set[str]:
    """A LoRA and those that were trained for the same effect."""
    labels = json.loads((MINIWORLD / "labels.json").read_text(encoding="utf-8"))
    return {name for name, facts in labels.items() if facts["label"] == labels[file]["label"] and facts["kind"] != "weak"}


def test_all_pairs_of_all_loras_give_the_same_answer(pool: Pool, tmp_path: Path) -> None:
    aim = question(pool, "painted in watercolour").signature
    means = {file: pool.diffs(file).mean(0) for file in pool.features}
    cosines = {file: float(mean @ aim / np.linalg.norm(mean) / np.linalg.norm(aim)) for file, mean in means.items() if mean.any()}
    best = run(replayed_indexer(pool, tmp_path), pool).choice[0]
    assert best.candidate.lora.name == max(cosines, key=lambda file: cosines[file])
    assert best.score_se is not None
    assert abs(best.score - cosines[best.candidate.lora.name]) < 3 * best.score_se


def test_the_order_of_the_candidates_changes_nothing(pool: Pool, tmp_path: Path) -> None:
    loras = lora_files(pool)
    forth = run(replayed_indexer(pool, tmp_path / "forth"), pool, loras=loras)
    back = run(replayed_indexer(pool, tmp_path / "back"), pool, loras=loras[::-1])
    assert forth.facts == back.facts


def test_misleading_names_change_nothing_but_the_order(pool: Pool, tmp_path: Path) -> None:
    wrong = [Candidate(lora, promise=float(lora.name == "red_balloons.safetensors")) for lora in lora_files(pool)]
    misled = replayed_indexer(pool, tmp_path / "misled")
    plain = run(replayed_indexer(pool, tmp_path / "plain"), pool)
    result = Race(misled, wrong, question(pool, "painted in watercolour"), BEST).run()
    assert result.facts == plain.facts
    assert isinstance(misled.studio.generator, ReplayedGenerator)
    first = next(job for job in misled.studio.generator.jobs if job.loras)
    assert first.loras[0].path.name == "red_balloons.safetensors"


def test_a_race_that_its_budget_ends_says_how_sure_it_was(pool: Pool, tmp_path: Path) -> None:
    # One pair more than the first pictures of all.
    budget = (len(pool.features) * 2 + 4) * EVALUATIONS
    indexer = replayed_indexer(pool, tmp_path)
    result = run(indexer, pool, "cold winter colours", RaceRules(3, 0.999, budget))
    assert result.reason == BUDGET_SPENT
    assert 0 < result.confidence < 0.999
    assert result.model_evaluations <= budget
    assert result.model_evaluations == jobs(indexer) * EVALUATIONS
    assert len(result.choice) == 3


def test_a_race_that_its_time_ends_is_over_before_the_next_picture(pool: Pool, tmp_path: Path) -> None:
    result = run(replayed_indexer(pool, tmp_path), pool, rules=RaceRules(1, max_minutes=1e-9))
    assert (result.reason, result.model_evaluations, result.choice) == (TIME_SPENT, 0, ())
    assert result.left == result.candidates == len(pool.features)


def test_a_race_ends_when_all_pictures_are_taken(pool: Pool, tmp_path: Path) -> None:
    loras = [lora for lora in lora_files(pool) if lora.name in alike("pixel_art.safetensors")]
    assert len(loras) == 2
    result = run(replayed_indexer(pool, tmp_path), pool, "blocky square pixels", RaceRules(1, 0.99999, tolerance=0.0), loras)
    assert result.reason == ALL_TAKEN
    assert result.confidence < 0.99999
    assert result.model_evaluations == 3 * pool.pairs * EVALUATIONS


def test_a_second_race_starts_from_the_first_ones_pictures(pool: Pool, tmp_path: Path) -> None:
    first = run(replayed_indexer(pool, tmp_path), pool, "drawn in pencil")
    second = run(replayed_indexer(pool, tmp_path), pool, "graphite pencil drawing")
    assert files(first) == files(second) == ["pencil_sketch.safetensors"]
    assert second.model_evaluations < first.model_evaluations / 4


def test_a_race_again_makes_nothing_and_says_the_same(pool: Pool, tmp_path: Path) -> None:
    first = run(replayed_indexer(pool, tmp_path), pool, "on fire")
    again = replayed_indexer(pool, tmp_path)
    second = run(again, pool, "on fire")
    assert jobs(again) == second.model_evaluations == 0
    assert [(choice.score, choice.score_se) for choice in second.choice] == [(c.score, c.score_se) for c in first.choice]


def test_cancel_keeps_what_was_learnt(pool: Pool, tmp_path: Path) -> None:
    class CancelledError(Exception):
        pass

    def cancel(progress: Progress) -> None:
        if progress.done > 10 * 4 * EVALUATIONS:
            raise CancelledError

    indexer = replayed_indexer(pool, tmp_path / "broken off")
    broken_off = Race(indexer, [Candidate(lora) for lora in lora_files(pool)], question(pool, "on fire"), BEST)
    with pytest.raises(CancelledError):
        broken_off.run(cancel)
    assert broken_off.result.reason == CANCELLED
    assert broken_off.result.leaders
    assert len(database(indexer)) == broken_off.result.rows_written > 5
    on = replayed_indexer(pool, tmp_path / "broken off", indexer.target)
    whole = replayed_indexer(pool, tmp_path / "whole")
    assert run(on, pool, "on fire").choice[0].score == run(whole, pool, "on fire").choice[0].score
    assert jobs(indexer) + jobs(on) == jobs(whole)


def test_index_library_finishes_raced_rows_with_the_pictures_that_are_there(pool: Pool, tmp_path: Path) -> None:
    race = replayed_indexer(pool, tmp_path / "raced")
    assert run(race, pool).rows_written == len(pool.features)
    raced = database(race).measured[0]
    assert database(race).protocols[raced.protocol_id or ""]["preset"] == RACE
    lora = read_lora_file(MINIWORLD / "loras" / "watercolour_painting.safetensors")
    finished = replayed_indexer(pool, tmp_path / "raced", race.target, "quick")
    alone = replayed_indexer(pool, tmp_path / "alone", preset="quick")
    outcome, same = finished.index(lora), alone.index(lora)
    assert outcome.status == INDEXED
    assert outcome.row.direction.tobytes() == same.row.direction.tobytes()
    assert jobs(finished) < jobs(alone)


def test_a_raced_row_never_replaces_a_fuller_one(pool: Pool, tmp_path: Path) -> None:
    quick = replayed_indexer(pool, tmp_path / "quick", preset="quick")
    loras = lora_files(pool)
    before = quick.index(loras[0]).row
    # The features are elsewhere, and the race is not told of the row.
    race = replayed_indexer(pool, tmp_path / "race", quick.target)
    result = run(race, pool, loras=loras)
    assert result.rows_written == len(loras) - 1
    row = database(race).row(before.lora_id)
    assert row is not None
    assert (row.protocol_id, row.n_images) == (before.protocol_id, before.n_images)


def test_a_row_of_unknown_origin_stays(pool: Pool, tmp_path: Path) -> None:
    race = replayed_indexer(pool, tmp_path)
    lora = lora_files(pool)[0]
    published = LoraRecord(lora_id=lora.lora_id, direction=np.ones(pool.dimension, np.float32), strength=5.0, consistency=0.1)
    race.target.change(lambda database: database.upsert(published, None))
    assert run(race, pool).rows_written == len(pool.features) - 1
    row = database(race).row(lora.lora_id)
    assert row is not None
    assert row.strength == 5.0


def test_a_lora_that_was_measured_takes_part_for_free(pool: Pool, tmp_path: Path) -> None:
    quick = replayed_indexer(pool, tmp_path / "quick", preset="quick")
    loras = lora_files(pool)
    rows = {lora.name: quick.index(lora).row for lora in loras[::3]}
    race = replayed_indexer(pool, tmp_path / "race", quick.target)
    candidates = [Candidate(lora, rows.get(lora.name)) for lora in loras]
    result = Race(race, candidates, question(pool, "on fire"), BEST).run()
    assert isinstance(race.studio.generator, ReplayedGenerator)
    assert not {job.loras[0].path.name for job in race.studio.generator.jobs if job.loras} & set(rows)
    assert "burning_flames.safetensors" in rows
    assert files(result) == ["burning_flames.safetensors"]
    assert result.choice[0].model_evaluations == 0


def test_the_users_own_prompt_fills_the_store_and_writes_no_rows(pool: Pool, tmp_path: Path) -> None:
    indexer = replayed_indexer(pool, tmp_path)
    race = Race(indexer, [Candidate(lora) for lora in lora_files(pool)], question(pool, "on fire"), BEST, keeps_rows=False)
    assert race.run().rows_written == len(database(indexer)) == 0
    assert jobs(again := replayed_indexer(pool, tmp_path)) == 0
    assert run(again, pool, "on fire").model_evaluations == 0


def test_an_own_prompt_has_a_plan_of_many_seeds() -> None:
    plan = Plan.of_prompt("a house by the sea", 40)
    assert {shot.prompt.text for shot in plan.shots} == {"a house by the sea"}
    assert len({shot.seed for shot in plan.shots}) == 40


def test_nothing_fits_is_an_answer(pool: Pool, tmp_path: Path) -> None:
    background = fit_background(torch.from_numpy(pool.signatures["bank"]))
    loras = [lora for lora in lora_files(pool) if lora.name not in alike("burning_flames.safetensors")]

    def asked(query: str, folder: str, among: Sequence[LoraFile]) -> RaceResult:
        asked = RaceQuestion(query, question(pool, query).signature, background)
        return Race(replayed_indexer(pool, tmp_path / folder), [Candidate(lora) for lora in among], asked, BEST).run()

    without, with_it = asked("on fire", "without", loras), asked("on fire", "with", lora_files(pool))
    assert without.choice == ()
    assert without.leaders
    assert without.reason == NOTHING_FITS
    assert without.confidence > 0.5
    assert files(with_it) == ["burning_flames.safetensors"]
    assert with_it.choice[0].confidence is not None
    assert with_it.choice[0].confidence.fits


def test_looking_for_three_ends_where_one_fits(pool: Pool, tmp_path: Path) -> None:
    background = fit_background(torch.from_numpy(pool.signatures["bank"]))
    asked = RaceQuestion("on fire", question(pool, "on fire").signature, background)

    def raced(top_k: int) -> RaceResult:
        indexer = replayed_indexer(pool, tmp_path / str(top_k))
        return Race(indexer, [Candidate(lora) for lora in lora_files(pool)], asked, RaceRules(top_k=top_k)).run()

    one, three = raced(1), raced(3)
    assert one.reason == three.reason == KNOWN
    assert files(one) == files(three) == ["burning_flames.safetensors"]
    assert len(three.leaders) == 3
    # Of 22 LoRAs and 48 pairs.
    assert three.model_evaluations < 0.4 * 22 * 48 * EVALUATIONS


def test_two_pairs_each_are_not_enough_to_be_sure(pool: Pool, tmp_path: Path) -> None:
    # Of 150 pictures, four pairs of 22 would take more than half.
    indexer, short = replayed_indexer(pool, tmp_path), RaceRules(top_k=1, max_model_evaluations=150 * EVALUATIONS)
    first = run(indexer, pool, rules=short)
    assert first.reason == BUDGET_SPENT
    assert files(first) == ["watercolour_painting.safetensors"]
    # One with more to spend gives everybody four, and needs no more than one from the start.
    then, fresh = run(indexer, pool), run(replayed_indexer(pool, tmp_path / "fresh"), pool)
    assert then.reason == fresh.reason == KNOWN
    assert files(then) == files(fresh)
    assert then.model_evaluations < fresh.model_evaluations


def test_it_is_told_how_long_a_race_usually_takes_from_where_it_starts(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Progress] = []
    # A second each time that the clock is looked at.
    seconds = itertools.count(1.0)
    monkeypatch.setattr("carlos_core.measuring.race.time.monotonic", lambda: next(seconds))
    candidates, asked = [Candidate(lora) for lora in lora_files(pool)], question(pool, "on fire")
    Race(replayed_indexer(pool, tmp_path), candidates, asked, BEST).run(told.append)
    times = [progress.note.rpartition("; ")[2] for progress in told if "usually" in progress.note]
    assert times
    assert re.fullmatch(r"about \d+ s so far, usually about \d+ (s|min) in all", times[0])
    assert not any("usually" in progress.note_without_time for progress in told)
    # Most is known to one that comes after it.
    first, told[:] = told[0].total, []
    Race(replayed_indexer(pool, tmp_path), candidates, question(pool, "in sepia tones"), BEST).run(told.append)
    assert told[0].total < first / 2


def test_it_is_told_what_is_tried_and_that_so_far_nothing_fits(pool: Pool, tmp_path: Path) -> None:
    background = fit_background(torch.from_numpy(pool.signatures["bank"]))
    told: list[Progress] = []

    def raced(query: str, loras: Sequence[LoraFile]) -> RaceResult:
        asked = RaceQuestion(query, question(pool, query).signature, background)
        indexer = replayed_indexer(pool, tmp_path / str(len(loras)))
        return Race(indexer, [Candidate(lora) for lora in loras], asked, BEST).run(told.append)

    raced("on fire", lora_files(pool))
    assert "leads: " in told[-1].note
    assert all("; now " in progress.note for progress in told)
    assert {progress.note_without_time.rpartition("; now ")[2] for progress in told} == {lora.name for lora in lora_files(pool)}
    # The bar is of what a race usually takes, and ahead of what it has taken.
    assert told[0].total == 2.5 * 23 * 4 * EVALUATIONS
    assert all(progress.done < progress.total < BEST.max_model_evaluations for progress in told[:-1])
    told.clear()
    raced("on fire", [lora for lora in lora_files(pool) if lora.name not in alike("burning_flames.safetensors")])
    assert "so far nothing fits (" in told[-1].note
    assert "; nearest is " in told[-1].note


def test_a_lora_beyond_the_limits_is_not_chosen(pool: Pool, tmp_path: Path) -> None:
    result = run(replayed_indexer(pool, tmp_path), pool, rules=RaceRules(top_k=30))
    labels = json.loads((MINIWORLD / "labels.json").read_text(encoding="utf-8"))
    assert not {labels[name]["kind"] for name in files(result)} & {"strong", "noop"}


def test_a_file_that_does_not_fit_drops_out_and_is_named(pool: Pool, tmp_path: Path) -> None:
    misfit = read_lora_file(MINIWORLD / "loras" / "mystery_04.safetensors")
    result = run(replayed_indexer(pool, tmp_path), pool, loras=[*lora_files(pool), misfit])
    assert [failure.file for failure in result.failed] == ["mystery_04.safetensors"]
    assert files(result) == ["watercolour_painting.safetensors"]
    assert result.candidates == len(pool.features) + 1


def test_the_same_content_under_two_names_races_once(pool: Pool, tmp_path: Path) -> None:
    loras = lora_files(pool)
    copy = LoraFile(loras[0].path, "z/copy.safetensors", loras[0].sha256, loras[0].metadata)
    result = run(replayed_indexer(pool, tmp_path), pool, loras=[copy, *loras])
    assert result.candidates == len(loras)


def test_progress_shows_the_field_shrinking(pool: Pool, tmp_path: Path) -> None:
    told: list[Progress] = []
    candidates = [Candidate(lora) for lora in lora_files(pool)]
    Race(replayed_indexer(pool, tmp_path), candidates, question(pool, "on fire"), RaceRules(1, 0.999)).run(told.append)
    left = [int(progress.note.split(" of ")[0]) for progress in told if " left" in progress.note]
    assert left[0] == len(candidates)
    assert left[-1] < 5
    assert "burning_flames.safetensors leads" in told[-1].note
    assert all(progress.done <= progress.total for progress in told)
    assert [progress.done for progress in told] == sorted(progress.done for progress in told)
    assert any(progress.image is not None for progress in told)


@pytest.mark.parametrize("rules", [RaceRules(0), RaceRules(1, 1.0), RaceRules(1, 0.9, -1), RaceRules(1, 0.9, 0, -1.0)])
def test_rules_that_make_no_sense_are_refused(pool: Pool, tmp_path: Path, rules: RaceRules) -> None:
    with pytest.raises(RetrievalError):
        run(replayed_indexer(pool, tmp_path), pool, rules=rules)


def test_a_query_that_changes_nothing_is_refused(pool: Pool, tmp_path: Path) -> None:
    indexer = replayed_indexer(pool, tmp_path)
    with pytest.raises(RetrievalError, match="changes nothing"):
        Race(indexer, [], RaceQuestion("", np.zeros(pool.dimension)))


def test_a_race_without_candidates_says_that_nothing_fits(pool: Pool, tmp_path: Path) -> None:
    result = Race(replayed_indexer(pool, tmp_path), [], question(pool, "on fire")).run()
    assert (result.choice, result.reason, result.model_evaluations) == ((), NOTHING_FITS, 0)


def test_the_report_is_plain_data(pool: Pool, tmp_path: Path) -> None:
    facts = json.loads(json.dumps(run(replayed_indexer(pool, tmp_path), pool).facts, allow_nan=False))
    assert {"query", "choice", "model_evaluations", "confidence", "reason"} <= set(facts)
    assert set(facts["choice"][0]) == {"lora_id", "file", "score", "score_se", "model_evaluations"}


def test_a_race_is_no_preset_to_index_with() -> None:
    assert RACE not in PRESET_NAMES
    assert next(iter(PRESETS)) == RACE


def test_quicks_plan_begins_with_the_races(pool: Pool) -> None:
    assert plan_of(pool).shots == plan_of(pool, "quick").shots


def test_the_check_of_pictures_and_the_trial_of_steps_are_within_the_budget(pool: Pool, tmp_path: Path) -> None:
    checked = replayed_indexer(pool, tmp_path / "checked", base_check=BaseCheck(None, is_strict=True))
    result = run(checked, pool, rules=RaceRules(1, 0.9, 1))
    assert (result.reason, result.model_evaluations, jobs(checked)) == (BUDGET_SPENT, 0, 0)
    tried = replayed_indexer(pool, tmp_path / "tried")
    steps = QuickSteps(lambda _steps: tried.studio, 8, tried.plan.shots)
    steps.model_evaluations = 5000
    result = run(replace(tried, quick_steps=steps), pool, rules=RaceRules(1, 0.9, 5000))
    assert (result.reason, result.model_evaluations, jobs(tried)) == (BUDGET_SPENT, 5000, 0)


def test_time_counts_from_when_the_race_was_asked_for(pool: Pool, tmp_path: Path) -> None:
    indexer = replayed_indexer(pool, tmp_path)
    rules, began = RaceRules(1, max_minutes=60.0), time.monotonic() - 3601
    race = Race(indexer, [Candidate(lora) for lora in lora_files(pool)], question(pool, "on fire"), rules, began=began)
    assert (race.run().reason, jobs(indexer)) == (TIME_SPENT, 0)


def test_a_race_without_leaders_says_why(pool: Pool, tmp_path: Path) -> None:
    misfit = read_lora_file(MINIWORLD / "loras" / "mystery_04.safetensors")
    failed = run(replayed_indexer(pool, tmp_path / "failed"), pool, "on fire", loras=[misfit])
    assert (failed.reason, failed.confidence) == (ALL_FAILED, 0.0)
    assert "could be measured: mystery_04.safetensors: LoRA does not fit" in failed.facts["nothing"]
    poor = run(replayed_indexer(pool, tmp_path / "poor"), pool, "on fire", RaceRules(1, 0.9, 1))
    assert (poor.reason, poor.confidence) == (BUDGET_SPENT, 0.0)
    assert poor.facts["nothing"] == "Nothing is known to fit 'on fire' yet. The race ended before a LoRA was measured."
    asked = replace(question(pool, "on fire"), limits=SearchLimits(max_strength=0.001))
    candidates = [Candidate(lora) for lora in lora_files(pool)]
    beyond = Race(replayed_indexer(pool, tmp_path / "beyond"), candidates, asked, BEST).run()
    assert (beyond.reason, beyond.confidence) == (NOTHING_FITS, 1.0)
    assert beyond.facts["nothing"].startswith("Nothing fits 'on fire'. No LoRA of the race has an effect within max_strength")


def test_a_race_of_nobody_is_sure(pool: Pool, tmp_path: Path) -> None:
    raced = Race(replayed_indexer(pool, tmp_path), [], question(pool, "on fire")).run()
    assert raced.facts == RaceResult.of_nobody("on fire").facts
    assert raced.confidence == 1.0
