"""The ranking against the published formula, walked row by row in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from carlos_core.database.published import load_bundled_database
from carlos_core.errors import RetrievalError
from carlos_core.search.limits import PUBLISHED_LIMITS, SearchLimits
from carlos_core.search.ranking import rank

ANY: dict[str, Any] = {"max_strength": math.inf, "min_consistency": -1.0}


def naive_ranking(
    directions: np.ndarray, signature: np.ndarray, strength: np.ndarray, consistency: np.ndarray
) -> list[tuple[int, float]]:
    """(row, score) of all rows within the published limits, best first, equal scores by row."""
    query = signature.astype(np.float64)
    found = []
    for row in range(len(directions)):
        if strength[row] > 9.8 or not consistency[row] >= 0.041:
            continue
        direction = directions[row].astype(np.float64)
        found.append((row, float(direction @ query / math.sqrt(direction @ direction) / math.sqrt(query @ query))))
    return sorted(found, key=lambda item: (-item[1], item[0]))


def ranked(
    directions: np.ndarray | list[list[float]], signature: np.ndarray | list[float], top_k: int = 100, **limits: Any
) -> list[int]:
    """Rows found, best first; all rows are within the limits unless `limits` say otherwise."""
    rows = torch.as_tensor(np.asarray(directions, dtype=np.float32))
    strength = limits.pop("strength", torch.full((len(rows),), 5.0))
    consistency = limits.pop("consistency", torch.full((len(rows),), 0.2))
    allowed = limits.pop("keep", torch.ones(len(rows), dtype=torch.bool))
    allowed = allowed & SearchLimits(**limits).within(strength, consistency)
    indices, _ = rank(rows, torch.as_tensor(np.asarray(signature, dtype=np.float32)), top_k, allowed=allowed)
    return indices.tolist()


def published_signatures(directions: np.ndarray) -> list[np.ndarray]:
    """Random ones, rows themselves (each near others of its kind), and rows with noise."""
    rng = np.random.default_rng(11)
    noise = [rng.normal(size=512).astype(np.float32) for _ in range(25)]
    rows = [directions[row] for row in rng.choice(len(directions), 25, replace=False)]
    mixed = [directions[row] + rng.normal(size=512).astype(np.float32) * 0.1 for row in rng.choice(len(directions), 25)]
    return [*noise, *rows, *mixed]


def test_ranking_the_published_rows_gives_the_order_and_scores_of_the_formula() -> None:
    arrays = load_bundled_database().ranking_arrays
    directions, strength, consistency = (tensor.numpy() for tensor in (arrays.directions, arrays.strength, arrays.consistency))
    for signature in published_signatures(directions):
        allowed = PUBLISHED_LIMITS.within(arrays.strength, arrays.consistency)
        indices, scores = rank(arrays.directions, torch.from_numpy(signature), 740, norms=arrays.norms, allowed=allowed)
        expected = naive_ranking(directions, signature, strength, consistency)
        assert indices.tolist() == [row for row, _ in expected]
        np.testing.assert_allclose(scores.numpy(), [score for _, score in expected], atol=1e-5)


def test_a_short_list_is_the_beginning_of_the_long_one() -> None:
    arrays = load_bundled_database().ranking_arrays
    allowed = PUBLISHED_LIMITS.within(arrays.strength, arrays.consistency)
    for signature in published_signatures(arrays.directions.numpy())[::10]:
        long, _ = rank(arrays.directions, torch.from_numpy(signature), 740, allowed=allowed)
        for top_k in (1, 2, 5, 50):
            short, _ = rank(arrays.directions, torch.from_numpy(signature), top_k, allowed=allowed)
            assert short.tolist() == long[:top_k].tolist()


def test_rows_that_differ_less_than_float32_can_tell_are_in_the_order_of_the_formula() -> None:
    rng = np.random.default_rng(12)
    signature = rng.normal(size=512).astype(np.float32)
    directions = signature + 1e-4 * rng.normal(size=(200, 512)).astype(np.float32)
    expected = naive_ranking(directions, signature, np.full(200, 5.0), np.full(200, 0.2))
    assert ranked(directions, signature, top_k=7) == [row for row, _ in expected[:7]]


def test_the_length_of_signature_and_directions_does_not_matter() -> None:
    rng = np.random.default_rng(13)
    directions, signature = rng.normal(size=(50, 16)), rng.normal(size=16)
    order = ranked(directions, signature)
    assert ranked(directions * rng.uniform(0.01, 100, size=(50, 1)), 1000 * signature) == order


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_exactly_at_the_limits_stay_and_rows_just_outside_go(dtype: torch.dtype) -> None:
    just_above = torch.nextafter(torch.tensor(9.8, dtype=dtype), torch.tensor(20.0, dtype=dtype)).item()
    just_below = torch.nextafter(torch.tensor(0.041, dtype=dtype), torch.tensor(0.0, dtype=dtype)).item()
    strength = torch.tensor([9.8, just_above, 5.0, 5.0, 0.0], dtype=dtype)
    consistency = torch.tensor([0.2, 0.2, 0.041, just_below, 0.2], dtype=dtype)
    assert ranked([[1.0, 0.0]] * 5, [1, 0], strength=strength, consistency=consistency) == [0, 2, 4]


def test_limits_can_be_moved() -> None:
    limits: dict[str, Any] = {"strength": torch.tensor([1.0, 2.0, 12.0]), "consistency": torch.tensor([0.5, -0.2, 0.01])}
    rows = [[1.0, 0.0]] * 3
    assert ranked(rows, [1, 0], **limits) == [0]
    assert ranked(rows, [1, 0], **limits, max_strength=1.5, min_consistency=-1) == [0]
    assert ranked(rows, [1, 0], **limits, max_strength=2.0, min_consistency=-0.2) == [0, 1]
    assert ranked(rows, [1, 0], **limits, **ANY) == [0, 1, 2]


def test_an_undefined_consistency_is_below_every_limit_but_the_lowest() -> None:
    limits: dict[str, Any] = {"strength": torch.tensor([5.0, 5.0]), "consistency": torch.tensor([torch.nan, -0.9])}
    rows = [[1.0, 0.0]] * 2
    assert ranked(rows, [1, 0], **limits, min_consistency=-0.95) == [1]
    assert ranked(rows, [1, 0], **limits, min_consistency=-1.0) == [0, 1]


def test_a_row_without_direction_never_appears() -> None:
    rows = [[0.0, 0.0], [-1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]
    assert [ranked(rows, [1, 0], top_k, **ANY) for top_k in (1, 2, 3)] == [[3], [3, 1], [3, 1]]
    assert ranked([[0.0, 0.0]], [1, 0], **ANY) == []


def test_rows_with_the_same_direction_tie_by_index_also_where_the_list_ends() -> None:
    rng = np.random.default_rng(14)
    same, signature = rng.normal(size=512), rng.normal(size=512)
    signature += same
    directions = rng.normal(size=(40, 512))
    twins = [3, 8, 9, 21, 38]
    directions[twins] = same * np.array([1, 2, 0.5, 1, 4])[:, None]
    for top_k in range(1, 6):
        assert ranked(directions, signature, top_k) == twins[:top_k]


def test_only_kept_rows_appear() -> None:
    rng = np.random.default_rng(15)
    directions, signature = rng.normal(size=(30, 8)), rng.normal(size=8)
    keep = rng.random(30) < 0.4
    expected = [row for row in ranked(directions, signature) if keep[row]]
    assert ranked(directions, signature, keep=torch.from_numpy(keep)) == expected
    assert ranked(directions, signature, keep=torch.zeros(30, dtype=torch.bool)) == []


def test_asking_for_more_than_there_is_gives_all_there_is() -> None:
    indices, scores = rank(torch.eye(3), torch.tensor([3.0, 2.0, 1.0]), 1000)
    assert indices.tolist() == [0, 1, 2]
    np.testing.assert_allclose(scores.numpy(), np.array([3, 2, 1]) / math.sqrt(14), atol=1e-6)


def test_no_rows_give_no_matches() -> None:
    assert ranked(np.zeros((0, 4)), [1, 0, 0, 0]) == []


def test_scores_are_cosines_and_reach_both_ends() -> None:
    _, scores = rank(torch.tensor([[2.0, 0.0], [-3.0, 0.0]]), torch.tensor([7.0, 0.0]), 2)
    assert scores.tolist() == [1.0, -1.0]


@pytest.mark.parametrize("top_k", [0, -1])
def test_asking_for_less_than_one_is_an_error(top_k: int) -> None:
    with pytest.raises(RetrievalError, match=f"top_k is {top_k}"):
        ranked([[1.0, 0.0]], [1, 0], top_k)


@pytest.mark.parametrize("signature", [[0.0, 0.0], [math.nan, 1.0], [math.inf, 1.0]])
def test_a_signature_without_direction_is_an_error(signature: list[float]) -> None:
    with pytest.raises(RetrievalError, match="query changes nothing"):
        ranked([[1.0, 0.0]], signature)


@pytest.mark.parametrize("signature", [[1.0, 0.0, 0.0], [1.0], [[1.0, 0.0]]])
def test_a_signature_of_another_shape_is_an_error_that_says_so(signature: list[float]) -> None:
    with pytest.raises(RetrievalError, match="does not fit"):
        ranked([[1.0, 0.0]], signature)
