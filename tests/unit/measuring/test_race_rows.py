"""What a race leaves in the database: rows that say what they were measured on, and none in the place of a better one."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from carlos_core.database.database import MetricsDatabase
from carlos_core.database.target import InMemory, Target
from carlos_core.errors import DatabaseError
from carlos_core.generator import Environment, Generated, Job
from carlos_core.measuring.base_check import UNSUITABLE, BaseCheck
from carlos_core.measuring.protocol import has_effect
from carlos_core.measuring.race import Race
from carlos_core.measuring.race_field import Candidate, Runner
from carlos_core.measuring.race_terms import RaceRules
from carlos_core.progress import OnProgress, Progress
from carlos_core.records import LoraRecord
from carlos_core.search.limits import PUBLISHED_LIMITS
from tests.support.replayed import Pool, ReplayedEncoder, ReplayedGenerator, lora_files, replayed_indexer
from tests.unit.measuring.test_race import BEST, database, question, run


class Blind(ReplayedEncoder):
    """An encoder in whose eyes no picture shows its prompt."""

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        return torch.randn(len(texts), self.dimension, generator=torch.Generator().manual_seed(0))


class Noisy(ReplayedGenerator):
    """A generator that makes another picture each time."""

    environment = Environment("replayed", torch.__version__, "cpu", "float32", False)

    def unload(self) -> None:
        pass

    def generate(self, jobs: Sequence[Job], on_progress: OnProgress | None = None) -> Generated:
        made = super().generate(jobs, on_progress)
        noise = torch.randn(made.images.shape, generator=torch.Generator().manual_seed(len(self.jobs)))
        return replace(made, images=made.images + 0.01 * noise)


def test_rows_of_pictures_that_do_not_show_their_prompts_say_so(pool: Pool, tmp_path: Path) -> None:
    indexer = replayed_indexer(pool, tmp_path, notes=("of one frame",), base_check=BaseCheck(None, is_strict=False))
    indexer = replace(indexer, studio=replace(indexer.studio, encoder=Blind(pool)))
    result = run(indexer, pool)
    assert [note.startswith(UNSUITABLE) for note in result.notes] == [True]
    assert result.facts["notes"] == list(result.notes)
    for row in database(indexer).measured:
        assert {"of one frame", *result.notes} <= set(row.notes)


def test_rows_say_how_far_the_hosts_noise_goes(pool: Pool, tmp_path: Path) -> None:
    indexer = replayed_indexer(pool, tmp_path)
    generator = Noisy(pool)
    result = run(replace(indexer, studio=replace(indexer.studio, generator=generator)), pool, rules=RaceRules(1, 0.9, 2000))
    rows = [row for row in map(database(indexer).row, database(indexer).column("lora_id")) if row is not None]
    assert len(rows) == len(pool.features)
    assert all(row.noise_floor for row in rows)
    assert result.model_evaluations == 8 * len(generator.jobs) <= 2000


def raced(pool: Pool, folder: Path, target: Target, model: str, rules: RaceRules, **row: Any) -> list[LoraRecord]:
    """Rows after a race on a checkpoint of the shape "mini". row: values that the race's rows are given afterwards."""
    indexer = replayed_indexer(pool, folder, target)
    generator = {**indexer.protocol.generator, "model": model}
    run(replace(indexer, protocol=replace(indexer.protocol, generator=generator)), pool, rules=rules)

    def change(database: MetricsDatabase) -> None:
        for lora_id in database.column("lora_id"):
            record = database.row(lora_id)
            assert record is not None
            database.upsert(replace(record, **row), database.protocols[record.protocol_id or ""])

    changed = target.change(change) if row else target.read()
    return [record for record in map(changed.row, changed.column("lora_id")) if record is not None]


def test_a_raced_row_of_another_checkpoint_with_more_pictures_stays(pool: Pool, tmp_path: Path) -> None:
    target = InMemory(MetricsDatabase.empty(f"{pool.clip}@replayed", pool.dimension))
    long = RaceRules(3, 0.999)
    before = {row.lora_id: row for row in raced(pool, tmp_path / "a", target, "A", long)}
    fewest = min(row.n_images or 0 for row in before.values())
    after = {row.lora_id: row for row in raced(pool, tmp_path / "b", target, "B", BEST)}
    assert max(row.n_images or 0 for row in before.values()) > fewest
    kept = {lora_id for lora_id, row in after.items() if row.protocol_id == before[lora_id].protocol_id}
    assert kept
    assert all((after[lora_id].n_images or 0) >= (row.n_images or 0) for lora_id, row in before.items())


def test_a_raced_row_of_unsuitable_pictures_gives_way_to_any(pool: Pool, tmp_path: Path) -> None:
    target = InMemory(MetricsDatabase.empty(f"{pool.clip}@replayed", pool.dimension))
    before = raced(pool, tmp_path / "a", target, "A", BEST, n_images=40, notes=(f"{UNSUITABLE}: burnt",))
    after = raced(pool, tmp_path / "b", target, "B", BEST)
    assert {row.n_images for row in before} == {40}
    assert all((row.n_images or 0) < 40 for row in after if has_effect(row.measured))


@pytest.mark.parametrize("pairs", [16, 32, 64])
def test_a_lora_of_one_weak_effect_stays_in_the_race(pool: Pool, pairs: int) -> None:
    rng = np.random.default_rng(3)
    lora = lora_files(pool)[0]

    def is_beyond(consistency: float) -> bool:
        """Of differences whose noise has the effective dimension of a race's."""
        runner = Runner(Candidate(lora), 18)
        effect = np.eye(18)[0] * np.sqrt(consistency)
        noise = rng.standard_normal((pairs, 18)) / 18**0.5 * np.sqrt(1 - consistency)
        runner.diffs = effect + noise
        return runner.is_beyond(PUBLISHED_LIMITS)

    assert np.mean([is_beyond(0.075) for _ in range(400)]) < 0.02
    if pairs == 64:
        assert np.mean([is_beyond(0.0) for _ in range(400)]) > 0.9


def test_two_files_that_claim_one_version_have_ids_of_their_own(pool: Pool, tmp_path: Path) -> None:
    indexer = replayed_indexer(pool, tmp_path)
    claimed = [replace(lora, metadata=replace(lora.metadata, version_id=7)) for lora in lora_files(pool)]
    result = run(indexer, pool, rules=RaceRules(3), loras=claimed)
    ids = [each["lora_id"] for each in result.facts["choice"]]
    assert len(set(ids)) == len(ids) == 3
    for choice in result.leaders:
        assert choice.record is not None
        row = database(indexer).row(choice.lora_id)
        assert row is not None
        assert row.sha256 == choice.candidate.lora.sha256
        assert choice.record.lora_id == row.lora_id


def test_only_a_row_that_spared_pictures_was_known_before(pool: Pool, tmp_path: Path) -> None:
    first = replayed_indexer(pool, tmp_path)
    run(first, pool)
    rows = {row.sha256: row for row in map(database(first).row, database(first).column("lora_id")) if row is not None}
    # The raced rows are there, their pictures are not.
    again = replayed_indexer(pool, tmp_path / "elsewhere", first.target)
    candidates = [Candidate(lora, rows[lora.sha256]) for lora in lora_files(pool)]
    leaders = Race(again, candidates, question(pool, "on fire"), BEST).run().leaders
    assert leaders[0].model_evaluations > 0
    assert not leaders[0].was_known
    quick = replayed_indexer(pool, tmp_path / "quick", preset="quick")
    indexed = [Candidate(lora, quick.index(lora).row) for lora in lora_files(pool)[:3]]
    third = replayed_indexer(pool, tmp_path / "third", quick.target)
    assert all(leader.was_known for leader in Race(third, indexed, question(pool, "on fire"), BEST).run().leaders)


@dataclass(frozen=True, eq=False)
class Full(InMemory):
    """A database on a disk that is full when rows come."""

    def change(self, change: Callable[[MetricsDatabase], None]) -> MetricsDatabase:
        raise DatabaseError("The disk is full.", "Make room.")


def test_rows_that_cannot_be_saved_cost_no_answer(pool: Pool, tmp_path: Path) -> None:
    full = Full(MetricsDatabase.empty(f"{pool.clip}@replayed", pool.dimension))
    result = run(replayed_indexer(pool, tmp_path, full), pool)
    assert result.choice
    assert result.rows_written == 0
    assert any("not saved" in note and "The disk is full." in note for note in result.notes)


def test_a_cancel_stays_one_where_rows_cannot_be_saved(pool: Pool, tmp_path: Path) -> None:
    full = Full(MetricsDatabase.empty(f"{pool.clip}@replayed", pool.dimension))

    def cancel(progress: Progress) -> None:
        if " left" in progress.note and progress.done > 100:
            raise KeyboardInterrupt

    race = Race(replayed_indexer(pool, tmp_path, full), [Candidate(lora) for lora in lora_files(pool)], question(pool, "on fire"))
    with pytest.raises(KeyboardInterrupt):
        race.run(cancel)


def test_rows_are_written_though_pictures_were_removed_meanwhile(pool: Pool, tmp_path: Path) -> None:
    indexer = replayed_indexer(pool, tmp_path)

    def trim(progress: Progress) -> None:
        """As another process does that makes room, just before a cancel."""
        if progress.done >= 8 * 4 * len(pool.features):
            shutil.rmtree(tmp_path / "loras")
            raise KeyboardInterrupt

    race = Race(indexer, [Candidate(lora) for lora in lora_files(pool)], question(pool, "on fire"), RaceRules(2, 0.999))
    with pytest.raises(KeyboardInterrupt):
        race.run(trim)
    assert race.result.rows_written == len(database(indexer)) >= 10
    assert race.result.leaders[0].record is not None
