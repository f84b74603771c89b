"""The public API: light to import, and the reference package's examples run."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import carlos_core as carlos
from carlos_core.clip import weights
from carlos_core.clip.encoder import OpenClipEncoder
from carlos_core.errors import EncoderError, GenerationError, IndexingError
from carlos_core.loras.lora_file import read_lora_file
from carlos_core.measuring import headless
from tests.support import miniworld
from tests.support.bench import PROMPTS, Bench
from tests.support.drawing_generator import DrawingGenerator, lora_file
from tests.support.rows import a_row

LIGHT = """
import sys
import carlos_core
assert "retrieve" in dir(carlos_core)
print(*(name for name in ("torch", "pyarrow", "open_clip", "numpy", "pandas", "requests") if name in sys.modules))
"""


@pytest.fixture
def empty_database() -> carlos.MetricsDatabase:
    return carlos.MetricsDatabase.empty(miniworld.encoder_id(), dimension=64)


def test_importing_the_package_loads_nothing_heavy() -> None:
    process = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, timeout=60, check=True)
    assert process.stdout.strip() == ""


def test_every_public_name_is_there() -> None:
    for name in carlos.__all__:
        assert getattr(carlos, name) is not None
    assert set(dir(carlos)) == set(carlos.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = carlos.no_such_name


def test_every_error_on_purpose_is_a_carlos_error_of_two_sentences() -> None:
    error = IndexingError("It broke.", "Mend it.")
    assert isinstance(error, carlos.CarlosError)
    assert (str(error), error.what, error.hint) == ("It broke. Mend it.", "It broke.", "Mend it.")
    assert str(carlos.CarlosError("It broke.")) == "It broke."


def test_the_reference_packages_retrieval_example_runs(
    home: Path, tmp_path: Path, database: carlos.MetricsDatabase, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "encoders").mkdir(parents=True)
    for suffix in (".json", ".safetensors"):
        shutil.copy(miniworld.MINIWORLD / f"mini_clip{suffix}", home / "encoders")
    out_dir = tmp_path / "output"
    database.save_parquet(out_dir / "metrics_database.local.parquet")

    # The example, with the mini-world's file in place of the published one and its own subjects.
    db_parquet = out_dir / "metrics_database.local.parquet"
    carlos.copy_bundled_database(db_parquet, overwrite=False)
    db = carlos.load_database(db_parquet)
    queries = ["heavy snowfall", "watercolour painting", "pixel art style"]
    for q in queries:
        results = carlos.retrieve(db, q, top_k=10)
        sys.stdout.write(f"\nQuery: {q}\n")
        for r in results:
            sys.stdout.write(f"[{r.rank}] id={r.lora_id} score={r.score:.4f}\n")

    blocks = [block.splitlines() for block in capsys.readouterr().out.strip().split("\n\n")]
    assert [block[0] for block in blocks] == [f"Query: {q}" for q in queries]
    assert {len(block) for block in blocks} == {11}
    labels = {str(facts["lora_id"]): facts["label"] for facts in miniworld.labels().values()}
    best = [labels[block[1].split("id=")[1].split()[0]] for block in blocks]
    assert best == ["heavy snowfall", "watercolour painting", "pixel art"]


def test_the_published_rows_without_weights_and_network_end_in_a_clear_error(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setattr(weights, "HUB", closed)
    with pytest.raises(EncoderError, match="no connection") as caught:
        carlos.retrieve(carlos.load_bundled_database(), "snowfall")
    assert closed in caught.value.hint
    assert str(home / "encoders" / "ViT-B-32-quickgelu.openai.safetensors") in caught.value.hint


def test_a_known_lora_is_found_without_a_generator(tmp_path: Path, empty_database: carlos.MetricsDatabase) -> None:
    lora = lora_file(tmp_path / "red.safetensors")
    empty_database.upsert(a_row(read_lora_file(lora).lora_id, np.ones(64), strength=3.25))
    result = carlos.index_lora(empty_database, lora_source=lora)
    assert not result.is_new
    assert (result.lora_id, result.vector.strength) == (read_lora_file(lora).lora_id, 3.25)
    assert result.row["strength"] == 3.25


@pytest.mark.parametrize("version_id", ["244808", 244808])
def test_a_published_lora_is_found_by_its_civitai_version(version_id: str | int) -> None:
    db = carlos.load_bundled_database()
    result = carlos.index_lora(db, lora_source="civitai", model_id="1", version_id=version_id, overwrite=False)
    assert not result.is_new
    assert result.row["version_id"] == 244808
    assert result.vector.strength == db.column("strength")[db.column("version_id").index(244808)]


def test_without_diffusers_and_a_generator_a_new_lora_is_a_clear_error(
    tmp_path: Path, empty_database: carlos.MetricsDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(headless, "find_spec", lambda name: None if name == "peft" else name)
    with pytest.raises(GenerationError, match="no text-to-image model to measure with: peft is not installed") as caught:
        carlos.index_lora(empty_database, lora_source=str(lora_file(tmp_path / "red.safetensors")))
    assert "pip install 'carlos-loras[headless]'" in caught.value.hint
    assert "generator=" in caught.value.hint
    assert len(empty_database) == 0
    with pytest.raises(GenerationError, match="peft is not installed"):
        _ = carlos.load_model


def test_a_wrong_setting_or_a_lacking_encoder_is_told_before_a_model_is_fetched(
    tmp_path: Path, home: Path, empty_database: carlos.MetricsDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(headless, "find_spec", lambda name: name)
    lora, nowhere = str(lora_file(tmp_path / "red.safetensors")), tmp_path / "no model"
    with pytest.raises(IndexingError, match="There is no preset 'qiuck'"):
        carlos.index_lora(empty_database, lora_source=lora, model=nowhere, preset="qiuck")
    with pytest.raises(EncoderError):
        carlos.index_lora(empty_database, lora_source=lora, model=nowhere)


def test_the_preset_is_standard_unless_the_caller_says_how_many_pictures(
    tmp_path: Path, encoder: OpenClipEncoder, empty_database: carlos.MetricsDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora = lora_file(tmp_path / "red.safetensors", mix=0.9)
    options: dict[str, Any] = {"encoder": encoder, "prompts": PROMPTS, "overwrite": True, "working_directory": tmp_path / "work"}

    def preset_of(generator: DrawingGenerator, **more: Any) -> str:
        result = carlos.index_lora(empty_database, lora_source=lora, generator=generator, **options, **more)
        return str(empty_database.protocols[str(result.record.protocol_id)]["preset"])

    assert preset_of(DrawingGenerator()) == "custom"
    monkeypatch.setattr(DrawingGenerator, "steps", 25)
    assert preset_of(DrawingGenerator()) == "standard"
    assert [preset_of(DrawingGenerator(), **{name: 1}) for name in ("seeds", "first_seed", "max_prompts")] == ["custom"] * 3


def test_a_read_only_database_is_refused_before_any_picture_is_made(tmp_path: Path) -> None:
    generator = DrawingGenerator()
    with pytest.raises(IndexingError, match="read-only"):
        carlos.index_lora(
            carlos.load_bundled_database(), lora_source=lora_file(tmp_path / "red.safetensors"), generator=generator
        )
    assert generator.jobs == []


@pytest.mark.parametrize("encoder_of_rows", ["another encoder", None])
def test_an_encoder_that_is_not_the_rows_own_is_refused_before_any_picture_is_made(
    tmp_path: Path, encoder: OpenClipEncoder, empty_database: carlos.MetricsDatabase, encoder_of_rows: str | None
) -> None:
    empty_database.encoder_id = encoder_of_rows
    generator = DrawingGenerator()
    options: dict[str, Any] = {"encoder": encoder, "prompts": PROMPTS, "max_prompts": 3, "working_directory": tmp_path / "work"}
    with pytest.raises(carlos.CarlosError):
        carlos.index_lora(empty_database, lora_source=lora_file(tmp_path / "a.safetensors"), generator=generator, **options)
    assert generator.jobs == []


def test_an_indexed_lora_has_the_row_that_measuring_gives(
    tmp_path: Path, encoder: OpenClipEncoder, empty_database: carlos.MetricsDatabase, bench: Bench
) -> None:
    options: dict[str, Any] = {
        "encoder": encoder,
        "prompts": PROMPTS,
        "seeds": 2,
        "first_seed": 7,
        "working_directory": tmp_path / "api",
    }
    lora = lora_file(tmp_path / "red.safetensors", trigger="redword")
    result = carlos.index_lora(empty_database, lora_source=lora, generator=DrawingGenerator(), **options)
    expected = bench.measure(read_lora_file(lora), DrawingGenerator()).record
    assert result.is_new
    assert result.vector.direction.tobytes() == expected.direction.tobytes()
    assert (result.vector.strength, result.vector.consistency) == (expected.strength, expected.consistency)
    assert result.row["n_images"] == 18
    assert empty_database.column("lora_id") == [expected.lora_id]
    described = empty_database.protocols[result.row["protocol_id"]]
    assert (described["model"], described["prompts"], described["lora_weight"]) == ("drawn-1", PROMPTS.content_hash, 1.0)


def test_an_indexed_lora_is_made_again_only_if_told_to(
    tmp_path: Path, encoder: OpenClipEncoder, empty_database: carlos.MetricsDatabase
) -> None:
    options: dict[str, Any] = {"encoder": encoder, "prompts": PROMPTS, "max_prompts": 3, "working_directory": tmp_path / "work"}
    lora = lora_file(tmp_path / "red.safetensors")
    first = carlos.index_lora(empty_database, lora_source=lora, generator=DrawingGenerator(), **options)
    generator = DrawingGenerator()
    known = carlos.index_lora(empty_database, lora_source=lora, generator=generator, **options)
    assert (known.is_new, generator.jobs) == (False, [])
    again = carlos.index_lora(empty_database, lora_source=lora, generator=generator, overwrite=True, **options)
    assert (again.is_new, len(generator.lora_jobs), len(empty_database)) == (True, 3, 1)
    assert again.vector.direction.tobytes() == first.vector.direction.tobytes() == known.vector.direction.tobytes()


def test_an_indexed_lora_is_found_in_the_saved_file(
    tmp_path: Path, encoder: OpenClipEncoder, empty_database: carlos.MetricsDatabase
) -> None:
    lora = lora_file(tmp_path / "red.safetensors")
    result = carlos.index_lora(
        empty_database,
        lora_source=lora,
        generator=DrawingGenerator(),
        encoder=encoder,
        prompts=PROMPTS,
        max_prompts=3,
        working_directory=tmp_path / "work",
    )
    empty_database.save_parquet(tmp_path / "mine.parquet")
    loaded = carlos.load_database(tmp_path / "mine.parquet")
    assert loaded.protocols == empty_database.protocols
    matches = carlos.retrieve(loaded, "red", encoder=encoder, max_strength=100, min_consistency=-1)
    assert [(match.lora_id, match.record.file_name) for match in matches] == [(result.lora_id, "red.safetensors")]


def test_presets_and_their_stopping_rule_are_there_for_the_library(
    tmp_path: Path, encoder: OpenClipEncoder, empty_database: carlos.MetricsDatabase
) -> None:
    lora = lora_file(tmp_path / "red.safetensors")
    options: dict[str, Any] = {"encoder": encoder, "generator": DrawingGenerator(), "working_directory": tmp_path / "work"}
    # 4 steps, as the drawing generator takes: at most 896 evaluations of 8 a picture, and it is known before that.
    result = carlos.index_lora(empty_database, lora_source=lora, preset="quick", **options)
    assert 16 <= (result.record.n_images or 0) < 112
    assert (result.record.alignment or 0) >= 0.97
    assert empty_database.protocols[str(result.record.protocol_id)]["preset"] == "quick"
    with pytest.raises(IndexingError, match="takes 4 steps, the preset 'standard' 25"):
        carlos.index_lora(empty_database, lora_source=lora, preset="standard", overwrite=True, **options)
    with pytest.raises(IndexingError, match="no preset 'fast'"):
        carlos.index_lora(empty_database, lora_source=lora, preset="fast", overwrite=True, **options)
    with pytest.raises(IndexingError, match="no trigger rule 'both'"):
        carlos.index_lora(empty_database, lora_source=lora, preset="quick", trigger_rule="both", overwrite=True, **options)
