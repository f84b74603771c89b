"""A LoRA's name typed as a query: no other LoRA is taken for it, with a real CLIP and the rows of the mini-world."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from carlos_core.clip.encoder import OpenClipEncoder
from carlos_core.clip.signatures import SignatureCache
from carlos_core.database.database import load_database
from carlos_core.prompts.prompt_set import PromptSet
from carlos_core.search.limits import BEST_ONE, CALIBRATED, COMPOSED, ChoiceRules
from carlos_core.search.names_in_queries import ONLY_NAMES, Named, Place, doubted, named_in, without_strangers
from carlos_core.search.searcher import Searcher
from carlos_core.search.selection import Selection
from tests.support import miniworld

RULES = ChoiceRules(COMPOSED, min_confidence="weak")
FILES = ["heavy_snow_v2.safetensors", "snow falling.safetensors"]
"""Not measured. By effect, both names find the LoRA of snow."""


@pytest.fixture(scope="module")
def searcher(encoder: OpenClipEncoder, signature_prompts: PromptSet) -> Searcher:
    rows = load_database(miniworld.MINIWORLD / "reference_metrics.parquet", encoder_id=miniworld.encoder_id())
    here = {lora_id: str(name) for lora_id, name in zip(rows.column("lora_id"), rows.column("file_name"), strict=True)}
    return Searcher(rows, encoder=encoder, prompts=signature_prompts, signatures=SignatureCache()).among(here)


def named(searcher: Searcher, query: str) -> Sequence[Named]:
    return named_in(query, searcher.db, [*FILES, *searcher.installed.values()], searcher.installed, is_lost=False)


def chosen(searcher: Searcher, query: str) -> tuple[list[str | None], Selection]:
    def choose(asked: str) -> Selection:
        return searcher.choose(asked, rules=RULES)

    selection = without_strangers(query, choose(query), choose, lambda: named(searcher, query))
    return [pick.match.file for pick in selection.picks], selection


def test_for_a_name_no_other_lora_is_taken(searcher: Searcher) -> None:
    by_effect = [pick.match.file for pick in searcher.choose("heavy_snow_v2", rules=RULES).picks]
    assert by_effect == ["mystery_12.safetensors"]
    files, selection = chosen(searcher, "heavy_snow_v2")
    assert (files, selection.reason) == ([], ONLY_NAMES)
    for query in ("heavy_snow_v2.safetensors", "use the LoRA heavy_snow_v2, please"):
        assert chosen(searcher, query)[0] == []


def test_the_rest_of_a_query_is_still_chosen_for(searcher: Searcher) -> None:
    query, said = "drawn in pencil, heavy_snow_v2", "Left out of the query, as names of LoRAs: 'heavy_snow_v2'."
    files, selection = chosen(searcher, query)
    assert files == ["pencil_sketch.safetensors"]
    other = selection.without([selection.picks[0].match.lora_id])
    for each in (selection, other):
        assert (each.query, said in each.notes) == (query, True)


@pytest.mark.parametrize("query", ["burning_flames", "snow falling", "pencil sketch, burning_flames"])
def test_a_name_that_finds_its_own_lora_and_words_of_an_effect_are_chosen_for_as_ever(searcher: Searcher, query: str) -> None:
    files, selection = chosen(searcher, query)
    as_ever = searcher.choose(query, rules=RULES)
    assert files == [pick.match.file for pick in as_ever.picks] != []
    assert selection.notes == as_ever.notes


def test_a_name_whose_lora_fits_and_has_no_place_stays_in_the_query(searcher: Searcher) -> None:
    def choose(asked: str) -> Selection:
        return searcher.choose(asked, rules=ChoiceRules(BEST_ONE, min_confidence="weak"))

    query = "drawn in pencil, burning flames"
    as_ever = choose(query)
    (other,) = as_ever.fitting - {as_ever.picks[0].match.lora_id}
    file = searcher.installed[other]
    called = [Named("x_v2", Place.DATABASE, file, query.split(", ")[1], frozenset({other}))]
    assert without_strangers(query, as_ever, choose, lambda: called) is as_ever


def test_of_a_list_for_a_name_nothing_is_passed_on(searcher: Searcher) -> None:
    for query, doubt in (("heavy_snow_v2", ONLY_NAMES), ("heavy_snow_v2, drawn in pencil", ""), ("snow falling", "")):
        found = searcher.find(searcher.signature(query), query=query, ranking=CALIBRATED)
        judged = doubted(query, searcher.mark_sure(found, "weak")[0], named(searcher, query))
        assert (judged.doubt, bool(judged.installed)) == (doubt, not doubt)
