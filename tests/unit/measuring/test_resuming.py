"""A measurement that was broken off goes on where it stopped, and what was made once is not made again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from carlos_core.clip.encoder import OpenClipEncoder
from carlos_core.errors import IndexingError
from carlos_core.generator import Job
from carlos_core.measuring.measure import Measurement, measure
from carlos_core.progress import Progress
from tests.support.bench import PLAN, SHOTS, Bench, assert_same_bits
from tests.support.drawing_generator import EVALUATIONS, DrawingGenerator


class Cancelled(Exception):
    pass


def cancel_after_batches(n: int) -> Callable[[Progress], None]:
    """An on_progress that raises when the n-th batch is done."""
    batches = 0

    def on_progress(progress: Progress) -> None:
        nonlocal batches
        batches += progress.image is not None
        if batches == n:
            raise Cancelled

    return on_progress


def cancel_within_a_batch(n: int) -> Callable[[Progress], None]:
    """An on_progress that raises in the middle of the n-th batch."""
    batches = 0

    def on_progress(progress: Progress) -> None:
        nonlocal batches
        batches += progress.image is not None
        if batches == n - 1 and progress.image is None:
            raise Cancelled

    return on_progress


def shots_of(jobs: list[Job]) -> list[tuple[str, int]]:
    return [(job.prompt, job.seed) for job in jobs]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, encoder: OpenClipEncoder) -> Measurement:
    bench = Bench(tmp_path_factory.mktemp("uninterrupted"), encoder)
    return bench.measure(bench.lora(), DrawingGenerator(batch_size=4))


ALL = [(shot.prompt.text, shot.seed) for shot in SHOTS]


@pytest.mark.parametrize(
    ("cancel", "kept_base", "kept_lora"),
    [
        (cancel_within_a_batch(1), 0, 0),
        (cancel_after_batches(1), 4, 0),
        (cancel_within_a_batch(4), 12, 0),
        (cancel_after_batches(5), 18, 0),
        (cancel_after_batches(7), 18, 8),
        (cancel_within_a_batch(8), 18, 8),
        (cancel_after_batches(9), 18, 16),
        (cancel_after_batches(10), 18, 18),
    ],
)
def test_a_cancelled_measurement_goes_on_with_the_missing_batches_and_ends_with_the_same_bits(
    bench: Bench, uninterrupted: Measurement, cancel: Callable[[Progress], None], kept_base: int, kept_lora: int
) -> None:
    lora = bench.lora()
    with pytest.raises(Cancelled):
        bench.measure(lora, DrawingGenerator(batch_size=4), on_progress=cancel)
    second = DrawingGenerator(batch_size=4)
    resumed = bench.measure(lora, second)
    assert shots_of(second.base_jobs) == ALL[kept_base:]
    assert shots_of(second.lora_jobs) == ALL[kept_lora:]
    assert_same_bits(resumed, uninterrupted)
    # The LoRA side counts what its pictures took, also in the first run; the base side what this run spent.
    assert resumed.model_evaluations == 18 * EVALUATIONS
    assert resumed.base_model_evaluations == (18 - kept_base) * EVALUATIONS


def test_a_batch_cut_off_on_disk_is_made_as_a_whole(bench: Bench) -> None:
    lora = bench.lora()
    whole = bench.measure(lora, DrawingGenerator(batch_size=4))
    journal = next((bench.folder / "work" / "loras").glob("*.journal"))
    journal.write_bytes(journal.read_bytes()[:-10])
    second = DrawingGenerator(batch_size=4)
    assert_same_bits(bench.measure(lora, second), whole)
    assert shots_of(second.jobs) == ALL[16:]


def test_a_second_run_makes_no_pictures(bench: Bench) -> None:
    lora = bench.lora()
    first = bench.measure(lora, DrawingGenerator())
    generator = DrawingGenerator()
    again = bench.measure(lora, generator)
    assert generator.jobs == []
    assert_same_bits(again, first)
    assert (again.model_evaluations, again.base_model_evaluations) == (18 * EVALUATIONS, 0)


def test_more_shots_make_only_the_new_pictures(bench: Bench) -> None:
    lora = bench.lora()
    bench.measure(lora, DrawingGenerator(batch_size=1), shots=SHOTS[:6])
    generator = DrawingGenerator(batch_size=1)
    more = bench.measure(lora, generator)
    assert shots_of(generator.lora_jobs) == ALL[6:]
    assert_same_bits(more, bench.measure(lora, DrawingGenerator(batch_size=1), work="at once"))


def test_the_base_side_is_shared_by_all_loras(bench: Bench) -> None:
    bench.measure(bench.lora("red.safetensors"), DrawingGenerator())
    generator = DrawingGenerator()
    blue = bench.lora("blue.safetensors", tint=(0.1, 0.2, 1.0), trigger="blueword")
    second = bench.measure(blue, generator)
    assert second.base_model_evaluations == 0
    assert generator.base_jobs == []
    assert shots_of(generator.lora_jobs) == ALL
    assert_same_bits(second, bench.measure(blue, DrawingGenerator(), work="alone"))


def test_another_model_shares_nothing(bench: Bench) -> None:
    lora = bench.lora()
    bench.measure(lora, DrawingGenerator(model="drawn-1"))
    generator = DrawingGenerator(model="drawn-2")
    bench.measure(lora, generator)
    assert len(generator.jobs) == 36


def test_another_weight_has_pictures_of_its_own(bench: Bench) -> None:
    lora = bench.lora()
    full = bench.measure(lora, DrawingGenerator())
    generator = DrawingGenerator()
    half = bench.measure(lora, generator, weight=0.5)
    assert (len(generator.base_jobs), len(generator.lora_jobs)) == (0, 18)
    assert half.record.strength < full.record.strength
    assert half.record.protocol_id != full.record.protocol_id


def test_other_trigger_words_have_pictures_of_their_own(bench: Bench) -> None:
    bench.measure(bench.lora(), DrawingGenerator())
    generator = DrawingGenerator()
    worded = bench.lora(trigger="redword")
    bench.measure(worded, generator)
    assert (len(generator.base_jobs), len(generator.lora_jobs)) == (0, 18)


def test_afresh_makes_a_complete_measurement_again_and_leaves_the_base_side(bench: Bench) -> None:
    lora = bench.lora()
    first = bench.measure(lora, DrawingGenerator())
    generator = DrawingGenerator()
    again = bench.measure(lora, generator, again=True)
    assert shots_of(generator.lora_jobs) == ALL
    assert generator.base_jobs == []
    assert_same_bits(again, first)


def test_afresh_goes_on_with_a_measurement_that_was_broken_off(bench: Bench) -> None:
    lora = bench.lora()
    with pytest.raises(Cancelled):
        bench.measure(lora, DrawingGenerator(batch_size=4), again=True, on_progress=cancel_after_batches(7))
    generator = DrawingGenerator(batch_size=4)
    bench.measure(lora, generator, again=True)
    assert shots_of(generator.lora_jobs) == ALL[8:]


def test_a_folder_that_cannot_be_used_is_an_error_before_any_picture_is_made(bench: Bench) -> None:
    (bench.folder / "file").write_text("in the way")
    generator = DrawingGenerator()
    with pytest.raises(IndexingError, match="cannot be used"):
        bench.measure(bench.lora(), generator, work="file")
    assert generator.jobs == []


def test_the_order_in_which_pictures_were_made_does_not_change_the_bits(bench: Bench) -> None:
    lora = bench.lora()
    bench.measure(lora, DrawingGenerator(batch_size=1), shots=SHOTS[::-1])
    turned = bench.measure(lora, DrawingGenerator(batch_size=1))
    assert_same_bits(turned, bench.measure(lora, DrawingGenerator(batch_size=1), work="in order"))
    assert np.isfinite(turned.record.direction).all()


def test_a_studio_sees_what_another_one_has_made_meanwhile(bench: Bench) -> None:
    lora, ours, theirs = bench.lora(), DrawingGenerator(), DrawingGenerator()
    protocol, few = bench.protocol(ours), replace(PLAN, shots=SHOTS[:4])
    here, elsewhere = bench.studio(ours), bench.studio(theirs)
    measure(here, lora, protocol, few)
    measure(elsewhere, lora, protocol, PLAN)
    jobs = len(ours.jobs)
    assert measure(here, lora, protocol, PLAN).record.n_images == len(SHOTS)
    assert len(ours.jobs) == jobs


def test_a_studio_keeps_the_base_side_open_and_of_loras_the_last(bench: Bench) -> None:
    generator = DrawingGenerator()
    studio = bench.studio(generator)
    for name in ("a", "b", "c"):
        lora = bench.lora(f"{name}.safetensors", tint=(ord(name) / 200, 0, 0))
        measure(studio, lora, bench.protocol(generator), PLAN)
        studio.with_lora(lora, 0.5, ())
    assert sorted(key[0] for key in studio._stores) == ["base", "loras", "loras"]
