"""Numbers of things in sentences."""

from __future__ import annotations

import math


def counted(n: int, one: str, many: str = "") -> str:
    """A number and what it counts, or what so many do: "1 LoRA", "2 LoRAs", "1 is installed". many: default is `one` and "s"."""
    return f"{n} {one if n == 1 else many or f'{one}s'}"


def share(part: float) -> str:
    """A part of 1 for people, in percent. What is almost 1 is not all."""
    return f"{part:.0%}" if part < 0.995 or part >= 1 else f"{math.floor(part * 1000) / 10:.1f}%"


def number(value: float | None, digits: int = 3) -> str:
    """A number for people; a dash where it is undefined."""
    if value is None or not math.isfinite(value):
        return "-"
    # Rounded first, and 0 added, so that nothing is shown as -0.
    return f"{round(value, digits) + 0.0:.{digits}f}"
