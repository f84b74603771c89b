"""LoRAs in their order, as a picture."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from carlos_core.drawing import theme
from carlos_core.drawing.listing import MOST_ROWS, WIDTH, Gauge, Listing, Row, Said, picture_of_listing
from carlos_core.drawing.pair import Pair

AS_A_NODE_SHOWS_IT = 512
"""Pixels that a picture is wide on a node of some width."""

STRENGTH = Gauge("strength", 6.0, 2, (2.0, 8.0))
ROW = Row("Snow", ((Said("clear match", theme.GOOD),), (Said("installed", theme.GOOD),), (Said("SDXL"),)), (STRENGTH,))


def listing_of(*rows: Row, title: str = "LoRAs for “snow”", usual_of: str = "light part", **settings: object) -> Listing:
    listing = Listing(Said(title), (), rows, len(rows), usual_of)
    return replace(listing, **settings)  # type: ignore[arg-type]


def pixels(listing: Listing) -> np.ndarray:
    """[H, W, 3]."""
    return np.asarray(picture_of_listing(listing)).astype(int)


def where(picture: np.ndarray, colour: str) -> np.ndarray:
    """[N, 2], the places of a colour: y, x."""
    return np.argwhere((picture == [int(colour[place : place + 2], 16) for place in (1, 3, 5)]).all(axis=2))


def changed(one: Listing, other: Listing) -> np.ndarray:
    """[N, 2], the places where two listings of one size differ: y, x."""
    return np.argwhere((pixels(one) != pixels(other)).any(axis=2))


def test_the_smallest_letters_can_be_read_at_the_width_of_a_node() -> None:
    with_small = replace(ROW, lines=((Said("HHHH"),),), gauges=())
    without = replace(with_small, lines=())
    ink = changed(listing_of(with_small), listing_of(without))
    height_of_capitals = (ink[:, 0].max() - ink[:, 0].min() + 1) * AS_A_NODE_SHOWS_IT / WIDTH
    # Capitals are 0.73 of a letter's size; 11 pixels are the least that is read with ease.
    assert height_of_capitals >= 0.73 * 11


def test_the_height_grows_with_the_rows_up_to_a_limit() -> None:
    heights = [pixels(listing_of(*[ROW] * n)).shape[0] for n in (1, 2, MOST_ROWS, MOST_ROWS + 1, 1000)]
    assert heights[0] < heights[1] < heights[2] < heights[3] == heights[4]
    assert {pixels(listing_of(*[ROW] * n)).shape[1] for n in (1, 20)} == {WIDTH}


def test_rows_that_are_not_drawn_are_counted() -> None:
    some, more = [listing_of(*[ROW] * MOST_ROWS, n_rows=n) for n in (MOST_ROWS + 8, MOST_ROWS + 9)]
    told = changed(some, more)
    assert len(told)
    assert told[:, 0].min() > pixels(listing_of(*[ROW] * MOST_ROWS)).shape[0] - 30


@pytest.mark.parametrize("name", ["x" * 10_000, "水墨画风格" * 50, "ثلج خفيف على القرية " * 20, "a\nb\x00\ud800", "🧊" * 400])
@pytest.mark.parametrize("n_gauges", [1, 2])
def test_whatever_a_name_holds_it_stays_in_its_place(name: str, n_gauges: int) -> None:
    row = replace(ROW, gauges=(STRENGTH,) * n_gauges)
    ink = changed(listing_of(replace(row, name=name)), listing_of(replace(row, name="")))
    bars = where(pixels(listing_of(row)), theme.ACCENT)
    assert ink[:, 1].min() > 20
    assert ink[:, 1].max() < bars[:, 1].min() - 100
    assert ink[:, 0].max() - ink[:, 0].min() < 45


def test_a_bar_stands_before_what_is_usual() -> None:
    picture = pixels(listing_of(ROW))
    bar, band, track = (where(picture, colour)[:, 1] for colour in (theme.ACCENT, theme.BAND, theme.TRACK))
    width = track.max() - bar.min() + 1
    # A full bar is 12: half as much again as is usual.
    assert (bar.max() - bar.min() + 1) / width == pytest.approx(6 / 12, abs=0.02)
    assert (band.max() - bar.min() + 1) / width == pytest.approx(8 / 12, abs=0.02)
    assert (band.min() - bar.min()) / width == pytest.approx(2 / 12, abs=0.02)


def test_what_the_bars_are_stands_beside_a_short_title_and_below_a_long_one() -> None:
    short, long = [listing_of(ROW, title="LoRAs for " + "snow " * n) for n in (1, 12)]
    alone = [replace(listing, usual_of="") for listing in (short, long)]
    assert pixels(short).shape == pixels(alone[0]).shape
    assert pixels(long).shape[0] > pixels(alone[1]).shape[0]


def test_nothing_is_marked_as_usual_where_nothing_says_what_that_is() -> None:
    assert len(where(pixels(listing_of(ROW, usual_of="")), theme.BAND)) == 0
    assert len(where(pixels(listing_of(ROW)), theme.BAND)) > 0


@pytest.mark.parametrize(
    ("value", "shown", "filled"),
    [
        (None, "-", 0.0),
        (float("nan"), "-", 0.0),
        (-0.5, "-0.50", 0.0),
        (-0.0, "0.00", 0.0),
        (6.0, "6.00", 0.5),
        (99.0, "99.00", 1.0),
    ],
)
def test_a_value_is_shown_in_figures_and_cut_to_the_bar(value: float | None, shown: str, filled: float) -> None:
    gauge = replace(STRENGTH, value=value)
    assert gauge.shown == shown
    bar = where(pixels(listing_of(replace(ROW, gauges=(gauge,)))), theme.ACCENT)
    full = where(pixels(listing_of(replace(ROW, gauges=(replace(STRENGTH, value=1e9),)))), theme.ACCENT)
    assert len(bar) / len(full) == pytest.approx(filled, abs=0.02)


def test_pictures_without_and_with_stand_in_this_order_and_other_rows_do_without() -> None:
    def plain(colour: str) -> Image.Image:
        return Image.new("RGB", (256, 256), colour)

    pair = Pair("a house", 0, plain("#ff0000"), plain("#00ff00"))
    picture = pixels(listing_of(ROW, replace(ROW, pair=pair), ROW))
    red, green = where(picture, "#ff0000"), where(picture, "#00ff00")
    assert red[:, 1].max() < green[:, 1].min()
    assert (red[:, 0].min(), red[:, 0].max()) == (green[:, 0].min(), green[:, 0].max())
    assert len(red) == len(green) > 80 * 80
    # In the second of three rows.
    assert picture.shape[0] / 3 < red[:, 0].mean() < 2 * picture.shape[0] / 3


@pytest.mark.parametrize("n_letters", range(20, 32))
def test_a_part_that_has_no_room_for_a_few_letters_is_left_out(n_letters: int) -> None:
    whole, family = Said("n" * n_letters), Said("base model unknown")
    alone, cut = [replace(ROW, lines=((), (whole, *more))) for more in ((), (family,))]
    ink = changed(listing_of(alone), listing_of(cut))
    letters = changed(listing_of(replace(ROW, lines=((), (Said("base"),)))), listing_of(replace(ROW, lines=())))
    room = letters[:, 1].max() - letters[:, 1].min()
    assert not len(ink) or ink[:, 1].max() - ink[:, 1].min() > room


def test_where_nothing_fits_the_reason_is_there_in_full() -> None:
    reason = "None of the 23 LoRAs has strength <= 0, consistency >= 0.041 and an effect: loosen the limits. " * 2
    said, shorter = [
        listing_of(title="Nothing fits “snow”", notes=(Said(text),)) for text in (reason.strip(), reason.strip() + " More.")
    ]
    assert len(where(pixels(said), theme.TEXT))
    assert len(where(pixels(said), theme.PANEL)) == 0
    # What comes behind it would be seen, too: nothing was cut off.
    assert pixels(said).shape != pixels(shorter).shape or len(changed(said, shorter))


def test_what_begins_a_group_stands_above_its_row() -> None:
    plain, grouped = listing_of(ROW, ROW), listing_of(ROW, replace(ROW, heading="group 2"))
    more = pixels(grouped).shape[0] - pixels(plain).shape[0]
    assert 20 < more < 50


def test_drawing_costs_little() -> None:
    listing = listing_of(*[replace(ROW, name=f"LoRA {place} of many") for place in range(20)])
    picture_of_listing(listing)
    start = time.perf_counter()
    picture_of_listing(listing)
    assert time.perf_counter() - start < 1
