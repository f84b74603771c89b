"""What two CLIPs see in the pictures of `content_pool.py`: how much of its prompt each side shows, and how it changed.

`content.py` and `content_foretold.py` ask it. No pictures are made.
"""

from __future__ import annotations

import json
from collections.abc import Container, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from carlos_core.clip.loading import load_encoder
from carlos_core.clip.signatures import SignatureCache
from carlos_core.clip.weights import local_encoders
from carlos_core.measuring.base_check import MATCHED
from carlos_core.measuring.first_pictures import centred_units
from carlos_core.prompts.prompt_set import load_prompt_set
from carlos_core.search.keeping import joint_change, kept
from carlos_core.search.weights import Candidates
from studies.choosing import Clip

FULL = 2.0
"""The node's default budget; two LoRAs get no more at any."""

Uses = tuple[tuple[str, float], ...]
"""LoRA files with their weights, sorted by file; empty for the base side."""

TWO_PHRASES = "two phrases"
"""How compound queries are put in queries.json; the forms of the others are those of queries_as_asked.json."""


def _key(side: Sequence[Sequence[Any]]) -> Uses:
    return tuple((str(file), float(weight)) for file, weight in side)


@dataclass(frozen=True)
class Look:
    """What a CLIP sees in the pictures of one side."""

    top1: float
    matched: float
    length: float
    """Mean length of the change, raw CLIP units."""

    change: np.ndarray
    """Mean change, [D]."""


@dataclass(frozen=True, eq=False)
class Side:
    """LoRAs at weights, with what is known of them and what was seen. predicted: their joint change, raw CLIP units."""

    files: tuple[str, ...]
    weights: np.ndarray
    predicted: float
    look: Look

    @property
    def is_broken(self) -> bool:
        return self.look.matched < MATCHED


@dataclass(frozen=True, eq=False)
class Line:
    """A query's pair at growing weights, all in one proportion. signature: [D], of length 1. totals: [T], growing from 0.
    top1, matched [T] and changes [T, D]: what was seen there. best_alone: the highest cosine of one LoRA with the signature."""

    query: str
    files: tuple[str, ...]
    wanted: set[str]
    signature: np.ndarray
    best_alone: float
    shares: np.ndarray
    totals: np.ndarray
    top1: np.ndarray
    matched: np.ndarray
    changes: np.ndarray

    def top1_at(self, total: float) -> float:
        return float(np.interp(total, self.totals, self.top1))

    def matched_at(self, total: float) -> float:
        return float(np.interp(total, self.totals, self.matched))

    def change_at(self, total: float) -> np.ndarray:
        return np.array([np.interp(total, self.totals, column) for column in self.changes.T])

    def effect_at(self, total: float) -> float:
        return float(self.change_at(total) @ self.signature)

    def cosine_at(self, total: float) -> float:
        change = self.change_at(total)
        return float(change @ self.signature / np.linalg.norm(change))


class Pool:
    """The pictures as one CLIP sees them."""

    def __init__(self, clip: Clip, folder: Path, miniworld: Path) -> None:
        self.title = clip.title
        name, features = clip.name, {}
        for path in sorted(folder.glob("content_*of*.npz")):
            stored = np.load(path)
            self._plan: dict[str, Any] = json.loads(str(stored["plan"]))
            self._texts = stored[f"texts_{name}"]
            sides = [_key(side) for side in self._plan["sides"]]
            features |= dict(zip(sides, stored[f"features_{name}"].astype(np.float64), strict=True))
        if not features:
            raise FileNotFoundError(f"There is no pool of content_pool.py in {folder}.")
        self._features: dict[Uses, np.ndarray] = features
        self._clip = clip
        self.rows = pd.read_parquet(clip.metrics).set_index("file_name")
        labels = json.loads((miniworld / "labels.json").read_text(encoding="utf-8"))
        self.ordinary = sorted(file for file, facts in labels.items() if facts["kind"] == "ordinary")
        self.effect_of = {file: facts["label"] for file, facts in labels.items()}
        self._prompts = load_prompt_set(miniworld / "prompts_signature.json")

    def candidates(self, files: Sequence[str]) -> Candidates:
        rows = self.rows.loc[list(files)]
        directions = np.stack([np.asarray(direction, np.float64) for direction in rows.direction])
        return Candidates(list(files), directions, rows.strength.to_numpy(), np.ones(len(files)))

    @cached_property
    def sides(self) -> dict[Uses, Side]:
        """All sides with a LoRA in them that were made."""
        return {uses: self._side(uses) for uses in self._features if uses}

    def _side(self, uses: Uses) -> Side:
        files, weights = tuple(file for file, _ in uses), np.array([weight for _, weight in uses])
        return Side(files, weights, joint_change(self.candidates(files), weights), self._look(self._features[uses]))

    def _look(self, pictures: np.ndarray) -> Look:
        cosines = centred_units(pictures) @ centred_units(self._texts).T
        own = np.diag(cosines)
        diffs = pictures - self._features[()]
        return Look(
            float((cosines.argmax(axis=1) == np.arange(len(own))).mean()),
            float((cosines < own[:, None]).sum(axis=1).mean() / (len(own) - 1)),
            float(np.linalg.norm(diffs, axis=1).mean()),
            diffs.mean(axis=0),
        )

    @cached_property
    def base(self) -> Look:
        return self._look(self._features[()])

    @cached_property
    def _signatures(self) -> dict[str, np.ndarray]:
        """Of all queries, at length 1."""
        encoder = load_encoder(local_encoders([self._clip.folder])[self._clip.name].encoder_id, [self._clip.folder])
        queries = list(dict.fromkeys(choice["query"] for choice in self._plan["choices"]))
        made = SignatureCache().signatures(encoder, self._prompts, queries)
        units = (signature.double().numpy() for signature in made)
        return {query: unit / np.linalg.norm(unit) for query, unit in zip(queries, units, strict=True)}

    @cached_property
    def lines(self) -> list[Line]:
        """The pair of every query of two phrases for which two LoRAs were chosen, at all weights that were made."""
        return self.lines_of({TWO_PHRASES})

    @property
    def forms(self) -> list[str]:
        return sorted({choice["form"] for choice in self._plan["choices"]} - {TWO_PHRASES})

    def lines_of(self, forms: Container[str]) -> list[Line]:
        """The same of queries in some forms. One whose choice is not the same pair at every budget is left out."""
        found = []
        for query, choices in self._choices(keep=False).items():
            if choices[0]["form"] in forms and len({tuple(file for file, _ in choice["side"]) for choice in choices}) == 1:
                found.append(self._line(query, choices))
        return [line for line in found if len(line.files) == 2]

    def kept_of(self, line: Line) -> Side | None:
        """The same query's pair as `keep_content` at its default weighs it, if it was made."""
        choices = self._choices(keep=True).get(line.query, [])
        side = self.sides[_key(choices[0]["side"])] if choices else None
        return side if side is not None and side.files == line.files else None

    def _choices(self, *, keep: bool) -> dict[str, list[dict[str, Any]]]:
        """By query: what was chosen at each budget, and made."""
        by_query: dict[str, list[dict[str, Any]]] = {}
        for choice in self._plan["choices"]:
            if choice["clip"] == self._clip.name and bool(choice["keep"]) == keep and _key(choice["side"]) in self.sides:
                by_query.setdefault(choice["query"], []).append(choice)
        return by_query

    def _line(self, query: str, choices: list[dict[str, Any]]) -> Line:
        signature = self._signatures[query]
        by_total = {float(side.weights.sum()): side for side in (self.sides[_key(choice["side"])] for choice in choices)}
        totals = sorted(by_total)
        seen = [by_total[total] for total in totals]
        changes = np.stack([side.look.change for side in seen])
        return Line(
            query,
            seen[0].files,
            {self.effect_of[file] for file in choices[0]["files"]},
            signature,
            float((self._alone @ signature).max()),
            seen[-1].weights / totals[-1],
            np.array([0.0, *totals]),
            np.array([self.base.top1, *(side.look.top1 for side in seen)]),
            np.array([self.base.matched, *(side.look.matched for side in seen)]),
            np.vstack([np.zeros_like(signature), changes]),
        )

    @cached_property
    def _alone(self) -> np.ndarray:
        """Mean changes of the ordinary LoRAs, each alone at 1.0, of length 1. [16, D]"""
        ones = [side for side in self.sides.values() if side.weights.tolist() == [1.0] and side.files[0] in self.ordinary]
        changes = np.stack([side.look.change for side in ones])
        return changes / np.linalg.norm(changes, axis=1, keepdims=True)

    def parts_found(self, change: np.ndarray, wanted: set[str]) -> float:
        directions = self.candidates(self.ordinary).directions
        shared = directions.mean(axis=0) / np.linalg.norm(directions.mean(axis=0))
        directions, change = directions - np.outer(directions @ shared, shared), change - (change @ shared) * shared
        cosines = directions @ change / np.linalg.norm(directions, axis=1)
        nearest = {self.effect_of[self.ordinary[place]] for place in np.argsort(-cosines)[:2]}
        return len(nearest & wanted) / len(wanted)

    def kept_total(self, line: Line, budget: float, keep: float) -> float:
        """What a pair's weights add up to at a budget and a position of the knob."""
        candidates, weights = self.candidates(line.files), min(budget, FULL) * line.shares
        return float(kept(candidates, weights, np.ones(2), keep).sum())
