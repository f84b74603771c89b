"""Which matches of a list are sure enough to be applied, with a real CLIP and the rows of the mini-world."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from carlos_core.clip.encoder import OpenClipEncoder
from carlos_core.clip.signatures import SignatureCache
from carlos_core.database.database import MetricsDatabase, load_database
from carlos_core.prompts.prompt_set import PromptSet
from carlos_core.search.limits import CALIBRATED, COMPOSED, PUBLISHED, RANKINGS, ChoiceRules, SearchLimits
from carlos_core.search.matches import Matches, mark_alike
from carlos_core.search.queries import like_lora
from carlos_core.search.searcher import Searcher
from carlos_core.search.selection import CANDIDATES
from tests.support import miniworld
from tests.support.rows import lora_id_of

RULES = ChoiceRules(COMPOSED)
SNOW, PENCIL = "mystery_12.safetensors", "pencil_sketch.safetensors"
PIXELS, FLAMES = "pixel_art.safetensors", "burning_flames.safetensors"


@pytest.fixture(scope="module")
def searcher(encoder: OpenClipEncoder, signature_prompts: PromptSet) -> Searcher:
    database: MetricsDatabase = load_database(
        miniworld.MINIWORLD / "reference_metrics.parquet", encoder_id=miniworld.encoder_id()
    )
    return Searcher(database, encoder=encoder, prompts=signature_prompts, signatures=SignatureCache())


def with_files(searcher: Searcher, *, but: Collection[str] = (), only: Collection[str] | None = None) -> Searcher:
    """With all files installed, or only some, but for some ids."""
    ids, names = (searcher.db.column(column) for column in ("lora_id", "file_name"))
    here = {
        lora_id: name for lora_id, name in zip(ids, names, strict=True) if lora_id not in but and (only is None or name in only)
    }
    return searcher.among(here)


@pytest.fixture(scope="module")
def at_hand(searcher: Searcher) -> Searcher:
    return with_files(searcher)


def marked(
    searcher: Searcher, query: str, min_confidence: str = "likely", *, top_k: int = 5, ranking: str = CALIBRATED, **choice: Any
) -> Matches:
    """The list of a query with what is sure enough."""
    background = searcher.background()
    found = searcher.find(searcher.signature(query), top_k=top_k, query=query, ranking=ranking, background=background, **choice)
    return searcher.mark_sure(found, min_confidence, ranking=ranking, **choice)[0]


def is_in_order(matches: Matches) -> bool:
    ranks = [match.rank for match in matches.items]
    return ranks == sorted(ranks)


@pytest.mark.parametrize("top_k", [2, 5])
@pytest.mark.parametrize("ranking", RANKINGS)
@pytest.mark.parametrize(
    "query",
    ["drawn in pencil", "snow falling, drawn in pencil", "drawn in pencil, a herd of elephants", "drawn in pencil, no snow"],
)
def test_a_list_with_a_least_confidence_passes_on_what_would_be_chosen(
    at_hand: Searcher, query: str, ranking: str, top_k: int
) -> None:
    chosen = {pick.match.lora_id for pick in at_hand.choose(query, rules=RULES, ranking=ranking).picks}
    matches = marked(at_hand, query, ranking=ranking, top_k=top_k)
    passed_on = {match.lora_id for match in matches.installed}
    assert chosen
    assert chosen <= passed_on
    assert (len(matches), matches.doubt, matches.is_judged) == (top_k, "", True)
    assert is_in_order(matches)
    # Only duplicates do the same.
    assert len(passed_on) == len(chosen)


@pytest.mark.parametrize("ranking", RANKINGS)
@pytest.mark.parametrize(
    "query", ["a herd of elephants", "photo of a cat", "no snow falling", "ein Haus im Schnee und viele Menschen"]
)
def test_a_list_for_which_nothing_would_be_chosen_passes_on_nothing_and_says_why(
    searcher: Searcher, query: str, ranking: str
) -> None:
    # Whether anything is installed or not.
    for some in (with_files(searcher), searcher.among({})):
        matches = marked(some, query, ranking=ranking)
        assert (matches.installed, len(matches)) == ((), 5)
        assert matches.doubt == some.choose(query, rules=RULES, ranking=ranking).reason != ""


CROWDED = [
    (CALIBRATED, 1, "pixel art, burning flames"),
    (CALIBRATED, 2, "snow falling, drawn in pencil, burning flames"),
    (PUBLISHED, 1, "pixel art, snow falling"),
    (PUBLISHED, 2, "snow falling, drawn in pencil, burning flames"),
]


@pytest.mark.parametrize(("ranking", "top_k", "query"), CROWDED)
def test_an_installed_lora_that_fits_is_passed_on_however_many_that_are_not_installed_come_first(
    searcher: Searcher, ranking: str, top_k: int, query: str
) -> None:
    missing = {match.lora_id for match in marked(with_files(searcher), query, ranking=ranking, top_k=top_k).items}
    some = with_files(searcher, but=missing)
    background = some.background()
    before = some.find(some.signature(query), top_k=top_k, query=query, ranking=ranking, background=background)
    _, selection = some.mark_sure(before, "likely", ranking=ranking)
    assert selection.fitting & some.installed.keys()
    matches = marked(some, query, ranking=ranking, top_k=top_k)
    assert len(matches) == top_k
    assert matches.installed[0].lora_id in selection.fitting
    assert (matches.doubt, is_in_order(matches)) == ("", True)
    # With the rank that it has among all.
    everything = some.find(some.signature(query), top_k=100, query=query, ranking=ranking, background=background).items
    assert {(match.lora_id, match.rank, match.score) for match in matches.items} <= {
        (match.lora_id, match.rank, match.score) for match in everything
    }


@pytest.fixture(scope="module")
def crowd(searcher: Searcher) -> Searcher:
    """A library with many of one effect, of which only "mine" is installed, the last, and "decoy": high cosine, low z-score."""
    database = MetricsDatabase(searcher.db.table, encoder_id=searcher.db.encoder_id)
    pencil = database.row(lora_id_of(database, PENCIL))
    assert pencil is not None
    signature = searcher.signature("drawn in pencil").double()
    probe = searcher.background().probe(signature)
    effect = torch.tensor(pencil.direction).double()
    # Near the signature, with half of what tells it from other texts taken away.
    decoy = 4 * signature / signature.norm() + effect / effect.norm()
    decoy -= probe * (decoy @ probe) / (probe @ probe) / 2
    weaker = effect.clone()
    weaker[0] += 0.05 * effect.norm()
    directions = {f"copy {place:02}": effect for place in range(2 * CANDIDATES)} | {"mine": weaker, "decoy": decoy}
    for lora_id, direction in directions.items():
        row = replace(
            pencil, lora_id=lora_id, sha256=None, file_name=f"{lora_id}.safetensors", direction=direction.float().numpy()
        )
        database.upsert(row)
    return Searcher(database, encoder=searcher.encoder, prompts=searcher.prompts, signatures=searcher._signatures)


@pytest.mark.parametrize("ranking", RANKINGS)
@pytest.mark.parametrize("here", [{"mine"}, {"mine", "decoy"}])
def test_an_installed_lora_that_fits_is_passed_on_though_more_fit_better_than_are_considered(
    crowd: Searcher, here: set[str], ranking: str
) -> None:
    some, query = crowd.among({lora_id: f"{lora_id}.safetensors" for lora_id in here}), "drawn in pencil"
    if ranking == PUBLISHED:
        listed = some.find(some.signature(query), top_k=CANDIDATES)
        assert "decoy" in {match.lora_id for match in listed.items}
        assert "mine" not in {match.lora_id for match in listed.items}
    matches = marked(some, query, ranking=ranking)
    assert [match.lora_id for match in matches.installed] == ["mine"]
    assert matches.items[-1].rank > CANDIDATES
    assert matches.doubt == ""


def test_what_is_sure_and_not_installed_is_the_reason_if_others_are_installed(searcher: Searcher) -> None:
    some = with_files(searcher, only={SNOW})
    matches = marked(some, "drawn in pencil", top_k=30)
    assert SNOW in {match.file for match in matches.items}
    assert matches.installed == ()
    assert matches.doubt == (
        f"What fits surely enough is not installed: {PENCIL}. Put it into models/loras. "
        "No LoRA that is installed fits as well as min_confidence (likely) asks."
    )


def test_what_is_sure_and_not_installed_is_named_alone_if_nothing_in_the_list_is_installed(searcher: Searcher) -> None:
    matches = marked(searcher.among({}), "drawn in pencil", ranking=PUBLISHED)
    assert len(matches) == 5
    assert matches.doubt == f"What fits surely enough is not installed: {PENCIL}. Put it into models/loras."
    both = marked(searcher.among({}), "snow falling, drawn in pencil")
    assert both.doubt.endswith("Put one of them into models/loras.")
    assert SNOW in both.doubt
    assert PENCIL in both.doubt


@pytest.mark.parametrize("ranking", RANKINGS)
def test_limits_hold_for_what_is_put_into_the_list(searcher: Searcher, ranking: str) -> None:
    pixels = {lora_id_of(searcher.db, name) for name in (PIXELS, "mystery_01.safetensors")}
    flames = lora_id_of(searcher.db, FLAMES)
    some = with_files(searcher, but={flames})
    matches = marked(some, "pixel art, burning flames", ranking=ranking, top_k=1, limits=SearchLimits(exclude=pixels))
    assert not pixels & {match.lora_id for match in matches.items}


@pytest.mark.parametrize("ranking", RANKINGS)
@pytest.mark.parametrize("query", ["drawn in pencil", "a herd of elephants"])
def test_places_are_those_of_the_whole_list(at_hand: Searcher, query: str, ranking: str) -> None:
    signature, background = at_hand.signature(query), at_hand.background()
    everything = at_hand.find(signature, top_k=100, ranking=ranking, background=background).items
    some = everything[::3]
    placed = at_hand.placed({match.lora_id for match in some}, signature, ranking=ranking, background=background)

    def told(found: Any) -> list[Any]:
        return [(match.lora_id, match.rank, match.score, match.confidence, match.file) for match in found]

    assert told(placed) == told(some)
    one = {everything[0].lora_id}
    assert at_hand.placed(one, signature, SearchLimits(exclude=one), ranking=ranking) == ()


def test_records_are_built_only_for_what_may_be_chosen_or_listed(searcher: Searcher, monkeypatch: pytest.MonkeyPatch) -> None:
    some, query = with_files(searcher, but={lora_id_of(searcher.db, FLAMES)}), "pixel art, burning flames"
    asked_for: list[int] = []
    find = Searcher.find

    def listening(self: Searcher, signature: Tensor, limits: SearchLimits, top_k: int = 5, **asked: Any) -> Matches:
        asked_for.append(top_k)
        return find(self, signature, limits, top_k, **asked)

    found = some.find(some.signature(query), query=query, ranking=CALIBRATED, top_k=1)
    monkeypatch.setattr(Searcher, "find", listening)
    matches, _ = some.mark_sure(found, "likely")
    assert matches.items != found.items
    assert max(asked_for) == CANDIDATES < len(searcher.db)


def test_of_what_is_looked_for_by_likeness_only_what_is_alike_enough_is_passed_on(at_hand: Searcher) -> None:
    like = like_lora(at_hand.db, lora_id_of(at_hand.db, SNOW))
    found = at_hand.find(like, top_k=5, query="like it")
    assert mark_alike(found, 0.0) is found
    some = mark_alike(found, 0.5)
    assert [match.is_sure for match in some.items] == [match.score >= 0.5 for match in found.items]
    assert {match.is_sure for match in some.items} == {True, False}
    assert (len(some.installed) > 0, some.doubt) == (True, "")
    others = replace(found, items=found.items[-1:])
    unlike = mark_alike(others, 0.5)
    assert unlike.installed == ()
    assert unlike.doubt.startswith(f"No LoRA is much like it: the nearest, {found.items[-1].name}, has a cosine of ")
    away = replace(found, items=tuple(replace(match, file=None) for match in found.items[:1]))
    assert (
        mark_alike(away, 0.5).doubt == f"What is alike enough is not installed: {found.items[0].name}. Put it into models/loras."
    )
