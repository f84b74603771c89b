"""Trigger words: what sidecars and headers hold, as a person would type it, and which of it goes into a prompt."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from ..foreign import whole_text

_MARKUP = re.compile(r"<[A-Za-z_]{1,20}:[^<>]{0,300}>")
"""What other programs take out of a prompt before CLIP sees it: <lora:snowy:0.8>. Tokens such as <s0> have no colon."""

_ESCAPED = re.compile(r"(?<!\\)\\+(?=[()])")
"""Brackets are escaped in many sidecars, since they go into a prompt as they are. Here they are escaped when a prompt is made."""

_WEIGHT = re.compile(r":\s*[+-]?(\d+\.?\d*|\.\d+)\s*\Z")
_LONGEST_WEIGHT = 16

_MOST_CHARACTERS = 2000
"""Of all entries together in a prompt. Some sidecars hold a description, or a whole list of tags: text encoders read a prompt in
parts of 75 tokens, or all at once, with memory that grows with its square."""

_BREAK = "BREAK"
"""A command of the web UI, alone between commas."""


def cleaned(entries: Iterable[str]) -> tuple[str, ...]:
    """Entries without other programs' markup, without escapes before brackets, without blanks, empty parts and repetitions."""
    found = (", ".join(_parts(_ESCAPED.sub("", _MARKUP.sub("", entry)))) for entry in entries)
    return tuple(dict.fromkeys(entry for entry in found if entry))


def split(text: str | None) -> tuple[str, ...]:
    """The words of a text that separates them by commas."""
    return cleaned(_parts(text or ""))


def listed(text: str | None) -> tuple[str, ...]:
    """The words of a text that is a list in JSON, or else separates them by commas."""
    try:
        content: Any = json.loads(text or "null")
    except (ValueError, RecursionError):
        content = text
    if isinstance(content, list):
        return cleaned(whole_text(item) for item in content if isinstance(item, str))
    return split(whole_text(content)) if isinstance(content, str) else ()


def escape_emphasis(text: str) -> str:
    """Text that ComfyUI reads literally, since it takes plain brackets as emphasis; but "(snow:1.2)", with a weight, is meant."""
    weighted: set[int] = set()
    open_places: list[int] = []
    for place, character in enumerate(text):
        if character == "(":
            open_places.append(place)
        elif character == ")" and open_places:
            start = open_places.pop()
            if _WEIGHT.search(text, max(start, place - _LONGEST_WEIGHT), place):
                weighted |= {start, place}
    return "".join(f"\\{each}" if each in "()" and place not in weighted else each for place, each in enumerate(text))


def with_words(prompt: str, words: str) -> str:
    """A prompt with trigger words behind it, both as text. Without words, the prompt is as it was: no comma is left over."""
    if not words:
        return prompt
    before = prompt.rstrip(", \t\r\n")
    return f"{before}, {words}" if before else words


def has_weight(word: str) -> bool:
    """Whether a part of a word is emphasised by a number."""
    return escape_emphasis(word) != word.replace("(", r"\(").replace(")", r"\)")


def used(entries: Iterable[str]) -> tuple[str, ...]:
    """The entries that go into a prompt: all single words, and the first of those that hold commas.

    An entry with commas is a whole prompt for one variant, of which a LoRA may offer several (a character's costumes); together
    they would ask for all at once. Entries that would make the prompt too long are left out.
    """
    return tuple(_short_enough(_of_one_variant(entries)))


def n_too_long(entries: Iterable[str]) -> int:
    """How many entries are left out of a prompt because it would be too long."""
    wanted = _of_one_variant(entries)
    return len(wanted) - len(list(_short_enough(wanted)))


def _of_one_variant(entries: Iterable[str]) -> list[str]:
    entries = list(entries)
    first = next((entry for entry in entries if "," in entry), None)
    return [entry for entry in entries if "," not in entry or entry == first]


def _short_enough(entries: Iterable[str]) -> Iterator[str]:
    left = _MOST_CHARACTERS
    for entry in entries:
        if len(entry) <= left:
            left -= len(entry)
            yield entry


def _parts(text: str) -> Iterable[str]:
    parts = (part.strip() for part in text.split(","))
    return (part for part in parts if part and part != _BREAK)
