"""What the names of a LoRA promise for a query: an order to look in, and no more."""

from __future__ import annotations

import re

from ..loras.lora_file import LoraFile

_WORD = re.compile(r"[^\W_]{3,}")
_MOST = 2_000
"""Characters of names and trigger words that are looked at."""


def promise_of(query: str, lora: LoraFile) -> float:
    """Share of a query's words that the LoRA's file, model or trigger words are called by, in [0, 1]."""
    said = lora.metadata
    names = " ".join([lora.name, said.model_name or "", *lora.trigger_words])
    wanted, there = _words(query), _words(names)
    return len(wanted & there) / len(wanted) if wanted else 0.0


def _words(text: str) -> set[str]:
    """Words of three letters and more, without the s of a plural."""
    return {word.removesuffix("s") for word in _WORD.findall(text[:_MOST].lower())}
