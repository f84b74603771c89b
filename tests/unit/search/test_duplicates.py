"""Groups of LoRAs that do the same."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from carlos_core.database.database import MetricsDatabase
from carlos_core.database.published import load_bundled_database
from carlos_core.errors import RetrievalError
from carlos_core.search.duplicates import clusters
from tests.support import miniworld


def groups(directions: np.ndarray | list[list[float]], min_cosine: float = 0.95) -> list[tuple[int, ...]]:
    rows = torch.tensor(np.asarray(directions, dtype=np.float32))
    return [cluster.rows for cluster in clusters(rows, min_cosine, ids=[f"{row:05d}" for row in range(len(rows))])]


def at(*degrees: float) -> list[list[float]]:
    return [[math.cos(math.radians(angle)), math.sin(math.radians(angle))] for angle in degrees]


def test_the_mini_world_duplicates_are_found_and_nothing_else(database: MetricsDatabase) -> None:
    arrays = database.ranking_arrays
    files = [database.column("file_name")[row] for row in arrays.rows]
    ids = [database.column("lora_id")[row] for row in arrays.rows]
    found = [sorted(files[row] for row in cluster.rows) for cluster in clusters(arrays.directions, 0.95, ids=ids)]
    expected = [
        sorted(name for name, facts in miniworld.labels().items() if facts["label"] == label and facts["kind"] in kinds)
        for label in ("pixel art", "sepia toned")
        for kinds in [("ordinary", "duplicate")]
    ]
    assert sorted(found) == sorted(expected)


def test_the_published_database_has_21_loras_with_a_double() -> None:
    database = load_bundled_database()
    arrays = database.ranking_arrays
    units = arrays.directions.double().numpy()
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    pairs = np.argwhere(np.triu(units @ units.T > 0.95, 1))
    assert (len(pairs), len(set(pairs.ravel().tolist()))) == (15, 21)
    found = clusters(arrays.directions, 0.95, ids=[str(row) for row in arrays.rows])
    for cluster in found:
        for row, cosine in zip(cluster.rows, cluster.cosines, strict=True):
            assert cosine == pytest.approx(float(units[cluster.rows[0]] @ units[row]), abs=1e-5)
            assert cosine >= 0.95 - 1e-5
    assert {row for cluster in found for row in cluster.rows} <= set(pairs.ravel().tolist())


def test_a_chain_of_small_steps_is_no_group() -> None:
    # Neighbours are 15 degrees apart (cosine 0.966), the ends 60 (0.5): the middle takes its neighbours, the ends stay alone.
    assert groups(at(0, 15, 30, 45, 60)) == [(1, 0, 2), (3, 4)]
    assert groups(at(0, 15, 30)) == [(1, 0, 2)]


def test_length_does_not_matter_and_nothing_is_like_a_lora_without_effect() -> None:
    assert groups([[1, 0], [7, 0], [0, 0], [0, 0], [0, 1]]) == [(0, 1)]
    assert groups(np.zeros((0, 4))) == []


def test_opposite_effects_are_not_the_same() -> None:
    assert groups([[1, 0], [-1, 0]]) == []


def test_the_largest_group_comes_first_and_exact_copies_reach_1() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 512))
    assert groups([a, b, b, b, a], min_cosine=1.0) == [(1, 2, 3), (0, 4)]


def test_many_rows_are_compared_in_parts() -> None:
    rng = np.random.default_rng(1)
    directions = rng.normal(size=(2500, 64))
    directions[2400:2410] = directions[:10] * 2
    assert sorted(groups(directions, 0.99)) == [(row, 2400 + row) for row in range(10)]


@pytest.mark.parametrize("min_cosine", [0.0, -0.5, 1.5, math.nan])
def test_a_cosine_that_makes_no_sense_is_refused(min_cosine: float) -> None:
    with pytest.raises(RetrievalError, match="min_cosine"):
        groups([[1, 0]], min_cosine)
