"""How much of their prompts do pictures show once LoRAs are applied, and what does it cost to keep it?

usage: python -m studies.content POOL MINIWORLD PLAIN [--further POOL] [--picture CURVES.png]

POOL: folder with the two files of `content_pool.py`. --further: one with pictures at the new default's own weights, to check what
is read off the others. PLAIN: folder of the second CLIP and its metrics. No pictures are made.

Content: how often the prompt that is nearest to a picture, of all 64, is its own (top-1), and the share of the other prompts that
are further away (matched), both as `carlos_core/measuring/base_check.py` compares them. Effect: how far the mean change of the
pictures goes along the signature of the query (its projection, raw CLIP units), its cosine with it, and whether that is higher
than that of the best of the 16 ordinary LoRAs alone at 1.0. Parts found: how many of the query's two effects are among the two of
the 16 whose measured directions are nearest to the mean change, without what all 16 share. Pairs of one query differ by one
factor: what was not made is read off, linearly, between two that were. Broken: `base_check` would say that nothing is shown
(matched below 0.75). Each CLIP judges what was chosen with it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
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
from carlos_core.search.limits import KEEP_CONTENT
from carlos_core.search.weights import Candidates
from studies.choosing import Clip, clips

KEEPS = (0.0, 0.4, 0.5, 0.6, 0.75, 1.0)
"""Positions of the knob that are compared."""

BEFORE, NEW = 0.0, KEEP_CONTENT
FULL = 2.0
"""The node's default budget; two LoRAs get no more at any."""


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
        stored = np.load(folder / f"content_{clip.name}.npz")
        self._features, self._texts = stored["features"].astype(np.float64), stored["texts"]
        self._plan: dict[str, Any] = json.loads(str(stored["plan"]))
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
    def sides(self) -> list[Side]:
        """All sides with a LoRA in them that were made."""
        return [self._side(place) for place in range(1, len(self._features))]

    def _side(self, place: int) -> Side:
        uses = self._plan["sides"][place]
        files, weights = tuple(file for file, _ in uses), np.array([weight for _, weight in uses])
        return Side(files, weights, joint_change(self.candidates(files), weights), self._look(self._features[place]))

    def _look(self, pictures: np.ndarray) -> Look:
        cosines = centred_units(pictures) @ centred_units(self._texts).T
        own = np.diag(cosines)
        diffs = pictures - self._features[0]
        return Look(
            float((cosines.argmax(axis=1) == np.arange(len(own))).mean()),
            float((cosines < own[:, None]).sum(axis=1).mean() / (len(own) - 1)),
            float(np.linalg.norm(diffs, axis=1).mean()),
            diffs.mean(axis=0),
        )

    @cached_property
    def base(self) -> Look:
        return self._look(self._features[0])

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
        """The pair of every query for which two LoRAs were chosen, at all weights that were made."""
        by_query: dict[str, list[dict[str, Any]]] = {}
        for choice in self._plan["choices"]:
            if choice["clip"] == self._clip.name and choice["side"] < len(self._features):
                by_query.setdefault(choice["query"], []).append(choice)
        return [self._line(query, choices) for query, choices in by_query.items() if choices[0]["form"] == "two phrases"]

    def _line(self, query: str, choices: list[dict[str, Any]]) -> Line:
        signature = self._signatures[query]
        by_total = {float(side.weights.sum()): side for side in (self.sides[choice["side"] - 1] for choice in choices)}
        totals = sorted(by_total)
        seen = [by_total[total] for total in totals]
        changes = np.stack([side.look.change for side in seen])
        return Line(
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
        ones = [side for side in self.sides if side.weights.tolist() == [1.0] and side.files[0] in self.ordinary]
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


def print_table(*rows: Sequence[object]) -> None:
    """The first row is the header."""
    header, *others = [[cell if isinstance(cell, str) else f"{cell:.2f}" for cell in row] for row in rows]
    print("\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *others]), end="\n\n")


def report_alone(pools: Sequence[Pool]) -> None:
    """Each LoRA alone."""
    weights = sorted({float(side.weights[0]) for pool in pools for side in pool.sides if len(side.files) == 1})
    rows = []
    for weight in weights:
        row: list[object] = [f"{weight:g}"]
        for pool in pools:
            found = [side for side in pool.sides if len(side.files) == 1 and side.weights[0] == weight]
            looks = [side.look for side in found if side.files[0] in pool.ordinary]
            row += [np.mean([look.top1 for look in looks]), np.min([look.top1 for look in looks])]
            row += [np.mean([look.matched for look in looks]), np.mean([look.length for look in looks])]
            row.append(f"{sum(look.matched < MATCHED for look in looks)} of {len(looks)}")
        rows.append(row)
    names = ("top-1", "worst LoRA", "matched", "change", "broken")
    print_table(["weight", *(f"{pool.title}: {name}" for pool in pools for name in names)], *rows)


def row_of(pool: Pool, totals: Sequence[float]) -> list[object]:
    """What comes of all pairs at weights that add up to `totals`."""
    pairs, n = list(zip(pool.lines, totals, strict=True)), len(totals)
    effect = content_and_effect(pool, totals)[1]
    return [
        np.mean(totals),
        content_and_effect(pool, totals)[0],
        np.mean([line.matched_at(total) for line, total in pairs]),
        f"{sum(line.matched_at(total) < MATCHED for line, total in pairs)} of {n}",
        np.mean([line.effect_at(total) for line, total in pairs]),
        f"{effect:.0%}",
        np.mean([line.cosine_at(total) for line, total in pairs]),
        f"{sum(line.cosine_at(total) > line.best_alone for line, total in pairs)} of {n}",
        np.mean([pool.parts_found(line.change_at(total), line.wanted) for line, total in pairs]),
    ]


def content_and_effect(pool: Pool, totals: Sequence[float]) -> tuple[float, float]:
    """Top-1, and the effect as a share of that at the full budget before: means over all pairs."""
    pairs = list(zip(pool.lines, totals, strict=True))
    effect = sum(line.effect_at(total) for line, total in pairs) / sum(line.effect_at(FULL) for line in pool.lines)
    return float(np.mean([line.top1_at(total) for line, total in pairs])), effect


def totals_of(pool: Pool, budget: float, keep: float) -> list[float]:
    return [pool.kept_total(line, budget, keep) for line in pool.lines]


TITLES = (
    *("weights add up to", "top-1", "matched", "broken", "effect", "of that before at 2.0", "cosine"),
    *("nearer than the best single one", "parts found"),
)


def report_pairs(pool: Pool, budgets: Sequence[float]) -> None:
    """All compound queries, over the budget and over the knob."""
    for name, keep in (("Before", BEFORE), ("Now", NEW)):
        print(f"{name} (`keep_content` = {keep:g}), over the budget:\n")
        print_table(["budget", *TITLES], *([f"{budget:g}", *row_of(pool, totals_of(pool, budget, keep))] for budget in budgets))
    print(f"At the budget of {FULL:g}, over the knob:\n")
    print_table(["keep_content", *TITLES], *([f"{keep:g}", *row_of(pool, totals_of(pool, FULL, keep))] for keep in KEEPS))


def report_further(pool: Pool, further: Pool) -> None:
    """Pairs that were made, and what is read off the others for them: top-1, matched, effect, cosine."""
    found = []
    for side in further.sides:
        total = float(side.weights.sum())
        for line in pool.lines:
            if line.files == side.files and np.allclose(line.shares, side.weights / total, atol=0.01):
                along = float(side.look.change @ line.signature)
                made = (side.look.top1, side.look.matched, along, along / float(np.linalg.norm(side.look.change)))
                found.append([made, (line.top1_at(total), line.matched_at(total), line.effect_at(total), line.cosine_at(total))])
    if found:
        print(f"{pool.title}, pairs made at other weights: {len(found)}\n")
        rows = [[name, *row] for name, row in zip(("made", "read off"), np.mean(found, axis=0).tolist(), strict=True)]
        print_table(["", "top-1", "matched", "effect", "cosine"], *rows)


def draw(pools: Sequence[Pool], path: Path) -> None:
    """Content and effect over the budget, before and now, a panel for each CLIP."""
    from PIL import Image, ImageDraw, ImageFont

    width, height, left, top, scale = 520, 430, 60, 60, 2
    picture = Image.new("RGB", (width * len(pools) * scale, height * scale), "white")
    canvas, font = ImageDraw.Draw(picture), ImageFont.load_default(13 * scale)
    budgets = np.linspace(0.25, FULL, 36)
    for place, pool in enumerate(pools):

        def point(budget: float, value: float, start: int = place * width) -> tuple[float, float]:
            x = start + left + budget / FULL * (width - left - 30)
            return x * scale, (top + (1 - value) * (height - top - 90)) * scale

        for mark in (0.0, 0.25, 0.5, 0.75, 1.0):
            canvas.line([point(0, mark), point(FULL, mark)], "#dddddd", scale)
            canvas.text(point(0, mark), f"{mark:.0%} ", "#444444", font, anchor="rm")
            at = point(mark * FULL, 0)
            canvas.text((at[0], at[1] + 8 * scale), f"{mark * FULL:g}", "#444444", font, anchor="mt")
        title = point(1.0, 1)
        canvas.text((title[0], 22 * scale), f"{pool.title}, {len(pool.lines)} compound queries", "black", font, anchor="mm")
        below = point(1.0, 0)[1]
        canvas.text((title[0], below + 38 * scale), "strength_budget", "black", font, anchor="mm")
        for keep, colour, name in (
            (BEFORE, "#2060c0", "before (content: line, effect: dashes)"),
            (NEW, "#d06010", f"now, keep_content {NEW:g}"),
        ):
            found = np.array([content_and_effect(pool, totals_of(pool, float(budget), keep)) for budget in budgets])
            for what, values in zip(("content", "effect"), found.T.tolist(), strict=True):
                points = [point(float(budget), value) for budget, value in zip(budgets, values, strict=True)]
                if what == "content":
                    canvas.line(points, colour, 3 * scale)
                else:
                    for first, second in zip(points[::2], points[1::2], strict=True):
                        canvas.line([first, second], colour, 2 * scale)
            canvas.text((point(1.0, 0)[0], below + (62 + 18 * (keep == NEW)) * scale), name, colour, font, anchor="mm")
    picture.quantize(64).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pool", type=Path)
    parser.add_argument("miniworld", type=Path)
    parser.add_argument("plain", type=Path)
    parser.add_argument("--further", type=Path)
    parser.add_argument("--picture", type=Path, help="where to draw the curves over the budget")
    options = parser.parse_args()
    pools = [Pool(clip, options.pool, options.miniworld) for clip in clips(options.miniworld, options.plain)]
    print("### One LoRA\n")
    report_alone(pools)
    for pool in pools:
        print(f"### Two LoRAs, {pool.title}: the {len(pool.lines)} compound queries that get a pair\n")
        report_pairs(pool, (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, FULL))
    if options.further:
        for pool, clip in zip(pools, clips(options.miniworld, options.plain), strict=True):
            report_further(pool, Pool(clip, options.further, options.miniworld))
    if options.picture:
        draw(pools, options.picture)


if __name__ == "__main__":
    main()
