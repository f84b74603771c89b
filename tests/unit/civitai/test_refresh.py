"""Refreshing metadata: blanks are filled in, nothing good is lost, whatever fails."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from carlos_core import copy_bundled_database
from carlos_core.civitai import refresh
from carlos_core.civitai.refresh import RefreshedRow, refresh_metadata
from carlos_core.civitai.versions import FAILED, NOT_FOUND, REFRESHED, UNCHANGED
from carlos_core.database.database import MetricsDatabase, load_database
from carlos_core.database.published import BUNDLED_PATH
from carlos_core.errors import CivitaiError, DatabaseError
from carlos_core.progress import Progress
from tests.support.civitai_server import CivitaiServer, Fault, client_of
from tests.support.rows import a_row

FULL: dict[str, Any] = {
    "trigger_words": ("mine",),
    "base_model": "Pony",
    "sha256": "f" * 64,
    "nsfw_level": 1,
    "download_count": 2,
    "model_name": "My name",
    "preview_url": "https://example.com/mine.jpeg",
    "model_id": 99,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mine.parquet"


def save(path: Path, *rows: dict[str, Any]) -> None:
    """A database with these rows; ids are "a", "b", ... Older files may hold one content twice."""
    database = MetricsDatabase.empty("none", 4)
    ids = "abcdefghij"[: len(rows)]
    for lora_id, facts in zip(ids, rows, strict=True):
        database.upsert(a_row(lora_id, **{**facts, "sha256": None}))
    database.set_values("sha256", {lora_id: facts.get("sha256") for lora_id, facts in zip(ids, rows, strict=True)})
    database.save_parquet(path)


def row_of(path: Path, lora_id: str) -> dict[str, Any]:
    return load_database(path).cells(lora_id)


def statuses(rows: list[RefreshedRow]) -> dict[str, str]:
    return {row.lora_id: row.status for row in rows}


def test_a_row_with_a_version_gets_everything_that_civitai_knows(civitai: CivitaiServer, path: Path) -> None:
    civitai.add(5, b"LoRA")
    save(path, {"version_id": 5})
    rows = refresh_metadata(path, client_of(civitai))
    row = row_of(path, "a")
    assert (row["trigger_words"], row["base_model"]) == (["snw style", "cold breath"], "SDXL")
    assert row["sha256"] == hashlib.sha256(b"LoRA").hexdigest()
    assert (row["nsfw_level"], row["download_count"], row["model_id"]) == (3, 215627, 7)
    assert (row["model_name"], row["preview_url"]) == ("Snow & Ice", f"{civitai.url}/images/5.jpeg")
    assert (row["strength"], row["consistency"], row["direction"].tolist()) == (5.0, 0.2, [1, 0, 0, 0])
    assert [(result.lora_id, result.status) for result in rows] == [("a", REFRESHED)]
    assert set(rows[0].columns) == {*refresh.COLUMNS, "model_id"}
    assert statuses(refresh_metadata(path, client_of(civitai))) == {}


def test_rows_with_a_hash_are_looked_up_together(civitai: CivitaiServer, path: Path) -> None:
    contents = [f"LoRA {k}".encode() for k in range(10)]
    for k, content in enumerate(contents):
        civitai.add(k + 1, content)
    save(path, *({"sha256": hashlib.sha256(content).hexdigest()} for content in contents))
    assert statuses(refresh_metadata(path, client_of(civitai))) == dict.fromkeys("abcdefghij", REFRESHED)
    assert [request.method for request in civitai.requests] == ["POST"]
    assert [row_of(path, lora_id)["version_id"] for lora_id in "abc"] == [1, 2, 3]
    assert load_database(path).column("lora_id") == list("abcdefghij")


def test_a_hash_that_belongs_to_another_version_does_not_move_the_row(civitai: CivitaiServer, path: Path) -> None:
    civitai.add(5, b"LoRA", trainedWords=["five"])
    civitai.add(6, b"LoRA", trainedWords=["six"])
    sha256 = hashlib.sha256(b"LoRA").hexdigest()
    save(path, {"sha256": sha256, "version_id": 5}, {"sha256": sha256, "version_id": 6})
    refresh_metadata(path, client_of(civitai))
    assert [(row_of(path, k)["version_id"], row_of(path, k)["trigger_words"]) for k in "ab"] == [(5, ["five"]), (6, ["six"])]


def test_only_blanks_are_filled_in_unless_told_otherwise(civitai: CivitaiServer, path: Path) -> None:
    civitai.add(5, b"LoRA")
    save(path, {**FULL, "version_id": 5, "preview_url": None}, {**FULL, "version_id": 5})
    # The second row lacks nothing.
    assert statuses(refresh_metadata(path, client_of(civitai))) == {"a": REFRESHED}
    row = row_of(path, "a")
    assert (row["trigger_words"], row["base_model"], row["model_name"]) == (["mine"], "Pony", "My name")
    assert row["preview_url"] == f"{civitai.url}/images/5.jpeg"

    assert statuses(refresh_metadata(path, client_of(civitai), only_missing=False)) == {"a": REFRESHED, "b": REFRESHED}
    row = row_of(path, "b")
    assert (row["trigger_words"], row["base_model"], row["model_name"]) == (["snw style", "cold breath"], "SDXL", "Snow & Ice")
    # Which file was measured is not for CivitAI to say.
    assert (row["sha256"], row["model_id"]) == ("f" * 64, 99)


def test_what_civitai_lacks_stays_as_the_user_has_it(civitai: CivitaiServer, path: Path) -> None:
    civitai.add(5, b"LoRA")
    civitai.versions[5] = {"id": 5, "trainedWords": [], "baseModel": None, "files": [], "images": []}
    save(path, {**FULL, "version_id": 5}, {"version_id": 5, "trigger_words": None})
    before = row_of(path, "a")
    assert statuses(refresh_metadata(path, client_of(civitai), only_missing=False)) == {"a": UNCHANGED, "b": REFRESHED}
    after = row_of(path, "a")
    assert {name: value for name, value in after.items() if name != "direction"} == {
        name: value for name, value in before.items() if name != "direction"
    }
    # Known to have none is more than not known.
    assert row_of(path, "b")["trigger_words"] == []


def test_the_hash_of_a_zip_is_not_the_loras(civitai: CivitaiServer, path: Path) -> None:
    civitai.add(5, {"snow.zip": b"zip"})
    save(path, {"version_id": 5})
    refresh_metadata(path, client_of(civitai))
    assert (row_of(path, "a")["sha256"], row_of(path, "a")["model_name"]) == (None, "Snow & Ice")


def test_of_several_files_it_is_not_known_which_one_was_measured(civitai: CivitaiServer, path: Path) -> None:
    civitai.add(5, {"high.safetensors": b"high", "low.safetensors": b"low"})
    civitai.add(6, {"one.safetensors": b"one", "config.json": b"{}"})
    save(path, {"version_id": 5}, {"version_id": 6})
    refresh_metadata(path, client_of(civitai))
    assert [row_of(path, lora_id)["sha256"] for lora_id in "ab"] == [None, hashlib.sha256(b"one").hexdigest()]
    assert row_of(path, "a")["model_name"] == "Snow & Ice"


def test_a_failed_fetch_overwrites_nothing_and_does_not_stop_the_rest(civitai: CivitaiServer, path: Path) -> None:
    civitai.add(5, b"LoRA")
    civitai.add(8, b"another")
    rows = ({"version_id": 5}, {"version_id": 6, "trigger_words": ("mine",)}, {"version_id": 7, "base_model": "Pony"})
    save(path, *rows, {"version_id": 8}, {"sha256": "0" * 64}, {})
    civitai.faults.append(Fault("model-versions/7", 200, body=b'{"id": "seven"}', times=100))
    results = {row.lora_id: row for row in refresh_metadata(path, client_of(civitai))}
    assert statuses(list(results.values())) == {"a": REFRESHED, "b": NOT_FOUND, "c": FAILED, "d": REFRESHED, "e": NOT_FOUND}
    assert "deleted or unpublished" in results["b"].reason
    assert "another shape" in results["c"].reason
    assert "no file with this hash" in results["e"].reason
    assert row_of(path, "b")["trigger_words"] == ["mine"]
    assert row_of(path, "c")["base_model"] == "Pony"
    assert row_of(path, "d")["model_name"] == "Snow & Ice"


def test_a_broken_list_is_made_up_for_one_by_one(civitai: CivitaiServer, path: Path) -> None:
    civitai.add(5, b"LoRA")
    civitai.faults.append(Fault("by-hash", 200, body=b'[{"id": "five"}]', times=100))
    save(path, {"sha256": hashlib.sha256(b"LoRA").hexdigest(), "version_id": 5}, {"sha256": "0" * 64}, {"sha256": "not one"})
    assert statuses(refresh_metadata(path, client_of(civitai))) == {"a": REFRESHED, "b": FAILED}


def test_after_three_failures_in_a_row_nobody_is_asked_any_more(civitai: CivitaiServer, path: Path) -> None:
    civitai.add(1, b"LoRA")
    civitai.faults.append(Fault("model-versions/9", 403, times=100))
    save(path, {"version_id": 1}, *({"version_id": 90 + k} for k in range(6)))
    assert statuses(refresh_metadata(path, client_of(civitai))) == {"a": REFRESHED, "b": FAILED, "c": FAILED, "d": FAILED}
    assert row_of(path, "a")["model_name"] == "Snow & Ice"


def test_a_run_in_which_nothing_can_be_looked_up_is_an_error(civitai: CivitaiServer, path: Path) -> None:
    civitai.faults.append(Fault("model-versions", 401, times=100))
    save(path, {"version_id": 1}, {"version_id": 2})
    before = path.read_bytes()
    with pytest.raises(CivitaiError, match="does not accept your key"):
        refresh_metadata(path, client_of(civitai))
    assert path.read_bytes() == before


def test_a_cancel_loses_nothing_that_was_found(civitai: CivitaiServer, path: Path) -> None:
    class Cancelled(Exception):
        pass

    def cancel(progress: Progress) -> None:
        assert progress.total == 6
        if progress.done == 4:
            raise Cancelled

    for k in range(6):
        civitai.add(k + 1, f"LoRA {k}".encode())
    save(path, *({"version_id": k + 1} for k in range(6)))
    with pytest.raises(Cancelled):
        refresh_metadata(path, client_of(civitai), on_progress=cancel)
    assert load_database(path).column("model_name") == ["Snow & Ice"] * 4 + [None] * 2
    asked = len(civitai.requests)
    assert statuses(refresh_metadata(path, client_of(civitai))) == {"e": REFRESHED, "f": REFRESHED}
    assert len(civitai.requests) == asked + 2


def test_the_emptiest_rows_come_first_when_there_is_a_limit(civitai: CivitaiServer, path: Path) -> None:
    civitai.add(5, b"LoRA")
    save(path, {**FULL, "version_id": 5, "preview_url": None}, {"version_id": 5}, {**FULL, "version_id": 5, "base_model": None})
    assert statuses(refresh_metadata(path, client_of(civitai), max_rows=1)) == {"b": REFRESHED}
    assert statuses(refresh_metadata(path, client_of(civitai), max_rows=1)) == {"a": REFRESHED}


def test_rows_are_saved_as_the_run_goes_on(civitai: CivitaiServer, path: Path, tmp_path: Path) -> None:
    """The published rows, in a copy of one's own: saved after each fifty, the bundled file untouched."""
    bundled = BUNDLED_PATH.read_bytes()
    copy_bundled_database(path)
    ids = load_database(path).column("version_id")
    for version_id in ids:
        civitai.versions[version_id] = {"id": version_id, "trainedWords": ["word"]}
    saved: list[int] = []

    def look(progress: Progress) -> None:
        if progress.done in (49, 50, 100):
            saved.append(load_database(path).column("trigger_words").count(["word"]))

    rows = refresh_metadata(path, client_of(civitai), max_rows=120, on_progress=look)
    assert [row.status for row in rows] == [REFRESHED] * 120
    assert saved == [0, 50, 100]
    assert load_database(path).column("trigger_words").count(["word"]) == 120
    assert BUNDLED_PATH.read_bytes() == bundled


def test_a_row_that_was_changed_meanwhile_keeps_the_change(civitai: CivitaiServer, path: Path) -> None:
    civitai.add(5, b"LoRA")
    save(path, {"version_id": 5}, {"version_id": 5})

    def change(progress: Progress) -> None:
        if progress.done == 1:
            database = load_database(path)
            database.set_value("a", "trigger_words", ["just typed"])
            database.save_parquet(path)

    refresh_metadata(path, client_of(civitai), on_progress=change)
    assert row_of(path, "a")["trigger_words"] == ["just typed"]
    assert row_of(path, "a")["model_name"] == "Snow & Ice"


def test_the_bundled_database_is_never_changed(civitai: CivitaiServer) -> None:
    with pytest.raises(DatabaseError, match="bundled database is read-only"):
        refresh_metadata(BUNDLED_PATH, client_of(civitai))
    assert civitai.requests == []


def test_a_file_that_is_no_database_is_a_clear_error(civitai: CivitaiServer, path: Path) -> None:
    path.write_text(json.dumps({}))
    with pytest.raises(DatabaseError):
        refresh_metadata(path, client_of(civitai))
    assert civitai.requests == []


ODD: tuple[dict[str, Any], ...] = (
    {"id": 2**63},
    {"modelId": 10**400},
    {"nsfwLevel": 2**31},
    {"stats": {"downloadCount": 1e300}},
    {"stats": [1]},
    {"trainedWords": {"a": 1}},
    {"files": ["not a file"]},
    {"images": [[]]},
    {"model": "Snow"},
    {"baseModel": 15},
)


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: next(iter(odd)))
def test_an_odd_answer_among_many_spoils_itself_alone(civitai: CivitaiServer, path: Path, odd: dict[str, Any]) -> None:
    for k in range(1, 7):
        civitai.add(k, f"LoRA {k}".encode(), nsfwLevel=3)
    civitai.versions[3].update(odd)
    save(path, *({"version_id": k} for k in range(1, 7)))
    found = refresh_metadata(path, client_of(civitai))
    assert statuses(found) == {name: FAILED if name == "c" else REFRESHED for name in "abcdef"}
    assert load_database(path).column("nsfw_level") == [3, 3, None, 3, 3, 3]
    (reason,) = [row.reason for row in found if row.reason]
    assert "another shape than documented" in reason


def test_an_odd_answer_in_a_list_of_them_spoils_itself_alone(civitai: CivitaiServer, path: Path) -> None:
    contents = [f"LoRA {k}".encode() for k in range(6)]
    for k, content in enumerate(contents, start=1):
        civitai.add(k, content, nsfwLevel=2**31 if k == 3 else 3)
    save(path, *({"sha256": hashlib.sha256(content).hexdigest()} for content in contents))
    found = refresh_metadata(path, client_of(civitai))
    assert statuses(found) == {name: FAILED if name == "c" else REFRESHED for name in "abcdef"}
    assert load_database(path).column("nsfw_level") == [3, 3, None, 3, 3, 3]


def test_answers_that_cannot_be_read_do_not_end_the_run_before_the_good_ones(civitai: CivitaiServer, path: Path) -> None:
    for k in range(1, 9):
        civitai.add(k, b"LoRA", nsfwLevel=3)
    for k in range(1, 6):
        civitai.versions[k]["files"] = "none"
    save(path, *({"version_id": k} for k in range(1, 9)))
    assert list(statuses(refresh_metadata(path, client_of(civitai))).values()) == [FAILED] * 5 + [REFRESHED] * 3


def test_half_an_emoji_from_civitai_is_left_out(civitai: CivitaiServer, path: Path) -> None:
    civitai.add(5, b"LoRA", trainedWords=["snw \ud83d", "\ude00"], baseModel="Some\udcff model", nsfwLevel=3)
    save(path, {"version_id": 5})
    assert statuses(refresh_metadata(path, client_of(civitai))) == {"a": REFRESHED}
    row = load_database(path).cells("a")
    assert (row["trigger_words"], row["base_model"]) == (["snw"], "Some model")
