"""The picture of a library's map: names stand beside their dots, none on another, whatever the library holds."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from carlos_core.database.database import MetricsDatabase
from carlos_core.drawing import map as drawing
from carlos_core.drawing.canvas import Box
from carlos_core.drawing.map import COLOURS, WIDTH, draw_map
from carlos_core.search.library_map import library_map
from tests.support.rows import a_row

FAMILIES = ("SD 1.5", "SDXL", "Pony", "Illustrious", "Flux", "Wan", "Qwen-Image", "Chroma", None)


def a_library(n: int, names: str = "LoRA {}") -> MetricsDatabase:
    """Rows of many families, spread over four dimensions."""
    database = MetricsDatabase.empty("some encoder", 4)
    numbers = np.random.default_rng(0)
    for k in range(n):
        facts = {"strength": 1.0 + k % 9, "consistency": None if k % 5 == 0 else k % 7 / 10}
        database.upsert(a_row(str(k), numbers.normal(size=4), base_model=FAMILIES[k % 9], model_name=names.format(k), **facts))
    return database


@pytest.mark.parametrize("n", [0, 1, 2, 3, 60])
def test_a_library_of_any_size_is_one_picture(n: int) -> None:
    picture = draw_map(library_map(a_library(n)), f"{n} LoRAs")
    assert picture.width == WIDTH
    assert picture.height < 1200


def test_a_map_is_the_same_each_time() -> None:
    first, again = (draw_map(library_map(a_library(40), marked=["3"]), "40 LoRAs").tobytes() for _ in range(2))
    assert first == again


def test_families_have_colours_of_their_own_and_the_rest_shares_one() -> None:
    library = library_map(a_library(90))
    colours = drawing._colours(library)
    assert set(COLOURS) == {colours[dot.family] for dot in library.dots} - {drawing.OTHERS, drawing.UNKNOWN}
    assert colours[None] == drawing.UNKNOWN
    pixels = np.asarray(draw_map(library, "90 LoRAs"))
    legend = pixels[-120:].reshape(-1, 3)
    for colour in (*COLOURS, drawing.OTHERS, drawing.UNKNOWN):
        assert (legend == tuple(bytes.fromhex(colour[1:]))).all(axis=1).sum() > 100, colour


@pytest.mark.parametrize("name", ["LoRA {}", "a very long name that goes on and on {}", "雪景 {}", "{} " + "w" * 10_000])
def test_no_name_covers_another_or_leaves_the_map(name: str) -> None:
    database = a_library(60, name)
    signature = torch.ones(4)
    for library in (
        library_map(database),
        library_map(database, signature=signature),
        library_map(database, marked=[str(k) for k in range(10)]),
    ):
        field = Box(20, 100, WIDTH - 40, 760)
        spots = drawing._spots(np.array([(dot.x, dot.y) for dot in library.dots]), field)
        labels = [
            drawing._Label(spots[place], 10.0, name.record.name, is_marked=False) for name, place in drawing._named(library)
        ]
        placed = [box for _label, box in drawing._placed(labels, field, spots)]
        assert len(placed) >= 4
        for a, b in combinations(placed, 2):
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        for left, top, right, bottom in placed:
            assert field.left <= left
            assert right <= field.right
            assert field.top <= top
            assert bottom <= field.bottom
        draw_map(library, "title", "a query")


def test_a_query_gets_a_mark_and_the_strong_are_larger_than_the_weak() -> None:
    library = library_map(a_library(30), signature=torch.tensor([1.0, 0, 0, 0]))
    plain, queried = (np.asarray(draw_map(each, "t", "snow")) for each in (library_map(a_library(30)), library))
    assert plain.shape == queried.shape
    radii = drawing._radii([1.0, 5.0, 9.0])
    assert radii == sorted(radii)
    opacities = drawing._opacities([0.0, 0.1, 0.3, None])
    assert opacities[0] < opacities[1] < opacities[2]
    assert opacities[3] == opacities[0]


def test_rows_that_are_equal_lie_on_one_spot_in_the_middle() -> None:
    database = MetricsDatabase.empty("some encoder", 4)
    for k in range(5):
        database.upsert(a_row(str(k), [1, 2, 3, 4]))
    library = library_map(database)
    assert library.shares == (0.0, 0.0)
    field = Box(0, 0, 200, 100)
    spots = drawing._spots(np.array([(dot.x, dot.y) for dot in library.dots]), field)
    assert np.allclose(spots, (100, 50))
    assert draw_map(library, "5 LoRAs").width == WIDTH


def test_how_many_there_are_is_no_part_of_a_family() -> None:
    library = library_map(a_library(1))
    assert drawing._legend_rows(library, drawing._colours(library)) == [[(COLOURS[0], "SD 1.5: 1")]]


def test_rings_are_explained_where_there_are_any_but_those_of_what_was_asked_for() -> None:
    database = a_library(20)
    assert "White rings" in drawing._marks(library_map(database, signature=torch.ones(4)))
    assert "ring" not in drawing._marks(library_map(database, marked=["3", "4"]))
    assert "ring" not in drawing._marks(library_map(database))
