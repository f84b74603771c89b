"""Numbers of things in sentences."""

from __future__ import annotations


def counted(n: int, one: str, many: str = "") -> str:
    """A number and what it counts, or what so many do: "1 LoRA", "2 LoRAs", "1 is installed". many: default is `one` and "s"."""
    return f"{n} {one if n == 1 else many or f'{one}s'}"
