"""Words that ask for nothing themselves: requests, praise, joins, negations. The lists are `data/words.json`."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path

_SCORE = re.compile(r"score_\d+(?:_up)?|rating_\w+|source_\w+|\d+(?:\.\d+)?[kp](?:\s+uhd)?")
_LONGEST = 5


@dataclass(frozen=True)
class Words:
    """Lists of words and short phrases, in small letters with single blanks; the file says what each is for."""

    asking: frozenset[str]
    signs: frozenset[str]
    nouns: frozenset[str]
    determiners: frozenset[str]
    towards: frozenset[str]
    polite: frozenset[str]
    vague: frozenset[str]
    quality: frozenset[str]
    certain: frozenset[str]
    praising: frozenset[str]
    praised: frozenset[str]
    ordinary: frozenset[str]
    joins: frozenset[str]
    alternatives: frozenset[str]
    negations: frozenset[str]
    not_negations: frozenset[str]
    unwelcome: frozenset[str]
    blemishes: frozenset[str]
    fillers: frozenset[str]
    stops: frozenset[str]

    def request(self, words: Sequence[str]) -> int:
        """How many words at the beginning only ask: "can you make it look like" -> 6. 0 if it is not a request."""
        n = 0
        while n < len(words) and (words[n] in self.asking or self._loves(words, n)):
            n += 1
        if n < len(words):
            # "a photo negative" asks for a negative of a photo, "my photo" is what is asked about.
            while n > 1 and words[n - 1] in self.nouns and words[n - 2] not in self.determiners:
                n -= 1
        return n if self.signs.intersection(words[:n]) else 0

    def farewell(self, words: Sequence[str], *, is_request: bool) -> int:
        """How many words at the end only ask: "please", and in a request "to my picture"."""
        n = 0
        while n < len(words):
            left = words[: len(words) - n]
            polite = phrase_ending(left, self.polite)
            asked_about = self._asked_about(left) if is_request and not polite else 0
            if not polite and not asked_about:
                break
            n += polite or asked_about
        return n

    def praise(self, words: Sequence[str]) -> int:
        """How many words at the beginning are one quality tag; 0 if they are none."""
        for n in range(min(_LONGEST, len(words)), 0, -1):
            phrase = " ".join(words[:n])
            if phrase in self.quality or phrase.replace("_", " ") in self.quality or _SCORE.fullmatch(phrase):
                return n
        return 0

    def only_praises(self, words: Sequence[str]) -> bool:
        """Whether these words are quality tags and nothing else: "masterpiece", "very good composition"."""
        place = 0
        while place < len(words) and (n := self.praise(words[place:])) > 0:
            place += n
        rest = self.praising | self.praised | self.stops
        is_made = not self.praising.isdisjoint(words) and not self.praised.isdisjoint(words) and rest.issuperset(words)
        return place == len(words) or is_made

    def is_certain(self, words: Sequence[str]) -> bool:
        """Whether a quality tag is one even beside other words: "best quality", but not "detailed"."""
        return len(words) > 1 or "_" in words[0] or words[0] in self.certain or bool(_SCORE.fullmatch(words[0]))

    def is_blemish(self, words: Sequence[str]) -> bool:
        """Whether this names a fault that no picture should have: that it is not wanted says nothing."""
        return " ".join(words).replace("_", " ") in self.blemishes

    def _loves(self, words: Sequence[str], place: int) -> bool:
        return words[place] == "love" and place + 1 < len(words) and words[place + 1] in ("to", "it", "if")

    def _asked_about(self, words: Sequence[str]) -> int:
        if len(words) > 1 and words[-1] in ("it", "this", "that", "me") and words[-2] in self.towards:
            return 2
        is_noun = len(words) > 2 and words[-1] in self.nouns and words[-2] in self.determiners and words[-3] in self.towards
        return 3 if is_noun else 0


def phrase_ending(words: Sequence[str], phrases: frozenset[str]) -> int:
    """How many words at the end are one of these phrases, the longest if several fit; 0 for none."""
    return next((n for n in range(min(_LONGEST, len(words)), 0, -1) if " ".join(words[-n:]) in phrases), 0)


def phrase_at(words: Sequence[str], place: int, phrases: frozenset[str]) -> int:
    """How many words from `place` on are one of these phrases, the longest if several fit; 0 for none."""
    longest = min(_LONGEST, len(words) - place)
    return next((n for n in range(longest, 0, -1) if " ".join(words[place : place + n]) in phrases), 0)


@lru_cache(maxsize=1)
def words() -> Words:
    """The lists."""
    content = json.loads((Path(__file__).parent / "data" / "words.json").read_text(encoding="utf-8"))
    return Words(**{field.name: frozenset(content[field.name]) for field in fields(Words)})
