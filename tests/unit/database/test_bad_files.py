"""Files that are not good databases: each is named, with what is wrong and what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from carlos_core.database.database import MetricsDatabase, load_database
from carlos_core.errors import DatabaseError
from tests.support.rows import a_row

LIST = pa.list_(pa.float64())
NO_ROWS = {"direction": pa.array([], LIST), "strength": pa.array([], pa.float64()), "consistency": pa.array([], pa.float64())}


def write(path: Path, metadata: dict[str, str] | None = None, **columns: pa.Array | None) -> None:
    """A good file of two rows, but for what `columns` replace or, with None, leave out."""
    good = {
        "lora_id": pa.array(["a", "b"]),
        "direction": pa.array([[1.0, 2.0], [3.0, 4.0]], LIST),
        "strength": pa.array([5.0, 6.0]),
        "consistency": pa.array([0.1, 0.2]),
    }
    table = pa.table({name: column for name, column in (good | columns).items() if column is not None})
    pq.write_table(table.replace_schema_metadata(metadata), path)


def good_bytes(path: Path) -> bytes:
    MetricsDatabase.empty("some encoder", 2).save_parquet(path)
    database = load_database(path)
    database.upsert(a_row("a", [1, 2]))
    database.save_parquet(path)
    return path.read_bytes()


def write_twice(path: Path, name: str) -> None:
    write(path)
    table = pq.read_table(path)
    pq.write_table(table.append_column(name, table["strength"]), path)


BAD_FILES: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "a folder": lambda path: path.mkdir(),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("lora_id,direction\n1,2\n" * 50),
    "half of a file": lambda path: path.write_bytes(good_bytes(path)[: path.stat().st_size // 2]),
    "a file without its end": lambda path: path.write_bytes(good_bytes(path)[:-5]),
    "a file without its beginning": lambda path: path.write_bytes(good_bytes(path)[1000:]),
    "without direction": lambda path: write(path, direction=None),
    "without strength": lambda path: write(path, strength=None),
    "without consistency": lambda path: write(path, consistency=None),
    "without any id": lambda path: write(path, lora_id=None),
    "NaN in a direction": lambda path: write(path, direction=pa.array([[1.0, 2.0], [float("nan"), 4.0]], LIST)),
    "infinity in a direction": lambda path: write(path, direction=pa.array([[1.0, 2.0], [float("inf"), 4.0]], LIST)),
    "null in a direction": lambda path: write(path, direction=pa.array([[1.0, 2.0], [None, 4.0]], LIST)),
    "no direction in a row": lambda path: write(path, direction=pa.array([[1.0, 2.0], None], LIST)),
    "ragged directions": lambda path: write(path, direction=pa.array([[1.0, 2.0], [3.0]], LIST)),
    "empty directions": lambda path: write(path, direction=pa.array([[], []], LIST)),
    "no row that tells how long directions are": lambda path: write(path, lora_id=pa.array([], pa.string()), **NO_ROWS),
    "directions that are numbers": lambda path: write(path, direction=pa.array([1.0, 2.0])),
    "directions of words": lambda path: write(path, direction=pa.array([["up", "down"], ["left", "right"]])),
    "a column twice": lambda path: write_twice(path, "consistency"),
    "an id twice": lambda path: write(path, lora_id=pa.array(["a", "a"])),
    "an id twice, as numbers": lambda path: write(path, lora_id=None, version_id=pa.array([7, 7])),
    "no id in a row": lambda path: write(path, lora_id=pa.array(["a", None])),
    "an empty id": lambda path: write(path, lora_id=pa.array(["a", ""])),
    "no strength in a row": lambda path: write(path, strength=pa.array([5.0, None])),
    "NaN strength": lambda path: write(path, strength=pa.array([5.0, float("nan")])),
    "strength in words": lambda path: write(path, strength=pa.array(["strong", "weak"])),
    "a text without end": lambda path: write(path, model_name=pa.array(["a", "b" * (1 << 21)])),
    "a word without end": lambda path: write(path, trigger_words=pa.array([["a"], ["b", "c" * (1 << 21)]])),
    "a newer schema": lambda path: write(path, metadata={"carlos.schema_version": "2"}),
    "damaged metadata": lambda path: write(path, metadata={"carlos.protocols": '{"quick": '}),
    "a schema version that is not a number": lambda path: write(path, metadata={"carlos.schema_version": '"two"'}),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_is_refused_by_name_in_two_sentences(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "my rows.parquet"
    BAD_FILES[kind](path)
    with pytest.raises(DatabaseError) as caught:
        load_database(path)
    assert "my rows.parquet" in str(caught.value)
    for sentence in (caught.value.what, caught.value.hint):
        assert sentence.endswith(".")
        assert "\n" not in sentence


def test_the_file_that_the_bad_ones_are_made_from_is_good(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet")
    assert load_database(tmp_path / "a.parquet").column("direction") == [[1.0, 2.0], [3.0, 4.0]]
    write(tmp_path / "b.parquet", metadata={"carlos.schema_version": "1"})
    assert len(load_database(tmp_path / "b.parquet")) == 2
    (tmp_path / "c.parquet").write_bytes(good_bytes(tmp_path / "c.parquet"))
    assert len(load_database(tmp_path / "c.parquet")) == 1


def test_a_newer_schema_is_told_from_damage(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", metadata={"carlos.schema_version": "99"})
    with pytest.raises(DatabaseError, match="newer version.*Update CARLoS"):
        load_database(tmp_path / "a.parquet")


def test_an_id_that_is_there_twice_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", lora_id=pa.array(["the double", "the double"]))
    with pytest.raises(DatabaseError, match="the double"):
        load_database(tmp_path / "a.parquet")


def test_columns_that_lack_are_named(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", strength=None, direction=None)
    with pytest.raises(DatabaseError, match="direction, strength"):
        load_database(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("zeros", lambda: pa.array(np.zeros(70_000_000, np.float32))),
        ("one list", lambda: pa.ListArray.from_arrays([0, 70_000_000], pa.nulls(70_000_000, pa.int8()))),
        ("one text in each row", lambda: pa.array(["x" * 1_000_000] * 600)),
    ],
)
def test_a_file_that_unpacks_to_very_much_is_refused_before_it_does(
    tmp_path: Path, column: str, values: Callable[[], pa.Array]
) -> None:
    bomb = values()
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({column: bomb}), path, compression="zstd", use_dictionary=column.startswith("one"))
    assert path.stat().st_size < 3_000_000
    before = pa.total_allocated_bytes()
    with pytest.raises(DatabaseError, match=r"a\.parquet would unpack to more than 50 times its size") as caught:
        load_database(path)
    assert caught.value.hint
    assert pa.total_allocated_bytes() - before < 400_000_000


def test_a_file_with_long_texts_is_read_whole_in_parts(tmp_path: Path) -> None:
    database = MetricsDatabase.empty("some encoder", 4)
    database.upsert(a_row("row"))
    places = range(5000)
    table = pa.concat_tables([database.table] * 5000).combine_chunks()
    for name, values in (("lora_id", [f"row {k}" for k in places]), ("model_name", [f"{k} " + "long " * 100 for k in places])):
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values))
    MetricsDatabase(table, encoder_id="some encoder").save_parquet(tmp_path / "a.parquet")
    assert load_database(tmp_path / "a.parquet").table.equals(table)
