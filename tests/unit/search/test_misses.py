"""Which LoRAs a search will never find, whatever is asked for, and by which limit: the same limits as the search's own."""

from __future__ import annotations

import itertools

import pytest
import torch

from carlos_core.database.published import load_bundled_database
from carlos_core.search.limits import NO_CHANGE, NO_ONE_EFFECT, PUBLISHED_LIMITS, TOO_STRONG, SearchLimits


def test_each_limit_that_misses_a_lora_is_named_with_both_numbers() -> None:
    (strong,) = PUBLISHED_LIMITS.misses(10.632, 0.5)
    assert str(strong) == "too strong: strength 10.632, max_strength is 9.8"
    (unclear,) = PUBLISHED_LIMITS.misses(5.0, 0.02)
    assert str(unclear) == "no one effect: consistency 0.020, min_consistency is 0.041"
    assert [miss.why for miss in PUBLISHED_LIMITS.misses(11.0, 0.01)] == [TOO_STRONG, NO_ONE_EFFECT]
    assert PUBLISHED_LIMITS.misses(9.8, 0.041) == ()


def test_a_lora_that_changes_nothing_is_called_that() -> None:
    assert [miss.why for miss in PUBLISHED_LIMITS.misses(0.0, None, has_effect=False)] == [NO_CHANGE]
    assert [miss.why for miss in PUBLISHED_LIMITS.misses(0.2, 0.001, has_effect=False)] == [NO_CHANGE]
    # A search may still list it.
    assert PUBLISHED_LIMITS.misses(0.2, 0.1, has_effect=False) == ()


@pytest.mark.parametrize("limits", [PUBLISHED_LIMITS, SearchLimits(max_strength=6.0, min_consistency=0.1)])
def test_rows_that_are_missed_are_those_that_a_search_leaves_out(limits: SearchLimits) -> None:
    arrays = load_bundled_database().ranking_arrays
    rows = list(zip(arrays.strength.tolist(), arrays.consistency.tolist(), strict=True))
    edges = itertools.product((0.1, limits.max_strength, 12.0), (limits.min_consistency, -1.0, 0.5))
    rows += [pair for pair in edges]
    strength, consistency = (torch.tensor(values, dtype=torch.float64) for values in zip(*rows, strict=True))
    within = limits.within(strength, consistency).tolist()
    assert [not limits.misses(*row) for row in rows] == within
    assert 0 < sum(within) < len(rows)
