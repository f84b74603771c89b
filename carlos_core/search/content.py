"""How sure a LoRA looks for phrases that ask for no effect: "a red car", "on a beach", "Anna Berg".

The background of `calibration` are effects that no LoRA of the library has. Phrases of content are another kind: they name
colours and things that effects have, too, and so reach z-scores that no normal tail explains ("a brown bridge" is near to sepia).
So a second question is asked: how often would a phrase of a bank of content find a LoRA that looks as good? The share of
the bank is counted; beyond its upper tenth the tail is that of an exponential distribution with the mean excess of that tenth
(peaks over a threshold, with a shape of 0), so that a p-value below one in the bank's size has a meaning.

Colours and other words that many phrases share reach more than the rest ("brown" is near to sepia by itself), but the bank knows
them. What a query says in words that the bank does not know is therefore held against other phrases than what it knows: those
with a word that is in no other phrase of the bank. For them, too, the rest of the bank would not have known it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .calibration import CalibratedRows
from .reading import plain_word
from .words import words

_UPPER = 0.9
_FEWEST = 50
"""So many phrases with a word of their own make a tail; with fewer, that of all phrases is taken."""


@dataclass(frozen=True, eq=False)
class ContentTail:
    """What the best of some rows reaches for phrases of content."""

    maxima: Tensor
    """The best z-score of each phrase, ascending, [B] float64; empty if there are no rows."""

    def p_value(self, z: float) -> float:
        """How often a phrase of content finds a row as good as this, in [0, 1]."""
        n = len(self.maxima)
        if n == 0:
            return 1.0
        if z <= self._threshold:
            return float((self.maxima >= z).sum()) / n
        n_beyond, excess = self._beyond
        return n_beyond / n * math.exp(-(z - self._threshold) / excess) if excess > 0 else 0.0

    @cached_property
    def _threshold(self) -> float:
        n = len(self.maxima)
        return float(self.maxima[min(n - 1, int(_UPPER * n))])

    @cached_property
    def _beyond(self) -> tuple[int, float]:
        """How many maxima are above the threshold, and by how much on average."""
        beyond = self.maxima[self.maxima > self._threshold]
        return len(beyond), float((beyond - self._threshold).mean()) if len(beyond) else 0.0


@dataclass(frozen=True, eq=False)
class ContentTails:
    """What the best of some rows reaches for phrases of content, by whether the other phrases have all of their words."""

    known: ContentTail
    """Of all phrases: most of them have no word of their own."""

    new: ContentTail
    """Of those with a word of their own."""

    def p_value(self, z: float, *, is_known: bool) -> float:
        """How often a phrase of content finds a row as good as this, in [0, 1]. is_known: whether the bank has all its words."""
        return (self.known if is_known else self.new).p_value(z)


def content_scores(rows: CalibratedRows, signatures: Tensor) -> Tensor:
    """z-scores of phrases of content with each row. signatures: [B, D], raw. [B, R] float64; NaN for rows and phrases without a
    direction."""
    has_direction = torch.linalg.vector_norm(signatures, dim=1) > 0
    nothing = torch.full_like(rows.mean, torch.nan)
    return torch.stack([rows.z_scores(one) if has else nothing for one, has in zip(signatures, has_direction, strict=True)])


def content_tails(scores: Tensor, allowed: Tensor, has_own_word: Tensor) -> ContentTails:
    """The tails of the rows that may be chosen.

    scores: [B, R], from `content_scores`; allowed: [R] bool; has_own_word: [B] bool, from `own_words`.
    """
    if not bool(allowed.any()):
        none = ContentTail(torch.zeros(0, dtype=torch.float64))
        return ContentTails(none, none)
    maxima = scores[:, allowed].max(1).values
    known = ContentTail(maxima[~maxima.isnan()].sort().values)
    own = maxima[has_own_word & ~maxima.isnan()].sort().values
    return ContentTails(known, ContentTail(own) if len(own) >= _FEWEST else known)


def content_words(texts: Iterable[str]) -> frozenset[str]:
    """The words of a bank of content and other ordinary ones, and those that mean nothing anywhere."""
    of_bank = (word for text in texts for word in text.split())
    return frozenset(plain_word(word) for word in (*of_bank, *words().ordinary)) | words().stops


def own_words(phrases: Sequence[str]) -> Tensor:
    """Which phrases have a word that is in no other one and not ordinary. [B] bool."""
    common = content_words(())
    of_phrases = [{plain_word(word) for word in phrase.split()} - common for phrase in phrases]
    count = Counter(word for of_phrase in of_phrases for word in of_phrase)
    return torch.tensor([any(count[word] == 1 for word in of_phrase) for of_phrase in of_phrases], dtype=torch.bool)


def corrected(p_value: float, n: int) -> float:
    """The chance that the best of `n` phrases has at most this p-value (Sidak)."""
    return -math.expm1(n * math.log1p(-p_value)) if p_value < 1 else 1.0
