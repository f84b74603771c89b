"""Metrics against their definitions, written out as plainly as they can be."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from carlos_core.errors import MetricsError
from carlos_core.measuring.metrics import DiffAccumulator, LoraMetrics, consistency

RNG = np.random.default_rng(20250101)


def naive_consistency(diffs: np.ndarray) -> float:
    """Mean cosine over all unordered pairs, pair by pair."""
    cosines = [a @ b / np.sqrt(a @ a) / np.sqrt(b @ b) for a, b in itertools.combinations(diffs, 2)]
    return float(np.mean(cosines))


def measured(diffs: np.ndarray, prompts: list[str] | None = None) -> LoraMetrics:
    accumulator = DiffAccumulator(diffs.shape[1])
    accumulator.update(diffs, prompts or [f"prompt {k}" for k in range(len(diffs))])
    return accumulator.metrics()


def some_diffs(n: int, dimension: int = 24, common: float = 0.7) -> np.ndarray:
    """[n, dimension]: a common vector and noise, of various lengths."""
    signal = RNG.normal(size=dimension) * common
    return (signal + RNG.normal(size=(n, dimension))) * RNG.uniform(0.2, 3.0, size=(n, 1))


@pytest.mark.parametrize("n", [2, 3, 60])
def test_metrics_are_the_ones_of_the_naive_definitions(n: int) -> None:
    diffs = some_diffs(n)
    metrics = measured(diffs)
    np.testing.assert_allclose(metrics.direction, sum(diffs) / n, atol=1e-12)
    assert metrics.strength == pytest.approx(np.mean([np.sqrt(np.sum(diff * diff)) for diff in diffs]), abs=1e-12)
    assert metrics.consistency == pytest.approx(naive_consistency(diffs), abs=1e-12)
    assert (metrics.n_images, metrics.n_prompts) == (n, n)


def test_consistency_is_right_at_the_published_size() -> None:
    diffs = some_diffs(600, dimension=512, common=0.3)
    unit = diffs / np.linalg.norm(diffs, axis=1, keepdims=True)
    cosines = (unit @ unit.T)[np.triu_indices(600, k=1)]
    assert measured(diffs).consistency == pytest.approx(cosines.mean(), abs=1e-10)


def test_metrics_depend_neither_on_the_order_of_updates_nor_on_their_size() -> None:
    diffs, prompts = some_diffs(30), [f"prompt {k % 7}" for k in range(30)]
    whole = measured(diffs, prompts)
    pieces = DiffAccumulator(diffs.shape[1])
    order = RNG.permutation(30)
    for start, end in ((0, 1), (1, 4), (4, 4), (4, 20), (20, 30)):
        part = order[start:end]
        pieces.update(diffs[part], [prompts[k] for k in part])
    assert_same(pieces.metrics(), whole)


def test_two_merged_halves_equal_the_whole() -> None:
    diffs, prompts = some_diffs(31), [f"prompt {k % 9}" for k in range(31)]
    first, second = DiffAccumulator(diffs.shape[1]), DiffAccumulator(diffs.shape[1])
    first.update(diffs[:13], prompts[:13])
    second.update(diffs[13:], prompts[13:])
    first.merge(second)
    assert_same(first.metrics(), measured(diffs, prompts))


def test_merging_leaves_the_other_half_as_it_was() -> None:
    diffs, prompts = some_diffs(8), [f"prompt {k % 3}" for k in range(8)]
    first, second = DiffAccumulator(diffs.shape[1]), DiffAccumulator(diffs.shape[1])
    second.update(diffs, prompts)
    first.merge(second)
    first.update(diffs, prompts)
    assert_same(second.metrics(), measured(diffs, prompts))


def test_halves_of_different_encoders_do_not_merge() -> None:
    with pytest.raises(MetricsError, match="4 and 3 dimensions"):
        DiffAccumulator(3).merge(DiffAccumulator(4))


def test_a_zero_difference_counts_for_strength_and_direction_but_not_for_consistency() -> None:
    moved = some_diffs(9)
    diffs = np.concatenate([moved[:4], np.zeros((3, 24)), moved[4:]])
    metrics = measured(diffs)
    np.testing.assert_allclose(metrics.direction, moved.sum(0) / 12, atol=1e-12)
    assert metrics.strength == pytest.approx(np.linalg.norm(moved, axis=1).sum() / 12, abs=1e-12)
    assert metrics.consistency == pytest.approx(naive_consistency(moved), abs=1e-12)
    assert metrics.n_images == 12


def test_a_lora_without_effect_has_strength_zero_and_no_consistency() -> None:
    metrics = measured(np.zeros((5, 8)))
    assert (metrics.strength, metrics.consistency, metrics.alignment) == (0.0, None, None)
    assert metrics.consistency_se is None
    assert not metrics.direction.any()


def test_one_difference_has_nothing_to_agree_with() -> None:
    diff = some_diffs(1)
    metrics = measured(diff)
    np.testing.assert_allclose(metrics.direction, diff[0], atol=1e-15)
    assert metrics.strength == pytest.approx(np.linalg.norm(diff), abs=1e-12)
    assert (metrics.consistency, metrics.strength_se, metrics.consistency_se, metrics.alignment) == (None, None, None, None)


@pytest.mark.parametrize("n", [0, 1])
def test_consistency_of_fewer_than_two_is_refused(n: int) -> None:
    with pytest.raises(MetricsError, match="at least 2"):
        consistency(np.zeros(4), n)


def test_consistency_reaches_both_ends_of_its_range() -> None:
    up, corners = np.array([0.0, 0.0, 2.0]), np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=float)
    assert measured(np.stack([up, 5 * up, up])).consistency == pytest.approx(1.0, abs=1e-12)
    # The corners of a tetrahedron disagree as much as 4 vectors can: -1/(n-1).
    assert measured(corners).consistency == pytest.approx(-1 / 3, abs=1e-12)


def test_metrics_of_nothing_are_refused() -> None:
    with pytest.raises(MetricsError, match="No pictures"):
        DiffAccumulator(4).metrics()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_difference_that_is_not_finite_is_refused_and_nothing_of_its_batch_is_added(bad: float) -> None:
    good, broken = some_diffs(6), some_diffs(3)
    broken[1, 5] = bad
    accumulator = DiffAccumulator(24)
    prompts = [f"prompt {k}" for k in range(6)]
    accumulator.update(good, prompts)
    with pytest.raises(MetricsError, match="not finite"):
        accumulator.update(broken, ["prompt 0", "another", "prompt 1"])
    assert_same(accumulator.metrics(), measured(good, prompts))


@pytest.mark.parametrize(("shape", "n_prompts"), [((3, 5), 3), ((3, 24), 2), ((24,), 1), ((1, 3, 24), 3)])
def test_differences_of_a_wrong_shape_are_refused(shape: tuple[int, ...], n_prompts: int) -> None:
    with pytest.raises(MetricsError, match="shape"):
        DiffAccumulator(24).update(np.ones(shape), ["p"] * n_prompts)


def assert_same(found: LoraMetrics, expected: LoraMetrics) -> None:
    np.testing.assert_allclose(found.direction, expected.direction, atol=1e-12)
    for name in ("strength", "consistency", "strength_se", "consistency_se", "alignment"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), abs=1e-10), name
    assert (found.n_images, found.n_prompts) == (expected.n_images, expected.n_prompts)
