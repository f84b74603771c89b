"""Which calibration finds the right LoRA, and says "nothing fits" when nothing does?

usage: python -m studies.calibration MINIWORLD [--plain FOLDER] [--pool POOL.npz ...] > studies/results/calibration.md

MINIWORLD: folder with mini_clip, labels.json, queries.json, prompts_*.json and reference_metrics.parquet. --plain: folder with
the second CLIP and its metrics. --pool: what `miniworld_pool.py` made, for the part about topics. About two minutes on two
cores.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from carlos_core.clip.encoder import OpenClipEncoder
from carlos_core.clip.loading import load_encoder
from carlos_core.clip.signatures import SignatureCache
from carlos_core.clip.weights import local_encoders
from carlos_core.database.published import load_bundled_database
from carlos_core.prompts.prompt_set import PromptSet, default_effect_bank, load_prompt_set
from carlos_core.search.calibration import LIKELY, calibrated_rows, fit_background
from carlos_core.search.limits import MAX_STRENGTH, MIN_CONSISTENCY
from studies.calibration_topics import report_topics
from studies.calibration_variants import OURS, VARIANTS, Variant, family_p, head, unit

RUNS = 100
SIZES = (5, 10, 16)
RANKED = ("label: top-1 (top-3)", "description", "paraphrase", "single")
LEVELS = (0.001, 0.01, 0.02, 0.05, 0.1, 0.2)

RANKING_TEXT = """
## Finding the right LoRA

Misfits (the queries of `nothing_fits`, and labels and paraphrases once their right files are taken out) are noticed at 5% false
alarms: the best score is below that of all but 5% of the labels and paraphrases. Intervals: bootstrap over effects."""
DECISION_TEXT = """
## Saying that nothing fits

Ours; the share of queries that get "nothing fits" if it is said above each level of p. The level in use, 0.05, is the customary
one; the variant was chosen with the tables above in view, so that other queries may do a little worse."""
ROBUSTNESS_TEXT = f"""
## Robustness

{RUNS} random libraries of each size. In each cell: top-1 / "nothing fits" for queries in the library / "nothing fits" for misfits
(none of the right files was drawn, or `nothing_fits`)."""
HONESTY_TEXT = """
## Honesty of p

Share of the phrases of one half of the bank whose best LoRA has at most this p before the other half; mean of 20 splits. Phrases
that a LoRA really does are among them.
"""


@dataclass(frozen=True)
class Query:
    """effect: the label it means; "" for none here. right: the files that do it."""

    text: str
    effect: str
    right: frozenset[str]


@dataclass(frozen=True, eq=False)
class World:
    """One CLIP's view. bank: [B, D]; directions: [R, D] of the rows with an effect; passes: [R] within the published limits."""

    name: str
    encoder: OpenClipEncoder
    files: list[str]
    directions: np.ndarray
    passes: np.ndarray
    groups: list[str]
    bank: np.ndarray
    of: Callable[[Sequence[str]], np.ndarray]
    prompts: PromptSet

    def signatures(self, queries: Sequence[Query]) -> np.ndarray:
        return self.of([query.text for query in queries])

    def right(self, queries: Sequence[Query], rows: np.ndarray) -> np.ndarray:
        """[Q, rows] bool."""
        return np.array([[self.files[row] in query.right for row in rows] for query in queries])


@dataclass(frozen=True)
class Queries:
    label: list[Query]
    description: list[Query]
    paraphrase: list[Query]
    single: list[Query]
    compound: list[Query]
    nothing: list[Query]

    @property
    def in_library(self) -> list[Query]:
        return [*self.label, *self.paraphrase]


def load_queries(folder: Path) -> Queries:
    labels = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
    queries = json.loads((folder / "queries.json").read_text(encoding="utf-8"))
    ordinary = {file: facts for file, facts in labels.items() if facts["kind"] == "ordinary"}

    def query(text: str, *files: str) -> Query:
        effects = [labels[file]["label"] for file in files]
        return Query(
            text, effects[0] if effects else "", frozenset(f for f, facts in labels.items() if facts["label"] in effects)
        )

    return Queries(
        label=[query(facts["label"], file) for file, facts in ordinary.items()],
        description=[query(facts["description"], file) for file, facts in ordinary.items()],
        paraphrase=[query(text, file) for file, facts in ordinary.items() for text in facts["paraphrases"]],
        single=[query(entry["query"], *entry["files"]) for entry in queries["single"]],
        compound=[query(entry["query"], *entry["files"]) for entry in queries["compound"]],
        nothing=[query(entry["query"]) for entry in queries["nothing_fits"]],
    )


def load_world(name: str, folder: Path, miniworld: Path, metrics: str, prompts: PromptSet) -> World:
    encoder = load_encoder(local_encoders([folder])[name].encoder_id, [folder])
    labels = json.loads((miniworld / "labels.json").read_text(encoding="utf-8"))
    table = pq.read_table(folder / metrics).to_pandas()
    directions, cache = np.stack(table["direction"]), SignatureCache()
    has_direction = directions.any(1)
    passes = (table["strength"] <= MAX_STRENGTH) & (table["consistency"] >= MIN_CONSISTENCY)
    files = list(table["file_name"][has_direction])

    def of(texts: Sequence[str]) -> np.ndarray:
        return np.stack([cache.signature(encoder, prompts, text).double().numpy() for text in texts])

    return World(
        name=name,
        encoder=encoder,
        files=files,
        directions=directions[has_direction].astype(np.float64),
        passes=passes.to_numpy()[has_direction],
        groups=[labels[file]["group"] for file in files],
        bank=of(default_effect_bank().texts),
        of=of,
        prompts=prompts,
    )


def found(world: World, scores: np.ndarray, queries: Sequence[Query], rows: np.ndarray, top: int) -> np.ndarray:
    """[Q] bool: a right file is among the first `top`."""
    right = world.right(queries, rows)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    return np.take_along_axis(right, best, axis=1).any(1)


def interval(values: np.ndarray, effects: Sequence[str]) -> str:
    """Mean in per cent with a 95% bootstrap interval; whole effects are drawn, for the queries of one are alike."""
    names = sorted(set(effects))
    by_effect = [values[[effect == name for effect in effects]] for name in names]
    rng = np.random.default_rng(0)
    means = [np.concatenate([by_effect[k] for k in rng.integers(len(names), size=len(names))]).mean() for _ in range(1000)]
    low, high = np.percentile(means, [2.5, 97.5])
    return f"{100 * values.mean():.0f} [{100 * low:.0f}, {100 * high:.0f}]"


def without_right(scores: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The best score of each query once its right files are taken out. [Q]."""
    return np.where(right, -np.inf, scores).max(1)


def report_ranking(world: World, queries: Queries) -> None:
    for title, rows in (
        ("rows within the published limits", np.flatnonzero(world.passes)),
        ("all rows with an effect", np.arange(len(world.files))),
    ):
        print(f"\n### {world.name}: {len(rows)} {title}\n")
        print(head("variant", *RANKED, "paraphrase top-1 [95%]", "misfits noticed: nothing_fits", "right files out"))
        for variant in VARIANTS:
            scores = variant.scores(world.bank, world.directions[rows])
            cells = []
            for group in (queries.label, queries.description, queries.paraphrase, queries.single):
                z = scores(world.signatures(group))
                cells.append(" ".join(f"{100 * found(world, z, group, rows, top).mean():.0f}" for top in (1, 3)))
            z = scores(world.signatures(queries.in_library))
            level = np.quantile(z.max(1), 0.05)
            noticed = [
                scores(world.signatures(queries.nothing)).max(1) < level,
                without_right(z, world.right(queries.in_library, rows)) < level,
            ]
            paraphrases = found(world, scores(world.signatures(queries.paraphrase)), queries.paraphrase, rows, 1)
            cells = [f"{first} ({third})" for first, third in (cell.split() for cell in cells)]
            print(
                f"| {variant.name} | {' | '.join(cells)} | {interval(paraphrases, [q.effect for q in queries.paraphrase])} | "
                + " | ".join(f"{100 * share.mean():.0f}" for share in noticed)
                + " |"
            )


def report_decision(world: World, queries: Queries) -> None:
    rows = np.flatnonzero(world.passes)
    scores = OURS.scores(world.bank, world.directions[rows])
    z = scores(world.signatures(queries.in_library))
    p = {
        "in the library: 48 single queries": family_p(scores(world.signatures(queries.single)).max(1), len(rows)),
        "in the library: labels and paraphrases": family_p(z.max(1), len(rows)),
        "compound queries, as a whole": family_p(scores(world.signatures(queries.compound)).max(1), len(rows)),
        "compound queries, by parts": by_parts(world, scores, queries.compound, len(rows)),
        "nothing_fits": family_p(scores(world.signatures(queries.nothing)).max(1), len(rows)),
        "nothing_fits, by parts": by_parts(world, scores, queries.nothing, len(rows)),
        "48 single queries, right files out": family_p(
            without_right(scores(world.signatures(queries.single)), world.right(queries.single, rows)), len(rows)
        ),
        "labels and paraphrases, right files out": family_p(without_right(z, world.right(queries.in_library, rows)), len(rows)),
    }
    of = {"single": queries.single, "labels": queries.in_library, "compound": queries.compound, "nothing": queries.nothing}
    print(f"\n### {world.name}: {len(rows)} rows within the published limits\n")
    print(head("queries", *(f"p > {level:g}" for level in LEVELS), f"at {LIKELY:g} [95%]"))
    for name, values in p.items():
        asked = next(group for word, group in of.items() if word in name)
        effects = [query.effect or query.text for query in asked]
        shares = " | ".join(f"{100 * (values > level).mean():.0f}" for level in LEVELS)
        print(f"| {name} | {shares} | {interval(values > LIKELY, effects)} |")


def by_parts(world: World, scores: Callable[[np.ndarray], np.ndarray], queries: Sequence[Query], n_rows: int) -> np.ndarray:
    """p of a query as a whole, or of the least sure of its parts if that is less. [Q]."""
    p_values = []
    for query in queries:
        parts = [part for part in re.split(r",\s*|\s+and\s+|\s+with\s+", query.text) if part]
        whole, *each = family_p(scores(world.of([query.text, *parts])).max(1), n_rows)
        p_values.append(min(whole, max(each)))
    return np.array(p_values)


def report_robustness(world: World, queries: Queries) -> None:
    print(f"\n### {world.name}: smaller libraries, other banks, prompts and ridges\n")
    print(head("", *(f"{size} rows" for size in SIZES), "all"))
    rng = np.random.default_rng(0)
    halves = [rng.permutation(len(world.bank)) for _ in range(2)]
    plans: list[tuple[str, Variant, np.ndarray]] = [
        ("ours", OURS, world.bank),
        ("ridge x 3", replace(OURS, ridge=3.0), world.bank),
        ("ridge / 3", replace(OURS, ridge=1 / 3), world.bank),
        ("all of the mean off", replace(OURS, mean="all"), world.bank),
        ("directions not centred", replace(OURS, mean="none"), world.bank),
        ("the bank judges itself", replace(OURS, folds=1), world.bank),
        *((f"half of the bank ({k})", OURS, world.bank[half[:280]]) for k, half in enumerate(halves, start=1)),
        ("a quarter of the bank", OURS, world.bank[halves[0][:140]]),
    ]
    asked = [*queries.in_library, *queries.nothing]
    for name, variant, bank in plans:
        print(f"| {name} | {' | '.join(library_cells(world, variant, bank, asked, world.signatures(asked)))} |")
    for n in (32, 16):
        few = PromptSet("few", world.prompts.stratified()[:n])
        cache = SignatureCache()

        def of(texts: Sequence[str], few: PromptSet = few, cache: SignatureCache = cache) -> np.ndarray:
            return np.stack([cache.signature(world.encoder, few, text).double().numpy() for text in texts])

        bank, signatures = of(default_effect_bank().texts), of([query.text for query in asked])
        print(f"| {n} of the 64 prompts | {' | '.join(library_cells(world, OURS, bank, asked, signatures))} |")
        cells = library_cells(world, OURS, bank, asked, world.signatures(asked))
        print(f"| {n} of them, for the bank alone | {' | '.join(cells)} |")


def library_cells(world: World, variant: Variant, bank: np.ndarray, asked: Sequence[Query], signatures: np.ndarray) -> list[str]:
    passing = np.flatnonzero(world.passes)
    cells = []
    for size in (*SIZES, len(passing)):
        rng = np.random.default_rng(1)
        first, lost, noticed = [], [], []
        for _ in range(RUNS if size < len(passing) else 1):
            rows = np.sort(rng.permutation(passing)[:size])
            z = variant.scores(bank, world.directions[rows])(signatures)
            right = world.right(asked, rows)
            has = right.any(1)
            is_lost = family_p(z.max(1), size) > LIKELY
            first += list(right[np.arange(len(asked)), z.argmax(1)][has])
            lost += list(is_lost[has])
            noticed += list(is_lost[~has])
            if size == len(passing):
                noticed += list((family_p(without_right(z, right), size) > LIKELY)[has])
        cells.append(f"{100 * np.mean(first):.0f} / {100 * np.mean(lost):.1f} / {100 * np.mean(noticed):.0f}")
    return cells


def report_groups(world: World, queries: Queries) -> None:
    print(f"\n### {world.name}: libraries of one theme\n")
    print(head("theme", "rows", "top-1", "nothing fits: in the library", "misfits"))
    asked = [*queries.in_library, *queries.nothing]
    for group in sorted(set(world.groups)):
        rows = np.array([k for k, name in enumerate(world.groups) if name == group and world.passes[k]])
        if len(rows) < 2:
            continue
        z = OURS.scores(world.bank, world.directions[rows])(world.signatures(asked))
        right = world.right(asked, rows)
        has, lost = right.any(1), family_p(z.max(1), len(rows)) > LIKELY
        first = right[np.arange(len(asked)), z.argmax(1)][has].mean()
        print(f"| {group} | {len(rows)} | {100 * first:.0f} | {100 * lost[has].mean():.0f} | {100 * lost[~has].mean():.0f} |")


def report_honesty(world: World) -> None:
    rows = np.flatnonzero(world.passes)
    rng = np.random.default_rng(2)
    for name, variant in (
        ("ours", OURS),
        ("the bank judges itself", replace(OURS, folds=1)),
        ("plain length", replace(OURS, metric="plain")),
    ):
        shares = []
        for _ in range(20):
            order = rng.permutation(len(world.bank))
            half, rest = world.bank[order[:280]], world.bank[order[280:]]
            p = family_p(variant.scores(half, world.directions[rows])(rest).max(1), len(rows))
            shares.append([(p <= level).mean() for level in (0.5, 0.2, 0.1, 0.05, 0.01)])
        print(f"| {world.name} | {name} | {' | '.join(f'{share:.3f}' for share in np.mean(shares, axis=0))} |")


def report_published() -> None:
    """The size and shape of the real thing: 740 directions of 512 numbers, signatures made up in the directions' own shape."""
    directions = load_bundled_database().ranking_arrays.directions.double().numpy()
    rng = np.random.default_rng(3)
    shape = np.linalg.cholesky(np.cov(unit(directions).T) + 1e-6 * np.eye(directions.shape[1]))

    def signatures(n: int) -> np.ndarray:
        return unit(directions).mean(0) * 0.5 + rng.normal(size=(n, directions.shape[1])) @ shape.T

    background = fit_background(torch.from_numpy(signatures(len(default_effect_bank()))))
    print(head("rows", "p <= 0.5", "0.2", "0.1", "0.05", "0.01", "first query", "further ones"))
    for n_rows in (1, 5, 50, 740, 10_000):
        rows = directions[:n_rows] if n_rows <= 740 else unit(directions).mean(0) + rng.normal(size=(n_rows, 512)) @ shape.T
        if n_rows < 740:
            rows = directions[rng.permutation(740)[:n_rows]]
        start = time.perf_counter()
        library = calibrated_rows(torch.from_numpy(rows), background)
        first = time.perf_counter() - start
        queries = torch.from_numpy(signatures(1000))
        start = time.perf_counter()
        best = np.array([float(library.z_scores(query).max()) for query in queries])
        each = (time.perf_counter() - start) / len(queries)
        shares = [(family_p(best, n_rows) <= level).mean() for level in (0.5, 0.2, 0.1, 0.05, 0.01)]
        print(f"| {n_rows} | {' | '.join(f'{share:.3f}' for share in shares)} | {1000 * first:.0f} ms | {1000 * each:.2f} ms |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("miniworld", type=Path)
    parser.add_argument("--plain", type=Path)
    parser.add_argument("--pool", nargs="*", default=[])
    options = parser.parse_args()
    prompts = load_prompt_set(options.miniworld / "prompts_signature.json")
    queries = load_queries(options.miniworld)
    worlds = [load_world("mini_clip", options.miniworld, options.miniworld, "reference_metrics.parquet", prompts)]
    if options.plain:
        worlds.append(load_world("mini_clip_plain", options.plain, options.miniworld, "reference_metrics_plain.parquet", prompts))
    print("# Calibrated scores\n\n`python -m studies.calibration MINIWORLD --plain MINIWORLD/plain --pool POOL*.npz`")
    print(f"\n{len(default_effect_bank())} phrases in the bank. Shares are in per cent.")
    print(RANKING_TEXT)
    for world in worlds:
        report_ranking(world, queries)
    print(DECISION_TEXT)
    for world in worlds:
        report_decision(world, queries)
    print(ROBUSTNESS_TEXT)
    for world in worlds:
        report_robustness(world, queries)
        report_groups(world, queries)
    print(HONESTY_TEXT)
    print(head("CLIP", "variant", "p <= 0.5", "0.2", "0.1", "0.05", "0.01"))
    for world in worlds:
        report_honesty(world)
    print(f"\n{report_published.__doc__}\n")
    report_published()
    if options.pool:
        report_topics(options.pool, worlds, queries, options.miniworld)


if __name__ == "__main__":
    main()
