"""How often do the phrases that a LoRA is described by mean what it does?

usage: python -m studies.describing MINIWORLD [--plain FOLDER] > studies/results/describing.md

MINIWORLD: folder with mini_clip, labels.json, queries.json and reference_metrics.parquet. --plain: folder with the second CLIP
and its metrics. `describing_meanings.json` says which phrases of the built-in bank mean an effect's label; it was written from
the bank and the labels before anything was measured. Two minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor

from carlos_core.clip.loading import load_encoder
from carlos_core.clip.signatures import SignatureCache
from carlos_core.clip.weights import local_encoders
from carlos_core.database.database import MetricsDatabase
from carlos_core.prompts.prompt_set import default_effect_bank, default_signature_prompts
from carlos_core.records import LoraRecord
from carlos_core.search.calibration import calibrated_rows, fit_background, probes_of
from carlos_core.search.describing import FITS, PERHAPS, Describer, Description
from carlos_core.search.searcher import Searcher
from carlos_core.vectors import units_of

RUNS, SIZES, DRAWN = 50, (1, 2, 5, 10), 500
BANK_ONLY, LABELS, PARAPHRASES = "bank alone", "labels among the phrases", "paraphrases among the phrases"
MEANINGS = Path(__file__).parent / "describing_meanings.json"

HEAD = """# Describing LoRAs in words

`python -m studies.describing MINIWORLD --plain MINIWORLD/plain`

The 16 ordinary LoRAs, each described among all rows of the table. **labels among the phrases**: the labels of all files and
the 20 queries that fit no file here, as phrases of one's own beside the bank. **paraphrases**: the 72 paraphrases in place of
the labels; no label is there. **bank alone**: 561 phrases of every kind that were written without this library in view; right
is what `describing_meanings.json` lists, which was written before anything was measured (15 effects: no phrase of the bank
means "pink hearts"). Nothing was tuned: levels are those of the search. The variant was chosen with the first table in view,
for its result under the harder CLIP."""

VARIANTS_TEXT = """
## Which score puts the right phrase first

A right phrase is first / among the first three, copies not removed, nothing withheld."""
SAID_TEXT = """
## What is said

By the pack: near-copies are left out, what is less sure than "weak" is not said, "weak" only as "perhaps". In each cell:
LoRAs of which a right phrase is said [95%, Wilson] / said with "perhaps" only, right or wrong / no phrase said. Wrong: of the
phrases said without "perhaps", those that are not listed as right."""
SMALL_TEXT = f"""
## Small databases

With the labels among the phrases; mean of {RUNS} random databases of ordinary LoRAs. **said**: a right phrase is said by the
pack. **first three**: one is among the first three by the score alone, with ours and with the common part by James and Stein."""
CHANCE_TEXT = f"""
## Chance

{DRAWN} made-up LoRAs in place of real ones, each among the rows of the table: how many get phrases, bank alone. **any
direction**: normal numbers. **noise of this library**: random sums of its centred directions, which do a little of
everything. **eight effects in turn**: the mean direction of eight ordinary LoRAs, as of a LoRA that does another thing in
every eighth picture; its consistency is a mean of theirs over eight, below the limit of 0.041 or above."""
EACH_TEXT = """
## Each file
"""


@dataclass(frozen=True, eq=False)
class World:
    """One CLIP's view of the LoRAs."""

    name: str
    searcher: Searcher
    labels: Mapping[str, Mapping[str, Any]]
    meanings: Mapping[str, Sequence[str]]
    others: Sequence[str]
    """Phrases for effects that no file has."""

    @property
    def db(self) -> MetricsDatabase:
        return self.searcher.db

    @cached_property
    def ordinary(self) -> list[str]:
        return sorted(file for file, facts in self.labels.items() if facts["kind"] == "ordinary" and file in self.db)

    def own(self, condition: str) -> list[str]:
        """Phrases beside the bank."""
        facts = self.labels.values()
        if condition == LABELS:
            return [*sorted({each["label"] for each in facts if each["label"]}), *self.others]
        if condition == PARAPHRASES:
            return [*sorted({text for each in facts for text in each["paraphrases"]}), *self.others]
        return []

    def right(self, file: str, condition: str) -> set[str]:
        """The phrases that mean what a LoRA does."""
        facts = self.labels[file]
        right = set(self.meanings.get(facts["label"], ()))
        if condition == LABELS:
            right.add(facts["label"])
        return right | (set(facts["paraphrases"]) if condition == PARAPHRASES else set())

    def judged(self, condition: str) -> list[str]:
        """The ordinary LoRAs for which there is a right phrase at all."""
        return [file for file in self.ordinary if self.right(file, condition)]


def load_world(name: str, folder: Path, miniworld: Path, metrics: str) -> World:
    encoder = load_encoder(local_encoders([folder])[name].encoder_id, [folder])
    table = pq.read_table(folder / metrics).to_pylist()
    labels = json.loads((miniworld / "labels.json").read_text(encoding="utf-8"))
    queries = json.loads((miniworld / "queries.json").read_text(encoding="utf-8"))
    rows = [_row(row["file_name"], row["direction"], row["strength"], row["consistency"]) for row in table]
    database = database_of(rows, encoder.encoder_id)
    searcher = Searcher(database, encoder=encoder, signatures=SignatureCache())
    meanings = json.loads(MEANINGS.read_text(encoding="utf-8"))
    return World(name, searcher, labels, meanings, [entry["query"] for entry in queries["nothing_fits"]])


def _row(lora_id: str, direction: Sequence[float] | np.ndarray, strength: float, consistency: float) -> LoraRecord:
    return LoraRecord(lora_id=lora_id, direction=np.asarray(direction, np.float32), strength=strength, consistency=consistency)


def database_of(rows: Sequence[LoraRecord], encoder_id: str) -> MetricsDatabase:
    database = MetricsDatabase.empty(encoder_id, len(rows[0].direction))
    for row in rows:
        database.upsert(row)
    return database


def of_rows(world: World, rows: Sequence[LoraRecord]) -> Searcher:
    """A searcher of other rows, with what the world's has encoded."""
    searcher = world.searcher.among({})
    searcher.db = database_of(rows, str(world.db.encoder_id))
    return searcher


OURS = "**ours**: z per LoRA, whitened phrases, centred directions"
STEIN = "ours, common part of the directions by James and Stein"


def variants(searcher: Searcher, own: Sequence[str]) -> tuple[list[str], dict[str, Tensor]]:
    """Phrases, and by each variant the scores of every row in ranking order. [R, N]."""
    bank, arrays = searcher.bank, searcher.db.ranking_arrays
    n_bank = len(bank)
    signatures = torch.cat([searcher.encoded(bank), *([torch.stack(searcher.signatures(own))] if own else [])]).double()
    background = fit_background(signatures[:n_bank])
    directions = arrays.directions.double()
    rows = calibrated_rows(directions, background)
    units = units_of(signatures)
    probes = torch.cat([background.probes, probes_of(signatures[n_bank:], background)])

    def standing_out(centred: Tensor, probes: Tensor) -> Tensor:
        products = centred @ probes.T
        null = products[:, :n_bank]
        return (products - null.mean(1, keepdim=True)) / null.std(1, correction=0, keepdim=True).clamp_min(1e-12)

    z = standing_out(rows.centred, probes)
    cosines = units_of(directions) @ units.T
    has_direction = arrays.norms > 0
    n = int(has_direction.sum())
    centred = z - z.sum(0) / (n + 1)
    # One row of deviation 1 is counted in, so that phrases spread in small libraries, too.
    double = centred / ((1 + z.square().sum(0)) / (n + 1)).sqrt()
    return [*bank.texts, *own], {
        "cosine": cosines,
        "z per LoRA of centred cosines": standing_out(rows.centred, units_of(units - background.mean)),
        OURS: z,
        "ours, directions as they are": standing_out(units_of(directions), probes),
        STEIN: standing_out(_shrunk(units_of(directions), has_direction), probes),
        "ours, then the phrase's mean over all LoRAs off": centred,
        "ours, then z per phrase over all LoRAs": double,
    }


def _shrunk(directions: Tensor, has_direction: Tensor) -> Tensor:
    """Unit directions without their mean, as far as it is longer than that of unrelated ones would be. [R, D]."""
    units = directions[has_direction]
    mean, n = units.mean(0), len(units)
    noise = float((units - mean).square().sum()) / (n * (n - 1)) if n > 1 else math.inf
    return directions - max(0.0, 1 - noise / float(mean.square().sum())) * mean


def report_variants(world: World) -> None:
    conditions = (LABELS, PARAPHRASES, BANK_ONLY)
    cells: dict[str, list[str]] = {}
    ids = world.db.column("lora_id")
    places = {ids[row]: place for place, row in enumerate(world.db.ranking_arrays.rows.tolist())}
    for condition in conditions:
        texts, scores = variants(world.searcher, world.own(condition))
        judged = world.judged(condition)
        for name, table in scores.items():
            tops = {file: [texts[i] for i in torch.topk(table[places[file]], 3).indices.tolist()] for file in judged}
            first = sum(tops[file][0] in world.right(file, condition) for file in judged)
            three = sum(not world.right(file, condition).isdisjoint(tops[file]) for file in judged)
            cells.setdefault(name, []).append(f"{first} / {three} of {len(judged)}")
    print(f"\n### {world.name}\n\n| score | {' | '.join(conditions)} |\n|---|{'---|' * len(conditions)}")
    for name, row in cells.items():
        print(f"| {name} | {' | '.join(row)} |")


def report_said(worlds: Sequence[World]) -> None:
    print("| CLIP | phrases | right said | perhaps only | nothing said | wrong phrases said |\n|---|---|---|---|---|---|")
    for world in worlds:
        for condition in (LABELS, PARAPHRASES, BANK_ONLY):
            said = _by_id(Describer(world.searcher, world.own(condition)).describe())
            judged = world.judged(condition)
            hits = [file for file in judged if _is_right(said[file], world.right(file, condition))]
            unsure = [file for file in judged if said[file].kind == PERHAPS]
            silent = [file for file in judged if not said[file].phrases]
            sure = [(file, fit.phrase) for file in judged if said[file].kind == FITS for fit in said[file].phrases]
            wrong = [phrase for file, phrase in sure if phrase not in world.right(file, condition)]
            rest = f"{len(unsure)} | {len(silent)} | {len(wrong)} of {len(sure)}"
            print(f"| {world.name} | {condition} | {_share(len(hits), len(judged))} | {rest} |")


def _by_id(descriptions: Sequence[Description]) -> dict[str, Description]:
    return {description.lora_id: description for description in descriptions}


def _is_right(description: Description, right: set[str]) -> bool:
    return any(fit.phrase in right for fit in description.phrases)


def _share(k: int, n: int) -> str:
    """A count with Wilson's 95% interval, in per cent."""
    z, p = 1.96, k / n
    middle, half = (p + z * z / (2 * n)), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = (100 * (middle + sign * half) / (1 + z * z / n) for sign in (-1, 1))
    return f"{k} of {n} [{low:.0f}, {high:.0f}]"


def report_small(worlds: Sequence[World]) -> None:
    print(f"| CLIP | LoRAs | said | first three, ours | first three, James-Stein |\n|---|{'---|' * 4}")
    for world in worlds:
        draw = np.random.default_rng(0)
        for size in (*SIZES, len(world.ordinary)):
            total, right = 0, np.zeros(3)
            for _run in range(RUNS if size < len(world.ordinary) else 1):
                files = [world.ordinary[place] for place in draw.choice(len(world.ordinary), size, replace=False)]
                searcher = of_rows(world, [row for file in files if (row := world.db.row(file)) is not None])
                said = Describer(searcher, world.own(LABELS)).describe()
                texts, scores = variants(searcher, world.own(LABELS))
                # In the order of the ids, as the scores are.
                for place, each in enumerate(sorted(said, key=lambda each: each.lora_id)):
                    meant = world.right(each.lora_id, LABELS)
                    tops = [[texts[i] for i in torch.topk(scores[name][place], 3).indices.tolist()] for name in (OURS, STEIN)]
                    right += [_is_right(each, meant), *(not meant.isdisjoint(top) for top in tops)]
                total += size
            print(f"| {world.name} | {size} | {' | '.join(f'{100 * share:.0f}%' for share in right / total)} |")


def report_chance(worlds: Sequence[World]) -> None:
    print('| CLIP | LoRAs | phrases said | only "perhaps" | no one effect | no phrase fits |\n|---|---|---|---|---|---|')
    for world in worlds:
        draw = torch.Generator().manual_seed(0)
        kept = [world.db.row_at(place) for place in range(len(world.db))]
        arrays = world.db.ranking_arrays
        dimension = world.db.dimension
        centred = calibrated_rows(arrays.directions, world.searcher.background()).centred[arrays.norms > 0]
        ordinary = units_of(torch.stack([_direction(world, file) for file in world.ordinary]).double())
        mean = float(np.mean([row.consistency or 0.0 for file in world.ordinary if (row := world.db.row(file)) is not None]))

        def anything(draw: torch.Generator = draw, dimension: int = dimension) -> Tensor:
            return torch.randn(dimension, generator=draw, dtype=torch.float64)

        def library_noise(draw: torch.Generator = draw, centred: Tensor = centred) -> Tensor:
            return torch.randn(len(centred), generator=draw, dtype=torch.float64) @ centred

        def in_turn(draw: torch.Generator = draw, ordinary: Tensor = ordinary) -> Tensor:
            return ordinary[torch.randperm(len(ordinary), generator=draw)[:8]].mean(0)

        made: dict[str, tuple[Callable[[], Tensor], float]] = {
            "any direction": (anything, 1.0),
            "noise of this library": (library_noise, 1.0),
            "eight effects in turn": (in_turn, mean / 8),
        }
        for name, (make, consistency) in made.items():
            said = [_one_more(world, kept, make(), consistency) for _ in range(DRAWN)]
            counts = [
                sum(each.kind != PERHAPS and bool(each.phrases) for each in said),
                sum(each.kind == PERHAPS for each in said),
                sum(each.text == "no one effect" for each in said),
                sum(each.kind == "unnamed" for each in said),
            ]
            print(f"| {world.name} | {name} | {' | '.join(f'{100 * count / DRAWN:.1f}%' for count in counts)} |")


def _direction(world: World, file: str) -> Tensor:
    row = world.db.row(file)
    assert row is not None, "it is a file of this world"
    return torch.tensor(row.direction)


def _one_more(world: World, kept: Sequence[LoraRecord], direction: Tensor, consistency: float) -> Description:
    made = _row("made up", (direction / direction.norm() * 3).numpy(), 5.0, consistency)
    return Describer(of_rows(world, [*kept, made])).describe(["made up"])[0]


def report_each(worlds: Sequence[World]) -> None:
    print("| file | kind | label | CLIP | consistency | with the labels | bank alone |\n|---|---|---|---|---|---|---|")
    for world in worlds:
        with_labels = _by_id(Describer(world.searcher, world.own(LABELS)).describe())
        alone = _by_id(Describer(world.searcher).describe())
        for file in sorted(alone, key=lambda file: (world.labels[file]["kind"] != "ordinary", file)):
            facts, row = world.labels[file], world.db.row(file)
            assert row is not None, "it was just described"
            cells = (file, facts["kind"], facts["label"], world.name, f"{row.consistency:.3f}")
            print(f"| {' | '.join(cells)} | {with_labels[file].text} | {alone[file].text} |")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("miniworld", type=Path)
    parser.add_argument("--plain", type=Path)
    args = parser.parse_args()
    worlds = [load_world("mini_clip", args.miniworld, args.miniworld, "reference_metrics.parquet")]
    if args.plain:
        worlds.append(load_world("mini_clip_plain", args.plain, args.miniworld, "reference_metrics_plain.parquet"))
    print(HEAD)
    print(f"\n{len(default_effect_bank())} phrases in the bank, {len(default_signature_prompts())} prompts.")
    print(VARIANTS_TEXT)
    for world in worlds:
        report_variants(world)
    parts = {SAID_TEXT: report_said, SMALL_TEXT: report_small, CHANCE_TEXT: report_chance, EACH_TEXT: report_each}
    for text, part in parts.items():
        print(f"{text}\n")
        part(worlds)


if __name__ == "__main__":
    main()
