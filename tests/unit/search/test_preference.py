"""LoRAs made for the checkpoint come first among those that fit about equally well, and change nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from carlos_core.clip.encoder import OpenClipEncoder
from carlos_core.clip.signatures import SignatureCache
from carlos_core.database.database import MetricsDatabase, load_database
from carlos_core.prompts.prompt_set import PromptSet
from carlos_core.search.calibration import confidences
from carlos_core.search.limits import ChoiceRules, SearchLimits
from carlos_core.search.matches import Matches
from carlos_core.search.preference import ABOUT_EQUAL, Preference
from carlos_core.search.searcher import Searcher
from carlos_core.search.selection import Selection
from tests.support import miniworld
from tests.support.rows import a_row

SEPIA, SEPIA_TOO = "sepia_toned.safetensors", "mystery_07.safetensors"
ALL = torch.ones(10, dtype=torch.bool)
QUERIES = [
    *(
        asked["query"]
        for kind in json.loads((miniworld.MINIWORLD / "queries.json").read_text(encoding="utf-8")).values()
        for asked in kind
    ),
    "a herd of elephants",
]


def ordered(z: list[float], allowed: list[int] | None = None, **closeness: float) -> tuple[str, dict[str, tuple[str, ...]]]:
    """The rows a, b, c ... with these z-scores in their order, and who comes before whom."""
    z += [0.0] * (10 - len(z))
    may_be_found = ALL if allowed is None else torch.tensor([place in allowed for place in range(10)])
    values, behind = Preference("Pony", "x", closeness).order("abcdefghij", torch.tensor(z).double(), may_be_found)
    rows = torch.nonzero(may_be_found).squeeze(1)
    order = rows[torch.sort(values[rows], descending=True, stable=True).indices]
    return "".join("abcdefghij"[row] for row in order.tolist()), behind


def test_a_lora_for_the_checkpoint_comes_before_those_that_fit_about_as_well() -> None:
    # With ten rows a match is likely from a z-score of 2.57 on, clear from 3.72 on.
    assert ordered([5.4, 5.0, 4.8])[0] == "abcdefghij"
    assert ordered([5.4, 5.0, 4.8], c=1.0) == ("acbdefghij", {"c": ("b",)})
    assert ordered([5.4, 5.0, 4.8], b=1.0, c=1.0) == ("bacdefghij", {"b": ("a",)})
    # Near relatives count half as much.
    assert ordered([5.4, 5.0, 4.8], c=0.5) == ("acbdefghij", {"c": ("b",)})
    assert ordered([5.4, 5.1, 4.8], c=0.5)[0] == "abcdefghij"
    # By more than is about equal, the better one stays ahead.
    assert ordered([5.4, 5.4 - ABOUT_EQUAL - 0.01], b=1.0) == ("abcdefghij", {})


def test_equal_loras_keep_their_order() -> None:
    assert ordered([5.0, 5.0, 5.0], a=1.0, c=1.0) == ("acbdefghij", {})


def test_a_preference_never_beats_a_better_word_and_chance_is_not_ordered() -> None:
    words = [each.word for each in confidences(torch.tensor([3.9, 3.6, 2.7, 2.5, 2.2]), 10)]
    assert words == ["clear", "likely", "likely", "weak", "weak"]
    assert ordered([3.9, 3.6, 2.7, 2.5, 2.2], b=1.0, d=1.0, e=1.0) == ("abcdefghij", {})


def test_rows_that_may_not_be_found_count_for_nothing() -> None:
    # Fewer rows to choose from make each surer.
    assert ordered([5.4, 5.0, 4.8, float("nan")], [0, 2, 4], b=1.0, c=1.0) == ("ace", {})
    assert ordered([2.4, 2.2])[0] == ordered([2.4, 2.2], b=1.0)[0] == "abcdefghij"
    assert ordered([2.4, 2.2], [0, 1], b=1.0) == ("ba", {"b": ("a",)})


@pytest.fixture(scope="module")
def searcher(encoder: OpenClipEncoder, signature_prompts: PromptSet) -> Searcher:
    database = load_database(miniworld.MINIWORLD / "reference_metrics.parquet", encoder_id=encoder.encoder_id)
    return Searcher(database, encoder=encoder, prompts=signature_prompts, signatures=SignatureCache())


def files(selection: Selection) -> list[str | None]:
    return [pick.match.record.file_name for pick in selection.picks]


def preferring(searcher: Searcher, *names: str) -> Searcher:
    rows = zip(searcher.db.column("lora_id"), searcher.db.column("file_name"), strict=True)
    return searcher.among({}, Preference("Pony", "x", {lora_id: 1.0 for lora_id, name in rows if name in names}))


def seen(found: Matches) -> list[tuple[Any, ...]]:
    return [(match.lora_id, match.score, match.confidence) for match in found.items]


def test_of_two_loras_that_do_the_same_the_one_for_the_checkpoint_is_chosen(searcher: Searcher) -> None:
    for wanted, other in ((SEPIA, SEPIA_TOO), (SEPIA_TOO, SEPIA)):
        for rules in (ChoiceRules(), ChoiceRules("composed"), ChoiceRules("top k equal")):
            selection = preferring(searcher, wanted).choose("sepia toned", rules=rules)
            assert files(selection) == [wanted]
            both = preferring(searcher, wanted).choose("sepia toned, snow falling", rules=rules)
            assert other not in files(both)
        # A LoRA that does not load makes room for the other one.
        match = selection.picks[0].match
        assert files(selection.without({match.lora_id})) == [other]
    chosen = [preferring(searcher, name).choose("sepia toned").picks[0].match for name in (SEPIA, SEPIA_TOO)]
    assert {len(match.preferred_to) for match in chosen} == {0, 1}


def test_a_lora_for_another_effect_is_not_chosen_for_being_made_for_the_checkpoint(searcher: Searcher) -> None:
    assert files(preferring(searcher, "pencil_sketch.safetensors", SEPIA).choose("snow falling")) == ["mystery_12.safetensors"]


def test_whatever_is_preferred_every_lora_keeps_its_score_and_nothing_fits_that_did_not(searcher: Searcher) -> None:
    some = preferring(searcher, *searcher.db.column("file_name")[::2])
    nobody = searcher.among({}, Preference("Pony", "x", {}))
    background = searcher.background()
    n_moved = 0
    for query in QUERIES[::3]:
        signature = searcher.signature(query)
        for ranking in ("published", "calibrated"):
            before = searcher.find(signature, SearchLimits(), 100, ranking=ranking, background=background)
            unmoved = nobody.find(signature, SearchLimits(), 100, ranking=ranking, background=background)
            after = some.find(signature, SearchLimits(), 100, ranking=ranking, background=background)
            assert seen(unmoved) == seen(before)
            assert set(seen(after)) == set(seen(before))
            is_moved = seen(after) != seen(before)
            assert not (is_moved and ranking == "published")
            n_moved += is_moved
            assert is_moved == any(match.preferred_to for match in after.items)
            words = [[match.confidence.word for match in found.items if match.confidence] for found in (before, after)]
            assert ranking == "published" or words[0] == words[1]
        choices = [each.choose(query, rules=ChoiceRules("composed")) for each in (searcher, some)]
        assert bool(choices[0].picks) == bool(choices[1].picks)
        assert choices[0].picks or choices[0].reason == choices[1].reason
    assert n_moved


def test_the_preferred_one_is_listed_though_only_one_is_asked_for(searcher: Searcher) -> None:
    for name in (SEPIA, SEPIA_TOO):
        found = preferring(searcher, name).find(searcher.signature("sepia toned"), top_k=1, ranking="calibrated")
        assert [match.record.file_name for match in found.items] == [name]


def test_a_searcher_forgets_a_preference_that_it_is_not_given_again(searcher: Searcher) -> None:
    some = preferring(searcher, SEPIA)
    assert some.preference is not None
    assert some.among({}).preference is searcher.preference is None


def test_a_database_of_one_row_can_be_searched_with_a_preference(searcher: Searcher) -> None:
    database = MetricsDatabase.empty(searcher.db.encoder_id or "", dimension=searcher.db.dimension)
    database.upsert(a_row("a", searcher.signature("snow falling").numpy()))
    alone = Searcher(database, encoder=searcher.encoder, prompts=searcher.prompts).among({}, Preference("Pony", "x", {"a": 1.0}))
    assert [pick.match.lora_id for pick in alone.choose("snow falling").picks] == ["a"]
