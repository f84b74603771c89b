"""LoRA files that change while they are worked with: never a row with the hash of one content and the pictures of another."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from carlos_core.errors import LoraError
from carlos_core.generator import LoraFit, LoraUse
from carlos_core.loras.library import scan
from carlos_core.loras.lora_file import FileFacts, LoraFile, check_unchanged, read_facts, read_lora_file
from carlos_core.measuring.failures import Failure
from carlos_core.measuring.indexer import AnyFolder
from carlos_core.measuring.outcome import Outcome
from tests.support.bench import Bench, indexer_of
from tests.support.drawing_generator import DrawingGenerator, lora_file
from tests.support.lora_files import later

GREEN = (0.0, 1.0, 0.0)


def replaced(path: Path) -> None:
    later(lora_file(path, GREEN))


def removed(path: Path) -> None:
    path.unlink()


class Disturbed(DrawingGenerator):
    """Somebody changes the file just before it is loaded."""

    def __init__(self, path: Path, disturb: Callable[[Path], None]) -> None:
        super().__init__()
        self.path, self.disturb = path, disturb

    def check_lora(self, lora: LoraUse) -> LoraFit:
        fit = super().check_lora(lora)
        if lora.path == self.path:
            self.disturb(self.path)
        return fit


@pytest.mark.parametrize(
    ("disturb", "says"),
    [(replaced, "a.safetensors was changed after it was read. Run again"), (removed, "cannot be read: No such")],
)
def test_a_file_that_changes_between_hashing_and_loading_is_listed_and_the_run_goes_on(
    bench: Bench, disturb: Callable[[Path], None], says: str
) -> None:
    files = [(name, lora_file(bench.folder / f"{name}.safetensors", (0, 0, mix))) for name, mix in (("a", 1), ("b", 0.5))]
    generator = Disturbed(files[0][1], disturb)
    indexer = indexer_of(bench, generator)
    results = list(indexer.index_all(files, lambda name: None))
    assert [type(result) for result in results] == [Failure, Outcome]
    assert isinstance(results[0], Failure)
    assert says in results[0].reason
    assert indexer.target.read().column("file_name") == ["b"]
    # Nothing is kept of pictures that would be taken for those of the content that was hashed.
    assert {job.loras[0].path.name for job in generator.lora_jobs} == {"b.safetensors"}


def test_the_next_run_measures_the_file_as_it_then_is(bench: Bench) -> None:
    path = lora_file(bench.folder / "a.safetensors")
    list(indexer_of(bench, Disturbed(path, replaced)).index_all([("a", path)], lambda name: None))
    indexer = indexer_of(bench, DrawingGenerator())
    list(indexer.index_all([("a", path)], lambda name: None))
    other = indexer_of(bench, DrawingGenerator(), work="anew")
    assert indexer.target.read().column("sha256") == [hashlib.sha256(path.read_bytes()).hexdigest()]
    row = indexer.target.read().row_at(0)
    found = other.index(read_lora_file(lora_file(bench.folder / "same.safetensors", GREEN), "same"))
    assert found.row.direction.tobytes() == row.direction.tobytes()


def test_a_sweep_does_not_mix_two_contents(bench: Bench) -> None:
    path = lora_file(bench.folder / "a.safetensors")

    class AtOtherWeights(Disturbed):
        def check_lora(self, lora: LoraUse) -> LoraFit:
            return super().check_lora(lora) if lora.weight != 1 else DrawingGenerator.check_lora(self, lora)

    indexer = indexer_of(bench, AtOtherWeights(path, replaced), scale_sweep=True)
    with pytest.raises(LoraError, match="was changed after it was read"):
        indexer.index(read_lora_file(path))
    row = indexer.target.read().row_at(0)
    assert row.strength_curve == ()


def test_a_file_that_was_only_touched_is_the_same(bench: Bench) -> None:
    lora = bench.lora()
    os.utime(lora.path, (2_000_000_000, 2_000_000_000))
    check_unchanged(lora)
    lora_file(lora.path, GREEN)
    os.utime(lora.path, (2_000_000_001, 2_000_000_001))
    with pytest.raises(LoraError, match=r"red\.safetensors was changed after it was read"):
        check_unchanged(lora)


def test_header_and_hash_are_those_of_one_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is written over between both: its words would go into the row of another content."""
    path = lora_file(tmp_path / "a.safetensors", trigger="old")

    def slowly(slow: Path) -> FileFacts:
        facts = read_facts(slow)
        lora_file(path, GREEN, trigger="new words")
        later(path)
        return facts

    monkeypatch.setattr("carlos_core.loras.library.read_facts", slowly)
    (entry,) = scan([("a", path)], tmp_path / "index").entries
    assert entry.problem == "The LoRA a.safetensors was changed while it was read. Run again when nothing writes it any more."
    with pytest.raises(LoraError, match="was changed while it was read"):
        entry.as_lora_file()
    monkeypatch.undo()
    (entry,) = scan([("a", path)], tmp_path / "index").entries
    assert (entry.metadata.trigger_words, entry.sha256) == (("new words",), hashlib.sha256(path.read_bytes()).hexdigest())


def test_notes_of_a_file_are_told_and_do_not_go_into_its_row(bench: Bench) -> None:
    """A second file that claims the version of the first, a copy of it, and one whose sidecar is broken."""
    paths = [lora_file(bench.folder / f"{name}.safetensors", (0, 0, 1 - k / 4)) for k, name in enumerate("abc")]
    paths.append(bench.folder / "d.safetensors")
    paths[3].write_bytes(paths[0].read_bytes())
    for path in paths[:2]:
        path.with_suffix(".civitai.info").write_text('{"id": 7}')
    paths[2].with_suffix(".civitai.info").write_text("{")

    class Here(AnyFolder):
        def at_hand(self, name: str) -> LoraFile | None:
            return read_lora_file(bench.folder / name)

    indexer = indexer_of(bench, DrawingGenerator(), folder=Here())
    outcomes = [indexer.index(read_lora_file(path)) for path in paths]
    assert [outcome.file_notes for outcome in outcomes[:2]] == [
        (),
        ("another file than a.safetensors, which is of CivitAI version 7, too",),
    ]
    assert "the sidecar c.civitai.info cannot be read" in outcomes[2].file_notes[0]
    assert outcomes[3].file_notes == ("has the same content as a.safetensors",)
    assert not [
        note for row in map(indexer.target.read().row_at, range(3)) for note in row.notes if "7" in note or "sidecar" in note
    ]
