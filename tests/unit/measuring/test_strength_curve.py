"""The scale sweep: a LoRA's strength at several weights, and the weight that is suggested."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from carlos_core import index_lora
from carlos_core.database.database import MetricsDatabase, load_database
from carlos_core.errors import GenerationError, IndexingError
from carlos_core.loras.lora_file import LoraFile
from carlos_core.measuring.indexer import Indexer
from carlos_core.measuring.outcome import ALREADY_INDEXED, INDEXED
from carlos_core.measuring.plan import Plan, Shot
from carlos_core.measuring.strength_curve import StrengthCurve, curve_shots, strength_curve, suggested_weight
from carlos_core.progress import Progress
from carlos_core.records import CurvePoint
from tests.support.bench import MANY_PROMPTS, Bench, indexer_of, naive_diffs
from tests.support.drawing_generator import EVALUATIONS, DrawingGenerator
from tests.support.rows import a_row

PLAN = Plan.all(MANY_PROMPTS, seeds=2, first_seed=7)
SHOTS = PLAN.shots
"""64 prompts x 2 seeds; the first 12 are of 12 prompts."""

WEIGHTS = (0.25, 0.5, 0.75, 1.0, 1.25)
ALIGNED = (1.0,) * 7


def curve(strengths: Sequence[float], alignments: Sequence[float | None] = ALIGNED, sign: float = 1.0) -> list[CurvePoint]:
    weights = (*WEIGHTS, 1.5, 2.0)
    return [CurvePoint(sign * w, s, a) for w, s, a in zip(weights, strengths, alignments, strict=False)]


@pytest.mark.parametrize(
    ("strengths", "expected"),
    [
        # Proportional to the weight: target over slope.
        ([3.0, 6.0, 9.0, 12.0, 15.0], 0.5),
        ([2.9, 5.8, 8.7, 11.6, 14.5], 0.5 + 0.25 * (6 - 5.8) / (8.7 - 5.8)),
        ([1.2, 2.4, 3.6, 4.8, 6.0], 1.25),
        # Stronger than the target, or weaker, at all weights: the end that is nearest, nothing beyond it.
        ([7.0, 9.0, 10.0, 11.0, 11.0], 0.25),
        ([1.0, 2.0, 2.5, 2.6, 2.6, 2.6, 2.6], 2.0),
        # Not monotone: where it is reached first.
        ([2.0, 7.0, 5.0, 5.5, 9.0], 0.25 + 0.25 * (6 - 2) / (7 - 2)),
    ],
)
def test_the_suggested_weight_is_where_the_strength_first_reaches_the_target(strengths: list[float], expected: float) -> None:
    assert suggested_weight(curve(strengths), 6.0) == pytest.approx(expected)
    assert suggested_weight(curve(strengths, sign=-1.0), 6.0) == pytest.approx(-expected)


def test_another_target_gives_another_weight() -> None:
    assert suggested_weight(curve([3.0, 6.0, 9.0, 12.0, 15.0]), 9.0) == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("alignments", "expected"),
    [
        # A weak LoRA (target never reached): the last weight before the alignment falls below 0.9 of its best.
        ([0.8, 0.8, 0.8, 0.8, 0.73], 1.25),
        ([0.8, 0.8, 0.8, 0.8, 0.71], 1.0),
        ([0.8, 0.8, 0.3, 0.8, 0.8], 0.5),
        ([0.8, 0.8, None, None, None], 0.5),
        # A poor alignment below the best weight is not a limit.
        ([0.1, 0.2, 0.5, 0.9, 0.9], 1.25),
        # The LoRA never does what its row says, or it is not known.
        ([-0.1, -0.2, -0.3, -0.3, -0.3], None),
        ([None, None, None, None, None], None),
    ],
)
def test_the_suggested_weight_ends_where_the_direction_turns(alignments: list[float | None], expected: float | None) -> None:
    assert suggested_weight(curve([1.0, 2.0, 3.0, 4.0, 5.0], alignments), 6.0) == expected


def test_a_lora_that_is_too_strong_gets_a_low_weight_though_its_row_points_to_broken_pictures() -> None:
    turned = curve([2.9, 5.8, 8.7, 11.6, 12.0], [0.3, 0.5, 0.8, 1.0, 0.9])
    assert suggested_weight(turned, 5.8) == pytest.approx(0.5)


def test_no_curve_suggests_nothing() -> None:
    assert suggested_weight([], 6.0) is None


def test_a_sweep_takes_the_first_twelve_prompts_once() -> None:
    repeated = [shot for shot in SHOTS[:14] for _ in range(2)]
    assert curve_shots(SHOTS) == curve_shots(repeated) == SHOTS[:12]
    assert curve_shots([Shot(SHOTS[0].prompt, seed) for seed in range(5)]) == (Shot(SHOTS[0].prompt, 0),)


def swept(bench: Bench, lora: LoraFile, generator: DrawingGenerator | None = None, **options: Any) -> StrengthCurve:
    """A sweep after a measurement on 24 pictures."""
    generator = generator or DrawingGenerator()
    direction = bench.measure(lora, generator, shots=SHOTS[:24]).record.direction
    protocol = options.pop("protocol", bench.protocol(generator))
    return strength_curve(bench.studio(generator), lora, direction, protocol, replace(PLAN, shots=SHOTS[:24]), **options)


@pytest.mark.parametrize("effect", [{}, {"saturates_at": 0.6}, {"breaks_above": 0.8}])
def test_the_curve_has_the_metrics_of_the_pictures_at_each_weight(bench: Bench, effect: dict[str, Any]) -> None:
    lora = bench.lora(**effect)
    found = swept(bench, lora, target_strength=0.01).points
    direction = naive_diffs(bench, lora, SHOTS[:24]).mean(0)
    assert [point.weight for point in found] == list(WEIGHTS)
    for point in found:
        diffs = naive_diffs(bench, lora, SHOTS[:12], point.weight)
        strengths = np.linalg.norm(diffs, axis=1)
        assert point.strength == pytest.approx(strengths.mean(), rel=1e-4)
        assert point.strength_se == pytest.approx(strengths.std(ddof=1) / np.sqrt(12), rel=1e-3)
        cosine = diffs.mean(0) @ direction / np.linalg.norm(diffs.mean(0)) / np.linalg.norm(direction)
        assert point.alignment == pytest.approx(cosine, abs=1e-4)


def test_at_the_suggested_weight_the_lora_has_the_target_strength(bench: Bench) -> None:
    lora = bench.lora()
    target = 0.6 * float(np.linalg.norm(naive_diffs(bench, lora, SHOTS[:12]), axis=1).mean())
    weight = swept(bench, lora, target_strength=target).suggested_weight
    assert weight is not None
    assert weight < 1
    there = np.linalg.norm(naive_diffs(bench, lora, SHOTS[:12], weight), axis=1).mean()
    assert there == pytest.approx(target, rel=0.05)


def test_a_lora_that_saturates_below_the_target_gets_the_largest_weight_measured(bench: Bench) -> None:
    found = swept(bench, bench.lora(mix=0.2, saturates_at=0.5), target_strength=50.0)
    assert [point.weight for point in found.points] == [*WEIGHTS, 1.5, 2.0]
    assert found.points[-1].strength == pytest.approx(found.points[1].strength)
    assert found.suggested_weight == 2.0


def test_a_lora_that_turns_at_a_weight_is_not_suggested_beyond_it_nor_measured_much_further(bench: Bench) -> None:
    found = swept(bench, bench.lora(tint=(1.0, 0.1, 0.1), breaks_above=1.1, breaks_to=(0.0, 0.9, 0.9)), target_strength=50.0)
    assert [point.weight for point in found.points] == list(WEIGHTS)
    assert found.suggested_weight == 1.0


def test_the_curve_ends_before_pictures_that_are_no_numbers(bench: Bench) -> None:
    found = swept(bench, bench.lora(breaks_above=1.1, breaks_to=(math.nan,) * 3), target_strength=50.0)
    assert [point.weight for point in found.points] == [0.25, 0.5, 0.75, 1.0]
    assert found.suggested_weight == 1.0


def test_a_sweep_without_a_single_whole_picture_is_an_error(bench: Bench) -> None:
    lora, generator = bench.lora(), DrawingGenerator()
    bench.measure(lora, generator, shots=SHOTS[:24])
    generator.broken = {("lora", SHOTS[0].prompt.text, SHOTS[0].seed)}
    with pytest.raises(GenerationError, match="NaN"):
        swept(bench, lora, generator)


def test_a_weight_of_zero_has_no_curve(bench: Bench) -> None:
    with pytest.raises(IndexingError, match="weight 0"):
        swept(bench, bench.lora(), protocol=bench.protocol(DrawingGenerator(), lora_weight=0.0))


def test_a_row_measured_at_another_weight_is_swept_around_that_one(bench: Bench) -> None:
    lora, generator = bench.lora(), DrawingGenerator()
    bench.measure(lora, generator, weight=0.8, shots=SHOTS[:24])
    made = len(generator.jobs)
    found = swept(bench, lora, generator, protocol=bench.protocol(generator, lora_weight=0.8), target_strength=0.01)
    assert [point.weight for point in found.points] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    # `swept` measures at weight 1 itself: those 24 pictures and three new weights are made, and nothing on the base side.
    assert len(generator.jobs) - made == 24 + 3 * 12


def sweeping(bench: Bench, generator: DrawingGenerator, **changes: Any) -> Indexer:
    return indexer_of(bench, generator, scale_sweep=True, **changes)


def test_an_indexer_sweeps_after_the_measurement_and_makes_only_the_other_weights(bench: Bench) -> None:
    generator = DrawingGenerator()
    outcome = sweeping(bench, generator).index(bench.lora())
    row = outcome.row
    n_weights = len(row.strength_curve)
    assert [point.weight for point in row.strength_curve[:5]] == list(WEIGHTS)
    assert row.suggested_weight == suggested_weight(row.strength_curve)
    assert outcome.model_evaluations == (row.n_images or 0) * EVALUATIONS
    assert outcome.sweep_evaluations == (n_weights - 1) * 12 * EVALUATIONS
    made = [(job.prompt, job.seed, job.loras) for job in generator.jobs]
    assert len(made) == len(set(made))
    saved = load_database(bench.folder / "db.parquet").row(row.lora_id)
    assert saved is not None
    assert (saved.suggested_weight, saved.strength_curve) == (row.suggested_weight, row.strength_curve)
    # Thumbnails are of the measurement alone: one folder for each side.
    assert len(list((bench.folder / "work").glob("*/*.thumbs"))) == 2
    # The row is otherwise what it is without a sweep.
    plain = indexer_of(bench, DrawingGenerator(), overwrite=True).index(outcome.lora).row
    assert plain.direction.tobytes() == row.direction.tobytes()
    assert (plain.strength_curve, plain.suggested_weight) == ((), None)


def test_a_row_that_is_there_is_only_swept_and_only_once(bench: Bench) -> None:
    generator, lora = DrawingGenerator(), bench.lora()
    first = indexer_of(bench, generator).index(lora)
    assert first.row.strength_curve == ()
    jobs = len(generator.jobs)
    added = sweeping(bench, generator).index(lora)
    assert (added.status, added.model_evaluations) == (ALREADY_INDEXED, 0)
    assert {job.loras[0].weight for job in generator.jobs[jobs:]} == {point.weight for point in added.row.strength_curve} - {1.0}
    assert added.row.indexed_at == first.row.indexed_at
    jobs = len(generator.jobs)
    again = sweeping(bench, generator).index(lora)
    assert (len(generator.jobs), again.sweep_evaluations) == (jobs, 0)
    assert again.row.strength_curve == added.row.strength_curve


def test_a_cancelled_sweep_keeps_the_row_and_goes_on_with_the_batch_it_was_in(bench: Bench) -> None:
    class Cancelled(Exception):
        pass

    def cancel_at_half(progress: Progress) -> None:
        if progress.note.startswith("weight 0.5: 8 of"):
            raise Cancelled

    lora, generator = bench.lora(), DrawingGenerator(batch_size=4)
    with pytest.raises(Cancelled):
        sweeping(bench, generator).index(lora, cancel_at_half)
    row = load_database(bench.folder / "db.parquet").cells(lora.lora_id)
    assert row["curve_weights"] is None
    # 12 pictures at 0.25, and two batches at 0.5 were kept.
    jobs = len(generator.jobs)
    resumed = sweeping(bench, generator).index(lora)
    assert resumed.status == ALREADY_INDEXED
    assert [job.loras[0].weight for job in generator.jobs[jobs:]][: 4 + 12] == [0.5] * 4 + [0.75] * 12
    other = Bench(bench.folder / "undisturbed", bench.encoder)
    other.folder.mkdir()
    whole = sweeping(other, DrawingGenerator(batch_size=4)).index(lora)
    assert whole.status == INDEXED
    assert resumed.row.strength_curve == whole.row.strength_curve
    assert resumed.sweep_evaluations == whole.sweep_evaluations


def test_a_row_of_another_protocol_is_not_swept_and_the_note_says_why(bench: Bench) -> None:
    generator, lora = DrawingGenerator(), bench.lora()
    indexer_of(bench, generator, preset="standard").index(lora)
    jobs = len(generator.jobs)
    known = sweeping(bench, generator).index(lora)
    assert (len(generator.jobs), known.row.strength_curve) == (jobs, ())
    assert any("no scale sweep" in note for note in known.notes)


def test_a_lora_without_effect_is_not_swept(bench: Bench) -> None:
    generator = DrawingGenerator()
    outcome = sweeping(bench, generator).index(bench.lora(mix=0.0))
    assert (outcome.row.strength_curve, outcome.row.suggested_weight, outcome.sweep_evaluations) == ((), None, 0)
    assert {job.loras[0].weight for job in generator.lora_jobs} == {1.0}


def test_the_library_call_sweeps_too(bench: Bench) -> None:
    database = MetricsDatabase.empty(bench.encoder.encoder_id, bench.encoder.dimension)
    facts: dict[str, Any] = {"generator": DrawingGenerator(), "encoder": bench.encoder, "prompts": MANY_PROMPTS, "max_prompts": 6}
    row = index_lora(database, lora_source=bench.lora().path, working_directory=bench.folder, scale_sweep=True, **facts).row
    assert row["curve_weights"][:5] == list(WEIGHTS)
    assert row["suggested_weight"] is not None


def test_a_curve_survives_saving_and_a_file_without_its_columns_has_none(tmp_path: Path) -> None:
    database = MetricsDatabase.empty("some encoder", dimension=4)
    points = (CurvePoint(0.5, 3.0, 0.9), CurvePoint(1.0, 6.0, None))
    database.upsert(replace(a_row("a"), strength_curve=points, suggested_weight=0.8))
    database.save_parquet(tmp_path / "db.parquet")
    row = load_database(tmp_path / "db.parquet").cells("a")
    assert (row["curve_weights"], row["curve_strengths"], row["curve_alignments"]) == ([0.5, 1.0], [3.0, 6.0], [0.9, None])
    assert row["suggested_weight"] == 0.8
    table = pq.read_table(tmp_path / "db.parquet")
    older = table.drop_columns([name for name in table.column_names if name.startswith(("curve_", "suggested_"))])
    pq.write_table(older, tmp_path / "older.parquet")
    row = load_database(tmp_path / "older.parquet").cells("a")
    assert row["strength"] == 5.0
    assert [row[name] for name in ("curve_weights", "curve_strengths", "curve_alignments", "suggested_weight")] == [None] * 4
