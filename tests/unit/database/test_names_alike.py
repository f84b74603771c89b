"""Which names of databases are taken for slips of each other."""

from __future__ import annotations

import pytest

from carlos_core.database.names_alike import names_alike


@pytest.mark.parametrize("slip", ["My_Loras", "my-loras", "my loras", "my_lora", "my_lroas", "my_lorass", "mx_loras", "mylora"])
def test_a_slip_is_seen_in_both_directions(slip: str) -> None:
    assert names_alike(slip, ["other", "my_loras"]) == ["my_loras"]
    assert names_alike("my_loras", ["other", slip]) == [slip]


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("my_loras", "my_loras"),
        ("loras_1", "loras_2"),
        ("my_loras", "my_loras_2"),
        ("sdxl", "sd3"),
        ("pony", "my_pony_loras"),
        ("styles", "people"),
        ("old", "odd"),
        ("anime_styles", "photo_styles"),
        ("sdxl_1.0", "sdxl_10"),
        ("loras_1_2", "loras_12"),
        ("men_styles", "women_styles"),
        ("menstyles", "women_styles"),
        ("male_faces", "female_faces"),
    ],
)
def test_names_that_were_meant_are_no_slips(name: str, other: str) -> None:
    assert names_alike(name, [other]) == []
    assert names_alike(other, [name]) == []


def test_marks_between_words_and_numbers_are_slips_and_so_are_two_letters_within_a_word() -> None:
    assert names_alike("loras-1 2", ["loras_1.2", "loras_12"]) == ["loras_1.2"]
    assert names_alike("my_loras2", ["my_loras_2"]) == ["my_loras_2"]
    assert names_alike("wmen_styls", ["women_styles"]) == ["women_styles"]
