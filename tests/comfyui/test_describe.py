"""What LoRAs do, in words: after indexing, by a node of its own, and beside what a search finds, in a real ComfyUI."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from carlos_core.database.database import load_database
from tests.support import miniworld, workflows
from tests.support.comfyui_host import Failed, Host, facts_of

DATABASE = "described.parquet"
SNOW = "mystery_12.safetensors"
SETTINGS = {"preset": "custom", "max_prompts": 12, "steps": 8, "first_seed": 900}


@pytest.fixture
def rows(base: Path) -> Path:
    """The reference's rows, which nobody has described."""
    path = base / "models" / "carlos" / DATABASE
    miniworld.reference_rows(path)
    return path


@pytest.fixture
def phrases(base: Path) -> Iterator[Path]:
    """A file of the user's own phrases."""
    path = base / "models" / "carlos" / "phrases.txt"
    path.write_text("# mine\nheavy snowfall\npink hearts\n", encoding="utf-8")
    yield path
    path.unlink()


def describe(host: Host, database: str = DATABASE, **inputs: Any) -> tuple[str, dict[str, Any], str, dict[str, Any]]:
    """The node's text, facts, table and JSON."""
    outputs = host.run(
        {
            "db": workflows.loader(database),
            "describe": workflows.node("CarlosDescribeLoras", database=["db", 0], **inputs),
            "csv": workflows.node("PreviewAny", source=["describe", 1]),
            "json": workflows.node("PreviewAny", source=["describe", 2]),
        }
    )
    text, facts = outputs["describe"]["text"][0], facts_of(outputs, "describe")
    return text, facts, outputs["csv"]["text"][0], json.loads(outputs["json"]["text"][0])


def found_for_snow(host: Host, **settings: Any) -> list[dict[str, Any]]:
    search = {**workflows.retrieve("falling snow", **settings), "db": workflows.loader(DATABASE)}
    return facts_of(host.run(search), "report")["matches"]


def test_all_loras_are_described_as_text_and_as_tables_and_the_words_stay_with_the_rows(
    host: Host, rows: Path, phrases: Path
) -> None:
    text, facts, table, whole = describe(host)
    words = {lora["file"]: lora["described_as"] for lora in facts["loras"]}
    kinds = {miniworld.labels()[file]["kind"]: said for file, said in words.items()}
    assert len(words) == facts["described"] == 23
    assert (kinds["noop"], kinds["inconsistent"]) == ("changes nothing", "no one effect")
    assert words[SNOW].split(", ")[0] == "heavy snowfall"
    assert "pink hearts" in words["pink_hearts.safetensors"]
    assert next(line for line in text.splitlines() if SNOW in line).split()[1:3] == ["heavy", "snowfall"]
    assert whole["loras"] == facts["loras"]
    read = list(csv.DictReader(io.StringIO(table)))
    assert {row["file"]: row["described_as"] for row in read} == words
    kept = load_database(rows)
    assert dict(zip(kept.column("file_name"), kept.column("described_as"), strict=True)) == words
    # A search shows them, though it has not looked at a phrase.
    found = found_for_snow(host)
    assert {match["file"]: match["described_as"] for match in found} == {match["file"]: words[match["file"]] for match in found}
    # The file of phrases is looked at each time.
    phrases.write_text("pink hearts\n", encoding="utf-8")
    assert "heavy snowfall" not in {lora["file"]: lora["described_as"] for lora in describe(host)[1]["loras"]}[SNOW]


def test_some_loras_are_described_and_nothing_is_kept_where_that_is_not_wanted(host: Host, rows: Path) -> None:
    before = rows.read_bytes()
    _text, facts, _table, _whole = describe(host, names="pixel_*\nMYSTERY_12", keep=False)
    assert sorted(lora["file"] for lora in facts["loras"]) == [SNOW, "pixel_art.safetensors"]
    assert facts["kept"] is False
    assert rows.read_bytes() == before
    with pytest.raises(Failed, match="is called 'nobody'"):
        describe(host, names="nobody")
    assert "Index some LoRAs first" in describe(host, "empty")[0]


def test_a_broken_file_of_phrases_is_a_message(host: Host, rows: Path, phrases: Path) -> None:
    phrases.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(Failed, match=r"phrases\.txt is not plain text"):
        describe(host)
    # Indexing is not ended by it.
    outputs = host.run(workflows.index(SNOW, "with_broken_phrases", **SETTINGS))
    assert "not said in words what they do: phrases.txt is not plain text" in outputs["index"]["text"][0]
    assert facts_of(outputs, "index")["described_as"] is None


def test_indexing_says_what_each_lora_does_and_says_it_again_when_the_library_has_grown(host: Host, base: Path) -> None:
    path = base / "models" / "carlos" / "worded.parquet"
    one = host.run(workflows.index(SNOW, "worded", **SETTINGS))
    alone = facts_of(one, "index")["described_as"]
    assert f"what it does: {alone}" in one["index"]["text"][0].splitlines()
    outputs = host.run(workflows.index_library("p*_*", "worded", **SETTINGS))
    facts, text = facts_of(outputs, "index"), outputs["index"]["text"][0]
    assert set(facts["described_as"]) == {
        f"{name}.safetensors" for name in ("pale_pastel_colours", "pencil_sketch", "pink_hearts", "pixel_art")
    }
    assert any(line.startswith("status") and "nearest phrases" in line for line in text.splitlines())
    database = load_database(path)
    assert None not in database.column("described_as")
    among = {json.loads(mark)["loras"] for mark in database.column("described_by")}
    assert among == {5}, "the first row, too, is told among all of them"
    # Nothing is new: nothing is written.
    before = path.read_bytes()
    host.run(workflows.index_library("p*_*", "worded", **SETTINGS))
    assert path.read_bytes() == before


def test_a_calibrated_search_says_it_of_rows_that_keep_no_words(host: Host, rows: Path) -> None:
    found = found_for_snow(host, ranking="calibrated")
    assert found[0]["file"] == SNOW
    assert found[0]["described_as"]
    published = found_for_snow(host)
    assert {match["described_as"] for match in published} == {None}


def test_where_the_words_cannot_be_kept_they_are_said_all_the_same(host: Host, rows: Path) -> None:
    # Where its lock should be is something else: whoever runs this, no lock can be taken.
    lock = rows.with_name(f".{rows.name}.lock")
    lock.unlink(missing_ok=True)
    lock.mkdir()
    try:
        text, facts, _table, _whole = describe(host, names="pixel_art")
    finally:
        lock.rmdir()
    (lora,) = facts["loras"]
    assert (lora["file"], bool(lora["described_as"]), facts["kept"]) == ("pixel_art.safetensors", True, False)
    assert "Not kept with the rows: described.parquet could not be saved" in text
    assert text.startswith("1 LoRA of described.parquet")
