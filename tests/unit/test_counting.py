"""Numbers of things in sentences."""

from __future__ import annotations

from carlos_core.counting import counted, share


def test_one_is_one_and_all_else_are_several() -> None:
    assert [counted(n, "LoRA") for n in (0, 1, 2)] == ["0 LoRAs", "1 LoRA", "2 LoRAs"]
    assert [counted(n, "is installed", "are installed") for n in (0, 1, 2)] == [
        "0 are installed",
        "1 is installed",
        "2 are installed",
    ]


def test_what_is_almost_all_is_not_all() -> None:
    assert [share(part) for part in (0.0, 0.5, 0.994, 0.999, 0.99999, 1.0)] == ["0%", "50%", "99%", "99.9%", "99.9%", "100%"]
