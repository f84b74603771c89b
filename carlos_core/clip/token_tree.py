"""Texts that begin alike, as a tree: what they share is run once.

The text tower is causal, so a token's keys and values depend only on what stands before it. "soft light", "soft light at dawn"
and "soft rain" are five words and three ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class TokenTree:
    """Token ids of texts, each only once where texts begin alike. All lists but the last two have one entry for each token."""

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    """The token before it; -1 for a first one."""

    depths: list[int] = field(default_factory=list)
    """How many tokens stand before it in its text."""

    texts: list[int] = field(default_factory=list)
    """Which of the texts are in this tree."""

    ends: list[int] = field(default_factory=list)
    """The last token of each of these texts."""

    _children: dict[tuple[int, int], int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokens)

    def n_new(self, text: Sequence[int]) -> int:
        """How many tokens a text would add."""
        parent = -1
        for place, token in enumerate(text):
            child = self._children.get((parent, token))
            if child is None:
                return len(text) - place
            parent = child
        return 0

    def add(self, index: int, text: Sequence[int]) -> None:
        """Add a text. index: which of the texts it is."""
        parent = -1
        for depth, token in enumerate(text):
            child = self._children.setdefault((parent, token), len(self.tokens))
            if child == len(self.tokens):
                self.tokens.append(token)
                self.parents.append(parent)
                self.depths.append(depth)
            parent = child
        self.texts.append(index)
        self.ends.append(parent)

    def sees(self) -> Tensor:
        """Which tokens each token sees: those before it in its text, and itself. [T, T] bool."""
        seen = torch.eye(len(self), dtype=torch.bool)
        for place, parent in enumerate(self.parents):
            if parent >= 0:
                seen[place] |= seen[parent]
        return seen


def trees_of(texts: Sequence[tuple[int, ...]], limit: int) -> list[TokenTree]:
    """Trees of at most `limit` tokens that hold all texts; a longer text has one of its own. texts: token ids, none empty."""
    trees: list[TokenTree] = []
    for index in sorted(range(len(texts)), key=lambda index: texts[index]):
        if not trees or len(trees[-1]) + trees[-1].n_new(texts[index]) > limit:
            trees.append(TokenTree())
        trees[-1].add(index, texts[index])
    return trees
