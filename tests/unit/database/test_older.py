"""A database made by the code before "Content is identity": it opens, gives the same answers, and loses nothing by being saved.

`tests/assets/older/make.py` made it, and wrote down what that code found in it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import carlos_core as carlos
from carlos_core.clip.encoder import OpenClipEncoder
from carlos_core.database.database import MetricsDatabase, load_database, upsert_into_file
from carlos_core.prompts.prompt_set import PromptSet
from carlos_core.records import id_of_content

OLDER = Path(__file__).parents[2] / "assets" / "older"
ANSWERS = json.loads((OLDER / "answers.json").read_text(encoding="utf-8"))
LATER = ("described_as", "described_by", "curve_strength_ses")
"""Columns that the code which wrote the file did not have."""
OTHER = "ab" * 32
"""The hash of a content that has no row."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return Path(shutil.copy(OLDER / "older.parquet", tmp_path / "mine.parquet"))


def cells(database: MetricsDatabase, lora_id: str) -> dict[str, Any]:
    """A row as plain data, with hashes in place of directions; columns that came later are empty."""
    row = database.cells(lora_id)
    assert [row.pop(name) for name in LATER] == [None] * len(LATER)
    for name in ("direction", "topic_directions"):
        if row[name] is not None:
            row[name] = hashlib.sha256(np.asarray(row[name], "<f4").tobytes()).hexdigest()
    return row


def assert_holds_what_it_held(database: MetricsDatabase) -> None:
    assert database.column("lora_id") == [row["lora_id"] for row in ANSWERS["rows"]]
    for row in ANSWERS["rows"]:
        assert cells(database, row["lora_id"]) == row
    assert database.protocols == ANSWERS["protocols"]


def test_every_column_of_every_row_is_read_as_it_was_written(path: Path) -> None:
    database = load_database(path)
    assert_holds_what_it_held(database)
    names = [row["file_name"] for row in ANSWERS["rows"]]
    assert "ぬりえ/Émile – très beau.safetensors" in names
    for place, row in enumerate(ANSWERS["rows"]):
        record = database.row_at(place)
        assert [effect.topic for effect in record.topics] == (row["topic_names"] or [])
        assert [point.weight for point in record.strength_curve] == (row["curve_weights"] or [])
        assert set(record.extra) == {"label", "rating", "tags of others"}
    assert {row["label"] for row in ANSWERS["rows"]} > {None, "by hand 1"}


@pytest.mark.parametrize("is_saved", [False, True])
def test_searches_find_the_same_with_the_same_scores(
    path: Path, encoder: OpenClipEncoder, signature_prompts: PromptSet, is_saved: bool
) -> None:
    if is_saved:
        load_database(path).save_parquet(path)
    database = load_database(path)
    for ranking, by_query in ANSWERS["found"].items():
        for query, expected in by_query.items():
            matches = carlos.retrieve(
                database, query, top_k=len(expected), ranking=ranking, prompts=signature_prompts, encoder=encoder
            )
            assert [match.lora_id for match in matches] == [lora_id for lora_id, _ in expected], (ranking, query)
            assert [match.score for match in matches] == pytest.approx([score for _, score in expected], abs=1e-6)
    for query, expected in ANSWERS["chosen"].items():
        picks = carlos.choose(database, query, prompts=signature_prompts, encoder=encoder).picks
        assert [(pick.match.lora_id, pick.weight) for pick in picks] == [tuple(pick) for pick in expected], query


def test_nothing_is_lost_by_saving_it_once_or_twice_or_elsewhere(path: Path, tmp_path: Path) -> None:
    load_database(path).save_parquet(path)
    assert_holds_what_it_held(load_database(path))
    load_database(path).save_parquet(path)
    load_database(path).save_parquet(tmp_path / "elsewhere.parquet")
    original = load_database(OLDER / "older.parquet")
    for saved in (path, tmp_path / "elsewhere.parquet"):
        assert load_database(saved).table.equals(original.table)
        assert load_database(saved).encoder_id == original.encoder_id


def test_each_content_finds_the_row_that_it_has(path: Path) -> None:
    database = load_database(path)
    rows = {row["lora_id"]: row for row in ANSWERS["rows"]}
    twin = rows["4711"]["sha256"]
    assert [lora_id for lora_id, row in rows.items() if row["sha256"] == twin] == [id_of_content(twin), "4711"]
    # The later of the two rows of one content is its row, whatever the file claims to be; another content is another LoRA.
    assert database.id_of(id_of_content(twin), twin) == database.id_of("4711", twin) == "4711"
    assert database.id_of("4711", OTHER) == id_of_content(OTHER)
    # A row that does not know its content is that of whatever claims its version.
    assert rows["1234"]["sha256"] is None
    assert database.id_of("1234", OTHER) == database.id_of("1234", None) == "1234"
    # Hashes were kept in either case.
    shouted = next(row for row in rows.values() if row["sha256"] and row["sha256"].isupper())
    assert database.id_of("99", shouted["sha256"].lower()) == shouted["lora_id"]
    assert [database.id_of(lora_id, row["sha256"]) for lora_id, row in rows.items() if row["sha256"] not in (None, twin)] == [
        lora_id for lora_id, row in rows.items() if row["sha256"] not in (None, twin)
    ]


def test_measuring_again_replaces_one_row_and_keeps_its_id_and_what_others_wrote_there(path: Path) -> None:
    older = load_database(path)
    shouted = next(row for row in ANSWERS["rows"] if row["sha256"] and row["sha256"].isupper() and row["lora_id"] != "4711")
    for lora_id, sha256, claim in (
        (shouted["lora_id"], shouted["sha256"].lower(), "99"),
        ("4711", cells(older, "4711")["sha256"], "sha256:0123456789abcdef"),
        ("1234", OTHER, "1234"),
    ):
        record = older.row(lora_id)
        assert record is not None
        again = replace(record, lora_id=claim, sha256=sha256, strength=record.strength + 1, extra={})
        database = upsert_into_file(path, again, {})
        assert database.column("lora_id") == older.column("lora_id")
        assert database.cells(lora_id)["strength"] == record.strength + 1
        assert database.cells(lora_id)["label"] == older.cells(lora_id)["label"]
    changed = {shouted["lora_id"], "4711", "1234"}
    for row in ANSWERS["rows"]:
        assert (cells(load_database(path), row["lora_id"]) == row) is (row["lora_id"] not in changed)


def test_two_programs_that_opened_it_before_either_saved_it_both_keep_their_rows(path: Path) -> None:
    ours, theirs = load_database(path), load_database(path)
    for database, name in ((ours, "ours"), (theirs, "theirs")):
        row = database.row("1234")
        assert row is not None
        database.upsert(replace(row, lora_id=name, sha256=hashlib.sha256(name.encode()).hexdigest()))
    theirs.save_parquet(path)
    ours.save_parquet(path)
    assert load_database(path).column("lora_id") == [*(row["lora_id"] for row in ANSWERS["rows"]), "theirs", "ours"]
