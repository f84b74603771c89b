"""From a sentence to LoRAs, with a real CLIP, against the reference evaluation of the mini-world."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import carlos_core as carlos
from carlos_core.clip.encoder import Encoder, OpenClipEncoder
from carlos_core.clip.lazy_encoder import LazyEncoder
from carlos_core.clip.loading import load_encoder
from carlos_core.clip.signatures import SignatureCache
from carlos_core.clip.weights import local_encoders
from carlos_core.database.database import MetricsDatabase, load_database
from carlos_core.errors import EncoderError, RetrievalError
from carlos_core.prompts.prompt_set import PromptSet
from carlos_core.search.limits import ChoiceRules, SearchLimits, told
from carlos_core.search.matches import Match
from carlos_core.search.retrieval import retrieve
from carlos_core.search.searcher import Searcher
from tests.support import miniworld
from tests.support.rows import a_row
from tests.support.searches import find, retrieved, signature_of

ANY: dict[str, Any] = {"max_strength": math.inf, "min_consistency": -1.0}
LIMITS: dict[str, Any] = {"max_strength": 9.8, "min_consistency": 0.041}
X = torch.tensor([1.0, 0.0, 0.0, 0.0])


@pytest.fixture(scope="module")
def cache() -> SignatureCache:
    return SignatureCache()


def load_nothing(encoder_id: str) -> Encoder:
    raise AssertionError(f"{encoder_id} was asked for")


def lazily(load: Callable[[str], Encoder]) -> LazyEncoder:
    return LazyEncoder(miniworld.encoder_id(), 64, load)


def made_up_database(*rows: tuple[str, dict[str, Any]]) -> MetricsDatabase:
    """Rows (id, facts), all with the same direction unless the facts say otherwise."""
    database = MetricsDatabase.empty("some encoder", dimension=4)
    for lora_id, facts in rows:
        database.upsert(a_row(lora_id, **facts))
    return database


def ids(matches: list[Match] | tuple[Match, ...]) -> list[str]:
    return [match.lora_id for match in matches]


def test_scores_of_all_queries_are_those_of_the_reference_evaluation(
    database: MetricsDatabase, encoder: OpenClipEncoder, signature_prompts: PromptSet, cache: SignatureCache
) -> None:
    reference = pq.read_table(miniworld.MINIWORLD / "reference_scores.parquet").to_pandas()
    assert reference["query"].nunique() == 80
    for query, rows in reference.groupby("query"):
        matches = retrieved(database, str(query), encoder, signature_prompts, cache, top_k=100, **ANY)
        found = {match.record.file_name: match.score for match in matches}
        expected = dict(zip(rows["file_name"], rows["score"], strict=True))
        assert found == pytest.approx(expected, abs=1e-5), query
        assert [match.rank for match in matches] == list(range(1, len(expected) + 1))
        assert [match.record.file_name for match in matches] == sorted(expected, key=lambda name: -expected[name])


def test_the_published_limits_leave_out_the_strong_the_inconsistent_and_those_without_effect(
    database: MetricsDatabase, encoder: OpenClipEncoder, signature_prompts: PromptSet, cache: SignatureCache
) -> None:
    matches = retrieved(database, "snow", encoder, signature_prompts, cache, top_k=100)
    found = {match.record.file_name for match in matches}
    left_out = {facts["kind"] for name, facts in miniworld.labels().items() if name not in found}
    assert left_out == {"strong", "inconsistent", "noop", "misfit"}
    assert {miniworld.labels()[str(name)]["kind"] for name in found} == {"ordinary", "duplicate", "weak"}


def test_the_order_of_rows_in_the_file_does_not_matter(
    database: MetricsDatabase, encoder: OpenClipEncoder, signature_prompts: PromptSet, cache: SignatureCache
) -> None:
    backwards = MetricsDatabase(database.table.take(list(range(len(database)))[::-1]), encoder_id=database.encoder_id)
    found = [
        [(match.lora_id, match.score) for match in retrieved(db, "rain", encoder, signature_prompts, cache)]
        for db in (database, backwards)
    ]
    assert found[0] == found[1]


def test_a_match_carries_its_whole_row(
    database: MetricsDatabase, encoder: OpenClipEncoder, signature_prompts: PromptSet, cache: SignatureCache
) -> None:
    best = retrieved(database, "heavy snowfall", encoder, signature_prompts, cache)[0]
    assert best.record.extra["label"] == "heavy snowfall"
    assert best.vector.strength == best.record.strength
    assert best.vector.consistency == best.record.consistency
    np.testing.assert_array_equal(best.vector.direction, best.record.direction)
    assert (best.name, best.version_id, best.trigger_words) == (best.record.file_name, None, ())


@pytest.mark.parametrize("query", ["", "   ", "\n\t"])
def test_an_empty_query_is_refused_before_any_encoder_is_loaded(database: MetricsDatabase, query: str) -> None:
    with pytest.raises(RetrievalError, match="query is empty"):
        Searcher(database, encoder=lazily(load_nothing)).signature(query)


def test_the_encoder_of_other_rows_is_refused_by_name(
    database: MetricsDatabase, encoder: OpenClipEncoder, tmp_path: Path
) -> None:
    for suffix in (".json", ".safetensors"):
        shutil.copy(miniworld.MINIWORLD / f"mini_clip{suffix}", tmp_path / f"another{suffix}")
    other = load_encoder(local_encoders([tmp_path])["another"].encoder_id, [tmp_path])
    with pytest.raises(EncoderError) as caught:
        retrieve(database, "snow", encoder=other)
    assert database.encoder_id is not None
    assert database.encoder_id in caught.value.what
    assert database.encoder_id in caught.value.hint
    assert other.encoder_id in caught.value.what


def test_rows_of_an_unknown_encoder_are_not_searched_and_the_way_out_is_named(encoder: OpenClipEncoder) -> None:
    unknown = load_database(miniworld.MINIWORLD / "reference_metrics.parquet")
    assert unknown.encoder_id is None
    with pytest.raises(EncoderError, match="encoder_id=") as caught:
        retrieve(unknown, "snow", encoder=encoder)
    assert "reference_metrics.parquet" in str(caught.value)


def test_a_missing_encoder_is_named_with_the_place_to_put_it(database: MetricsDatabase, home: Path) -> None:
    with pytest.raises(EncoderError) as caught:
        retrieve(database, "snow")
    assert miniworld.encoder_id() in str(caught.value)
    assert str(home / "encoders") in str(caught.value)


def test_a_repeated_query_needs_no_encoder(
    database: MetricsDatabase, encoder: OpenClipEncoder, signature_prompts: PromptSet, home: Path
) -> None:
    cache = SignatureCache()
    first = retrieved(database, "golden light", encoder, signature_prompts, cache)
    assert not home.exists()
    again = retrieved(database, "golden light", None, signature_prompts, cache)
    assert [(match.lora_id, match.score) for match in again] == [(match.lora_id, match.score) for match in first]
    signature = signature_of(database, "golden light", lazily(load_nothing), signature_prompts, cache)
    assert torch.equal(signature, cache.signature(encoder, signature_prompts, "golden light"))


def test_a_new_query_loads_the_encoder_of_the_rows(
    database: MetricsDatabase, encoder: OpenClipEncoder, signature_prompts: PromptSet
) -> None:
    asked_for = []

    def load(encoder_id: str) -> Encoder:
        asked_for.append(encoder_id)
        return encoder

    lazy = lazily(load)
    for query in ("fog", "rain"):
        signature_of(database, query, lazy, signature_prompts)
    assert asked_for == [miniworld.encoder_id()]


def test_blanks_around_a_query_do_not_matter(
    database: MetricsDatabase, encoder: OpenClipEncoder, signature_prompts: PromptSet
) -> None:
    cache = SignatureCache()
    plain = signature_of(database, "fog", encoder, signature_prompts, cache)
    padded = signature_of(database, "  fog\n", lazily(load_nothing), signature_prompts, cache)
    assert torch.equal(plain, padded)


def test_equal_scores_are_ordered_by_id() -> None:
    database = made_up_database(("b", {}), ("10", {}), ("a", {}), ("9", {}), ("c", {"direction": [2, 1, 0, 0]}))
    matches = find(database, X, top_k=10, **LIMITS)
    assert ids(matches.items) == ["10", "9", "a", "b", "c"]
    assert ids(find(database, X, top_k=2, **LIMITS).items) == ["10", "9"]


def test_a_base_model_keeps_its_family_and_rows_that_do_not_say() -> None:
    database = made_up_database(
        ("sdxl", {"base_model": "SDXL"}),
        ("sdxl 1.0", {"base_model": "SDXL 1.0"}),
        ("sd 1.5", {"base_model": "SD 1.5"}),
        ("pony", {"base_model": "Pony"}),
        ("silent", {"base_model": None}),
        ("never heard of", {"base_model": "Kolmogorov XIII"}),
    )
    found = find(database, X, top_k=10, base_model="Pony", **LIMITS)
    assert set(ids(found.items)) == {"pony", "silent", "never heard of"}
    found = find(database, X, top_k=10, base_model="SDXL", **LIMITS)
    assert set(ids(found.items)) == {"sdxl", "sdxl 1.0", "silent", "never heard of"}
    found = find(database, X, top_k=10, base_model=("SDXL", "Pony"), **LIMITS)
    assert set(ids(found.items)) == {"sdxl", "sdxl 1.0", "pony", "silent", "never heard of"}
    assert len(find(database, X, top_k=10, **LIMITS)) == 6


def test_installed_files_are_named_and_can_be_asked_for_alone() -> None:
    database = made_up_database(("a", {}), ("b", {}), ("c", {}))
    at_hand = {"b": "folder/b.safetensors", "not in the database": "x.safetensors"}
    all_of_them = find(database, X, top_k=10, installed=at_hand, **LIMITS)
    assert [match.file for match in all_of_them.items] == [None, "folder/b.safetensors", None]
    assert ids(all_of_them.installed) == ["b"]
    alone = find(database, X, top_k=10, installed=at_hand, installed_only=True, **LIMITS)
    assert [(match.rank, match.lora_id, match.file) for match in alone.items] == [(1, "b", "folder/b.safetensors")]


def test_nothing_found_says_why() -> None:
    empty = MetricsDatabase.empty("some encoder", dimension=4)
    database = made_up_database(("a", {"strength": 11.0}), ("b", {"base_model": "SD 1.5", "consistency": 0.01}))

    def reason(db: MetricsDatabase, **choice: Any) -> str:
        matches = find(db, X, top_k=3, **(LIMITS | choice))
        assert len(matches) == 0
        return matches.reason

    assert "database is empty" in reason(empty)
    assert "None of the 2 LoRAs" in reason(database)
    assert "strength <= 9.8, consistency >= 0.041" in reason(database)
    assert "loosen the limits" in reason(database)
    assert "The only LoRA that is left does not have strength" in reason(database, base_model="SDXL")
    assert "installed" in reason(database, installed_only=True)
    assert find(database, X, top_k=3, **ANY).reason == ""


def test_a_limit_on_alignment_leaves_out_hasty_rows_and_keeps_those_of_the_full_protocol() -> None:
    database = made_up_database(
        ("hasty", {"alignment": 0.90, "n_images": 16}),
        ("sure", {"alignment": 0.97, "n_images": 118}),
        ("published", {"alignment": None, "n_images": 4480}),
        ("reference layout", {"alignment": None, "n_images": None}),
        ("one prompt", {"alignment": None, "n_images": 1}),
    )

    def found(min_alignment: float) -> set[str]:
        return set(ids(find(database, X, top_k=10, min_alignment=min_alignment, **LIMITS).items))

    assert found(0.0) == {"hasty", "sure", "published", "reference layout", "one prompt"}
    assert found(0.9) == {"hasty", "sure", "published", "reference layout"}
    assert found(0.97) == {"sure", "published", "reference layout"}
    assert found(0.98) == {"published", "reference layout"}


def test_the_limit_on_alignment_adds_to_the_others_and_is_named_when_nothing_is_left() -> None:
    database = made_up_database(
        ("a", {"alignment": 0.9, "n_images": 16, "base_model": "SDXL"}),
        ("b", {"alignment": 0.99, "n_images": 200, "base_model": "SD 1.5"}),
    )
    matches = find(database, X, top_k=3, min_alignment=0.95, base_model="SDXL", **LIMITS)
    assert len(matches) == 0
    assert "The only LoRA that is left does not have strength <= 9.8, consistency >= 0.041, alignment >= 0.95" in matches.reason
    installed = find(database, X, top_k=3, min_alignment=0.95, installed={"b": "b"}, installed_only=True, **LIMITS)
    assert ids(installed.items) == ["b"]


def test_levels_and_downloads_keep_rows_of_which_nothing_is_known() -> None:
    database = made_up_database(
        ("for all ages", {"nsfw_level": 1, "download_count": 10}),
        # The sum of the levels of its pictures: 1 + 4, so that some are R.
        ("some r", {"nsfw_level": 5, "download_count": 999}),
        ("some xxx", {"nsfw_level": 31, "download_count": 1000}),
        ("blocked", {"nsfw_level": 63, "download_count": 0}),
        ("silent", {}),
    )

    def found(**choice: Any) -> set[str]:
        return set(ids(find(database, X, top_k=10, **LIMITS, **choice).items))

    everything = {"for all ages", "some r", "some xxx", "blocked", "silent"}
    assert found() == found(max_nsfw_level=32, min_downloads=0) == everything
    assert found(max_nsfw_level=16) == everything - {"blocked"}
    assert found(max_nsfw_level=4) == {"for all ages", "some r", "silent"}
    assert found(max_nsfw_level=1) == {"for all ages", "silent"}
    assert found(min_downloads=1000) == {"some xxx", "silent"}
    assert found(max_nsfw_level=8, min_downloads=11) == {"some r", "silent"}


def test_what_each_limit_leaves_is_counted_one_by_one() -> None:
    database = made_up_database(
        ("a", {"base_model": "SD 3"}),
        ("b", {"base_model": "SD 3"}),
        ("c", {"base_model": "Pony"}),
        ("d", {"base_model": "SDXL"}),
        ("e", {"base_model": "SDXL", "strength": 11.0}),
        ("f", {"base_model": None, "consistency": 0.01}),
    )
    here = {name: f"{name}.safetensors" for name in "abcef"}

    def counted(**choice: Any) -> list[tuple[str, int]]:
        return [(each.name, each.left) for each in SearchLimits(**choice).filters(database, here)]

    assert counted(**ANY) == []
    assert told(SearchLimits(**ANY).filters(database, here), len(database)) == ""
    assert counted() == [("max_strength", 5), ("min_consistency", 4)]
    limits = SearchLimits(base_model="SDXL", installed_only=True)
    assert told(limits.filters(database, here), len(database)) == (
        "Of 6 LoRAs in the database 5 are installed; of these 2 are for SDXL or do not say for what "
        "(left out: 2 for SD 3, 1 for Pony); of these 1 has strength <= 9.8; of these 0 have consistency >= 0.041."
    )
    assert limits.filters(database, here)[-1].left == int(limits.mask(database, here).sum()) == 0
    nothing = find(database, X, installed=here, base_model="SDXL", installed_only=True)
    assert told(limits.filters(database, here), len(database)) in nothing.reason
    nothing = find(database, X, installed={"a": "a"}, base_model="SDXL", installed_only=True)
    assert "1 is installed; of these 0 are for SDXL or do not say for what (left out: 1 for SD 3)." in nothing.reason
    fitting = SearchLimits(model="SD3", unfit={"c", "d", "e"}, base_model=frozenset({"SD 3"}), **ANY)
    left = "3 have layers that fit this SD3 model (left out: 2 for SDXL, 1 for Pony)"
    assert told(fitting.filters(database, here), len(database)) == f"Of 6 LoRAs in the database {left}."
    assert fitting.mask(database, here).tolist() == [True, True, False, False, False, True]
    assert SearchLimits().filters(database, here, by_effect=False) == []
    # What another base model would leave, the commonest first: e is too strong in any case, d is not here.
    assert limits.other_families(database, here) == ["SD 3", "Pony"]


def test_of_many_families_left_out_the_rest_is_counted() -> None:
    families = {"SD 3": 3, "Flux.1 D": 2, "Pony": 2, "SD 1.5": 1, "SD 2.1": 1, "SDXL": 2}
    database = made_up_database(
        *((f"{name} {n}", {"base_model": name}) for name, count in families.items() for n in range(count))
    )
    (only,) = SearchLimits(base_model="SDXL", **ANY).filters(database, {})
    assert only.said.startswith("2 are for SDXL or do not say for what (left out: 3 for SD 3, 2 for ")
    assert only.said.endswith(", 2 others)")
    (unfit,) = SearchLimits(unfit={"SDXL 0"}, model="SD3", **ANY).filters(made_up_database(("SDXL 0", {}), ("a", {})), {})
    assert unfit.said == "1 has layers that fit this SD3 model (left out: 1 does not say)"


def test_one_lora_is_spoken_of_as_one() -> None:
    database = made_up_database(("a", {"strength": 11.0, "nsfw_level": 32, "download_count": 3}))
    assert told(SearchLimits().filters(database, {}), 1) == "Of 1 LoRA in the database 0 have strength <= 9.8."
    reason = find(database, X, installed_only=True).reason
    assert reason.startswith(
        "The only LoRA in the database is not installed, of the chosen base model and within the other filters."
    )
    two = made_up_database(("a", {"base_model": "SDXL"}), ("b", {"base_model": "Pony"}))
    assert SearchLimits(base_model="SDXL").filters(two, {})[0].said.startswith("1 is for SDXL or does not say for what (")
    limits = SearchLimits(base_model=frozenset({"SDXL"}), model="SDXL")
    assert limits.filters(two, {})[0].said.startswith("1 is for this SDXL model, by its layers or label (left out: 1 for Pony")


def test_what_is_left_beside_excluded_rows_is_said_in_the_words_of_the_caller() -> None:
    database = made_up_database(("a", {}), ("b", {}), ("c", {}))
    limits = SearchLimits(exclude={"a"}, others_are=("is another LoRA", "are other LoRAs"))
    assert told(limits.filters(database, {}), 3) == "Of 3 LoRAs in the database 2 are other LoRAs."
    assert limits.without(()) is limits
    fewer = limits.without({"b"})
    assert set(fewer.exclude) == {"a", "b"}
    assert told(fewer.filters(database, {}), 3) == "Of 3 LoRAs in the database 1 may be taken."


def test_no_row_is_asked_one_by_one_for_limits_that_are_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    database = made_up_database(("a", {}), ("b", {"strength": 11.0}))
    read = []
    column = MetricsDatabase.column

    def listening(self: MetricsDatabase, name: str) -> list[Any]:
        read.append(name)
        return column(self, name)

    monkeypatch.setattr(MetricsDatabase, "column", listening)
    limits = SearchLimits()
    assert limits.mask(database, {}).tolist() == [True, False]
    assert [each.left for each in limits.filters(database, {})] == [1]
    assert not {"alignment", "n_images"} & set(read)


def test_excluded_rows_are_not_found() -> None:
    database = made_up_database(("a", {}), ("b", {}), ("c", {}))
    assert ids(find(database, X, top_k=10, exclude={"b"}, **LIMITS).items) == ["a", "c"]
    assert "other filters" in find(database, X, top_k=10, exclude={"a", "b", "c"}, **LIMITS).reason


def test_matches_carry_what_was_looked_for() -> None:
    matches = find(made_up_database(("a", {})), X, top_k=1, **LIMITS)
    assert matches.signature is X


def test_half_an_emoji_in_a_query_says_nothing(
    database: MetricsDatabase, encoder: OpenClipEncoder, signature_prompts: PromptSet
) -> None:
    asked = [
        retrieved(database, query, encoder, signature_prompts, SignatureCache())
        for query in ("snow falling", "snow falling \ud83d")
    ]
    assert [match.score for match in asked[0]] == [match.score for match in asked[1]]
    with pytest.raises(RetrievalError, match="The query is empty"):
        retrieve(database, "\ud83d", encoder=encoder, prompts=signature_prompts)


def test_a_choice_without_a_lora_is_the_next_best(
    database: MetricsDatabase, encoder: OpenClipEncoder, signature_prompts: PromptSet, cache: SignatureCache
) -> None:
    searcher = Searcher(database, encoder=encoder, prompts=signature_prompts, signatures=cache)
    rules = ChoiceRules("top k equal", max_loras=2, min_confidence="any")
    first = searcher.choose("sepia toned", rules=rules, ranking="published")
    best = [pick.match.lora_id for pick in first.picks]
    second = first.without(best[:1])
    third = second.without(best)
    assert [len(selection.picks) for selection in (first, second, third)] == [2, 2, 2]
    assert best[0] not in [pick.match.lora_id for pick in second.picks]
    assert not set(best) & {pick.match.lora_id for pick in third.picks}
    # The search itself is as wide as before.
    again = searcher.choose("sepia toned", rules=rules, ranking="published")
    assert [pick.match.lora_id for pick in again.picks] == best


def test_the_public_choice_is_that_of_the_node(
    database: MetricsDatabase, encoder: OpenClipEncoder, few_prompts: PromptSet
) -> None:
    arguments: dict[str, Any] = {"encoder": encoder, "prompts": few_prompts, "max_strength": 8.0}
    rules = ChoiceRules("composed", min_confidence="likely")
    chosen = carlos.choose(database, "snow falling, pencil sketch", rules=rules, **arguments)
    assert [pick.match.record.extra["label"] for pick in chosen.picks] == ["heavy snowfall", "pencil sketch"]
    assert all(pick.match.vector.strength <= 8.0 for pick in chosen.picks)
    assert carlos.choose(database, "elephants", rules=rules, **arguments).picks == ()
    with pytest.raises(RetrievalError, match="all that was looked for"):
        carlos.choose(database, "snow falling", negative="snow falling", rules=rules, **arguments)


def test_weights_leave_the_prompt_visible_unless_effect_comes_first(
    database: MetricsDatabase, encoder: OpenClipEncoder, signature_prompts: PromptSet, cache: SignatureCache
) -> None:
    searcher = Searcher(database, encoder=encoder, prompts=signature_prompts, signatures=cache)

    def weights(query: str, **rules: Any) -> list[float]:
        return [pick.weight for pick in searcher.choose(query, rules=ChoiceRules("composed", **rules)).picks]

    both = "snow falling, pencil sketch"
    full, default, more = weights(both, keep_content=0.0), weights(both), weights(both, keep_content=1.0)
    assert sum(full) == pytest.approx(2.0, abs=2e-3)
    assert 1.2 < sum(default) < 1.7
    assert sum(more) == pytest.approx(sum(default) / 2, abs=2e-3)
    assert default[0] / default[1] == pytest.approx(full[0] / full[1], rel=5e-3)
    assert weights(both, strength_budget=0.8) == weights(both, strength_budget=0.8, keep_content=0.0)
    # Emphasis is what somebody asks for: it is not taken back.
    assert weights("(pencil sketch:1.4)") == weights("(pencil sketch:1.4)", keep_content=0.0) == [1.4]
    # Nor is what is played down taken from twice.
    small = "(snow falling:0.5), (pencil sketch:0.5)"
    assert weights(small) == weights(small, keep_content=0.0)
    # More of one effect is no more of the other.
    assert sum(weights("(snow falling:1.5), (pencil sketch:1.5)")) > 1.2 * sum(default)
    for query, may_break in ((both, False), ("(burning flames:1.5)", True), ("(burning flames:1.5), (snow falling:1.5)", True)):
        taken = searcher.choose(query, rules=ChoiceRules("composed", strength_budget=3.0)).keeping
        assert taken is not None
        assert taken.may_break == may_break, (query, taken)
    notes = searcher.choose(both, rules=ChoiceRules("composed")).notes
    assert any("so that the prompt stays visible" in note for note in notes)
    with pytest.raises(RetrievalError, match=r"keep_content is 1\.5"):
        weights(both, keep_content=1.5)


def test_where_no_row_may_be_found_that_is_told_without_the_encoder() -> None:
    database = made_up_database(("1", {}), ("2", {}))
    searcher = Searcher(database, encoder=LazyEncoder("some encoder", 4, load_nothing))
    here = SearchLimits(installed_only=True, **ANY)
    nothing = searcher.nothing(" snow ", here)
    assert nothing is not None
    assert (nothing.query, nothing.items) == ("snow", ())
    assert nothing.reason == here.why_nothing(database, {})
    selection = searcher.choose("snow and rain, no fog", limits=here)
    assert (selection.picks, selection.reason) == ((), nothing.reason)
    assert searcher.nothing("snow", SearchLimits(**ANY)) is None
    with pytest.raises(RetrievalError, match="The query is empty"):
        searcher.nothing("  ", here)
    with pytest.raises(RetrievalError, match="not a way to choose"):
        searcher.choose("snow", limits=here, rules=ChoiceRules(mode="worst"))
