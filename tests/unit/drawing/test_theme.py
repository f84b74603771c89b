"""Colours that can be read."""

from __future__ import annotations

import itertools

import pytest

from carlos_core.drawing import theme


def luminance(colour: str) -> float:
    """Relative luminance in [0, 1], as WCAG 2.2 defines it."""
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize(("ink", "paper"), list(itertools.product(theme.INKS, theme.PAPERS)))
def test_words_can_be_read_on_every_ground(ink: str, paper: str) -> None:
    assert contrast(ink, paper) >= 4.5


def test_a_bar_is_told_from_what_it_does_not_fill() -> None:
    # WCAG 2.2, 1.4.11: what is no text needs 3.
    assert contrast(theme.ACCENT, theme.TRACK) >= 3
