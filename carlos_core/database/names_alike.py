"""Names of databases that a slip of the finger would turn into each other."""

from __future__ import annotations

import re
from collections.abc import Iterable

_MARKS = re.compile(r"[\W_]+")
_DIGITS = re.compile(r"\d+")
_SHORTEST, _LONG = 4, 8
"""Shorter names are a letter away from other names that were meant. In so many letters, two slips are likelier."""


def names_alike(name: str, others: Iterable[str]) -> list[str]:
    """Which other names are this one but for case, marks between words, or a letter or two.

    Names with other numbers are not: "loras_1" and "loras_2" were meant, and so were "loras_1_2" and "loras_12". Neither are
    those with two letters more at the start of a word: "male_faces" and "female_faces".
    """
    return [other for other in others if other != name and _are_alike(name, other)]


def _are_alike(one: str, other: str) -> bool:
    one, other = one.casefold(), other.casefold()
    if _DIGITS.findall(one) != _DIGITS.findall(other):
        return False
    joined, its = (_MARKS.sub("", text) for text in (one, other))
    shorter = min(len(joined), len(its))
    most = 0 if shorter < _SHORTEST else 1 if shorter < _LONG else 2
    if abs(len(joined) - len(its)) > most:
        return False
    n = _slips(joined, its)
    return n <= most and not (n > 1 and _begin_otherwise(one, other))


def _begin_otherwise(one: str, other: str) -> bool:
    """Whether a word of one is a word of the other with something before it."""
    words, its = (_MARKS.sub(" ", text).split() for text in (one, other))
    if len(words) != len(its):
        words, its = ["".join(words)], ["".join(its)]
    return any(a != b and (a.endswith(b) or b.endswith(a)) for a, b in zip(words, its, strict=True))


def _slips(one: str, other: str) -> int:
    """How many letters must be put in, left out, changed or swapped with the next (optimal string alignment)."""
    before: list[int] = []
    last = list(range(len(other) + 1))
    for i, letter in enumerate(one, start=1):
        row = [i]
        for j, its in enumerate(other, start=1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (letter != its))
            if i > 1 and j > 1 and letter == other[j - 2] and its == one[i - 2]:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        before, last = last, row
    return last[-1]
