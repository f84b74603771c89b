"""A database that several processes read and write at once, or know by several names: whole, and with the rows of all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from carlos_core.database.database import MetricsDatabase, change_database, load_database, upsert_into_file
from carlos_core.errors import DatabaseError
from tests.support.rows import a_row, old_file


def ids(path: Path) -> list[str]:
    return load_database(path).column("lora_id")


def row_of(path: Path, lora_id: str) -> dict[str, Any]:
    return load_database(path).cells(lora_id)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database with the row "old"."""
    old_file(tmp_path / "a.parquet")
    return tmp_path / "a.parquet"


def save_through(link: Path) -> None:
    database = load_database(link)
    database.upsert(a_row("new"))
    database.save_parquet(link)
    assert database.path == link


def test_a_database_on_another_disk_stays_there(tmp_path: Path, path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as disk:
        if Path(disk).stat().st_dev == tmp_path.stat().st_dev:
            pytest.skip("There is no second disk here.")
        target = Path(disk) / "a.parquet"
        target.write_bytes(path.read_bytes())
        path.unlink()
        path.symlink_to(target)
        save_through(path)
        assert path.is_symlink()
        assert ids(target) == ["old", "new"]


def test_links_in_a_circle_are_refused_and_stay(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").symlink_to("b.parquet")
    (tmp_path / "b.parquet").symlink_to("a.parquet")
    with pytest.raises(DatabaseError, match=r"a\.parquet could not be saved"):
        MetricsDatabase.empty("some encoder", 4).save_parquet(tmp_path / "a.parquet")
    assert {os.readlink(file) for file in tmp_path.iterdir()} == {"a.parquet", "b.parquet"}


def test_a_save_keeps_what_others_have_saved_since_the_load(path: Path) -> None:
    ours, theirs = load_database(path), load_database(path)
    theirs.upsert(a_row("theirs", protocol_id="q"), {"preset": "quick"})
    theirs.set_value("old", "trigger_words", ["typed by them"])
    theirs.save_parquet(path)
    ours.upsert(a_row("ours", protocol_id="s"), {"preset": "standard"})
    ours.set_value("old", "file_name", "moved by us.safetensors")
    ours.save_parquet(path)
    saved = load_database(path)
    assert saved.column("lora_id") == ["old", "theirs", "ours"]
    assert row_of(path, "old")["trigger_words"] == ["typed by them"]
    assert row_of(path, "old")["file_name"] == "moved by us.safetensors"
    assert saved.protocols == {"q": {"preset": "quick"}, "s": {"preset": "standard"}}
    assert ours.table.equals(saved.table)
    assert ours.protocols == saved.protocols


def test_of_two_changes_of_the_same_the_later_save_counts_and_only_once(path: Path) -> None:
    ours, theirs = load_database(path), load_database(path)
    ours.upsert(a_row("old", strength=7.0))
    ours.save_parquet(path)
    theirs.upsert(a_row("old", strength=8.0))
    theirs.save_parquet(path)
    assert row_of(path, "old")["strength"] == 8.0
    # What was saved is not a change any more: it does not come again over theirs.
    ours.upsert(a_row("new"))
    ours.save_parquet(path)
    assert row_of(path, "old")["strength"] == 8.0
    assert ids(path) == ["old", "new"]


def test_a_row_measured_again_here_keeps_the_columns_that_another_tool_has_added_since(path: Path) -> None:
    ours = load_database(path)
    ours.upsert(a_row("old", strength=7.0))
    ours.upsert(a_row("new"))
    theirs = load_database(path)
    labelled = theirs.table.append_column("label", [["fog"]])
    MetricsDatabase(labelled, encoder_id=theirs.encoder_id).save_parquet(path)
    ours.save_parquet(path)
    assert (row_of(path, "old")["strength"], row_of(path, "old")["label"]) == (7.0, "fog")
    assert (row_of(path, "new")["strength"], row_of(path, "new")["label"]) == (5.0, None)


def test_a_copy_that_is_saved_beside_does_not_make_a_database_forget_its_file(path: Path, tmp_path: Path) -> None:
    database = load_database(path)
    database.upsert(a_row("first"))
    database.save_parquet(tmp_path / "backup.parquet")
    database.upsert(a_row("second"))
    upsert_into_file(path, a_row("theirs"), {})
    upsert_into_file(tmp_path / "backup.parquet", a_row("theirs too"), {})
    database.copy().save_parquet(path)
    assert ids(path) == ["old", "theirs", "first", "second"]
    database.save_parquet(tmp_path / "backup.parquet")
    assert ids(tmp_path / "backup.parquet") == ["old", "first", "theirs too", "second"]


def test_what_changed_the_file_is_told_from_its_content_not_from_its_clock(path: Path) -> None:
    ours = load_database(path)
    ours.set_value("old", "file_name", "ours")
    stat = path.stat()
    upsert_into_file(path, a_row("theirs"), {})
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    ours.save_parquet(path)
    assert ids(path) == ["old", "theirs"]


def test_rows_of_two_new_databases_saved_under_one_name_in_turn_are_kept_from_then_on(tmp_path: Path) -> None:
    path = tmp_path / "new.parquet"
    left, right = (MetricsDatabase.empty("some encoder", 4) for _ in range(2))
    left.upsert(a_row("left 1"))
    left.save_parquet(path)
    right.upsert(a_row("right 1"))
    # It knows nothing of the file that is there: this is "save over it".
    right.save_parquet(path)
    assert ids(path) == ["right 1"]
    left.upsert(a_row("left 2"))
    left.save_parquet(path)
    assert sorted(ids(path)) == ["left 1", "left 2", "right 1"]


def test_a_database_saved_under_another_name_replaces_what_is_there(path: Path, tmp_path: Path) -> None:
    ours = load_database(path)
    upsert_into_file(path, a_row("theirs"), {})
    other = MetricsDatabase.empty("another encoder", 3)
    other.save_parquet(tmp_path / "b.parquet")
    ours.save_parquet(tmp_path / "b.parquet")
    assert ids(tmp_path / "b.parquet") == ["old"]
    assert ids(path) == ["old", "theirs"]


def test_a_database_whose_file_was_deleted_is_saved_as_it_is(path: Path) -> None:
    database = load_database(path)
    path.unlink()
    database.upsert(a_row("new"))
    database.save_parquet(path)
    assert ids(path) == ["old", "new"]


@pytest.mark.parametrize("kind", ["of another encoder", "of another dimension", "damaged"])
def test_a_file_that_became_something_else_meanwhile_is_not_replaced_in_silence(path: Path, kind: str) -> None:
    database = load_database(path)
    database.upsert(a_row("new"))
    if kind == "damaged":
        path.write_bytes(path.read_bytes()[:-5])
    else:
        encoder_id, dimension = ("another encoder", 4) if kind == "of another encoder" else ("some encoder", 3)
        MetricsDatabase.empty(encoder_id, dimension).save_parquet(path)
    before = path.read_bytes()
    with pytest.raises(DatabaseError, match=r"a\.parquet") as caught:
        database.save_parquet(path)
    assert caught.value.hint
    assert path.read_bytes() == before
    database.save_parquet(path.with_name("b.parquet"))
    assert ids(path.with_name("b.parquet")) == ["old", "new"]


def test_a_file_in_the_reference_layout_keeps_the_rows_of_both_too(path: Path) -> None:
    database = MetricsDatabase.empty("ViT-B-32-quickgelu/openai", 4)
    database.upsert(a_row("1", version_id=1))
    database.save_parquet(path, layout="reference")
    ours, theirs = load_database(path), load_database(path)
    ours.upsert(a_row("2", version_id=2))
    theirs.upsert(a_row("3", version_id=3))
    theirs.save_parquet(path, layout="reference")
    ours.save_parquet(path, layout="reference")
    assert ids(path) == ["1", "3", "2"]
    ours.upsert(a_row("4", version_id=4))
    ours.save_parquet(path, layout="reference")
    assert ids(path) == ["1", "3", "2", "4"]


def test_what_a_change_returns_knows_its_file(path: Path) -> None:
    database = change_database(path, lambda changed: changed.upsert(a_row("ours")))
    upsert_into_file(path, a_row("theirs"), {})
    database.upsert(a_row("ours too"))
    database.save_parquet(path)
    assert ids(path) == ["old", "ours", "theirs", "ours too"]
