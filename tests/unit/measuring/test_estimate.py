"""How long a run will take, told before it starts and while it runs: with a generator of known speed and a clock of its own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from carlos_core.generator import Generated, Job
from carlos_core.measuring import estimate
from carlos_core.measuring import studio as work
from carlos_core.measuring.estimate import LibraryEstimate, estimate_lora
from carlos_core.measuring.indexer import Indexer
from carlos_core.measuring.plan import Plan
from carlos_core.measuring.presets import PRESETS
from carlos_core.measuring.speed import UNKNOWN, Speed, in_words, so_far
from carlos_core.progress import OnProgress, Progress
from tests.support.bench import MANY_PROMPTS, Bench, indexer_of
from tests.support.drawing_generator import EVALUATIONS, DrawingGenerator, lora_file

N = 64
"""Pictures of a side: all prompts once."""


class Clock:
    """A clock that only a generator moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


class TimedGenerator(DrawingGenerator):
    """Takes `seconds` for each picture, and `loading` more for its first batch."""

    def __init__(self, clock: Clock, seconds: float = 10.0, loading: float = 0.0, **facts: Any) -> None:
        super().__init__(**facts)
        self.clock, self.seconds, self.loading = clock, seconds, loading

    def generate(self, jobs: Sequence[Job], on_progress: OnProgress | None = None) -> Generated:
        self.clock.now += self.seconds * len(jobs) + (0.0 if self.jobs else self.loading)
        return super().generate(jobs, on_progress)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(work, "time", clock)
    monkeypatch.setattr(estimate, "time", clock)
    return clock


def all_prompts_once(bench: Bench, generator: DrawingGenerator, **changes: Any) -> Indexer:
    """An indexer without a stopping rule: 64 pictures of each side."""
    return indexer_of(bench, generator, plan=Plan.all(MANY_PROMPTS), **changes)


def test_the_time_is_unknown_until_a_batch_was_made_and_then_told_at_once(bench: Bench, clock: Clock) -> None:
    indexer, lora = all_prompts_once(bench, TimedGenerator(clock, batch_size=4)), bench.lora()
    before = estimate_lora(indexer, lora)
    assert (before.expected, before.most, str(before)) == (2 * N, 2 * N, UNKNOWN)
    notes: list[str] = []
    indexer.index(lora, lambda progress: notes.append(progress.note))
    told = [note for note in notes if note]
    # 124 of 128 pictures are left, at 10 s each.
    assert told[0] == "4 of 128 pictures, about 21 min left"
    assert told[-2] == "124 of 128 pictures, about 40 s left"
    assert told[-1] == "128 of 128 pictures"


def test_the_next_lora_is_estimated_from_the_speed_of_the_last_less_the_pictures_that_are_there(
    bench: Bench, clock: Clock
) -> None:
    generator = TimedGenerator(clock)
    indexer = all_prompts_once(bench, generator)
    first, second = bench.lora("a.safetensors"), bench.lora("b.safetensors", tint=(0, 1, 0))
    indexer.index(first)
    following = estimate_lora(indexer, second)
    assert (following.expected, following.most) == (N, N)
    assert following.seconds_per_picture == pytest.approx(10.0)
    assert str(following) == "about 11 min"
    assert str(estimate_lora(indexer, first)) == "nothing to make"
    again = all_prompts_once(bench, generator, overwrite=True)
    assert estimate_lora(again, first).expected == N


def test_a_measurement_that_was_broken_off_is_estimated_by_what_is_missing(bench: Bench, clock: Clock) -> None:
    class Cancelled(Exception):
        pass

    def cancel(progress: Progress) -> None:
        if progress.note.startswith("72 of"):
            raise Cancelled

    indexer, lora = all_prompts_once(bench, TimedGenerator(clock, batch_size=4)), bench.lora()
    with pytest.raises(Cancelled):
        indexer.index(lora, cancel)
    assert estimate_lora(indexer, lora).expected == 2 * N - 72


def test_a_scale_sweep_is_part_of_the_estimate(bench: Bench, clock: Clock) -> None:
    generator, lora = TimedGenerator(clock), bench.lora()
    sweeping = all_prompts_once(bench, generator, scale_sweep=True)
    # Six other weights at most, 12 pictures each.
    assert estimate_lora(sweeping, lora).expected == 2 * N + 72
    all_prompts_once(bench, generator).index(lora)
    assert estimate_lora(sweeping, lora).expected == 72
    sweeping.index(lora)
    assert str(estimate_lora(sweeping, lora)) == "nothing to make"


def test_an_adaptive_preset_is_estimated_by_what_is_typical_and_by_what_is_most(bench: Bench, clock: Clock) -> None:
    generator = TimedGenerator(clock)
    indexer = indexer_of(bench, generator, preset="standard", plan=Plan.of_preset(PRESETS["standard"], MANY_PROMPTS, EVALUATIONS))
    n_most = len(indexer.plan.shots)
    assert n_most == 64 * 16
    before = estimate_lora(indexer, bench.lora())
    assert (before.expected, before.most) == (2 * 150, 2 * n_most)
    seen: list[Progress] = []
    outcome = indexer.index(bench.lora(), seen.append)
    told = [progress.note for progress in seen if progress.note]
    # 2 x 150 - 4 pictures of 10 s are 49 min; 2 x 1024 - 4 are 5.7 h.
    assert told[0] == "4 of at most 2048 pictures, about 300 will do, about 49 min left, at most about 5.7 h"
    taken = outcome.row.n_images or 0
    assert told[-1].startswith("direction known to 0.9")
    assert told[-1].endswith(f"after {taken} pairs of pictures, done")
    assert not any("at most about" in note for note in told[told.index(next(n for n in told if "direction" in n)) :])
    # The words stay the same, and so does what they count; the bar's end only comes nearer.
    assert all(re.match(r"\d+ of at most 2048 pictures, about \d+ will do(, |$)", note) for note in told[:-1])
    totals = [progress.total for progress in seen]
    assert totals == sorted(totals, reverse=True)
    assert totals[0] > totals[-1]
    # Rows of the same protocol tell more than what is typical elsewhere.
    kept = {(job.prompt, job.seed) for job in generator.base_jobs[:]}
    likely = {(shot.prompt.text, shot.seed) for shot in indexer.plan.shots[:taken]}
    assert estimate_lora(indexer, bench.lora("b.safetensors", tint=(0, 1, 0))).expected == taken + len(likely - kept)


def test_a_library_run_tells_what_is_left_for_all_files_that_are_not_known_by_name(bench: Bench, clock: Clock) -> None:
    generator = TimedGenerator(clock)
    indexer = all_prompts_once(bench, generator)
    files = [lora_file(bench.folder / f"{name}.safetensors", (k / 5, 0, 1)) for k, name in enumerate("abcd")]
    names = [file.name for file in files]
    left = LibraryEstimate(indexer, names)
    assert str(left) == ""
    seen: list[str] = []

    def begin(name: str) -> None:
        left.begin(name)
        seen.append(str(left))

    for _ in indexer.index_all([(file.name, file) for file in files], begin):
        # Within a LoRA it counts down: at its end, what is left is the others'.
        seen.append(str(left))
    # 3, 2 and 1 LoRAs of 64 pictures, 10 s each.
    assert seen == [
        "",
        *("about 32 min left", "about 32 min left"),
        *("about 21 min left", "about 21 min left"),
        *("about 11 min left", "about 11 min left"),
        "about 0 s left",
    ]
    more = [*names, "new.safetensors"]
    assert str(LibraryEstimate(indexer, more)) == "about 11 min left"
    # With a sweep: 72 pictures more for each of the five.
    assert str(LibraryEstimate(all_prompts_once(bench, generator, scale_sweep=True), more)) == "about 71 min left"


def test_the_batch_that_loads_the_model_does_not_spoil_the_estimate(bench: Bench, clock: Clock) -> None:
    indexer = all_prompts_once(bench, TimedGenerator(clock, loading=500.0, batch_size=4))
    indexer.index(bench.lora())
    assert estimate_lora(indexer, bench.lora("b.safetensors", tint=(0, 1, 0))).seconds_per_picture == pytest.approx(10.0)


def test_speeds_are_kept_by_generator_and_a_damaged_file_is_as_good_as_none(tmp_path: Path) -> None:
    Speed(tmp_path, "one").add(8.0, 4)
    Speed(tmp_path, "other").add(5.0, 1)
    assert Speed(tmp_path, "one").seconds_per_picture == 2.0
    assert Speed(tmp_path, "other").seconds_per_picture == 5.0
    assert Speed(tmp_path, "third").seconds_per_picture is None
    # A first batch is not better than what is known; a second is.
    again = Speed(tmp_path, "one")
    again.add(400.0, 4)
    assert Speed(tmp_path, "one").seconds_per_picture == 2.0
    again.add(12.0, 4)
    assert Speed(tmp_path, "one").seconds_per_picture == 3.0
    for damage in ("{", "[]", '{"one": "fast"}'):
        (tmp_path / "speeds.json").write_text(damage)
        assert Speed(tmp_path, "one").seconds_per_picture is None
    Speed(tmp_path, "one").add(8.0, 4)
    assert Speed(tmp_path, "one").seconds_per_picture == 2.0


def test_a_speed_that_cannot_be_kept_does_not_matter(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a file").write_text("")
    speed = Speed(tmp_path / "a file", "one")
    speed.add(8.0, 4)
    assert speed.seconds_per_picture == 2.0
    assert "speeds.json" in caplog.text


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "about 0 s"),
        (89, "about 89 s"),
        (91, "about 2 min"),
        (25 * 60, "about 25 min"),
        (89 * 60, "about 89 min"),
        (3.14 * 3600, "about 3.1 h"),
        (30.2 * 3600, "about 30 h"),
    ],
)
def test_times_are_told_as_precisely_as_they_are_worth(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


@pytest.mark.parametrize(
    ("seconds", "done", "told"),
    [
        (4.0, 50, ""),
        (60.0, 4, ""),
        (10.0, 5, "about 10 s so far, usually about 3 min in all"),
        (60.0, 50, "about 60 s so far, usually about 2 min in all"),
        (300.0, 100, "about 5 min so far, longer than usual"),
        (300.0, 0, ""),
    ],
)
def test_work_whose_end_nobody_knows_is_compared_with_what_is_usual(seconds: float, done: int, told: str) -> None:
    assert so_far(seconds, done, usual=100) == told


def test_speeds_behind_a_link_are_written_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "speeds.json").symlink_to("shared.json")
    Speed(tmp_path, "one").add(8.0, 4)
    assert (tmp_path / "speeds.json").is_symlink()
    assert "2.0" in (tmp_path / "shared.json").read_text()


def test_what_is_left_of_a_lora_counts_for_the_run_by_its_pictures(bench: Bench, clock: Clock) -> None:
    generator = TimedGenerator(clock, batch_size=4)
    indexer = all_prompts_once(bench, generator)
    files = [lora_file(bench.folder / f"{name}.safetensors", (k / 5, 0, 1)) for k, name in enumerate("abc")]
    all_prompts_once(bench, generator).index(bench.lora("before.safetensors", tint=(0, 1, 0)))
    left = LibraryEstimate(indexer, [file.name for file in files])
    seen: list[tuple[int, str]] = []

    def on_progress(progress: Progress) -> None:
        if progress.pictures_left is not None:
            left.update(progress.pictures_left)
            seen.append((progress.pictures_left, str(left)))
            # A pause is no progress: it is not counted against what the pictures take.
            clock.now += 1000.0

    for name in (file.name for file in files):
        left.begin(name)
        indexer.index(indexer.folder.read(bench.folder / name, name), on_progress)
    # 64 pictures of each LoRA; the side without one is there. In the middle of the second, 32 + 64 are left: 16 min.
    assert (32, "about 16 min left") in seen
    assert seen[-1] == (0, "about 0 s left")


def test_notes_have_a_form_without_the_time_and_pictures_are_counted_as_they_are_kept(bench: Bench, clock: Clock) -> None:
    indexer = all_prompts_once(bench, TimedGenerator(clock, batch_size=4))
    told: list[Progress] = []
    indexer.index(bench.lora(), told.append)
    notes = [(progress.note, progress.note_without_time) for progress in told if progress.note]
    assert notes[0] == ("4 of 128 pictures, about 21 min left", "4 of 128 pictures")
    assert sum(progress.kept for progress in told) == 2 * N
    again = all_prompts_once(bench, TimedGenerator(clock), overwrite=True)
    told.clear()
    again.index(bench.lora(), told.append)
    assert sum(progress.kept for progress in told) == N


def test_the_estimate_of_a_lora_and_its_countdown_expect_the_same_pictures(bench: Bench, clock: Clock) -> None:
    plan = Plan.of_preset(PRESETS["standard"], MANY_PROMPTS, EVALUATIONS)
    generator = TimedGenerator(clock, batch_size=4)
    indexer = indexer_of(bench, generator, preset="standard", plan=plan)
    indexer.index(bench.lora())
    second = bench.lora("b.safetensors", tint=(0, 1, 0))
    expected = estimate_lora(indexer, second).expected
    assert 0 < expected < 150
    left: list[int] = []
    indexer.index(second, lambda progress: left.append(progress.pictures_left or 0) if progress.note else None)
    # The side without a LoRA is there, and begins.
    assert left[0] == expected
