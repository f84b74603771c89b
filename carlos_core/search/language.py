"""The language of a query, as far as it matters: CLIP was trained on English texts, and makes something of all others, too."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

from .by_name import plain_words

ENGLISH = "English"
OTHER_LETTERS = "a language with other letters"
_LATIN_END = 0x250
_SHARE = 0.2
_MULTILINGUAL = ("xlm", "nllb", "mt5", "i18n", "multilingual", "siglip2", "metaclip2", "mclip")
"""In names of encoders, without the marks between their parts."""


def other_language(text: str) -> str | None:
    """The language that a text seems to be in, for people; None if it may be English.

    Told by its letters, or by small words: at least two of one language, a fifth of all words, and no English one beside them.
    """
    if has_other_letters(text):
        return OTHER_LETTERS
    words = text.casefold().replace(",", " ").split()
    listed = _languages()
    if not words or listed[ENGLISH].intersection(words):
        return None
    found = {name: [word for word in words if word in small] for name, small in listed.items()}
    best = max(found, key=lambda name: len(set(found[name])))
    return best if len(set(found[best])) >= 2 and len(found[best]) >= _SHARE * len(words) else None


def has_other_letters(text: str) -> bool:
    """Whether most of its letters are not Latin ones, which the texts of CLIP hardly hold."""
    letters = [char for char in text if char.isalpha()]
    return 2 * sum(ord(char) >= _LATIN_END for char in letters) > len(letters)


def knows_other_languages(encoder_id: str) -> bool:
    """Whether an encoder was trained on more languages than English, as its name says."""
    plain = "".join(plain_words(encoder_id))
    return any(name in plain for name in _MULTILINGUAL)


@lru_cache(maxsize=1)
def _languages() -> dict[str, frozenset[str]]:
    """The small words of each language."""
    content = json.loads((Path(__file__).parent / "data" / "languages.json").read_text(encoding="utf-8"))
    return {name: frozenset(words) for name, words in content.items() if name != "about"}
