"""Text of any script in a picture."""

from __future__ import annotations

import time

import numpy as np
import pytest
from PIL import Image, ImageDraw

from carlos_core.drawing import fonts

SCRIPTS = {
    "Latin": "Snow Globe Ærøskøbing",
    "Cyrillic": "Зимний лес",
    "Greek": "Ελληνικά",
    "Arabic": "ثلج خفيف",
    "Hebrew": "סגנון ציור",
    "Chinese": "水墨画风格",
    "Japanese": "アニメ塗り",
    "Korean": "한국어 스타일",
    "Hindi": "हिन्दी शैली",
    "Thai": "ไทยสไตล์",
    "Tamil": "தமிழ்",
}
SIZE = 24


def drawn(text: str) -> np.ndarray:
    """[H, W] bool, where a line of text has ink."""
    picture = Image.new("RGB", (700, 60), "black")
    fonts.draw_text(ImageDraw.Draw(picture), (10, 12), text, SIZE, "white")
    return np.asarray(picture).max(axis=2) > 64


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_has_letters_of_its_own(script: str) -> None:
    letters = [letter for letter in dict.fromkeys(SCRIPTS[script]) if letter.isalpha()]
    missing = drawn("\U0001ffff")
    shapes = {drawn(letter).tobytes() for letter in letters}
    assert missing.any()
    assert missing.tobytes() not in shapes
    assert len(shapes) == len(letters)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_line_stays_within_its_height_and_has_the_width_that_was_told(script: str) -> None:
    ink = drawn(SCRIPTS[script])
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    assert rows.min() >= 12 - SIZE // 8
    assert rows.max() <= 12 + fonts.line_height(SIZE) + SIZE // 8
    assert abs(columns.max() - (10 + fonts.width_of(SCRIPTS[script], SIZE))) <= SIZE / 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "\x00\x07\x1b[31m",
        "a\nb\r\nc\td",
        "half \ud83d of one \udc00",
        "😀 🧊 👩‍👩‍👧 ❤️",
        "\u202eevil\u202c",
        "a" + "\u0301" * 500,
    ]
    + ["\ufeff\u200b\u200d", "\uffff\ufffe\ue000", "e\u0301\u0327", "\U000e0041\U0010ffff"],
)
def test_whatever_a_name_holds_it_is_one_line_of_a_known_width(text: str) -> None:
    line = fonts.cut(text, SIZE, 300)
    assert "\n" not in line
    assert fonts.width_of(line, SIZE) <= 300
    rows = np.flatnonzero(drawn(line).any(axis=1))
    assert rows.size == 0 or rows.max() - rows.min() <= 1.6 * SIZE


def test_letters_in_fancy_styles_are_drawn_as_letters() -> None:
    assert drawn("𝓯𝓪𝓷𝓬𝔂").tobytes() == drawn("fancy").tobytes()


@pytest.mark.parametrize(
    "text", ["Snow Globe Style of a very long name", "水墨画风格水墨画风格水墨画风格水墨画风格水墨画风格", "x" * 1000]
)
def test_what_is_too_wide_ends_with_an_ellipsis_and_fills_the_width(text: str) -> None:
    line = fonts.cut(text, SIZE, 200)
    assert line.endswith("…")
    assert text.startswith(line.removesuffix("…").rstrip())
    assert 200 - 2 * SIZE <= fonts.width_of(line, SIZE) <= 200


def test_what_fits_is_not_cut() -> None:
    assert fonts.cut("Snow", SIZE, 200) == "Snow"


def test_lines_are_broken_between_words_and_in_words_that_are_too_wide() -> None:
    text = "falling snow over a quiet village " + "w" * 60
    lines = fonts.wrapped(text, SIZE, 220, 20)
    assert lines[0] == "falling snow over a"
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(fonts.width_of(line, SIZE) <= 220 for line in lines)


def test_the_last_line_tells_that_there_is_more() -> None:
    lines = fonts.wrapped("one two three four five six seven eight nine ten", SIZE, 120, 2)
    assert len(lines) == 2
    assert lines[1].endswith("…")


def test_a_name_of_endless_length_costs_nothing() -> None:
    fonts.cut("warm", SIZE, 300)
    start = time.perf_counter()
    for letter in "abcdefghij":
        fonts.cut(letter * 1_000_000, SIZE, 300)
        fonts.wrapped(letter * 1_000_000, SIZE, 300, 3)
    assert time.perf_counter() - start < 2
