"""Words of a query that are one letter away from a word that is likelier: "snowfal", "snowfall".

An encoder makes something of every word, so that a misspelt one finds LoRAs, too, only not the right ones. Nothing is corrected
here: what may have been meant is said. A word is right if the library, a bank or a prompt set uses it, if it is one token of
CLIP, or if it is a form of such a word. What may have been meant is, in this order: a word that LoRAs or effects are called by; a
word of the other banks and prompt sets; for longer words, one that CLIP has a token for, if a letter is missing, doubled or
swapped (with another letter put in its place, too many right words turn into others: "whiskers", "whispers").

Words with letters outside a-z are not doubted: they are hardly English.

Measured on the 927 words of the 648 queries in the mini-world and in `studies/`, of which every one is right: one is doubted,
"Hund", and no English one.
Of 655 slips in words of the mini-world's queries (a letter left out, doubled, or swapped with the next), the right word is said
for 70%, another one for 4% (with words of LoRAs and effects alone: 43% and 2%); most others are right words, too.
"""

from __future__ import annotations

import gzip
import logging
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from string import ascii_lowercase
from typing import TYPE_CHECKING

from ..prompts.prompt_set import default_content_bank, default_effect_bank
from .by_name import plain_words
from .language import other_language
from .reading import Reading
from .words import words

if TYPE_CHECKING:
    from ..database.database import MetricsDatabase

_SHORTEST, _LONGEST = 4, 30
"""Shorter words are one letter away from too many others, and longer ones are none."""

_COLUMNS = ("model_name", "file_name", "folder_name", "trigger_words")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_ENDINGS = ("s", "es", "ed", "er", "ing", "ish", "y")
_LONG = 6
"""From so many letters on, words that are only known from CLIP's vocabulary may have been meant."""

_VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"
_N_MERGES = 49152 - 256 - 2
"""Lines of that file, after its first one, which CLIP's tokenizer uses (as in OpenAI's release)."""


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Suggestion:
    """A word that may be misspelt."""

    word: str
    """As it was written."""
    meant: str
    """In small letters."""

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

    texts: Collection[str]
    """The words of texts without mistakes."""

    others: Collection[str]
    """Words that are right, but that nobody means instead of another one."""

    def suggestions(self, reading: Reading) -> tuple[Suggestion, ...]:
        """What may have been meant by words of what is asked for and of what is forbidden, in time linear in their number.

        Nothing is said of words of another language, which is not known here.
        """
        if other_language(reading.query) is not None:
            return ()
        asked = (phrase for wish in reading.wishes for phrase in wish.options)
        found: dict[str, str] = {}
        for phrase in (*asked, *reading.forbidden):
            for word in _checked(phrase.words):
                found.setdefault(word.casefold(), word)
        meant = ((word, self._meant(small)) for small, word in found.items())
        return tuple(Suggestion(word, other) for word, other in meant if other is not None)

    def _meant(self, word: str) -> str | None:
        forms = (word, *_stems(word))
        right = (self.library, self.effects, self.texts, self.others)
        if any(form in words for form in forms for words in right):
            return None
        near = self._near(word)
        # CLIP's vocabulary is read only where it decides.
        if not near or any(word in _stems(each) for each in near):
            return None
        tokens = _tokens()
        return None if not tokens or any(form in tokens for form in forms) else near[0]

    def _near(self, word: str) -> list[str]:
        """Words that may have been meant, the likeliest first."""
        near = sorted(_neighbours(word))
        called = [each for each in near if each in self.library or each in self.effects]
        if called:
            by_number = {each: (-self.library.get(each, 0), -self.effects.get(each, 0)) for each in called}
            return sorted(called, key=lambda each: (each not in self.library, by_number[each]))
        of_texts = [each for each in near if each in self.texts]
        if of_texts or len(word) < _LONG:
            return of_texts
        tokens = _tokens()
        return sorted((each for each in _slips(word) if len(each) >= _LONG and each in tokens), key=lambda each: tokens[each])


def spelling_of(db: MetricsDatabase, effects: Iterable[str], texts: Iterable[str]) -> Spelling:
    """What is right for a library.

    effects: the phrases of the bank of effects. texts: any others without mistakes.
    """
    listed = words()
    phrases = (phrase for each in fields(listed) for phrase in getattr(listed, each.name))
    others = frozenset(word for phrase in phrases for word in plain_words(phrase))
    of_texts, of_effects = (_counted(set(plain_words(each)) for each in some) for some in (texts, effects))
    return Spelling(_library_words(db), of_effects, of_texts, others)


def is_ordinary(word: str) -> bool:
    """Whether a word is in the bank of effects, in that of content or in the lists of words, is one token of CLIP, or is a form
    of such a word: "blue", "eyes", "foggy", and not "sdxl", "v2" or "12". word: in small letters, as of `plain_words`."""
    known, forms = _bank_words(), (word, *_stems(word))
    # CLIP's vocabulary is read only where it decides.
    return not word.isdigit() and (any(form in known for form in forms) or any(form in _tokens() for form in forms))


@lru_cache(maxsize=1)
def _bank_words() -> frozenset[str]:
    """All words of the banks that come with the package, and of the lists."""
    lists = (phrase for each in fields(words()) for phrase in getattr(words(), each.name))
    texts = (*default_effect_bank().texts, *default_content_bank().texts, *lists)
    return frozenset(word for text in texts for word in plain_words(text))


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
    """Words that may be misspelt, as they are written; none that holds a digit, as names of LoRAs and tags do."""
    for text in written:
        if not any(char.isdigit() for char in text):
            # A mark that belongs to the letter before it parts no word.
            parted = "".join(char if char.isalnum() or unicodedata.combining(char) else " " for char in text)
            yield from (word for word in parted.split() if _SHORTEST <= len(word) <= _LONGEST and word.isascii())


def _neighbours(word: str) -> set[str]:
    """What is one letter away: one too many, two swapped, another, or one too few."""
    halves = _halves(word)
    return (_slips(word) | {left + char + right[1:] for left, right in halves if right for char in ascii_lowercase}) - {word}


def _slips(word: str) -> set[str]:
    """What is one letter away, without another in place of one of them."""
    halves = _halves(word)
    near = {left + right[1:] for left, right in halves}
    near |= {left + right[1] + right[0] + right[2:] for left, right in halves if len(right) > 1}
    near |= {left + char + right for left, right in halves for char in ascii_lowercase}
    return near - {word}


def _halves(word: str) -> list[tuple[str, str]]:
    return [(word[:place], word[place:]) for place in range(len(word) + 1)]


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
def _tokens() -> Mapping[str, int]:
    """The whole words of CLIP's vocabulary, which are those that its texts held most often, and the place of each: the first was
    held most often. Empty if they cannot be read: then no word is doubted."""
    try:
        merges = _vocabulary().split("\n")[1 : _N_MERGES + 1]
    except (OSError, EOFError, ValueError, zlib.error) as error:
        logger.warning("carlos: words are not checked for slips, CLIP's vocabulary cannot be read: %s", error)
        return {}
    ends = (merge.replace(" ", "").removesuffix("</w>") for merge in merges if merge.endswith("</w>"))
    return {word: place for place, word in enumerate(ends) if len(word) >= _SHORTEST - 1}


def _vocabulary() -> str:
    """That of CLIP's tokenizer, a token in each line. Raises OSError, EOFError, ValueError or zlib.error if it cannot be read."""
    # open_clip takes seconds to import, its file a tenth of one.
    found = find_spec("open_clip")
    if found is None or found.origin is None:
        raise FileNotFoundError("open_clip is not installed as a package with files")
    with gzip.open(Path(found.origin).with_name(_VOCABULARY), "rt", encoding="utf-8") as file:
        return file.read()
