"""What holds of the metrics of any differences: they do not depend on order, units, axes or how the pictures were split up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from carlos_core.measuring.metrics import DiffAccumulator, LoraMetrics

DIMENSION = 5
NUMBERS = st.floats(-100, 100, width=32).filter(lambda number: number == 0 or abs(number) > 1e-3)
DIFFS = arrays.arrays(np.float64, st.tuples(st.integers(1, 12), st.just(DIMENSION)), elements=NUMBERS)
PROMPTS = st.integers(1, 4)
"""How many prompts take turns."""


def accumulated(diffs: np.ndarray, prompts: int) -> DiffAccumulator:
    found = DiffAccumulator(DIMENSION)
    found.update(diffs, [f"prompt {k % prompts}" for k in range(len(diffs))])
    return found


def measured(diffs: np.ndarray, prompts: int = 3) -> LoraMetrics:
    return accumulated(diffs, prompts).metrics()


def assert_alike(found: LoraMetrics, expected: LoraMetrics, *, scale: float = 1.0) -> None:
    """Equal but for rounding. scale: of the units in which `found` is given."""
    size = max(1.0, expected.strength) * scale
    np.testing.assert_allclose(found.direction, expected.direction * scale, atol=1e-9 * size)
    assert found.strength == pytest.approx(expected.strength * scale, rel=1e-9, abs=1e-9 * size)
    for name in ("consistency", "strength_se", "consistency_se"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert (ours is None) == (theirs is None), name
        if theirs is not None:
            assert ours == pytest.approx(theirs * (scale if name == "strength_se" else 1), rel=1e-6, abs=1e-7 * size), name


@given(DIFFS, PROMPTS)
def test_they_are_in_their_ranges(diffs: np.ndarray, prompts: int) -> None:
    metrics = measured(diffs, prompts)
    moved = int((np.abs(diffs).max(axis=1) > 0).sum())
    assert np.linalg.norm(metrics.direction) <= metrics.strength * (1 + 1e-9)
    assert (metrics.consistency is None) == (moved < 2)
    if metrics.consistency is not None:
        assert -1 / (moved - 1) - 1e-9 <= metrics.consistency <= 1 + 1e-9
    assert metrics.alignment is None or 0 <= metrics.alignment <= 1
    assert all(error is None or error >= 0 for error in (metrics.strength_se, metrics.consistency_se))


@given(DIFFS, PROMPTS, st.randoms())
def test_order_does_not_matter(diffs: np.ndarray, prompts: int, chance: object) -> None:
    names = [f"prompt {k % prompts}" for k in range(len(diffs))]
    order = list(range(len(diffs)))
    chance.shuffle(order)  # type: ignore[attr-defined]
    other = DiffAccumulator(DIMENSION)
    other.update(diffs[order], [names[k] for k in order])
    assert_alike(other.metrics(), measured(diffs, prompts))


@given(DIFFS, PROMPTS, st.integers(0, 12))
def test_two_halves_merge_into_the_whole(diffs: np.ndarray, prompts: int, cut: int) -> None:
    cut = min(cut, len(diffs))
    names = [f"prompt {k % prompts}" for k in range(len(diffs))]
    halves = [DiffAccumulator(DIMENSION), DiffAccumulator(DIMENSION)]
    halves[0].update(diffs[:cut], names[:cut])
    halves[1].update(diffs[cut:], names[cut:])
    halves[0].merge(halves[1])
    assert_alike(halves[0].metrics(), measured(diffs, prompts))


@given(DIFFS, PROMPTS, st.floats(0.01, 100))
def test_other_units_change_what_has_units_and_nothing_else(diffs: np.ndarray, prompts: int, scale: float) -> None:
    assert_alike(measured(diffs * scale, prompts), measured(diffs, prompts), scale=scale)


@given(DIFFS, PROMPTS, st.integers(0, 2**31))
def test_turning_the_space_turns_the_direction_and_nothing_else(diffs: np.ndarray, prompts: int, seed: int) -> None:
    turned, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(DIMENSION, DIMENSION)))
    found, expected = measured(diffs @ turned, prompts), measured(diffs, prompts)
    np.testing.assert_allclose(found.direction, expected.direction @ turned, atol=1e-9 * max(1.0, expected.strength))
    assert found.strength == pytest.approx(expected.strength, rel=1e-9, abs=1e-9)
    assert (found.consistency is None) == (expected.consistency is None)
    if expected.consistency is not None:
        assert found.consistency == pytest.approx(expected.consistency, abs=1e-7)


@given(arrays.arrays(np.float64, DIMENSION, elements=NUMBERS), st.integers(2, 8))
def test_pictures_that_all_change_alike_are_wholly_consistent(diff: np.ndarray, n: int) -> None:
    assume(np.abs(diff).max() > 0)
    metrics = measured(np.tile(diff, (n, 1)), n)
    assert metrics.consistency == pytest.approx(1.0, abs=1e-9)
    assert metrics.alignment == pytest.approx(1.0, abs=1e-6)
    assert metrics.strength == pytest.approx(float(np.linalg.norm(diff)), rel=1e-9)
