"""ComfyUI's way to weigh words, `(x:1.3)`, `((x))`, `\\(`, and the tags that people put among them."""

from __future__ import annotations

import re
from dataclasses import dataclass

MORE, LESS = 1.1, 1 / 1.1
"""What a pair of round brackets does without a number, as in ComfyUI, and a pair of square ones, as elsewhere."""

HEAVIEST = 100.0
"""No word weighs more than this, or less than its negative, however many brackets are around it."""

_TAG = re.compile(r"<[^<>\n]{1,200}>|\bembedding:[^\s,()\[\]{}<>:]+|__[^\s,]{1,100}?__|\{[^{}|]{0,500}\|[^{}]{0,500}\}")
_BREAK = re.compile(r"\b(?:BREAK|ADDCOMM|ADDBASE|ADDCOL|ADDROW)\b")
_NUMBER = re.compile(r"\s*:\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*$")
_GROUPS_APART = re.compile(r"([)\]])\s+(?=[(\[])")
_MAX_DEPTH = 50


@dataclass(frozen=True)
class Weighed:
    """Text without brackets and tags. weights: one for each character, 1 for plain text."""

    text: str
    weights: tuple[float, ...]
    tags: tuple[str, ...]
    """What was taken out: `<lora:...>`, `embedding:...`, wildcards."""

    def weight(self, start: int, end: int) -> float:
        """Mean weight of the characters from `start` to `end`; 1 for none."""
        part = self.weights[start:end]
        return sum(part) / len(part) if part else 1.0


def weighed(prompt: str) -> Weighed:
    """A prompt's text and what each of its characters weighs. Brackets that are not closed end with the text.

    Braces without a choice between them are dropped.
    """
    tags: list[str] = []

    def taken_out(found: re.Match[str]) -> str:
        tags.append(found[0])
        return " "

    prompt = _BREAK.sub("\n", _TAG.sub(taken_out, prompt))
    # Two groups side by side are two things, like with a comma between them.
    prompt = _GROUPS_APART.sub(r"\1, ", prompt)
    text: list[str] = []
    weights: list[float] = []
    opened: list[tuple[str, int]] = []
    place = 0
    while place < len(prompt):
        char = prompt[place]
        if char == "\\" and place + 1 < len(prompt) and prompt[place + 1] in "()[]\\":
            place += 1
            text.append(prompt[place])
            weights.append(1.0)
        elif char in "([" and len(opened) < _MAX_DEPTH:
            opened.append((char, len(text)))
        elif char in "{}":
            pass
        elif char in ")]":
            if opened and opened[-1][0] == "(["[char == "]"]:
                _close(text, weights, *opened.pop())
        else:
            text.append(char)
            weights.append(1.0)
        place += 1
    return Weighed("".join(text), tuple(weights), tuple(tags))


def _close(text: list[str], weights: list[float], bracket: str, start: int) -> None:
    """Weigh what stands behind an opened bracket, and drop the number at its end."""
    factor = MORE if bracket == "(" else LESS
    # A number with its colon is short: the whole group need not be looked at again for each bracket around it.
    tail_start = max(start, len(text) - 16)
    number = _NUMBER.search("".join(text[tail_start:]))
    if number is not None:
        del text[tail_start + number.start() :], weights[tail_start + number.start() :]
        factor = float(number[1]) if bracket == "(" else factor
    for place in range(start, len(weights)):
        weights[place] = max(-HEAVIEST, min(HEAVIEST, weights[place] * factor))
