"""A query is read before it is searched: what is asked for, what is forbidden, and what says nothing.

People wire whole prompts into a query, weigh words as ComfyUI does, write "no rain" and "can you give this picture ...?". All of
this is told from the words alone, in time that grows with the length of the query; what asks for an effect and what only says
what the picture shows is told in `effects`, with the library and its encoder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import compress, groupby
from operator import not_

from ..foreign import whole_text
from .emphasis import Weighed, weighed
from .words import Words, phrase_at, words

MAX_CHARACTERS = 4000
"""What is longer is cut: no encoder reads that far."""

SHORT = 6
"""So many words at most are one thing, if nothing parts them."""

_SHORTHANDS = (
    (re.compile(r"\bw/o\b", re.I), "without"),
    (re.compile(r"\bw/(?=\s|\w)", re.I), "with "),
    (re.compile(r"\band/or\b", re.I), "or"),
)
# What A1111 writes into its pictures, and people paste: the prompt, "Negative prompt: ...", "Steps: 20, Sampler: ...".
_NEGATIVE_PROMPT = re.compile(r"\bnegative prompt\s*:", re.I)
_SETTINGS = re.compile(r"(?:^|\s)steps\s*:\s*\d+\s*,.*", re.I | re.S)
_SEPARATOR = re.compile(r"(?P<usual>[,;+\n])|[|/，、；。•·]|[.!?…]+(?=[\s\"')\]]|$)|:(?=\s|$)|\s[-–—]+(?=\s)|[–—]")
_WORD = re.compile(r"\S+")
_EDGES = re.compile(r"^[\W_]+|[\W_]+$")
_APOSTROPHES = str.maketrans("’‘`´", "''''")
_MAX_PIECES = 6
_MAX_FORBIDDEN = 24


@dataclass(frozen=True)
class Phrase:
    """Something that is asked for. words: as they were written."""

    words: tuple[str, ...]
    weights: tuple[float, ...]
    """What each word weighs in ComfyUI's sense: 1 without emphasis."""

    pieces: tuple[tuple[int, int], ...]
    """Where each thing between "and" and "with" begins and ends among the words; the whole phrase if there is no such word."""

    @property
    def text(self) -> str:
        return self.part(0, len(self.words))

    def part(self, start: int, end: int) -> str:
        return " ".join(self.words[start:end]).strip("\"'“”„«»*~")

    @property
    def runs(self) -> tuple[tuple[int, int], ...]:
        """Where the whole phrase, its pieces and neighbours of these begin and end."""
        pieces, whole = self.pieces, (0, len(self.words))
        neighbours = (
            (pieces[first][0], pieces[last][1])
            for first in range(len(pieces))
            for last in range(first, min(first + _MAX_PIECES, len(pieces)))
        )
        return tuple(sorted({whole, *neighbours}))

    def has_meaning(self, start: int, end: int, known: Words) -> bool:
        """Whether some of the words are more than joins and words that mean nothing alone."""
        plain = [_EDGES.sub("", word).casefold() for word in self.words[start:end]]
        place = 0
        while place < len(plain):
            n = phrase_at(plain, place, known.joins | known.alternatives)
            if not n and plain[place] and plain[place] not in known.stops:
                return True
            place += n or 1
        return False

    def without_joins(self, start: int, end: int, known: Words) -> str:
        """Some of the words, without "and" and the like before and after them."""
        plain, joins = [_EDGES.sub("", word).casefold() for word in self.words[:end]], known.joins | known.alternatives
        while start < end and (n := phrase_at(plain, start, joins)):
            start += n
        while end > start and phrase_at(plain[:end], end - 1, joins):
            end -= 1
        return " ".join(self.words[start:end])

    def weight(self, start: int, end: int) -> float:
        """Mean weight of some of the words."""
        return round(sum(self.weights[start:end]) / (end - start), 4)


@dataclass(frozen=True)
class Wish:
    """A part of a query. options: one phrase, or several with "or" between them, of which one is enough."""

    options: tuple[Phrase, ...]


@dataclass(frozen=True)
class Reading:
    """A query, read."""

    query: str
    wishes: tuple[Wish, ...]
    forbidden: tuple[Phrase, ...]
    """What is not wanted: "no rain" -> "rain"."""

    ignored: tuple[str, ...]
    """What weighs nothing: requests, quality tags, `<lora:...>`, wildcards, marks without words."""

    is_plain: bool
    """Whether the query is nothing but wishes, with the separators that were always known."""

    @property
    def text(self) -> str:
        """What is asked for, without all else; the query itself if it is plain."""
        return self.query.strip() if self.is_plain else ", ".join(wish.options[0].text for wish in self.wishes)

    @property
    def is_short(self) -> bool:
        """Whether it is nothing but one short phrase, so that there is nothing to tell apart."""
        return self.is_plain and [len(option.words) <= SHORT for wish in self.wishes for option in wish.options] == [True]


def plain_word(word: str) -> str:
    """A word in small letters, without marks around it and without the s of a plural."""
    plain = _EDGES.sub("", word).casefold()
    return plain[:-1] if len(plain) > 3 and plain.endswith("s") and not plain.endswith("ss") else plain


def read(query: str) -> Reading:
    """Read a query. Equal queries give equal readings."""
    query = whole_text(query)
    text = query.translate(_APOSTROPHES)[:MAX_CHARACTERS]
    for shorthand, meaning in _SHORTHANDS:
        text = shorthand.sub(meaning, text)
    settings = [found.strip() for found in _SETTINGS.findall(text)]
    text = _SETTINGS.sub("", text)
    wanted, *unwanted = _NEGATIVE_PROMPT.split(text)
    plain, negative = weighed(wanted), weighed(", ".join(unwanted))
    reader = _Reader(plain, words())
    reader.read()
    barred = _Reader(negative, reader.words)
    barred.forbid()
    return Reading(
        query=query,
        wishes=tuple(reader.wishes),
        forbidden=tuple(dict.fromkeys((*reader.forbidden, *barred.forbidden)))[:_MAX_FORBIDDEN],
        ignored=tuple(dict.fromkeys((*plain.tags, *reader.ignored, *negative.tags, *barred.ignored, *settings))),
        is_plain=not reader.is_changed and not plain.tags and query.strip() == plain.text.strip(),
    )


@dataclass(frozen=True)
class _Tokens:
    """Words of a text. places: where each begins and ends in it; plain: in small letters, without marks around them."""

    text: Weighed
    places: tuple[tuple[int, int], ...]

    @cached_property
    def plain(self) -> tuple[str, ...]:
        written = [self.text.text[start:end] for start, end in self.places]
        return tuple(_EDGES.sub("", word).casefold() or word for word in written)

    @property
    def sign(self) -> int:
        """Of the weight of its first word: 1, 0 or -1."""
        weight = self.text.weight(*self.places[0])
        return (weight > 0) - (weight < 0)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, part: slice) -> _Tokens:
        return _Tokens(self.text, self.places[part])

    @property
    def written(self) -> str:
        """As it was written, with single blanks."""
        return self.phrase(frozenset()).text

    def phrase(self, joins: frozenset[str]) -> Phrase:
        words = tuple(self.text.text[start:end] for start, end in self.places)
        weights = tuple(round(self.text.weight(start, end), 4) for start, end in self.places)
        return Phrase(words, weights, tuple(self.ranges(joins)))

    def split(self, separators: frozenset[str]) -> list[_Tokens]:
        """What stands between these phrases; nothing empty."""
        return [self[start:end] for start, end in self.ranges(separators)]

    def ranges(self, separators: frozenset[str]) -> list[tuple[int, int]]:
        """Where it begins and ends."""
        found, start, place, plain = [], 0, 0, self.plain
        while place < len(plain):
            n = phrase_at(plain, place, separators)
            if n:
                found.append((start, place))
                start = place + n
            place += n or 1
        return [(start, end) for start, end in (*found, (start, len(plain))) if end > start]


@dataclass
class _Reader:
    """What has been read so far."""

    text: Weighed
    words: Words
    wishes: list[Wish] = field(default_factory=list)
    forbidden: list[Phrase] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    is_changed: bool = False

    def read(self) -> None:
        is_forbidding = False
        for tokens in self._parts():
            before = len(self.forbidden)
            if tokens.sign <= 0:
                self._no_wish(tokens)
                continue
            # "no rain, snow or fog" forbids all three.
            goes_on = is_forbidding and any(word in self.words.alternatives for word in tokens.plain)
            for is_wanted, part in self._sides(tokens):
                if is_wanted and not goes_on:
                    self._wish(part)
                else:
                    self._forbid(part)
            is_forbidding = len(self.forbidden) > before

    def _no_wish(self, tokens: _Tokens) -> None:
        """Words with a weight of 0, which say nothing, or of less, which are not wanted."""
        self.is_changed = True
        if tokens.sign < 0:
            self._forbid(tokens)
        else:
            self._ignore(tokens.written)

    def forbid(self) -> None:
        """Read a negative prompt: all that it names is forbidden."""
        for tokens in self._parts():
            self._forbid(tokens)

    def _parts(self) -> Iterator[_Tokens]:
        """What stands between separators."""
        start = 0
        for found in _SEPARATOR.finditer(self.text.text):
            yield from self._tokens(start, found.start())
            start = found.end()
            self.is_changed |= found["usual"] is None
        yield from self._tokens(start, len(self.text.text))

    def _tokens(self, start: int, end: int) -> Iterator[_Tokens]:
        found = [match.span() for match in _WORD.finditer(self.text.text, start, end)]
        written = [self.text.text[a:b] for a, b in found]
        is_word = [bool(_EDGES.sub("", text)) or text == "&" for text in written]
        self._ignore(" ".join(compress(written, map(not_, is_word))))
        places = compress(found, is_word)
        for _, run in groupby((_Tokens(self.text, (place,)) for place in places), key=lambda word: word.sign):
            yield _Tokens(self.text, tuple(word.places[0] for word in run))

    def _sides(self, tokens: _Tokens) -> Iterator[tuple[bool, _Tokens]]:
        """Runs of words, and whether they are wanted."""
        known, plain = self.words, tokens.plain
        start, place, is_wanted = 0, 0, True
        while place < len(tokens):
            unwelcome = self._unwelcome(plain, place)
            if unwelcome and place > start:
                yield False, tokens[start:place]
                start = place = place + unwelcome
                is_wanted = self.is_changed = True
                continue
            harmless = phrase_at(plain, place, known.not_negations)
            negation = 0 if harmless else phrase_at(plain, place, known.negations)
            if negation or (not is_wanted and self._ends_negation(plain, place)):
                yield is_wanted, self._before_negation(tokens[start:place]) if is_wanted else tokens[start:place]
                is_wanted = not negation
                start = place + max(negation, 1)
                self.is_changed = True
            place += harmless or max(negation, 1)
        yield is_wanted, tokens[start:]

    def _unwelcome(self, plain: Sequence[str], place: int) -> int:
        """How many words say that what stands before them is not wanted: "hearts (are not wanted)"; 0 if it goes on."""
        n = phrase_at(plain, place, self.words.unwelcome)
        return n if place + n == len(plain) or plain[place + n] in self.words.joins else 0

    def _before_negation(self, tokens: _Tokens) -> _Tokens:
        """Without what leads to the negation: "snow, but I (don't)", "a cat that is (not)"."""
        n = len(tokens)
        while n and tokens.plain[n - 1] in self.words.asking | self.words.joins:
            n -= 1
        return tokens[:n]

    def _ends_negation(self, plain: Sequence[str], place: int) -> bool:
        """Whether what is wanted goes on here: at "but", and at "and" before a request."""
        if plain[place] in ("but", "however", "instead", "yet"):
            return True
        return plain[place] in ("and", "then") and self.words.request(plain[place + 1 :]) > 0

    def _forbid(self, tokens: _Tokens) -> None:
        known = self.words
        plain, start = tokens.plain, 0
        while start < len(plain) and plain[start] in known.fillers | known.joins:
            start += 1
        end = len(plain) - known.farewell(plain[start:], is_request=True)
        while end > start and plain[end - 1] in known.joins | known.alternatives | known.stops:
            end -= 1
        tokens = tokens[start:end]
        if not len(tokens):
            return
        if known.is_blemish(tokens.plain):
            self._ignore(tokens.written)
            return
        self.forbidden.append(tokens.phrase(known.joins | known.alternatives))

    def _wish(self, tokens: _Tokens) -> None:
        tokens = self._without_edges(self._without_praise(self._without_request(self._without_edges(tokens))))
        if not len(tokens):
            return
        known = self.words
        if all(word in known.vague or word in known.stops or word in known.asking for word in tokens.plain):
            self._ignore(tokens.written)
            return
        phrases = tuple(option.phrase(known.joins) for option in tokens.split(known.alternatives | {"either"}))
        if phrases:
            self.is_changed |= len(phrases) > 1 or any(weight != 1 for phrase in phrases for weight in phrase.weights)
            self.wishes.append(Wish(phrases))

    def _without_edges(self, tokens: _Tokens) -> _Tokens:
        """Without joins that join nothing."""
        known, plain = self.words, tokens.plain
        start, end = 0, len(plain)
        while (n := phrase_at(plain, start, known.joins | known.alternatives | known.not_negations)) > 0:
            start += n
        while end > start and plain[end - 1] in known.joins | known.alternatives:
            end -= 1
        self.is_changed |= end - start < len(plain)
        return tokens[start:end]

    def _without_request(self, tokens: _Tokens) -> _Tokens:
        n = self.words.request(tokens.plain)
        end = len(tokens) - self.words.farewell(tokens.plain[n:], is_request=n > 0)
        self._ignore(tokens[:n].written)
        self._ignore(tokens[end:].written)
        return tokens[n:end]

    def _without_praise(self, tokens: _Tokens) -> _Tokens:
        """Without quality tags: all if there is nothing else, else those at the beginning that are no part of an effect."""
        known = self.words
        if known.only_praises(tokens.plain):
            self._ignore(tokens.written)
            return tokens[:0]
        while (n := known.praise(tokens.plain)) > 0 and known.is_certain(tokens.plain[:n]):
            self._ignore(tokens[:n].written)
            tokens = tokens[n:]
        return tokens

    def _ignore(self, text: str) -> None:
        if text:
            self.ignored.append(text)
            self.is_changed = True
