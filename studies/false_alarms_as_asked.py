"""How often Auto LoRA applies a LoRA for a text that asks for no effect, by kind and length of the text and size of the library.

usage: python -m studies.false_alarms_as_asked MINIWORLD [--plain FOLDER] [--seed N] [--share X] [--misses]

MINIWORLD, --plain: as in `queries_as_asked`. --seed: of the texts. --share: of the usual number of texts. Texts:
`texts_without_effects`. Libraries: 22 rows, the reference metrics; 5 rows, ten random parts of them, asked in turn; 740 rows, a
synthetic one (`large_library`). Mode composed, at most 2 LoRAs, budget 2, likely. Intervals: Wilson, 95%.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from carlos_core.clip.loading import load_encoder
from carlos_core.clip.signatures import SignatureCache
from carlos_core.clip.weights import local_encoders
from carlos_core.database.columns import normalised
from carlos_core.database.database import MetricsDatabase
from carlos_core.prompts.prompt_set import load_prompt_set
from carlos_core.search.limits import COMPOSED, ChoiceRules
from carlos_core.search.searcher import Searcher
from studies.choosing import BUDGET, Clip, clips, database, interval
from studies.texts_without_effects import KINDS, LENGTHS, texts

TEXTS = dict(zip(LENGTHS, (100, 100, 50, 25, 12, 10), strict=True))
"""Texts of each kind, by length: long ones are dear."""

_SMALL, _PARTS, _LARGE = 5, 10, 740
_LIBRARY_SEED = 1
_LIKENESS = 0.99
"""Cosine of two measurements of one LoRA."""


@dataclass(frozen=True)
class Outcome:
    kind: str
    length: int
    text: str
    found: dict[str, list[str]]
    """Library -> names of the LoRAs that were applied."""


def some_rows(db: MetricsDatabase, n: int, rng: np.random.Generator) -> MetricsDatabase:
    """A random part of a library; rows without effect stay out."""
    rows = np.flatnonzero(np.array(db.column("strength")) > 0)
    return MetricsDatabase(db.table.take(np.sort(rng.choice(rows, n, replace=False))), encoder_id=db.encoder_id)


def large_library(db: MetricsDatabase, n: int, rng: np.random.Generator) -> MetricsDatabase:
    """A library of n rows: those measured, and made up ones.

    One half of the made up ones are mixtures of two or three measured directions, with noise as between two measurements. The
    others are drawn from a normal distribution with the mean and the covariance of the measured unit directions (the covariance
    shrunk by a half towards a ball), so that they do things that nobody has named, spread as the measured ones are.
    """
    table = db.table.take(np.flatnonzero(np.array(db.column("strength")) > 0))
    directions = np.array(table["direction"].to_pylist(), dtype=np.float64)
    units = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    dimension, n_new = units.shape[1], n - len(units)
    covariance = np.cov(units.T)
    covariance = (covariance + np.eye(dimension) * np.trace(covariance) / dimension) / 2
    made = list(rng.multivariate_normal(units.mean(0), covariance, n_new // 2))
    while len(made) < n_new:
        chosen = rng.choice(len(units), rng.integers(2, 4), replace=False)
        mixture = rng.dirichlet(np.ones(len(chosen)) * 2) @ units[chosen]
        noise = rng.normal(size=dimension) / np.sqrt(dimension) * np.sqrt(1 / _LIKENESS**2 - 1)
        made.append(mixture / np.linalg.norm(mixture) + noise)
    strength = float(np.median(table["strength"].to_numpy()))
    lengths = [strength / np.linalg.norm(each) for each in made]
    new = pa.table(
        {
            "lora_id": [f"made up {number}" for number in range(n_new)],
            "file_name": [f"made up {number}" for number in range(n_new)],
            "direction": [(each * length).astype(np.float32) for each, length in zip(made, lengths, strict=True)],
            "strength": [strength] * n_new,
            "consistency": [float(np.median(table["consistency"].to_numpy()))] * n_new,
        }
    )
    measured = table.select(new.column_names)
    return MetricsDatabase(
        normalised(pa.concat_tables([measured, new.cast(measured.schema)]), "made up"), encoder_id=db.encoder_id
    )


class Libraries:
    """Libraries of one CLIP that share what is encoded."""

    def __init__(self, miniworld: Path, clip: Clip) -> None:
        encoder_id = local_encoders([clip.folder])[clip.name].encoder_id
        encoder, prompts = load_encoder(encoder_id, [clip.folder]), load_prompt_set(miniworld / "prompts_signature.json")
        cache = SignatureCache()
        db, rng = database(clip.metrics, encoder_id), np.random.default_rng(_LIBRARY_SEED)
        parts = [some_rows(db, _SMALL, rng) for _ in range(_PARTS)]
        libraries = {"5 rows": parts, "22 rows": [db], "740 rows": [large_library(db, _LARGE, rng)]}
        self.searchers = {
            name: [Searcher(each, encoder=encoder, prompts=prompts, signatures=cache) for each in dbs]
            for name, dbs in libraries.items()
        }
        for searcher in (each for searchers in self.searchers.values() for each in searchers):
            searcher.choose("nothing in particular")

    def outcome(self, kind: str, length: int, text: str, turn: int) -> Outcome:
        rules = ChoiceRules(COMPOSED, strength_budget=BUDGET)
        found = {}
        for name, searchers in self.searchers.items():
            picks = searchers[turn % len(searchers)].choose(text, rules=rules).picks
            found[name] = [f"{pick.match.record.file_name} for {pick.part!r}" for pick in picks]
        return Outcome(kind, length, text, found)


def report(outcomes: list[Outcome], names: Iterable[str]) -> None:
    names = list(names)

    def row(title: str, of: list[Outcome]) -> None:
        print(f"| {title} | {' | '.join(interval(sum(bool(each.found[name]) for each in of), len(of)) for name in names)} |")

    print(f"| a LoRA for | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    for kind in KINDS:
        row(kind, [each for each in outcomes if each.kind == kind])
    for length in LENGTHS:
        row("1 word" if length == 1 else f"{length} words", [each for each in outcomes if each.length == length])
    row("all", outcomes)
    for name in names:
        print(f"\n{name}: alarms of texts, by length\n")
        print(f"| | {' | '.join(str(length) for length in LENGTHS)} |\n|---|{'---|' * len(LENGTHS)}")
        for kind in KINDS:
            cells = [[each for each in outcomes if (each.kind, each.length) == (kind, length)] for length in LENGTHS]
            print(f"| {kind} | {' | '.join(f'{sum(bool(e.found[name]) for e in cell)} of {len(cell)}' for cell in cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("miniworld", type=Path)
    parser.add_argument("--plain", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--misses", action="store_true")
    options = parser.parse_args()
    for clip in clips(options.miniworld, options.plain):
        start = time.process_time()
        libraries = Libraries(options.miniworld, clip)
        outcomes = [
            libraries.outcome(kind, length, text, turn)
            for kind in KINDS
            for length, n in TEXTS.items()
            for turn, text in enumerate(texts(kind, length, max(1, round(options.share * n)), options.seed))
        ]
        print(f"\n### {clip.title}, texts of seed {options.seed}\n")
        report(outcomes, libraries.searchers)
        print(f"\n{time.process_time() - start:.0f} s of one core.")
        if options.misses:
            for each in outcomes:
                for library, found in each.found.items():
                    if found:
                        print(f"- {library}, {each.kind}, {each.length}: `{each.text}` -> {', '.join(found)}")


if __name__ == "__main__":
    main()
