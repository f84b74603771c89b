"""Content is identity: a LoRA's row is found by what is in its file, whatever its sidecar claims."""

from __future__ import annotations

from pathlib import Path

import pytest

from carlos_core.database.database import MetricsDatabase, load_database
from carlos_core.database.published import load_bundled_database
from carlos_core.records import CurvePoint, LoraRecord
from tests.support.rows import a_row

ONE, TWO, THREE = ("11" * 32, "22" * 32, "33" * 32)


def of_version(sha256: str | None, version_id: int = 123, strength: float = 5.0) -> LoraRecord:
    """A row as a file gives it whose sidecar names a version of CivitAI."""
    return a_row(str(version_id), [strength, 1, 0, 0], version_id=version_id, sha256=sha256, strength=strength)


def put(database: MetricsDatabase, record: LoraRecord) -> LoraRecord:
    """Add or replace a row. Returns it as it is in the database."""
    database.upsert(record, {})
    row = database.row(database.id_of(record.lora_id, record.sha256))
    assert row is not None
    return row


@pytest.fixture
def database() -> MetricsDatabase:
    return MetricsDatabase.empty("some encoder", dimension=4)


def test_two_contents_that_claim_one_version_both_have_a_row(database: MetricsDatabase) -> None:
    first = put(database, of_version(ONE, strength=1.0))
    second = put(database, of_version(TWO, strength=2.0))
    assert (first.lora_id, second.lora_id) == ("123", f"sha256:{TWO[:16]}")
    assert database.column("strength") == [1.0, 2.0]
    assert database.column("version_id") == [123, 123]
    # Each finds its own row again, and measuring it again replaces that.
    assert [database.id_of("123", sha256) for sha256 in (ONE, TWO, THREE)] == ["123", second.lora_id, f"sha256:{THREE[:16]}"]
    put(database, of_version(TWO, strength=3.0))
    assert database.column("strength") == [1.0, 3.0]


def test_a_row_keeps_its_id_when_its_file_gets_a_sidecar(database: MetricsDatabase) -> None:
    by_content = f"sha256:{ONE[:16]}"
    database.upsert(a_row(by_content, sha256=ONE, strength=1.0))
    database.upsert(of_version(ONE, strength=2.0))
    assert database.column("lora_id") == [by_content]
    assert database.column("version_id") == [123]
    assert database.column("strength") == [2.0]
    # Another content may then be the version's.
    assert database.id_of("123", TWO) == "123"


def test_hashes_are_compared_without_regard_to_case_and_as_a_whole(database: MetricsDatabase) -> None:
    mixed = "ab" * 32
    database.upsert(of_version(mixed.upper()))
    assert database.id_of("other", mixed) == "123"
    twin = mixed[:16] + "0" * 48
    database.upsert(a_row(f"sha256:{twin[:16]}", sha256=twin))
    # The same first 16 digits are not the same content.
    third = mixed[:16] + "1" * 48
    assert database.id_of(f"sha256:{third[:16]}", third) == f"sha256:{third}"


def test_a_published_row_is_reached_by_its_version_whatever_the_file_holds() -> None:
    bundled = load_bundled_database()
    lora_id = bundled.column("lora_id")[0]
    assert bundled.id_of(lora_id, ONE) == lora_id
    own = bundled.copy()
    record = own.row(lora_id)
    assert record is not None
    assert record.sha256 is None
    changed = a_row(lora_id, record.direction, version_id=int(lora_id), sha256=ONE, encoder_id=own.encoder_id)
    assert put(own, changed).lora_id == lora_id
    # From now on the row knows its content, and another one is another LoRA.
    assert own.id_of(lora_id, TWO) == f"sha256:{TWO[:16]}"
    assert len(own) == len(bundled)


def test_two_programs_that_measured_other_contents_of_a_version_both_keep_their_rows(tmp_path: Path) -> None:
    path = tmp_path / "shared.parquet"
    MetricsDatabase.empty("some encoder", dimension=4).save_parquet(path)
    ours, theirs = load_database(path), load_database(path)
    theirs.upsert(of_version(ONE, strength=1.0))
    theirs.save_parquet(path)
    ours.upsert(of_version(TWO, strength=2.0))
    ours.set_curve("123", [CurvePoint(0.5, 1.0, 0.9)], 0.5)
    ours.save_parquet(path)
    both = load_database(path)
    assert both.column("lora_id") == ["123", f"sha256:{TWO[:16]}"]
    assert both.column("sha256") == [ONE, TWO]
    assert both.column("strength") == [1.0, 2.0]
    # What was found out about one content is not said of the other.
    assert both.column("suggested_weight") == [None, 0.5]
    assert ours.column("lora_id") == both.column("lora_id")


def test_two_programs_that_measured_one_content_under_two_names_have_one_row_of_it(tmp_path: Path) -> None:
    path = tmp_path / "shared.parquet"
    MetricsDatabase.empty("some encoder", dimension=4).save_parquet(path)
    ours, theirs = load_database(path), load_database(path)
    theirs.upsert(a_row(f"sha256:{ONE[:16]}", sha256=ONE, strength=1.0))
    theirs.save_parquet(path)
    ours.upsert(of_version(ONE, strength=2.0))
    ours.save_parquet(path)
    both = load_database(path)
    assert both.column("lora_id") == [f"sha256:{ONE[:16]}"]
    assert both.column("strength") == [2.0]
