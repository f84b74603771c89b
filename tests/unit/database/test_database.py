"""Rows in memory and on disk: nothing is lost, nothing wrong gets in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from carlos_core.database.database import MetricsDatabase, load_database
from carlos_core.errors import DatabaseError
from carlos_core.records import CurvePoint, LoraRecord
from tests.support import miniworld
from tests.support.rows import a_row

FULL = a_row(
    "123456",
    [0.5, -0.25, 3.0, 0.0],
    version_id=123456,
    model_id=654321,
    model_name='Süßes „Zucker" ❄',
    file_name="styles/snow.safetensors",
    sha256="ab" * 32,
    base_model="SDXL",
    trigger_words=("snw style", "cold, breath"),
    nsfw_level=3,
    download_count=5_000_000_000,
    n_images=4480,
    n_prompts=280,
    alignment=0.97,
    strength_se=0.12,
    consistency_se=0.034,
    protocol_id="0123456789ab",
    encoder_id="some encoder",
    indexed_at="2025-01-02T03:04:05+00:00",
    notes=("one", "two"),
)


def small_database(*records: LoraRecord) -> MetricsDatabase:
    database = MetricsDatabase.empty("some encoder", dimension=4)
    for record in records:
        database.upsert(record)
    return database


def reference_file(path: Path) -> pa.Table:
    """A file as the reference package writes it, of three LoRAs; returns its table."""
    directions = np.random.default_rng(21).normal(size=(3, 6)).astype(np.float32).astype(np.float64)
    table = pa.table(
        {
            "version_id": pa.array([300, 100, 200], pa.int64()),
            "model_id": pa.array([3, None, 2], pa.int64()),
            "model_name": pa.array(["C", "A", "B"]),
            "model_description": pa.array(["<p>of C</p>", None, "<p>of B</p>"]),
            "model_nsfw_level": pa.array([1, 28, 31], pa.int64()),
            "folder_name": pa.array(["3_300", "1_100", "2_200"]),
            "direction": pa.array(directions.tolist(), pa.list_(pa.float64())),
            "strength": pa.array([5.25, 9.9, 0.5]),
            "consistency": pa.array([0.25, 0.03, 0.5]),
            "model_download_count": pa.array([10, 20, 30], pa.int64()),
        }
    )
    pq.write_table(table, path, row_group_size=2)
    return table


def test_a_full_row_comes_back_from_disk_as_it_was(tmp_path: Path) -> None:
    database = small_database(FULL, a_row("bare"))
    database.save_parquet(tmp_path / "a.parquet")
    row = load_database(tmp_path / "a.parquet").cells("123456")
    np.testing.assert_array_equal(row.pop("direction"), FULL.direction)
    for name, value in row.items():
        expected = vars(FULL.metadata).get(name, getattr(FULL, name, None))
        assert value == (list(expected) if isinstance(expected, tuple) else expected), name
    bare = load_database(tmp_path / "a.parquet").cells("bare")
    assert bare.pop("direction").tolist() == [1, 0, 0, 0]
    assert {name: value for name, value in bare.items() if value} == {"lora_id": "bare", "strength": 5.0, "consistency": 0.2}


def test_unknown_columns_encoder_and_protocols_survive_a_round_trip(tmp_path: Path, database: MetricsDatabase) -> None:
    protocol = {"preset": "quick", "steps": 12, "generator": {"größe": [1, 2]}}
    database.upsert(a_row("new", np.ones(64), protocol_id="p1"), protocol)
    database.save_parquet(tmp_path / "first.parquet")
    first = load_database(tmp_path / "first.parquet", encoder_id="not this one")
    first.save_parquet(tmp_path / "second.parquet")
    second = load_database(tmp_path / "second.parquet")
    assert second.table.equals(database.table)
    assert second.cells("1058")["label"] == "heavy snowfall"
    assert second.cells("1058")["n"] == 256
    assert second.encoder_id == miniworld.encoder_id()
    assert second.protocols == {"p1": protocol}


def test_an_undefined_consistency_stays_undefined(tmp_path: Path) -> None:
    database = small_database(a_row("no effect", np.zeros(4), strength=0.0, consistency=None))
    database.save_parquet(tmp_path / "a.parquet")
    loaded = load_database(tmp_path / "a.parquet")
    assert loaded.cells("no effect")["consistency"] is None  # type: ignore[index]
    assert np.isnan(loaded.ranking_arrays.consistency.numpy()).all()


def test_an_empty_database_comes_back_empty_with_its_dimension(tmp_path: Path) -> None:
    small_database().save_parquet(tmp_path / "a.parquet")
    loaded = load_database(tmp_path / "a.parquet")
    assert (len(loaded), loaded.dimension, loaded.encoder_id) == (0, 4, "some encoder")
    assert tuple(loaded.ranking_arrays.directions.shape) == (0, 4)
    loaded.upsert(FULL)
    assert "123456" in loaded


def test_directions_are_written_as_fixed_size_lists_of_float32(tmp_path: Path, database: MetricsDatabase) -> None:
    database.save_parquet(tmp_path / "a.parquet")
    assert pq.read_table(tmp_path / "a.parquet").schema.field("direction").type == pa.list_(pa.float32(), 64)


def test_a_file_of_the_reference_package_opens_with_our_names(tmp_path: Path) -> None:
    written = reference_file(tmp_path / "theirs.parquet")
    database = load_database(tmp_path / "theirs.parquet")
    assert database.column("lora_id") == ["300", "100", "200"]
    assert database.encoder_id == "ViT-B-32-quickgelu/openai"
    assert database.column("nsfw_level") == [1, 28, 31]
    assert database.column("download_count") == [10, 20, 30]
    row = database.cells("100")
    np.testing.assert_array_equal(row["direction"], written["direction"][1].as_py())
    assert (row["model_id"], row["strength"], row["consistency"]) == (None, 9.9, 0.03)


def test_a_file_that_does_not_name_its_encoder_takes_the_one_it_is_opened_with(tmp_path: Path) -> None:
    reference_file(tmp_path / "theirs.parquet")
    assert load_database(tmp_path / "theirs.parquet", encoder_id="mine").encoder_id == "mine"
    rows = miniworld.MINIWORLD / "reference_metrics.parquet"
    assert load_database(rows, encoder_id="mine").encoder_id == "mine"


def test_a_file_of_the_reference_package_is_written_back_equal(tmp_path: Path) -> None:
    written = reference_file(tmp_path / "theirs.parquet")
    load_database(tmp_path / "theirs.parquet").save_parquet(tmp_path / "ours.parquet")
    load_database(tmp_path / "ours.parquet").save_parquet(tmp_path / "again.parquet", layout="reference")
    again = pq.read_table(tmp_path / "again.parquet")
    assert again.schema.equals(pq.read_schema(tmp_path / "theirs.parquet"))
    assert again.to_pylist() == written.to_pylist()


def test_a_row_of_the_reference_package_is_replaced_not_doubled(tmp_path: Path) -> None:
    reference_file(tmp_path / "theirs.parquet")
    database = load_database(tmp_path / "theirs.parquet")
    database.upsert(a_row("100", np.ones(6), version_id=100, strength=1.5))
    assert database.column("lora_id") == ["300", "100", "200"]
    assert database.column("strength") == [5.25, 1.5, 0.5]


def test_rows_without_a_civitai_version_do_not_fit_the_reference_layout(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match="1 rows have no CivitAI version") as caught:
        small_database(FULL, a_row("sha256:0011")).save_parquet(tmp_path / "a.parquet", layout="reference")
    assert 'layout="carlos"' in caught.value.hint
    assert not (tmp_path / "a.parquet").exists()


def test_upsert_adds_what_is_new_and_replaces_what_is_there() -> None:
    database = small_database(a_row("a"), a_row("b"), a_row("c"))
    assert database.ranking_arrays.strength.tolist() == [5.0, 5.0, 5.0]
    database.upsert(a_row("b", [0, 1, 0, 0], strength=7.0))
    database.upsert(a_row("d", strength=8.0))
    assert database.column("lora_id") == ["a", "b", "c", "d"]
    assert database.column("strength") == [5.0, 7.0, 5.0, 8.0]
    assert database.ranking_arrays.strength.tolist() == [5.0, 7.0, 5.0, 8.0]
    assert database.ranking_arrays.directions[1].tolist() == [0, 1, 0, 0]
    assert ("d" in database, "e" in database, database.row("e")) == (True, False, None)


def test_replacing_a_row_keeps_the_users_own_columns(database: MetricsDatabase) -> None:
    database.upsert(a_row("1058", np.ones(64), file_name="mystery_12.safetensors"))
    row = database.cells("1058")
    assert (row["strength"], row["label"]) == (5.0, "heavy snowfall")


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (a_row("x", [1, 2, 3]), r"shape \[3\]"),
        (a_row("x", np.ones((1, 4))), r"shape \[1, 4\]"),
        (a_row("x", encoder_id="another encoder"), "another encoder"),
        (a_row("x", [1, np.nan, 0, 0]), "not finite"),
        (a_row("x", [1, np.inf, 0, 0]), "not finite"),
        (a_row("x", strength=float("nan")), "not finite"),
        (a_row("x", consistency=float("nan")), "not finite"),
    ],
    ids=["dimension", "shape", "encoder", "NaN", "infinity", "NaN strength", "NaN consistency"],
)
def test_a_row_that_does_not_belong_is_refused_and_changes_nothing(record: LoraRecord, reason: str) -> None:
    database = small_database(a_row("a"))
    before = database.table
    with pytest.raises(DatabaseError, match=reason) as caught:
        database.upsert(record, {"preset": "quick"})
    assert caught.value.hint
    assert database.table.equals(before)
    assert database.protocols == {}


def test_a_copy_does_not_change_its_original_nor_the_other_way_round() -> None:
    original = small_database(a_row("a", protocol_id="p"))
    copy = original.copy()
    copy.upsert(a_row("b", protocol_id="q"), {"preset": "quick"})
    copy.set_value("a", "file_name", "moved.safetensors")
    assert original.column("lora_id") == ["a"]
    assert original.column("file_name") == [None]
    assert original.protocols == {}
    original.upsert(a_row("c"))
    assert copy.column("lora_id") == ["a", "b"]


@pytest.mark.parametrize(("lora_id", "column"), [("nobody", "file_name"), ("a", "no such column")])
def test_a_cell_that_is_not_there_cannot_be_changed(lora_id: str, column: str) -> None:
    with pytest.raises(DatabaseError, match="cannot be changed"):
        small_database(a_row("a")).set_value(lora_id, column, "x")


def test_the_pandas_table_has_all_rows_and_columns(database: MetricsDatabase) -> None:
    frame = database.to_dataframe()
    assert list(frame.columns) == database.table.column_names
    assert frame["lora_id"].tolist() == database.column("lora_id")
    np.testing.assert_array_equal(np.stack(frame["direction"].tolist()), np.array(database.column("direction"), np.float32))


def test_rows_of_an_unknown_encoder_are_not_saved_as_ours(tmp_path: Path) -> None:
    unknown = load_database(miniworld.MINIWORLD / "reference_metrics.parquet")
    with pytest.raises(DatabaseError, match="not known which encoder"):
        unknown.save_parquet(tmp_path / "a.parquet")
    assert list(tmp_path.iterdir()) == []


def test_what_is_usual_leaves_out_a_tenth_and_follows_every_change() -> None:
    database = MetricsDatabase.empty("some encoder", dimension=4)
    assert database.ranking_arrays.usual_strength is None
    # 0 to 100 in any order: the 5th percentile is 5, the 95th is 95.
    for place in (*range(50, 101), *range(50)):
        database.upsert(a_row(str(place), strength=float(place), consistency=None if place == 100 else place / 100))
    assert database.ranking_arrays.usual_strength == pytest.approx((5, 95))
    # Of 0 to 0.99, without the one that is undefined.
    assert database.ranking_arrays.usual_consistency == pytest.approx((0.0495, 0.9405))
    for place in range(95, 101):
        database.upsert(a_row(str(place), strength=0.0, consistency=None))
    low, high = database.ranking_arrays.usual_strength or (-1.0, -1.0)
    assert low == 0
    assert high < 95


@pytest.mark.parametrize(
    ("errors", "expected"), [(None, [None, None]), ([0.1, 0.2], [0.1, 0.2]), ([0.1], [None, None]), ([0.1, None], [0.1, None])]
)
def test_a_curve_has_its_error_bars_if_they_are_known(errors: Any, expected: list[float | None]) -> None:
    database = MetricsDatabase.empty("some encoder", dimension=4)
    database.upsert(a_row("a", strength_curve=(CurvePoint(0.5, 2.0, 0.9, 0.3), CurvePoint(1.0, 4.0, 1.0, 0.4))))
    row = database.row("a")
    assert row is not None
    assert [point.strength_se for point in row.strength_curve] == [0.3, 0.4]
    database.set_value("a", "curve_strength_ses", errors)
    row = database.row("a")
    assert row is not None
    assert [point.strength_se for point in row.strength_curve] == expected
