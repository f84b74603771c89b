"""What a query that was read asks for: effects that LoRAs of the library have, and content, which is not held against them.

Phrases between separators, what stands between their "and" and "with", and runs of words within these are tried. Each gets a
p-value: how often an unrelated effect, or a phrase of content (`content`), finds a LoRA that looks as good. A text of many
phrases must find no more by chance than one of a few:

- If each thing that the query names is an effect by itself, all of them are: one that is not would have to pass alone, before all
  phrases of the bank.
- Otherwise p-values are corrected for all phrases, and for runs of words also for all runs that were tried (Sidak), and the limit
  is MIXED_SHARE of what it is for effects alone: most texts with something else in them ask for nothing.
- A phrase all of whose words are known from the bank of content, or ordinary, is taken for content CONTENT_ODDS times as readily.
  One with other words is held against those of the bank that have a word of their own (`content`).
- A phrase or run of words is no effect if a part of it that only holds such words is as sure by itself, and what is left without
  it is none ("brown" in "brown bridge").
- Of runs that overlap the surest is taken.
- Words in letters that are not Latin ones ask for nothing, unless the encoder knows more than English.

A phrase is looked at with a few of the signature's prompts first, then with a few more, and judged with all of them if that may
still change something.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .content import corrected
from .language import has_other_letters
from .reading import Phrase, Reading, plain_word
from .spelling import Suggestion
from .words import words

MAX_RUN = 6
"""The most words of a run inside of a phrase."""

MAX_WHOLE = 9
"""The most words of what is judged as one: the bank of content has no longer phrases, and longer texts all drift the same way."""

MAX_TRIED = 240
"""The most runs of words that are tried in a query; if there are more, shorter ones only."""

CONTENT_ODDS = 10.0

MIXED_SHARE = 0.6
"""Which share of the limit holds for a text that does not only name effects: 3% of such texts at a limit of 5%."""

LOOK_MARGIN, CLOSER_MARGIN = 2.0, 1.0
"""By how much a z-score of a look may be below that of the whole signature (observed: 1.7), and that of a closer one, which four
times as many prompts make half as uncertain: of 426 queries with the built-in prompts none is chosen for otherwise."""

_FEW = 6
"""In a query of so few things, what would fit alone is found out and said."""

_MAX_PHRASES = 60
_MAX_JUDGED = 24


@dataclass(frozen=True)
class Verdict:
    """What the library makes of a phrase: its best LoRA."""

    lora_id: str
    z: float
    """Standard deviations above what unrelated effects reach."""

    is_sure: bool
    """Whether it is as sure as the rules ask, whatever else is tried."""


class Judge(Protocol):
    """What a library makes of phrases."""

    def looks(self, texts: Sequence[str]) -> Sequence[float | None]:
        """The best z-score of each, roughly; None where nothing may be chosen."""
        ...

    def closer_looks(self, texts: Sequence[str]) -> Sequence[float | None]:
        """The same, less roughly."""
        ...

    def verdicts(self, texts: Sequence[str]) -> Sequence[Verdict | None]:
        """What each phrase finds; None where nothing may be chosen."""
        ...

    def p_value(self, z: float, *, is_content: bool) -> float:
        """How often an unrelated effect, or a phrase of content, finds a LoRA with this z-score. is_content: whether the bank of
        content has all words of what found it."""
        ...


@dataclass(frozen=True)
class Effect:
    """A phrase that asks for what a LoRA does."""

    text: str
    weight: float
    """Emphasis, 1 for none."""

    lora_id: str
    """The LoRA that fits it best."""


@dataclass(frozen=True)
class Understanding:
    """What a query asks for."""

    reading: Reading
    effects: tuple[Effect, ...] = ()
    content: tuple[str, ...] = ()
    """What only says what the picture shows, or asks for what no LoRA of the library does."""

    fits_together: bool = False
    """Whether nothing fits alone, and all of it together does."""

    alone: tuple[Effect, ...] = ()
    """What would be an effect if it were all that is asked for: next to other things a match must be surer."""

    did_you_mean: tuple[Suggestion, ...] = ()
    """Words that may be misspelt, and what may have been meant. They are searched for as they are."""

    why_unread: str = ""
    """Why the effects could not be looked for; empty if they could, or if there was no need."""

    @property
    def unfit(self) -> tuple[str, ...]:
        """The content that would not fit alone either."""
        alone = {effect.text for effect in self.alone}
        return tuple(text for text in self.content if text not in alone)

    @property
    def facts(self) -> dict[str, Any]:
        """What was read as what, for reports."""
        alone = [{"text": effect.text, "lora_id": effect.lora_id} for effect in self.alone]
        return {
            "effects": [{"text": effect.text, "lora_id": effect.lora_id, "emphasis": effect.weight} for effect in self.effects],
            **({"alone": alone} if alone else {}),
            "forbidden": [phrase.text for phrase in self.reading.forbidden],
            "content": list(self.unfit),
            "ignored": list(self.reading.ignored),
            "did_you_mean": [{"word": each.word, "meant": each.meant} for each in self.did_you_mean],
        }


@dataclass(frozen=True)
class _Run:
    """Words of a phrase that are tried together."""

    phrase: Phrase
    start: int
    end: int

    @property
    def text(self) -> str:
        return self.phrase.part(self.start, self.end)

    @property
    def words(self) -> tuple[str, ...]:
        return self.phrase.words[self.start : self.end]

    @property
    def has_only_small_words(self) -> bool:
        """Whether it holds words as "in" only, which explain nothing, whatever an encoder makes of them."""
        known = words()
        return all(word.casefold() in known.stops | known.towards | known.fillers for word in self.words)

    def without(self, part: _Run) -> str:
        """What is left of the text without a part of it."""
        return f"{self.phrase.part(self.start, part.start)} {self.phrase.part(part.end, self.end)}".strip()

    def overlaps(self, other: _Run) -> bool:
        return self.phrase == other.phrase and self.start < other.end and other.start < self.end

    def holds(self, other: _Run) -> bool:
        return self.phrase == other.phrase and self.start <= other.start and other.end <= self.end


def understand(
    reading: Reading, judge: Judge, limit: float, content_words: Collection[str], *, reads_all_letters: bool = False
) -> Understanding:
    """Find the effects in a query.

    Args:
        reading: the query.
        judge: what the library makes of phrases.
        limit: the highest corrected p-value that counts as a match.
        content_words: words of the bank of content, as `plain_word` gives them.
        reads_all_letters: whether the encoder knows more than English.
    """
    search = _Search(judge, limit, content_words, reads_all_letters)
    wishes = tuple(dict.fromkeys(reading.wishes))
    phrases = list(dict.fromkeys(phrase for wish in wishes for phrase in wish.options))[:_MAX_PHRASES]
    taken, alone = search.taken(phrases)
    effects: list[Effect] = []
    content: list[str] = []
    for wish in wishes:
        found = {phrase: [run for run in taken if run.phrase == phrase] for phrase in wish.options}
        # Of alternatives the surest is enough.
        named = [phrase for phrase in wish.options if found[phrase]]
        best = min(named, key=lambda phrase: min(taken[run].p_value for run in found[phrase]), default=None)
        runs = sorted(found[best], key=lambda run: run.start) if best is not None else []
        effects += [Effect(run.text, run.phrase.weight(run.start, run.end), taken[run].verdict.lora_id) for run in runs]
        for phrase in (best,) if best is not None else wish.options:
            content += _left(phrase, runs)
    fits_together = not effects and len(phrases) > 1 and search.fits_together(reading.text, phrases)
    return Understanding(
        reading,
        tuple(effects),
        tuple(dict.fromkeys(content)),
        fits_together,
        () if fits_together else tuple(Effect(run.text, 1.0, found.verdict.lora_id) for run, found in alone.items()),
    )


@dataclass(frozen=True)
class _Finding:
    """What a run of words finds, and how often other words would find as much."""

    verdict: Verdict
    p_value: float


@dataclass(frozen=True)
class _Search:
    judge: Judge
    limit: float
    content_words: Collection[str]
    reads_all_letters: bool

    def taken(self, phrases: Sequence[Phrase]) -> tuple[dict[_Run, _Finding], dict[_Run, _Finding]]:
        """The runs of words that ask for effects, and the LoRAs that they ask for; and those that would do so alone."""
        pieces = [_Run(phrase, start, end) for phrase in phrases for start, end in phrase.pieces]
        runs = [run for phrase in phrases for run in (_Run(phrase, *each) for each in phrase.runs) if self._can_be_judged(run)]
        looks = self._looks(runs)
        n = 1 if len(pieces) <= _FEW or self._may_all_pass(pieces, looks) else len(pieces)
        whole = self._judged(runs, looks, n)
        whole = {run: finding for run, finding in whole.items() if self._passes(finding, 1)}
        parts = [part for part in self._runs_within(list(whole)) if self._is_content(part)]
        whole = self._unexplained(whole, {run: looks[run] for run in whole} | self._looks(parts))
        all_pass = all(piece in whole and self._passes_before_all(whole[piece]) for piece in pieces)
        n, share = (1, 1.0) if all_pass else (len(pieces), MIXED_SHARE)
        taken = _surest({run: finding for run, finding in whole.items() if self._passes(finding, n, share)})
        inner = self._runs_within([piece for piece in pieces if not any(piece.overlaps(run) for run in taken)])
        looks = self._looks(inner)
        n = len(pieces) + len(inner)
        findings = self._judged(inner, looks, n)
        fitting = {run: finding for run, finding in findings.items() if self._passes(finding, n, MIXED_SHARE)}
        taken |= _surest(self._unexplained(fitting, looks))
        others = [piece for piece in pieces if piece in whole and not any(piece.overlaps(run) for run in taken)]
        return taken, {piece: whole[piece] for piece in others if len(pieces) > 1 and self._passes_alone(whole[piece])}

    def _may_all_pass(self, pieces: Sequence[_Run], looks: Mapping[_Run, float]) -> bool:
        """Whether each piece may be an effect by itself. The least sure one is judged: if it is none, fewer others need be."""
        if not all(piece in looks and self._may_pass(looks[piece], self._is_content(piece), 1) for piece in pieces):
            return False
        least = min(pieces, key=lambda piece: looks[piece], default=None)
        if least is None:
            return False
        finding = self._judged([least], looks, 1).get(least)
        return finding is not None and self._passes_before_all(finding)

    def fits_together(self, text: str, phrases: Sequence[Phrase]) -> bool:
        """Whether all phrases fit as one, though none of them does alone."""
        if len(text.split()) > MAX_WHOLE or any(self._is_in_other_letters(phrase.text) for phrase in phrases):
            return False
        is_content = all(self._is_content(_Run(phrase, 0, len(phrase.words))) for phrase in phrases)
        look = self.judge.looks([text])[0]
        if look is None or not self._may_pass(look, is_content, len(phrases) + 1):
            return False
        verdict = self.judge.verdicts([text])[0]
        return verdict is not None and self._passes(self._finding(verdict, is_content), len(phrases) + 1, MIXED_SHARE)

    def _can_be_judged(self, run: _Run) -> bool:
        return run.end - run.start <= MAX_WHOLE and not any(map(self._is_in_other_letters, run.words))

    def _is_in_other_letters(self, text: str) -> bool:
        return not self.reads_all_letters and has_other_letters(text)

    def _unexplained(self, fitting: Mapping[_Run, _Finding], looks: Mapping[_Run, float]) -> dict[_Run, _Finding]:
        """Those of these runs that no part explains. looks: of the runs and of the parts."""
        return {run: finding for run, finding in fitting.items() if not self._is_explained(run, looks)}

    def _runs_within(self, pieces: Sequence[_Run]) -> list[_Run]:
        return [run for run in _runs_within(pieces) if self._can_be_judged(run)]

    def _looks(self, runs: Sequence[_Run]) -> dict[_Run, float]:
        looks = self.judge.looks([run.text for run in runs])
        return {run: look for run, look in zip(runs, looks, strict=True) if look is not None}

    def _judged(self, runs: Sequence[_Run], looks: Mapping[_Run, float], n_tried: int) -> dict[_Run, _Finding]:
        """What the runs that may pass find."""
        best = sorted((run for run in runs if run in looks), key=lambda run: -looks[run])[:_MAX_JUDGED]
        hopeful = [run for run in best if self._may_pass(looks[run], self._is_content(run), n_tried)]
        closer = zip(hopeful, self.judge.closer_looks([run.text for run in hopeful]), strict=True)
        hopeful = [
            run
            for run, look in closer
            if look is not None and self._may_pass(look, self._is_content(run), n_tried, CLOSER_MARGIN)
        ]
        verdicts = self.judge.verdicts([run.text for run in hopeful])
        return {
            run: self._finding(verdict, self._is_content(run))
            for run, verdict in zip(hopeful, verdicts, strict=True)
            if verdict is not None
        }

    def _may_pass(self, look: float, is_content: bool, n_tried: int, margin: float = LOOK_MARGIN) -> bool:
        return corrected(self._p_value(look + margin, is_content), n_tried) <= self.limit

    def _passes(self, finding: _Finding, n_tried: int, share: float = 1.0) -> bool:
        return finding.verdict.is_sure and corrected(finding.p_value, n_tried) <= share * self.limit

    def _passes_before_all(self, finding: _Finding) -> bool:
        """Whether it would also pass before all phrases of content, whatever words the bank knows."""
        return self._passes(finding, 1) and self.judge.p_value(finding.verdict.z, is_content=True) <= self.limit

    def _passes_alone(self, finding: _Finding) -> bool:
        """Whether it would pass in a query of nothing else."""
        return self._passes_before_all(finding) or self._passes(finding, 1, MIXED_SHARE)

    def _finding(self, verdict: Verdict, is_content: bool) -> _Finding:
        return _Finding(verdict, self._p_value(verdict.z, is_content))

    def _p_value(self, z: float, is_content: bool) -> float:
        return judged(self.judge, z, is_content=is_content)

    def _is_content(self, run: _Run) -> bool:
        return self._are_known(run.words)

    def _are_known(self, some_words: Iterable[str]) -> bool:
        return all(plain_word(word) in self.content_words for word in some_words)

    def _is_explained(self, run: _Run, looks: Mapping[_Run, float]) -> bool:
        """Whether a part that only holds words of content looks as sure, and what is left without it asks for nothing."""
        parts = [part for part, look in looks.items() if look >= looks[run] and part != run and run.holds(part)]
        parts = [part for part in parts if self._is_content(part) and not part.has_only_small_words]
        left = [run.without(part) for part in parts]
        looks_of_left = zip(left, self.judge.looks(left), strict=True)
        return any(
            look is None or self.judge.p_value(look, is_content=self._are_known(text.split())) > self.limit
            for text, look in looks_of_left
        )


def judged(judge: Judge, z: float, *, is_content: bool) -> float:
    """How often other words would find a LoRA with this z-score. is_content: whether all words are known from the bank of content
    or ordinary."""
    return min(1.0, (CONTENT_ODDS if is_content else 1.0) * judge.p_value(z, is_content=is_content))


def _surest(fitting: Mapping[_Run, _Finding]) -> dict[_Run, _Finding]:
    """The surest runs that do not overlap; where a longer one holds it and asks for the same LoRA, the longer one."""
    taken: dict[_Run, _Finding] = {}
    for run in sorted(fitting, key=lambda run: (fitting[run].p_value, -fitting[run].verdict.z, run.start, -run.end)):
        if any(run.overlaps(other) for other in taken):
            continue
        wider = [
            other
            for other, finding in fitting.items()
            if other.holds(run)
            and finding.verdict.lora_id == fitting[run].verdict.lora_id
            and not any(other.overlaps(each) for each in taken)
        ]
        longest = max(wider, key=lambda other: other.end - other.start)
        taken[longest] = fitting[longest]
    return taken


def _runs_within(pieces: Sequence[_Run]) -> list[_Run]:
    """Runs of words within pieces, at most MAX_TRIED; none begins or ends with a word that means nothing there."""
    stops = words().stops
    runs = []
    for piece in pieces:
        ends = [place for place in range(piece.start, piece.end) if piece.phrase.words[place].casefold() not in stops]
        runs += [
            _Run(piece.phrase, first, last + 1)
            for first in ends
            for last in ends
            if first <= last < first + MAX_RUN and (first, last + 1) != (piece.start, piece.end)
        ]
    longest = MAX_RUN
    while len(runs) > MAX_TRIED and longest > 1:
        longest -= 1
        runs = [run for run in runs if run.end - run.start <= longest]
    return runs[:MAX_TRIED]


def _left(phrase: Phrase, taken: Sequence[_Run]) -> list[str]:
    """What is left of a phrase, in runs of words, without joins and words that mean nothing alone."""
    known = words()
    left: list[str] = []
    start = 0
    for run in (*taken, _Run(phrase, len(phrase.words), len(phrase.words))):
        is_empty = not phrase.has_meaning(start, run.start, known)
        left += [] if is_empty else [phrase.without_joins(start, run.start, known)]
        start = run.end
    return left
