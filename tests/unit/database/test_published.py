"""The published rows that come with the package, against the figures that their authors report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from carlos_core.database.database import MetricsDatabase, load_database
from carlos_core.database.published import BUNDLED_PATH, copy_bundled_database, load_bundled_database
from carlos_core.errors import DatabaseError
from carlos_core.search.limits import PUBLISHED_LIMITS
from carlos_core.search.ranking import rank
from tests.support.rows import a_row


@pytest.fixture(scope="module")
def bundled() -> MetricsDatabase:
    return load_bundled_database()


@pytest.fixture(scope="module")
def directions(bundled: MetricsDatabase) -> np.ndarray:
    """[740, 512] float64, in table order."""
    return np.array(bundled.column("direction"), dtype=np.float64)


def test_it_has_the_published_rows(bundled: MetricsDatabase, directions: np.ndarray) -> None:
    assert len(bundled) == 740
    assert directions.shape == (740, 512)
    assert len(set(bundled.column("lora_id"))) == 740
    assert bundled.column("lora_id") == [str(version) for version in bundled.column("version_id")]
    assert bundled.column("model_id").count(None) == 8
    assert bundled.encoder_id == "ViT-B-32-quickgelu/openai"


def test_its_metrics_are_the_published_ones(bundled: MetricsDatabase) -> None:
    strength, consistency = np.array(bundled.column("strength")), np.array(bundled.column("consistency"))
    found = [strength.mean(), strength.min(), strength.max(), consistency.mean(), np.median(consistency), consistency.max()]
    assert np.round(found, 4).tolist() == [5.9396, 0.9298, 10.7514, 0.1160, 0.0898, 0.5451]


def test_as_many_rows_pass_the_default_limits_as_published(bundled: MetricsDatabase) -> None:
    strength, consistency = np.array(bundled.column("strength")), np.array(bundled.column("consistency"))
    assert int(((strength <= 9.8) & (consistency >= 0.041)).sum()) == 515
    arrays = bundled.ranking_arrays
    allowed = PUBLISHED_LIMITS.mask(bundled, ())
    found, _ = rank(arrays.directions, torch.ones(512), 740, norms=arrays.norms, allowed=allowed)
    assert len(found) == 515


def test_length_of_direction_strength_and_consistency_fit_each_other(bundled: MetricsDatabase, directions: np.ndarray) -> None:
    expected = np.sqrt(np.array(bundled.column("consistency"))) * np.array(bundled.column("strength"))
    assert round(np.corrcoef(np.linalg.norm(directions, axis=1), expected)[0, 1], 4) == 0.9989


def test_as_many_rows_are_near_doubles_as_published(directions: np.ndarray) -> None:
    unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    pairs = np.argwhere(np.triu(unit @ unit.T, k=1) > 0.95)
    assert (len(pairs), len(set(pairs.flatten().tolist()))) == (15, 21)


def test_it_is_small_and_holds_none_of_the_creators_texts(bundled: MetricsDatabase) -> None:
    assert BUNDLED_PATH.stat().st_size < 2_000_000
    assert not [name for name in bundled.table.column_names if "description" in name]
    texts = [name for name in bundled.table.column_names if pa.types.is_string(bundled.table.schema.field(name).type)]
    assert not [value for name in texts for value in bundled.column(name) if value and "<p" in value]


def test_it_refuses_changes_and_its_copy_does_not(bundled: MetricsDatabase) -> None:
    lora_id = bundled.column("lora_id")[0]
    with pytest.raises(DatabaseError, match="read-only") as caught:
        bundled.upsert(a_row(lora_id, np.ones(512)))
    assert "copy of your own" in caught.value.hint
    with pytest.raises(DatabaseError, match="writable copy"):
        bundled.set_value(lora_id, "file_name", "x.safetensors")
    copy = bundled.copy()
    copy.upsert(a_row("new", np.ones(512)))
    assert (len(copy), len(bundled)) == (741, 740)
    copy.set_value(lora_id, "file_name", "x.safetensors")
    assert copy.cells(lora_id)["file_name"] == "x.safetensors"  # type: ignore[index]
    assert bundled.cells(lora_id)["file_name"] is None  # type: ignore[index]


def test_a_copy_on_disk_is_the_whole_database_and_writable(tmp_path: Path, bundled: MetricsDatabase) -> None:
    path = copy_bundled_database(tmp_path / "new folder" / "mine.parquet")
    copy = load_database(path)
    assert copy.table.equals(bundled.table)
    assert not copy.read_only
    assert copy.protocols == bundled.protocols


def test_a_copy_on_disk_replaces_another_file_only_if_told_to(tmp_path: Path) -> None:
    path = tmp_path / "mine.parquet"
    path.write_bytes(b"precious")
    assert copy_bundled_database(path) == path
    assert path.read_bytes() == b"precious"
    assert copy_bundled_database(str(path), overwrite=True) == path
    assert path.read_bytes() == BUNDLED_PATH.read_bytes()
    assert [file for file in tmp_path.iterdir() if file.suffix != ".lock"] == [path]


def test_a_folder_is_not_taken_for_a_file_to_copy_to(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match="is a folder"):
        copy_bundled_database(tmp_path, overwrite=True)
