"""Words of a query that are one letter away from a word that LoRAs or effects are called by: "snowfal", "snowfall".

An encoder makes something of every word, so that a misspelt one finds LoRAs, too, only not the right ones. Nothing is corrected
here: what may have been meant is said. A word is right if the library, a bank or a prompt set
uses it, if it is one token of CLIP, or if it is a form of such a word.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from importlib import import_module
from string import ascii_lowercase
from typing import TYPE_CHECKING

from .by_name import plain_words
from .reading import Reading
from .words import words

if TYPE_CHECKING:
    from ..database.database import MetricsDatabase

_SHORTEST, _LONGEST = 4, 30
"""Shorter words are one letter away from too many others, and longer ones are none."""

_COLUMNS = ("model_name", "file_name", "folder_name", "trigger_words")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_ENDINGS = ("s", "es", "ed", "er", "ing", "y")


@dataclass(frozen=True)
class Suggestion:
    """A word that may be misspelt. Both in small letters."""

    word: str
    meant: str

    @property
    def text(self) -> str:
        """For people."""
        return f'Did you mean "{self.meant}" for "{self.word}"?'


@dataclass(frozen=True, eq=False)
class Spelling:
    """The words that are known to be right."""

    library: Mapping[str, int]
    """The words that LoRAs are called by, and how many LoRAs are."""

    effects: Mapping[str, int]
    """The words of the bank of effects, and how many of its phrases hold each."""

    others: Collection[str]
    """Words that are right, but that nobody means instead of another one."""

    def suggestions(self, reading: Reading) -> tuple[Suggestion, ...]:
        """What may have been meant by words of what is asked for and of what is forbidden, in time linear in their number."""
        asked = (phrase for wish in reading.wishes for phrase in wish.options)
        found = dict.fromkeys(word for phrase in (*asked, *reading.forbidden) for word in _checked(phrase.words))
        meant = ((word, self._meant(word)) for word in found)
        return tuple(Suggestion(word, other) for word, other in meant if other is not None)

    def _meant(self, word: str) -> str | None:
        forms = (word, *_stems(word))
        if any(form in words for form in forms for words in (self.library, self.effects, self.others)):
            return None
        near = sorted(each for each in _neighbours(word) if each in self.library or each in self.effects)
        if not near or any(word in _stems(each) for each in near):
            return None
        # CLIP's vocabulary is read only where it decides.
        if any(form in _tokens() for form in forms):
            return None
        return min(near, key=lambda each: (each not in self.library, -self.library.get(each, 0), -self.effects.get(each, 0)))


def spelling_of(db: MetricsDatabase, effects: Iterable[str], others: Iterable[str]) -> Spelling:
    """What is right for a library.

    effects: the phrases of the bank of effects. others: any texts without mistakes.
    """
    listed = words()
    phrases = (phrase for each in fields(listed) for phrase in getattr(listed, each.name))
    right = {word for text in (*phrases, *others) for word in plain_words(text)}
    return Spelling(_library_words(db), _counted(set(plain_words(phrase)) for phrase in effects), right)


def _library_words(db: MetricsDatabase) -> Counter[str]:
    """Words of names, files, folders and trigger words, and how many rows hold each. "PixelArt" is three of them."""
    columns = [(name, db.column(name)) for name in _COLUMNS if name in db.table.column_names]
    return _counted(
        {word for name, cells in columns for text in _texts(name, cells[row]) for word in _name_words(text)}
        for row in range(len(db))
    )


def _texts(column: str, cell: str | list[str] | None) -> Iterable[str]:
    if isinstance(cell, str):
        return (cell.rsplit(".", 1)[0] if column == "file_name" else cell,)
    return cell or ()


def _name_words(text: str) -> Iterator[str]:
    yield from plain_words(text)
    apart = _CAMEL.sub(" ", text)
    if apart != text:
        yield from plain_words(apart)


def _counted(groups: Iterable[Collection[str]]) -> Counter[str]:
    return Counter(word for group in groups for word in group if _SHORTEST <= len(word) <= _LONGEST and word.isalpha())


def _checked(written: Iterable[str]) -> Iterator[str]:
    """Words that may be misspelt ones of these; nothing that holds a digit, as names of LoRAs and tags do."""
    for text in written:
        if not any(char.isdigit() for char in text):
            yield from (word for word in plain_words(text) if _SHORTEST <= len(word) <= _LONGEST and word.isascii())


def _neighbours(word: str) -> set[str]:
    """What is one letter away: one too many, two swapped, another, or one too few."""
    halves = [(word[:place], word[place:]) for place in range(len(word) + 1)]
    near = {left + right[1:] for left, right in halves}
    near |= {left + right[1] + right[0] + right[2:] for left, right in halves if len(right) > 1}
    near |= {left + char + right[1:] for left, right in halves if right for char in ascii_lowercase}
    near |= {left + char + right for left, right in halves for char in ascii_lowercase}
    return near - {word}


def _stems(word: str) -> Iterator[str]:
    """What a word may be a form of: "vignettes", "sketched", "blurring", "glitchy"."""
    for ending in _ENDINGS:
        stem = word.removesuffix(ending)
        if stem != word and len(stem) >= _SHORTEST - 1:
            yield stem
            yield stem + "e"
            if stem[-1] == stem[-2]:
                yield stem[:-1]


@lru_cache(maxsize=1)
def _tokens() -> frozenset[str]:
    """The whole words of CLIP's vocabulary, which are those that its texts held most often."""
    # open_clip takes seconds to import.
    vocabulary: dict[str, int] = import_module("open_clip.tokenizer").SimpleTokenizer().encoder
    ends = (token.removesuffix("</w>") for token in vocabulary if token.endswith("</w>"))
    return frozenset(word for word in ends if len(word) >= _SHORTEST - 1)
