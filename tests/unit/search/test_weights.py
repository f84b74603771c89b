"""Which LoRAs go together and how much of each, against walks over all pairs and the mini-world's compound queries."""

from __future__ import annotations

import json
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from carlos_core.clip.encoder import OpenClipEncoder
from carlos_core.clip.signatures import SignatureCache
from carlos_core.database.database import MetricsDatabase
from carlos_core.errors import RetrievalError
from carlos_core.prompts.prompt_set import PromptSet
from carlos_core.search.weights import Candidates, Composition, WeightLimits, compose, scaled, unlike, weighed
from tests.support import miniworld
from tests.support.searches import signature_of


def composed(
    directions: list[list[float]] | np.ndarray, signature: list[float] | np.ndarray, max_loras: int = 2, **choice: Any
) -> Composition:
    """Rows a, b, c, ... of strength 5 unless the choice says otherwise."""
    return compose(candidates(directions, **choice), np.asarray(signature, dtype=np.float64), limits_of(choice), max_loras)


def candidates(directions: list[list[float]] | np.ndarray, **choice: Any) -> Candidates:
    rows = np.asarray(directions, dtype=np.float64)
    n = len(rows)
    return Candidates(
        choice.get("ids", [chr(97 + place) for place in range(n)]),
        rows,
        choice.get("strength", np.full(n, 5.0)),
        choice.get("base_weights", np.ones(n)),
    )


def limits_of(choice: dict[str, Any]) -> WeightLimits:
    return WeightLimits(**{name: choice[name] for name in ("strength_budget", "max_strength") if name in choice})


def weights(composition: Composition) -> dict[int, Any]:
    return {each.index: pytest.approx(each.weight) for each in composition.chosen}


def best_pair(directions: np.ndarray, signature: np.ndarray) -> tuple[set[int], float]:
    """The pair, unlike each other, with the highest cosine of its best mixture, no share below a quarter; all pairs tried."""
    found = (set[int](), -1.0)
    for a, b in combinations(range(len(directions)), 2):
        pair = directions[[a, b]]
        if pair[0] @ pair[1] > 0.9 * np.linalg.norm(pair[0]) * np.linalg.norm(pair[1]):
            continue
        mixture = np.linalg.solve(pair @ pair.T, pair @ signature)
        if (mixture <= 0).any():
            continue
        share = np.clip(mixture[0] / mixture.sum(), 0.25, 0.75)
        joint = np.array([share, 1 - share]) @ pair
        cosine = float(joint @ signature / np.linalg.norm(joint) / np.linalg.norm(signature))
        if cosine > found[1]:
            found = ({a, b}, cosine)
    return found


def test_two_effects_get_the_weights_that_meet_the_signature() -> None:
    # 1 * (1, 0) + 1/2 * (0, 2) = (1, 1); in proportion, the budget of 2 is 4/3 + 2/3.
    found = composed([[1, 0], [0, 2]], [1, 1])
    assert weights(found) == {0: 4 / 3, 1: 2 / 3}
    assert found.cosine == pytest.approx(1)


def test_a_query_for_one_effect_gets_one_lora_at_its_own_weight() -> None:
    found = composed([[1, 0, 0], [0, 1, 0], [0, 0, 1]], [1, 0.2, 0.1])
    assert weights(found) == {0: 1.0}
    assert found.cosine == pytest.approx(1 / np.sqrt(1.05))


@pytest.mark.parametrize(("second", "n"), [(0.30, 1), (0.33, 2)])
def test_a_further_lora_comes_in_when_its_effect_is_about_a_third_of_the_first(second: float, n: int) -> None:
    assert len(composed([[1, 0], [0, 1]], [1, second]).chosen) == n


def test_the_best_pair_is_found_also_where_the_best_single_is_not_in_it() -> None:
    found = composed([[1, 1, 0.9], [1, 0, 0], [0, 1, 0]], [1, 1, 0])
    assert composed([[1, 1, 0.9], [1, 0, 0], [0, 1, 0]], [1, 1, 0], max_loras=1).chosen[0].index == 0
    assert weights(found) == {1: 1.0, 2: 1.0}


def test_random_pairs_are_those_of_a_walk_over_all_pairs() -> None:
    rng = np.random.default_rng(3)
    for _ in range(30):
        directions, signature = rng.normal(size=(20, 12)), rng.normal(size=12)
        pair, cosine = best_pair(directions, signature)
        found = composed(directions, signature, max_strength=np.inf)
        if len(found.chosen) == 1:
            assert cosine < 1.05 * found.cosine
            continue
        assert {each.index for each in found.chosen} == pair
        assert found.cosine == pytest.approx(cosine)


def test_three_and_more_effects() -> None:
    rows = np.eye(5)
    assert weights(composed(rows, [1, 1, 1, 0, 0], max_loras=3)) == dict.fromkeys(range(3), 2 / 3)
    assert weights(composed(rows, [1, 1, 1, 1, 1], max_loras=5)) == dict.fromkeys(range(5), 0.4)
    assert len(composed(rows, [1, 1, 1, 1, 1], max_loras=4).chosen) == 4


def test_two_that_do_the_same_never_go_together() -> None:
    four = np.array([[1, 0, 0], [1, 0.02, 0], [0.6, 0.8, 0], [0, 0, 1]])
    units = four / np.linalg.norm(four, axis=1, keepdims=True)
    assert unlike(range(4), units, 3) == [0, 2, 3]
    rows = [[1, 0.3, 0], [1, -0.3, 0]]
    alike = composed([*rows[:1], [1, -0.1, 0]], [1, 0.05, 0])
    assert len(alike.chosen) == 1


def test_base_weights_are_what_a_lora_gets_alone_and_what_bounds_the_sum() -> None:
    rows, base = np.eye(2), np.array([0.6, 0.4])
    assert weights(composed(rows, [2, 1], max_loras=1, base_weights=base)) == {0: 0.6}
    assert weights(composed(rows, [1, 1], base_weights=base)) == {0: 0.5, 1: 0.5}
    # 0.9 of (2 : 1) would be 0.6 + 0.3, and 1.5 x 0.6 is more than that.
    assert weights(composed(rows, [2, 1], base_weights=base, strength_budget=0.9)) == {0: 0.6, 1: 0.3}


def test_no_weight_goes_beyond_what_the_strength_allows() -> None:
    strength = np.array([8.0, 5.0])
    # 9.8 / 8 = 1.225 where 4/3 was wanted; the other gets the rest of the budget.
    assert weights(composed([[1, 0], [0, 2]], [1, 1], strength=strength)) == {0: 1.225, 1: 0.775}
    assert weights(composed([[1, 0]], [1, 0], strength=np.array([19.6]), max_loras=1)) == {0: 0.5}
    assert weights(composed([[0.1, 0], [0, 1]], [1, 1])) == {0: 1.5, 1: 0.5}


def test_what_is_cut_off_goes_to_the_others_in_their_proportion() -> None:
    np.testing.assert_allclose(scaled(np.array([8.0, 2.0, 1.0]), 3.0, np.array([1.5, 2.0, 2.0])), [1.5, 1.0, 0.5])
    np.testing.assert_allclose(scaled(np.array([8.0, 2.0, 1.0]), 3.0, np.array([1.5, 0.9, 2.0])), [1.5, 0.9, 0.6])
    np.testing.assert_allclose(scaled(np.array([1.0, 1.0]), 3.0, np.array([0.5, 0.7])), [0.5, 0.7])


@pytest.mark.parametrize(
    ("directions", "signature", "facts", "expected"),
    [
        # As in a composition: 1 * (1, 0) + 1/2 * (0, 2) = (1, 1).
        ([[1, 0], [0, 2]], [1, 1], {}, [4 / 3, 2 / 3]),
        # The length of the signature says nothing.
        ([[1, 0], [0, 2]], [300, 300], {}, [4 / 3, 2 / 3]),
        ([[1, 0], [0, 2]], [1, 1], {"strength_budget": 0.9}, [0.6, 0.3]),
        ([[1, 0], [0, 2]], [1, 1], {"strength": np.array([8.0, 5.0])}, [1.225, 0.775]),
        ([[1, 0], [0, 2]], [1, 1], {"is_equal": True}, [1.0, 1.0]),
        ([[1, 0], [0, 2]], [1, 1], {"is_equal": True, "base_weights": np.array([0.8, 0.4]), "strength_budget": 0.6}, [0.4, 0.2]),
        # Shares of 0.4 : 0 become 0.4 : 0.1 (half of an equal share), 0.8 and 0.2 of the budget of 1.
        ([[1, 0], [0, 1]], [0.4, 0], {"strength_budget": 1.0}, [0.8, 0.2]),
        ([[1, 0], [0, 1]], [0.4, -0.9], {"strength_budget": 1.0}, [0.8, 0.2]),
        # 1.6 of 2 would be more than 1.5 times what the first has alone.
        ([[1, 0], [0, 1]], [0.4, 0], {}, [1.5, 0.5]),
        ([[1, 0], [0, 1]], [-1, -1], {"base_weights": np.array([0.5, 1.0])}, [0.5, 1.0]),
        ([[1, 0]], [0.2, 1], {"base_weights": np.array([0.7])}, [0.7]),
    ],
)
def test_loras_that_are_all_to_be_applied_get_their_share_each(
    directions: list[list[float]], signature: list[float], facts: dict[str, Any], expected: list[float]
) -> None:
    rows = np.array(directions, dtype=np.float64)
    is_equal = facts.get("is_equal", False)
    found = weighed(candidates(rows, **facts), np.array(signature, dtype=np.float64), limits_of(facts), is_equal=is_equal)
    np.testing.assert_allclose(found, expected)


def test_nothing_is_chosen_where_nothing_points_that_way() -> None:
    for max_loras in (1, 2):
        assert composed([[-1, 0], [0, 1], [0, 0]], [1, 0], max_loras) == Composition((), 0.0)
        assert composed(np.zeros((0, 2)), [1, 0], max_loras) == Composition((), 0.0)


def test_the_order_of_rows_changes_nothing_and_equal_rows_go_by_id() -> None:
    rng = np.random.default_rng(5)
    directions, signature = rng.normal(size=(15, 6)), rng.normal(size=6)
    ids = [f"id{place:02d}" for place in range(15)]
    places = rng.permutation(15)
    for max_loras in (1, 2, 3):
        one = composed(directions, signature, max_loras, ids=ids)
        shuffled = [ids[place] for place in places]
        other = composed(directions[places], signature, max_loras, ids=shuffled)
        assert [ids[each.index] for each in one.chosen] == [shuffled[each.index] for each in other.chosen]
        np.testing.assert_allclose([each.weight for each in one.chosen], [each.weight for each in other.chosen])
    same = composed(np.ones((3, 2)), np.ones(2), ids=["c", "a", "b"])
    assert [each.index for each in same.chosen] == [1]


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        ({"max_loras": 0}, "max_loras is 0"),
        ({"strength_budget": 0.0}, "strength budget is 0"),
        ({"strength_budget": np.nan}, "strength budget is nan"),
        ({"ids": ["a"]}, "does not fit"),
    ],
)
def test_what_makes_no_sense_is_refused(choice: dict[str, Any], says: str) -> None:
    with pytest.raises(RetrievalError, match=says):
        composed(np.eye(2), [1, 0], **choice)
    with pytest.raises(RetrievalError, match="changes nothing"):
        composed(np.eye(2), [0, 0])


def test_the_mini_world_single_effects_get_one_lora_and_compound_ones_the_best_pair(
    database: MetricsDatabase, encoder: OpenClipEncoder, signature_prompts: PromptSet
) -> None:
    asked = json.loads((miniworld.MINIWORLD / "queries.json").read_text())
    frame = database.to_dataframe()
    frame = frame[(frame.strength > 0) & (frame.strength <= 9.8) & (frame.consistency >= 0.041)]
    directions, names = np.stack(list(frame.direction)).astype(np.float64), list(frame.file_name)
    facts: dict[str, Any] = {"ids": names, "strength": frame.strength.to_numpy()}
    cache = SignatureCache()

    def signature(query: str) -> np.ndarray:
        return signature_of(database, query, encoder, signature_prompts, cache).double().numpy()

    def effects(files: list[str]) -> set[str]:
        return {miniworld.labels()[file]["label"] for file in files}

    for entry in asked["single"]:
        found = composed(directions, signature(entry["query"]), **facts)
        assert len(found.chosen) == 1, entry
        assert effects([names[found.chosen[0].index]]) == effects(entry["files"])
    right = 0
    for entry in asked["compound"]:
        found = composed(directions, signature(entry["query"]), **facts)
        pair, cosine = best_pair(directions, signature(entry["query"]))
        # Of two copies of a LoRA either may be in the pair.
        assert effects([names[each.index] for each in found.chosen]) == effects([names[index] for index in pair])
        assert found.cosine == pytest.approx(cosine, abs=1e-3)
        assert sum(each.weight for each in found.chosen) == pytest.approx(2.0)
        right += effects([names[index] for index in pair]) == effects(entry["files"])
    assert right >= 26
