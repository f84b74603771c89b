"""What a report says about how its query was read."""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from carlos_core.database.database import MetricsDatabase
from carlos_core.search.reading import read
from carlos_core.search.spelling import Suggestion
from carlos_core.search.understanding import Effect, Understanding
from tests.support.rows import a_row


@pytest.fixture(scope="module")
def reading() -> Any:
    """The module as part of a package of its own: without ComfyUI the pack itself cannot be imported."""
    package = types.ModuleType("carlos_nodes_alone")
    package.__path__ = [str(Path(__file__).resolve().parents[3] / "nodes")]
    sys.modules.setdefault(package.__name__, package)
    return importlib.import_module(f"{package.__name__}.common.reading")


@pytest.fixture(scope="module")
def database() -> MetricsDatabase:
    database = MetricsDatabase.empty("some encoder", dimension=4)
    database.upsert(a_row("1", model_name="Winter"))
    return database


EFFECTS = (Effect("snow falling", 1.0, "1"),)


def test_effects_alone_are_listed_where_the_lora_of_each_is_named(reading: Any, database: MetricsDatabase) -> None:
    understanding = Understanding(read("snow falling"), EFFECTS)
    assert reading.lines(understanding) == []
    assert reading.lines(understanding, database) == ["Effects: snow falling (best: Winter)."]


def test_all_else_that_was_read_is_said(reading: Any, database: MetricsDatabase) -> None:
    understanding = Understanding(read("please, snow falling, a boat, no rain"), EFFECTS, ("a boat",))
    rest = ["Not wanted: rain.", "Content, or nothing fits it: a boat.", "Weighs nothing: please."]
    assert reading.lines(understanding) == ["Effects: snow falling.", *rest]
    assert reading.lines(understanding, database) == ["Effects: snow falling (best: Winter).", *rest]
    assert reading.lines(Understanding(read("a boat, hail"), (), ("a boat", "hail"))) == [
        "Effects: none.",
        "Content, or nothing fits it: a boat; hail.",
    ]


def test_what_would_fit_alone_is_said_with_its_lora_and_is_not_content_too(reading: Any, database: MetricsDatabase) -> None:
    understanding = Understanding(read("snow, a boat"), (), ("snow", "a boat"), alone=(Effect("snow", 1.0, "1"),))
    lines = [
        "Effects: none.",
        "Content, or nothing fits it: a boat.",
        "snow (best: Winter) would fit if it were asked for alone.",
    ]
    assert reading.lines(understanding, database) == reading.lines(understanding, database, lists_effects=False) == lines
    assert reading.facts_of(understanding)["content"] == ["a boat"]
    assert reading.facts_of(understanding)["alone"] == [{"text": "snow", "lora_id": "1"}]
    only = Understanding(read("snow"), (), ("snow",), alone=(Effect("snow", 1.0, "1"),))
    assert "Content" not in " ".join(reading.lines(only, database))


def test_effects_are_not_listed_where_a_table_has_them(reading: Any, database: MetricsDatabase) -> None:
    assert reading.lines(Understanding(read("snow falling"), EFFECTS), database, lists_effects=False) == []


def test_effects_that_were_not_looked_for_are_not_said_to_be_none(reading: Any, database: MetricsDatabase) -> None:
    by_words = Understanding(read("snow falling, no rain"))
    assert reading.lines(by_words, database) == ["Not wanted: rain."]
    assert reading.lines(Understanding(read("snow"), why_unread="It is missing."), database) == [
        "Effects in the query were not looked for. It is missing."
    ]


def test_what_may_be_misspelt_comes_first_and_no_query_says_nothing(reading: Any) -> None:
    understanding = Understanding(read("snwo, no rain"), did_you_mean=(Suggestion("snwo", "snow"),))
    assert reading.lines(understanding) == ['Did you mean "snow" for "snwo"?', "Not wanted: rain."]
    assert reading.facts_of(understanding)["did_you_mean"] == [{"word": "snwo", "meant": "snow"}]
    assert (reading.lines(None), reading.facts_of(None)) == ([], {})
