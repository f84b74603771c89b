"""A library as a map: principal components, whoever is asked for, and what is drawn of very many."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from carlos_core.database.columns import direction_array, normalised
from carlos_core.database.database import MetricsDatabase
from carlos_core.errors import RetrievalError
from carlos_core.records import NO_EFFECT
from carlos_core.search.library_map import MOST_DOTS, library_map, projection
from carlos_core.search.portrait import portrait
from tests.support.rows import a_row


def library(directions: np.ndarray, **facts: object) -> MetricsDatabase:
    """Rows with ids that sort as they stand."""
    n = len(directions)
    columns = {"lora_id": [f"{k:06}" for k in range(n)], "strength": [5.0] * n, "consistency": [0.2] * n, **facts}
    table = pa.table({**columns, "direction": direction_array(directions.astype(np.float32))})
    return MetricsDatabase(normalised(table, "test"), encoder_id="some encoder")


def rows(n: int, dimension: int = 16, seed: int = 0) -> np.ndarray:
    scale = 1 / np.arange(1, dimension + 1)
    return np.random.default_rng(seed).normal(size=(n, dimension)) * scale


def test_places_are_the_principal_components_of_unit_directions() -> None:
    directions = rows(50)
    found = library_map(library(directions))
    units = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    centred = units - units.mean(axis=0)
    _left, lengths, axes = np.linalg.svd(centred)
    expected = centred @ axes[:2].T
    places = np.array([(dot.x, dot.y) for dot in found.dots])
    for axis in range(2):
        assert min(np.abs(places[:, axis] - sign * expected[:, axis]).max() for sign in (1, -1)) < 1e-5
    assert found.shares == pytest.approx(np.square(lengths[:2]) / np.square(lengths).sum(), rel=1e-4)


def test_the_sign_of_an_axis_is_fixed() -> None:
    units = rows(50)
    for found in (projection(units), projection(-units)):
        for axis in found.axes:
            assert axis[np.abs(axis).argmax()] > 0


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_rows_have_places(n: int) -> None:
    found = library_map(library(rows(n)))
    assert len(found.dots) == n
    assert np.isfinite([(dot.x, dot.y) for dot in found.dots]).all()
    assert [share > 1e-9 for share in found.shares] == [n > 1, n > 2]
    assert len(found.names) == n


def test_equal_rows_lie_on_one_spot() -> None:
    found = library_map(library(np.ones((7, 8))))
    assert {(round(dot.x, 6), round(dot.y, 6)) for dot in found.dots} == {(0.0, 0.0)}
    assert found.shares == (0.0, 0.0)
    assert len(found.names) == 1


def test_a_library_without_an_effect_has_an_empty_map() -> None:
    for n in (0, 3):
        found = library_map(library(np.zeros((n, 8))))
        assert (found.dots, found.names, found.n_loras, found.n_without_effect) == ((), (), 0, n)


def test_a_direction_of_noise_has_no_place_and_is_like_nothing() -> None:
    database = library(rows(6))
    for lora_id in ("000000", "000001"):
        row = database.row(lora_id)
        assert row is not None
        database.upsert(replace(row, notes=(NO_EFFECT,)))
    found = library_map(database)
    assert (found.n_loras, found.n_without_effect) == (4, 2)
    noise, other = database.row("000000"), database.row("000002")
    assert noise is not None
    assert other is not None
    assert portrait(database, noise).neighbours == ()
    assert {near.record.lora_id for near in portrait(database, other).neighbours} == {"000003", "000004", "000005"}


def test_a_query_has_a_place_and_the_nearest_are_named_in_their_order() -> None:
    directions = rows(30)
    signature = torch.tensor(directions[7] + 0.1 * directions[8]).float()
    found = library_map(library(directions), signature=signature)
    cosines = directions @ signature.numpy() / np.linalg.norm(directions, axis=1) / np.linalg.norm(signature)
    order = np.argsort(-cosines)[:6]
    assert [name.record.lora_id for name in found.names] == [f"{k:06}" for k in order]
    assert [name.cosine for name in found.names] == pytest.approx(cosines[order], abs=1e-5)
    assert found.query is not None
    # A query that is a row's direction lies where the row does.
    same = library_map(library(directions), signature=torch.tensor(directions[7]).float())
    dot = same.dots[7]
    assert same.query == pytest.approx((dot.x, dot.y), abs=1e-5)


def test_a_marked_lora_comes_first_and_the_nearest_after_it() -> None:
    database = library(rows(30))
    found = library_map(database, marked=["000007"])
    assert [name.is_marked for name in found.names] == [True] + [False] * 6
    assert found.names[0].record.lora_id == "000007"
    near = portrait(database, found.names[0].record, 6).neighbours
    assert [name.record.lora_id for name in found.names[1:]] == [each.record.lora_id for each in near]
    several = library_map(database, marked=["000007", "000003"])
    assert [(name.record.lora_id, name.is_marked) for name in several.names] == [("000007", True), ("000003", True)]


def test_a_marked_lora_that_is_not_there_is_refused_and_one_without_effect_has_no_place() -> None:
    directions = rows(5)
    directions[2] = 0
    database = library(directions)
    with pytest.raises(RetrievalError, match="has no LoRA 'nobody'"):
        library_map(database, marked=["nobody"])
    found = library_map(database, marked=["000002"])
    assert not any(name.is_marked for name in found.names)
    assert (found.n_loras, found.n_without_effect) == (4, 1)


def test_a_family_alone_lies_where_it_lay_among_all() -> None:
    directions = rows(40)
    families = ["SDXL", "Flux", None, "SD 1.5"] * 10
    database = library(directions, base_model=families)
    whole, some = library_map(database), library_map(database, base_model="Flux")
    assert some.n_loras == len(some.dots) == 20
    assert {dot.family for dot in some.dots} == {"Flux", None}
    assert list(some.families.items()) == [("Flux", 10), (None, 10)]
    assert list(whole.families) == ["Flux", "SD 1.5", "SDXL", None]
    assert set(some.dots) <= set(whole.dots)
    assert some.shares == whole.shares


def test_a_hundred_thousand_loras_take_less_than_two_seconds() -> None:
    database = library(rows(100_000, 64))
    _ = database.ranking_arrays
    begin = time.process_time()
    found = library_map(database, signature=torch.ones(64), marked=["050001"])
    assert time.process_time() - begin < 4
    assert found.n_loras == 100_000
    assert MOST_DOTS <= len(found.dots) <= MOST_DOTS + 10
    assert found.names[0].record.lora_id == "050001"


def test_a_portrait_says_how_a_lora_stands_and_what_is_like_it() -> None:
    database = MetricsDatabase.empty("some encoder", 4)
    for k, strength in enumerate((1.0, 2.0, 3.0, 4.0, 5.0)):
        database.upsert(
            a_row(str(k), [1, k, 0, 0], strength=strength, consistency=None if k == 4 else k / 10), {"lora_weight": 0.8}
        )
    database.upsert(a_row("none", [0, 0, 0, 0], strength=0.0, consistency=None))
    row = database.row("2")
    assert row is not None
    found = portrait(database, row, 2)
    assert found.n_loras == 5
    assert found.spreads["strength"] == (1.0, 2.0, 3.0, 4.0, 5.0)
    assert found.spreads["consistency"].greatest == 0.3
    assert "alignment" not in found.spreads
    assert [near.record.lora_id for near in found.neighbours] == ["3", "4"]
    assert found.neighbours[0].cosine == pytest.approx((1 + 6) / np.sqrt(5 * 10), abs=1e-6)
    nothing = database.row("none")
    assert nothing is not None
    assert portrait(database, nothing).neighbours == ()


@pytest.mark.parametrize("weight", [None, "heavy", float("nan"), [1]])
def test_a_protocol_that_makes_no_sense_has_no_weight(weight: object) -> None:
    database = MetricsDatabase.empty("some encoder", 4)
    database.upsert(a_row("a", protocol_id="p"), {"lora_weight": weight})
    row = database.row("a")
    assert row is not None
    assert portrait(database, row).weight is None
