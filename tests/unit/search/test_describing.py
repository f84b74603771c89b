"""LoRAs described in words: the phrases that fit, none by chance, and what stands with a row as long as it is true."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from carlos_core.clip.encoder import OpenClipEncoder
from carlos_core.clip.signatures import SignatureCache
from carlos_core.database.database import MetricsDatabase, load_database
from carlos_core.database.target import DatabaseFile, InMemory
from carlos_core.errors import DatabaseError
from carlos_core.progress import Progress
from carlos_core.prompts.prompt_set import PromptSet
from carlos_core.records import NO_EFFECT, LoraRecord
from carlos_core.search import describing
from carlos_core.search.describing import Describer, Description, keep_with_rows
from carlos_core.search.limits import PUBLISHED_LIMITS
from carlos_core.search.searcher import Searcher
from tests.support import miniworld
from tests.support.rows import lora_id_of

OWN = ("heavy snowfall", "pink hearts", "pencil sketch", "digital glitch", "burning flames")


@pytest.fixture(scope="module")
def cache() -> SignatureCache:
    return SignatureCache()


@pytest.fixture
def searcher(database: MetricsDatabase, encoder: OpenClipEncoder, few_prompts: PromptSet, cache: SignatureCache) -> Searcher:
    return Searcher(database, encoder=encoder, prompts=few_prompts, signatures=cache)


def said(searcher: Searcher, *own: str) -> dict[str, Description]:
    """What each LoRA is said to do, by its file; by its id if it is made up."""
    names = dict(zip(searcher.db.column("lora_id"), searcher.db.column("file_name"), strict=True))
    return {names[each.lora_id] or each.lora_id: each for each in Describer(searcher, own).describe()}


def only(searcher: Searcher, *rows: LoraRecord) -> Searcher:
    """The same searcher of a database with these rows alone."""
    other = searcher.among({})
    other.db = MetricsDatabase.empty(str(searcher.db.encoder_id), searcher.db.dimension)
    for row in rows:
        other.db.upsert(row)
    return other


def row_of(searcher: Searcher, file: str) -> LoraRecord:
    row = searcher.db.row(lora_id_of(searcher.db, file))
    assert row is not None
    return row


def made_up(row: LoraRecord, lora_id: str, **facts: Any) -> LoraRecord:
    """Another LoRA that was measured as this one, but for some facts."""
    return replace(row, lora_id=lora_id, file_name=None, **facts)


@pytest.fixture
def snow(searcher: Searcher) -> LoraRecord:
    return row_of(searcher, next(file for file, facts in miniworld.labels().items() if facts["label"] == "heavy snowfall"))


def test_a_lora_is_described_by_the_phrase_that_means_it_out_of_hundreds(searcher: Searcher) -> None:
    found = said(searcher, *OWN)
    files = {facts["label"]: file for file, facts in miniworld.labels("ordinary").items()}
    right = [label for label in OWN if label in found[files[label]].text]
    assert len(right) >= 4, right
    # And of no LoRA that does something else.
    for label in OWN:
        assert {file for file, each in found.items() if label in each.text} <= {files[label]}


def test_what_changes_nothing_and_what_has_no_one_effect_are_told_so(searcher: Searcher) -> None:
    kinds = {file: facts["kind"] for file, facts in miniworld.labels().items()}
    texts = {kinds[file]: each.text for file, each in said(searcher).items()}
    assert (texts["noop"], texts["misfit"], texts["inconsistent"]) == (
        "changes nothing",
        "changes nothing",
        "no one effect",
    )


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({"strength": 0.3, "noise_floor": 0.4}, "changes nothing"),
        ({"strength": 0.3, "noise_floor": 0.2}, "burning flames"),
        ({"strength": 0.004, "noise_floor": None}, "changes nothing"),
        ({"consistency": 0.03}, "no one effect, most like burning flames"),
        ({"consistency": None}, "no one effect, most like burning flames"),
        ({"notes": (NO_EFFECT,)}, "no one effect, most like burning flames"),
        ({"notes": (NO_EFFECT,), "consistency": 0.03}, "no one effect, most like burning flames"),
        ({"consistency": 0.03, "strength": 0.3, "noise_floor": 0.4}, "changes nothing"),
    ],
)
def test_a_row_within_the_noise_or_without_one_direction_is_not_called_an_effect(
    searcher: Searcher, facts: dict[str, Any], text: str
) -> None:
    row = made_up(row_of(searcher, "burning_flames.safetensors"), "x", **facts)
    rows = [searcher.db.row_at(place) for place in range(len(searcher.db))]
    assert said(only(searcher, *rows, row), *OWN)["x"].text.startswith(text)
    # Reports of indexing, which say that searches will not find it, use the same words.
    assert all(text.startswith(miss.why) for miss in PUBLISHED_LIMITS.misses_of(row))


def test_directions_of_nothing_are_seldom_named(searcher: Searcher, snow: LoraRecord) -> None:
    rng = np.random.default_rng(5)
    made = [made_up(snow, f"random {k}", direction=rng.normal(size=len(snow.direction)).astype(np.float32)) for k in range(200)]
    kinds = [each.kind for each in said(only(searcher, *made)).values()]
    # One in 20 is what the level allows; the tail of the bank's phrases is a little heavier than the normal one.
    assert kinds.count("fits") <= 20
    assert kinds.count("unnamed") >= 120


@pytest.mark.parametrize("n", [1, 2])
def test_a_database_of_one_or_two_loras_is_described(searcher: Searcher, snow: LoraRecord, n: int) -> None:
    rows = [snow, row_of(searcher, "red_balloons.safetensors")][:n]
    found = said(only(searcher, *rows), *OWN)
    assert found[str(snow.file_name)].text.startswith("heavy snowfall")


def test_an_empty_database_and_no_rows_need_no_encoder(searcher: Searcher) -> None:
    empty = Searcher(MetricsDatabase.empty("gone@000000000000", 64))
    assert Describer(empty).describe() == []
    assert Describer(searcher).describe([]) == []


def test_copies_of_a_phrase_are_said_once_and_the_users_words_come_before_the_banks(searcher: Searcher, snow: LoraRecord) -> None:
    (found,) = Describer(searcher, ("heavy snowfall", "snow falling", "snowflakes in the air")).describe([snow.lora_id])
    names = [fit.phrase for fit in found.phrases]
    own = {"heavy snowfall", "snow falling", "snowflakes in the air"}
    assert len(own.intersection(names)) == 1
    # The bank's own phrase for it gives way.
    assert "snow globe" in Describer(searcher).describe([snow.lora_id])[0].text
    assert "snow globe" not in names
    assert len(names) <= describing.MOST_PHRASES


def test_many_rows_are_described_in_parts_as_they_are_at_once(searcher: Searcher, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = said(searcher, *OWN)
    monkeypatch.setattr(describing, "_ROWS_AT_ONCE", 4)
    monkeypatch.setattr("carlos_core.search.calibration._ROWS_AT_ONCE", 5)
    parts = said(only(searcher, *(searcher.db.row_at(place) for place in range(len(searcher.db)))), *OWN)
    assert {key: each.text for key, each in parts.items()} == {key: each.text for key, each in whole.items()}


def test_cancelling_while_phrases_are_encoded_ends_it(searcher: Searcher) -> None:
    def cancel(_progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Describer(searcher, [f"a phrase that nobody has encoded, {k}" for k in range(9)]).describe(None, cancel)


def test_words_are_kept_with_the_rows_and_nothing_else_changes(searcher: Searcher, tmp_path: Path) -> None:
    path = tmp_path / "mine.parquet"
    searcher.db.save_parquet(path)
    before = load_database(path)
    describer = Describer(searcher)
    found = describer.describe()
    assert keep_with_rows(DatabaseFile(path), searcher.db, found, describer.mark) == len(searcher.db)
    after = load_database(path)
    assert after.column("described_as") == [each.text for each in found]
    assert json.loads(after.column("described_by")[0]) == {
        "phrases": describer.phrases_hash,
        "loras": describer.n_loras,
        "indexed_at": None,
    }
    new = ["described_as", "described_by"]
    assert after.table.drop_columns(new).equals(before.table.drop_columns(new))
    row = after.row_at(0)
    assert (row.described_as, row.described_by) == (found[0].text, describer.mark.of_row(None))
    # Once more: nothing to write.
    written = path.read_bytes()
    assert keep_with_rows(DatabaseFile(path), after, found, describer.mark) == 0
    assert path.read_bytes() == written


def test_a_row_that_was_measured_again_meanwhile_does_not_get_the_old_words(searcher: Searcher, snow: LoraRecord) -> None:
    described = only(searcher, replace(snow, indexed_at="2026-01-01T00:00:00Z"))
    describer = Describer(described)
    found = describer.describe()
    again = only(searcher, replace(snow, indexed_at="2026-02-02T00:00:00Z")).db
    keep_with_rows(InMemory(again), described.db, found, describer.mark)
    assert again.column("described_as") == [None]


def test_a_row_loses_its_words_when_it_is_measured_again(searcher: Searcher, snow: LoraRecord) -> None:
    described = only(searcher, snow)
    describer = Describer(described)
    keep_with_rows(InMemory(described.db), described.db, describer.describe(), describer.mark)
    assert Describer(described).stale() == []
    described.db.upsert(snow)
    assert Describer(described).stale() == [snow.lora_id]


def test_words_are_stale_with_other_phrases_or_in_a_library_that_has_grown_by_more_than_a_tenth(searcher: Searcher) -> None:
    db = searcher.db
    describer, model = Describer(searcher), row_of(searcher, "burning_flames.safetensors")
    keep_with_rows(InMemory(db), db, describer.describe(), describer.mark)
    assert describer.stale() == []
    assert len(Describer(searcher, OWN).stale()) == len(db)
    n = describer.n_loras
    db.upsert(made_up(model, "new 0"))
    assert Describer(searcher).stale() == ["new 0"]
    for k in range(1, n // 10 + 1):
        db.upsert(made_up(model, f"new {k}"))
    assert len(Describer(searcher).stale()) == len(db)


def test_words_of_an_earlier_measurement_are_stale_whoever_left_them_there(searcher: Searcher, snow: LoraRecord) -> None:
    mark = Describer(only(searcher, snow)).mark
    told: dict[str, Any] = {"described_as": "anything", "described_by": mark.of_row("2026-01-01T00:00:00Z")}
    assert Describer(only(searcher, replace(snow, indexed_at="2026-01-01T00:00:00Z", **told))).stale() == []
    assert Describer(only(searcher, replace(snow, indexed_at="2026-02-02T00:00:00Z", **told))).stale() == [snow.lora_id]


@pytest.mark.parametrize(
    "mark", [None, "", "no JSON", "[]", '{"loras": 3}', '{"phrases": null, "loras": "many", "indexed_at": null}']
)
def test_words_that_say_not_by_what_they_were_told_are_stale(searcher: Searcher, snow: LoraRecord, mark: str | None) -> None:
    made = only(searcher, replace(snow, described_as="anything", described_by=mark))
    assert Describer(made).stale() == [snow.lora_id]


def test_a_read_only_database_does_not_keep_words(searcher: Searcher) -> None:
    describer = Describer(searcher)
    found = describer.describe()
    locked = MetricsDatabase(searcher.db.table, encoder_id=searcher.db.encoder_id, read_only=True)
    with pytest.raises(DatabaseError, match="cannot be changed"):
        keep_with_rows(InMemory(locked), locked, found, describer.mark)


def test_phrases_of_the_bank_are_not_counted_twice_and_silent_ones_not_at_all(searcher: Searcher) -> None:
    bank = searcher.bank.texts
    assert Describer(searcher, (bank[0].upper(), "a new one")).n_phrases == len(bank) + 1
    assert Describer(searcher).phrases_hash == Describer(searcher, (bank[0],)).phrases_hash
    assert Describer(searcher).phrases_hash != Describer(searcher, ("a new one",)).phrases_hash


def test_the_score_is_the_z_score_of_a_search_for_that_phrase(searcher: Searcher, snow: LoraRecord) -> None:
    (found,) = Describer(searcher, OWN).describe([snow.lora_id])
    fit = next(fit for fit in found.phrases if fit.phrase == "heavy snowfall")
    ids = searcher.db.column("lora_id")
    place = [ids[row] for row in searcher.db.ranking_arrays.rows].index(snow.lora_id)
    z = searcher.z_scores(searcher.signature("heavy snowfall"), searcher.background())[place]
    assert fit.z == pytest.approx(float(z), abs=1e-5)
    assert torch.isfinite(z)
