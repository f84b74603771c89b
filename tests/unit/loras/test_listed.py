"""Which LoRAs a filter on names takes."""

from __future__ import annotations

import pytest

from carlos_core.loras.listed import is_named


@pytest.mark.parametrize(
    ("name", "name_filter", "takes"),
    [
        ("styles\\Snow.safetensors", "snow", True),
        ("styles\\Snow.safetensors", "Styles/*", True),
        ("styles/snow.safetensors", "snow*", False),
        ("a.safetensors", "", True),
        ("mystery_08.safetensors", "burn, mystery_08 ,pale", True),
        ("burning.safetensors", "burn, mystery_08", True),
        ("snow.safetensors", "burn, mystery_08", False),
        ("snow.safetensors", " , ", False),
        ("red, white, blue.safetensors", "red, white", True),
        ("style [v2].safetensors", "[v2]", True),
    ],
)
def test_parts_and_patterns_with_commas_between_them_take_what_any_of_them_fits(name: str, name_filter: str, takes: bool) -> None:
    assert is_named(name, name_filter) is takes
