"""A choice of LoRAs as text: the JSON that Auto LoRA reports, and takes back to apply it as it is."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from ..errors import LoraError

_LONGEST = 200_000
_MOST_LORAS = 50
_LARGEST = 100.0


@dataclass(frozen=True)
class ChoiceEntry:
    """A LoRA of a choice, as the text names it."""

    lora_id: str
    """Empty if only the file is named."""
    file: str
    """With "/" between folders; empty if only the id is named."""
    weight: float
    """In [-100, 100]."""
    score: float | None
    """Cosine with the query that it was chosen for; None if the text does not say."""


def entries_of(text: str) -> list[ChoiceEntry]:
    """The LoRAs that a text names: a JSON array of {"lora_id", "file", "weight"}, or a whole report's last line.

    Raises LoraError for any other text.
    """
    if len(text) > _LONGEST:
        raise LoraError(f"choice is {len(text):,} characters long.", f"Paste a choice of at most {_MOST_LORAS} LoRAs.")
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LoraError(f"choice is not JSON ({error}).", 'Paste the array behind "choice" of an earlier report.') from error
    entries = parsed.get("choice") if isinstance(parsed, dict) else parsed
    if not isinstance(entries, list) or len(entries) > _MOST_LORAS or not all(_is_entry(entry) for entry in entries):
        raise LoraError(
            "choice is not a list of LoRAs with their weights.",
            'Each needs "lora_id" or "file", and a "weight", as in an earlier report.',
        )
    return [_entry(entry) for entry in entries]


def _entry(entry: dict[str, Any]) -> ChoiceEntry:
    score: Any = entry.get("score")
    known = float(score) if _is_number(score) else None
    return ChoiceEntry(entry.get("lora_id") or "", entry.get("file") or "", float(entry["weight"]), known)


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict):
        return False
    named = [entry.get(key) for key in ("lora_id", "file") if entry.get(key) is not None]
    return any(named) and all(isinstance(name, str) for name in named) and _is_number(entry.get("weight"))


def _is_number(value: Any) -> bool:
    """Whether this is a number of a sensible size. NaN is not, and neither are the huge whole numbers that JSON may hold."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and abs(value) <= _LARGEST and math.isfinite(value)
