"""The language of a query is told where the encoder does not know it."""

from __future__ import annotations

import json

import pytest

from carlos_core.search.language import OTHER_LETTERS, knows_other_languages, other_language
from tests.support.miniworld import MINIWORLD


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("雨の夜", OTHER_LETTERS),
        ("сильный дождь", OTHER_LETTERS),
        ("مطر غزير", OTHER_LETTERS),
        ("ein altes Foto mit braunen Tönen", "German"),
        ("une maison sous la neige, avec des coeurs", "French"),
        ("una casa en el bosque con mucha nieve", "Spanish"),
        ("un gatto sul tetto con la neve", "Italian"),
        ("uma foto antiga com tons castanhos", "Portuguese"),
        ("een oude foto met bruine tinten", "Dutch"),
        ("ett gammalt foto med bruna toner på väggen", "Swedish"),
    ],
)
def test_another_language_is_told_by_letters_or_small_words(text: str, language: str) -> None:
    assert other_language(text) == language


@pytest.mark.parametrize(
    "text",
    [
        "",
        "🌧 ...",
        "art by Vincent van Gogh",
        "el greco style",
        "de stijl, mondrian",
        "sin city, film noir",
        "café in Paris, rue de la Paix at night",
        "the von Trapp family and das Boot",
        "1girl, solo, long_hair",
        "las vegas",
    ],
)
def test_names_in_english_prompts_are_no_other_language(text: str) -> None:
    assert other_language(text) is None


def test_no_query_that_asks_in_english_is_taken_for_another_language() -> None:
    bare = json.loads((MINIWORLD / "queries.json").read_text(encoding="utf-8"))
    asked = json.loads((MINIWORLD / "queries_as_asked.json").read_text(encoding="utf-8"))
    queries = [entry["query"] for entries in bare.values() for entry in entries]
    queries += [entry["query"] for entry in asked if not entry["nothing"]]
    assert [query for query in queries if other_language(query) is not None] == []


def test_an_encoder_of_many_languages_is_known_by_its_name() -> None:
    assert knows_other_languages("xlm-roberta-base-ViT-B-32/laion5b_s13b_b90k")
    assert not knows_other_languages("ViT-B-32/laion2b_s34b_b79k")
