"""What fails alike is said once: in the log with a count and the names. What would meet every LoRA of a run ends it at once."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from carlos_core.clip.lazy_encoder import LazyEncoder
from carlos_core.errors import BrokenPictureError, DatabaseError, EncoderError, GenerationError, IndexingError
from carlos_core.generator import Generated, Job
from carlos_core.measuring.failures import Alike, Failure, alike
from carlos_core.measuring.outcome import Outcome
from carlos_core.measuring.plan import Plan
from carlos_core.progress import OnProgress
from tests.support.bench import MANY_PROMPTS, Bench, indexer_of
from tests.support.drawing_generator import DrawingGenerator, lora_file


def loras(bench: Bench, number: int, **effect: int) -> list[tuple[str, Path]]:
    """Names and paths of LoRAs of different contents."""
    made = [
        lora_file(bench.folder / f"{place}.safetensors", (place / number, 0, 1), **effect)  # type: ignore[arg-type]
        for place in range(number)
    ]
    return [(file.name, file) for file in made]


def test_what_is_said_of_five_files_alike_is_one_entry_without_their_names() -> None:
    said = [Failure(f"a/{name}.safetensors", f"{name}.safetensors is a web page.") for name in "vwxyz"]
    other = [Failure(f"{name}.safetensors", "too few") for name in "abcd"]
    files = tuple(failure.file for failure in said)
    assert alike([said[0], *other, *said[1:]]) == [
        Alike("... is a web page.", files),
        *(Alike("too few", (failure.file,)) for failure in other),
    ]


def test_the_log_of_a_run_names_each_reason_at_once_and_its_files_at_the_end(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        results = list(indexer_of(bench, DrawingGenerator()).index_all(loras(bench, 5, fitting=0), lambda name: None))
    assert [type(result) for result in results] == [Failure] * 5
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert lines[0].startswith("carlos: 0.safetensors could not be indexed: LoRA does not fit")
    names = ", ".join(f"{place}.safetensors" for place in range(5))
    assert lines[1].startswith("carlos: 5 LoRAs could not be indexed: LoRA does not fit: 0 of 4 keys in ... match.")
    assert lines[1].endswith(f"They are: {names}")


def test_without_its_encoder_a_run_ends_before_a_picture_is_made(bench: Bench) -> None:
    def missing(encoder_id: str) -> LazyEncoder:
        raise EncoderError(f"{encoder_id} is not here.", "Fetch it.")

    generator = DrawingGenerator()
    indexer = indexer_of(bench, generator)
    object.__setattr__(indexer.studio, "encoder", LazyEncoder(bench.encoder.encoder_id, bench.encoder.dimension, missing))
    with pytest.raises(EncoderError, match="is not here"):
        list(indexer.index_all(loras(bench, 3), lambda name: None))
    assert generator.jobs == []


def test_a_database_that_cannot_be_written_ends_a_run_before_a_picture_is_made(bench: Bench) -> None:
    generator = DrawingGenerator()
    indexer = indexer_of(bench, generator)
    # Where its lock should be is something else: whoever runs this, no lock can be taken.
    (bench.folder / ".db.parquet.lock").unlink(missing_ok=True)
    (bench.folder / ".db.parquet.lock").mkdir()
    with pytest.raises(DatabaseError, match=r"db\.parquet could not be saved"):
        list(indexer.index_all(loras(bench, 3), lambda name: None))
    assert generator.jobs == []


def test_a_folder_that_cannot_keep_pictures_ends_a_run(bench: Bench) -> None:
    generator = DrawingGenerator()
    indexer = indexer_of(bench, generator)
    (bench.folder / "work").mkdir()
    (bench.folder / "work" / "base").write_text("not a folder")
    with pytest.raises(IndexingError, match="cannot be used"):
        list(indexer.index_all(loras(bench, 3), lambda name: None))
    assert generator.jobs == []


class Failing(DrawingGenerator):
    """Fails over pictures of one side."""

    def __init__(self, *, with_lora: bool) -> None:
        super().__init__()
        self.with_lora = with_lora
        self.tries = 0

    def generate(self, jobs: list[Job], on_progress: OnProgress | None = None) -> Generated:  # type: ignore[override]
        if bool(jobs[0].loras) == self.with_lora:
            self.tries += 1
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
        return super().generate(jobs, on_progress)


def test_a_model_that_makes_no_pictures_ends_a_run_at_the_first_try(bench: Bench) -> None:
    generator = Failing(with_lora=False)
    with pytest.raises(GenerationError, match="The model makes no pictures .mat1 and mat2 shapes"):
        list(indexer_of(bench, generator).index_all(loras(bench, 3), lambda name: None))
    assert generator.tries == 1


def test_what_a_lora_does_to_the_model_is_that_loras_failure(bench: Bench) -> None:
    generator = Failing(with_lora=True)
    results = list(indexer_of(bench, generator).index_all(loras(bench, 3), lambda name: None))
    assert [type(result) for result in results] == [Failure] * 3
    assert generator.tries == 3


def test_a_broken_picture_without_a_lora_ends_a_run_and_one_with_it_does_not(bench: Bench) -> None:
    shot = indexer_of(bench, DrawingGenerator()).plan.shots[0]
    for side, ends in (("base", True), ("lora", False)):
        generator = DrawingGenerator(model=side)
        generator.broken = {(side, shot.prompt.text, shot.seed)}
        run = indexer_of(bench, generator, work=side).index_all(loras(bench, 2), lambda name: None)
        if ends:
            with pytest.raises(BrokenPictureError):
                list(run)
        else:
            assert [type(result) for result in run] == [Failure] * 2


def test_a_known_lora_needs_neither_encoder_nor_a_database_that_can_be_written(bench: Bench) -> None:
    files = loras(bench, 2)
    list(indexer_of(bench, DrawingGenerator()).index_all(files, lambda name: None))
    (bench.folder / ".db.parquet.lock").unlink(missing_ok=True)
    (bench.folder / ".db.parquet.lock").mkdir()
    again = list(indexer_of(bench, DrawingGenerator()).index_all(files, lambda name: None))
    assert [isinstance(outcome, Outcome) and outcome.is_new for outcome in again] == [False, False]


def test_a_known_lora_under_another_name_ends_no_run_where_the_database_cannot_be_written(bench: Bench) -> None:
    ((name, path),) = loras(bench, 1)
    list(indexer_of(bench, DrawingGenerator()).index_all([(name, path)], lambda name: None))
    moved = path.rename(path.with_name("moved.safetensors"))
    (bench.folder / ".db.parquet.lock").unlink(missing_ok=True)
    (bench.folder / ".db.parquet.lock").mkdir()
    (outcome,) = indexer_of(bench, DrawingGenerator()).index_all([(moved.name, moved)], lambda name: None)
    assert isinstance(outcome, Outcome)
    says = f"its row still has the name {name}: db.parquet could not be saved"
    assert any(note.startswith(says) for note in outcome.file_notes)


def test_a_broken_picture_that_only_some_loras_need_is_their_failure(bench: Bench) -> None:
    plan = indexer_of(bench, DrawingGenerator()).plan
    assert plan.rule is not None
    generator = DrawingGenerator()
    files = loras(bench, 3)
    # The first has a row of so many pairs that one to replace it has to have far more than the others take.
    full = Plan.all(MANY_PROMPTS)
    list(indexer_of(bench, generator, preset="custom", plan=full, work="full").index_all(files[:1], lambda name: None))
    needed_by_it = plan.shots[len(full.shots) - 1]
    generator.broken = {("base", needed_by_it.prompt.text, needed_by_it.seed)}
    results = list(indexer_of(bench, generator, work="later").index_all(files, lambda name: None))
    assert [type(result) for result in results] == [Failure, Outcome, Outcome]
