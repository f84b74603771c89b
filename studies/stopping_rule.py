"""Checks the adaptive stopping rule: is its promise kept, and with how many pictures beside one who knows the truth?

usage: python -m studies.stopping_rule POOL.npz [POOL.npz ...] --labels tests/assets/miniworld/labels.json [--runs 3]

POOL.npz comes from `studies/miniworld_pool.py` (variants "full" and "full-own"). The promise is a cosine of 0.97 with the
full protocol's direction at the moment of stopping. "Oracle": the smallest number of pictures at which 95% of runs of that fixed
length keep the promise, told by one who knows the LoRA. "First passage": the median first picture at which the realised cosine
reaches the target, told by one who sees the full protocol's result. Prints Markdown; every seed is fixed.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from carlos_core.database.published import load_bundled_database
from carlos_core.measuring.stopping import DIRECTION_KNOWN, picture_order
from carlos_core.records import NO_EFFECT
from studies.stopping_pools import report_pools, report_seeds
from studies.stopping_tally import (
    AXES,
    HEADER,
    PROMPTS,
    RIVALS_EVERY,
    RULE,
    SEEDS,
    STRATA,
    TARGET,
    Library,
    Tally,
    cosine,
    jackknife_alignment,
)


class Published:
    """The rows that pass the filters, on the leading axes of the spread between LoRAs."""

    def __init__(self) -> None:
        arrays = load_bundled_database().ranking_arrays
        directions = np.asarray(arrays.directions, dtype=np.float64)
        strength, consistency = np.asarray(arrays.strength, dtype=float), np.asarray(arrays.consistency, dtype=float)
        passing = (strength <= 9.8) & (consistency >= 0.041)
        directions = directions[passing]
        centred = directions - directions.mean(0)
        values, axes = np.linalg.eigh(centred.T @ centred)
        self.share = values[-AXES:].sum() / values.sum()
        self.directions = directions @ axes[:, -AXES:]
        self.scales = np.sqrt(values[-AXES:] / values[-AXES:].sum())
        self.noise = np.sqrt(1 - consistency[passing]) * strength[passing]
        self.consistency = consistency[passing]
        self.library = Library(self.directions)

    def names(self) -> list[str]:
        return [str(row) for row in range(len(self.directions))]


@dataclass(frozen=True)
class World:
    """r: correlation between the noise of a prompt's pictures; topics: the part of it that all prompts of a sub-category share.
    heavy: Student t with 5 degrees of freedom (one factor a picture, one a prompt) in place of Gaussian noise."""

    r: float
    topics: float = 0.0
    heavy: bool = False

    def __str__(self) -> str:
        tails = ", heavy tails (Student t, 5 degrees of freedom)" if self.heavy else ""
        return f"r = {self.r}" + (f", {self.topics} of it shared by a sub-category" if self.topics else "") + tails


WORLDS = (World(0.0), World(0.3), World(0.6), World(0.85, topics=0.15), World(0.3, heavy=True))


class SimulatedRun:
    """Pictures of one LoRA, made as they are asked for; the rest of the full protocol is drawn as one sum."""

    def __init__(self, published: Published, row: int, order: Sequence[tuple[int, int]], world: World, seed: int) -> None:
        self.published, self.row, self.order, self.world = published, row, np.array(order), world
        self.rng = np.random.default_rng([seed, row])
        self.of_prompts = math.sqrt(world.r - world.topics) * self._noise(PROMPTS)
        if world.topics:
            self.of_prompts += math.sqrt(world.topics) * self._noise(STRATA)[np.arange(PROMPTS) % STRATA]
        self.diffs = np.zeros((0, published.directions.shape[1]), dtype=np.float32)

    def _noise(self, n: int) -> np.ndarray:
        scales = (self.published.scales * self.published.noise[self.row]).astype(np.float32)
        drawn = self.rng.standard_normal((n, len(scales)), dtype=np.float32) * scales
        if self.world.heavy:
            drawn *= np.sqrt(3 / self.rng.chisquare(5, size=(n, 1))).astype(np.float32)
        return drawn

    def first(self, n: int) -> np.ndarray:
        """The first n differences, [n, D]."""
        if n > len(self.diffs):
            more = self.order[len(self.diffs) : max(n, 2 * len(self.diffs), 64), 0]
            noise = self.of_prompts[more] + math.sqrt(1 - self.world.r) * self._noise(len(more))
            self.diffs = np.concatenate([self.diffs, self.published.directions[self.row].astype(np.float32) + noise])
        return self.diffs[:n]

    def full(self) -> np.ndarray:
        """The full protocol's direction, [D]. To be asked once, at the end."""
        left = np.bincount(self.order[len(self.diffs) :, 0], minlength=PROMPTS)
        rest = left.sum() * self.published.directions[self.row] + left @ self.of_prompts
        rest = rest + math.sqrt((1 - self.world.r) * left.sum()) * self._noise(1)[0]
        return (self.diffs.sum(0) + rest) / len(self.order)


def simulated_oracle(published: Published, world: World, draws: int = 2000) -> dict[str, int]:
    """For each LoRA the smallest fixed number of pictures, in the plain order, that keeps the promise in 95% of runs."""
    rng = np.random.default_rng(99)
    total = PROMPTS * SEEDS
    n = np.arange(2, total + 1)
    each, extra = n // PROMPTS, n % PROMPTS
    squares = (PROMPTS - extra) * each**2 + extra * (each + 1) ** 2
    in_stratum = n // STRATA, n % STRATA
    stratum_squares = (STRATA - in_stratum[1]) * in_stratum[0] ** 2 + in_stratum[1] * (in_stratum[0] + 1) ** 2
    error = (1 - world.r) * (1 / n - 1 / total) + (world.r - world.topics) * np.maximum(0, squares / n**2 - 1 / PROMPTS)
    error += world.topics * np.maximum(0, stratum_squares / n**2 - 1 / STRATA)
    own = (1 - world.r) / total + (world.r - world.topics) / PROMPTS + world.topics / STRATA
    steps = rng.standard_normal((draws, len(published.scales))) * published.scales
    found = {}
    for row, name in enumerate(published.names()):
        noise = published.noise[row]
        truth = published.directions[row] + math.sqrt(own) * noise * steps[::-1]
        tt, ts, ss = (truth**2).sum(1), noise * (truth * steps).sum(1), noise**2 * (steps**2).sum(1)
        low, high = 0.0, 1.0
        for _ in range(30):
            scale = (low + high) / 2
            kept = (tt + scale * ts) >= TARGET * np.sqrt(tt * (tt + 2 * scale * ts + scale**2 * ss))
            low, high = (scale, high) if kept.mean() >= 0.95 else (low, scale)
        found[name] = int(n[np.argmax(error <= low**2)])
    return found


def simulate(published: Published, world: World, early_repeats: bool, runs: int, rows: Sequence[int]) -> dict[str, Tally]:
    """Runs of our rule and, in the plain order, of its simpler rivals on the same pictures."""
    order = picture_order(PROMPTS, SEEDS) if early_repeats else picture_order(PROMPTS, SEEDS, repeat_every=0)
    names = np.array([f"p{prompt}" for prompt, _ in order])
    strata = np.array([f"s{prompt % STRATA}" for prompt, _ in order])
    total = len(order)
    tallies = {name: Tally() for name in (["ours"] if early_repeats else ["ours", "jackknife", "point", "passage"])}
    for row in rows:
        for k in range(runs):
            run = SimulatedRun(published, row, order, world, 1000 + k)
            stops: dict[str, tuple[int, str]] = {}
            for n in RULE.checkpoints(total):
                diffs = run.first(n)
                if "ours" not in stops:
                    decision = RULE.decide(diffs, names[:n], total, PROMPTS, strata[:n])
                    if decision.stop:
                        stops["ours"] = n, decision.reason
                if not early_repeats and "jackknife" not in stops:
                    point, bound = jackknife_alignment(diffs)
                    for name, value in (("point", point), ("jackknife", bound)):
                        if value >= TARGET:
                            stops.setdefault(name, (n, ""))
                if len(stops) >= len(tallies) - (not early_repeats):
                    break
            full = run.full()
            means = np.cumsum(run.diffs, axis=0, dtype=np.float64) / np.arange(1, len(run.diffs) + 1)[:, None]
            cosines = cosine(means, full)
            if not early_repeats:
                stops["passage"] = (int(np.argmax(cosines >= TARGET)) + 1 if (cosines >= TARGET).any() else len(cosines)), ""
            for name, (n, reason) in stops.items():
                overlap = published.library.overlap(row, means[n - 1], full)
                tallies[name].add(str(row), n, float(cosines[n - 1]), overlap, reason)
    return tallies


def report_simulation(runs: int, every: int) -> None:
    published = Published()
    rows = range(0, len(published.directions), every)
    dimension = 1 / float((published.scales**4).sum())
    print(
        f"## Simulation on the published rows\n\n{len(rows)} LoRAs, {runs} runs each, {PROMPTS} prompts x {SEEDS} seeds; "
        f"noise on the {AXES} leading axes ({100 * published.share:.1f}% of the spread), effective dimension {dimension:.1f}; "
        f"the plain order on every {RIVALS_EVERY}rd LoRA. r: correlation between the noise of one prompt's pictures.\n"
    )
    for world in WORLDS:
        start = time.time()
        oracle = simulated_oracle(published, world)
        early = simulate(published, world, True, runs, rows)
        some = rows[::RIVALS_EVERY]
        plain = simulate(published, world, False, runs, some)
        known = [oracle[str(row)] for row in rows]
        passage = [np.median(plain["passage"].images[str(row)]) for row in some]
        print(f"### {world}\n")
        print(
            f"Oracle: median {np.median(known):.0f} images, 90% of LoRAs {np.quantile(known, 0.9):.0f}; "
            f"median first passage {np.median(passage):.0f}.\n\n{HEADER}"
        )
        print(early["ours"].row("**ours, every 14th picture a repeat**", oracle))
        print(plain["ours"].row("ours, all prompts before any repeat", oracle))
        print(plain["jackknife"].row("plain jackknife bound", oracle))
        print(plain["point"].row("expected alignment alone", oracle))
        print("\nOurs by consistency:\n\n" + HEADER)
        quartiles = np.digitize(published.consistency, np.quantile(published.consistency, [0.25, 0.5, 0.75]))
        for quartile, name in enumerate(("lowest", "second", "third", "highest")):
            print(early["ours"].row(f"{name} quarter", oracle, [str(row) for row in rows if quartiles[row] == quartile]))
        others = [reason for reason in early["ours"].reasons if reason != DIRECTION_KNOWN]
        print(
            f"\nEnded otherwise than by a known direction: {len(others)} of {len(early['ours'].reasons)} runs. "
            f"({time.time() - start:.0f} s)\n",
            flush=True,
        )


def report_no_effect(runs: int) -> None:
    """LoRAs of the published shape with next to no direction."""
    published = Published()
    total = PROMPTS * SEEDS
    order = picture_order(PROMPTS, SEEDS)
    names = np.array([f"p{prompt}" for prompt, _ in order])
    strata = np.array([f"s{prompt % STRATA}" for prompt, _ in order])
    print(
        "### Without effect, or nearly\n\nDirection and noise of random rows, scaled to the consistency given; r = 0.3.\n\n"
        "| consistency | ended as without effect | median images | direction known | cosine, median |\n|---|---|---|---|---|"
    )
    directions, noise = published.directions.copy(), published.noise.copy()
    rng = np.random.default_rng(5)
    for consistency in (0.0, 0.005, 0.01, 0.02, 0.035):
        tally = Tally()
        for k, row in enumerate(rng.integers(len(directions), size=runs)):
            unit = directions[row] / np.linalg.norm(directions[row])
            published.directions[row] = unit * math.sqrt(consistency)
            published.noise[row] = math.sqrt(1 - consistency)
            run = SimulatedRun(published, row, order, World(0.3), 5000 + k)
            for n in RULE.checkpoints(total):
                decision = RULE.decide(run.first(n), names[:n], total, PROMPTS, strata[:n])
                if decision.stop:
                    break
            mean = run.first(n).mean(0)
            tally.add("all", n, float(cosine(mean, run.full())), 0.0, decision.reason)
            published.directions[row], published.noise[row] = directions[row], noise[row]
        reasons = np.array(tally.reasons)
        print(
            f"| {consistency} | {100 * (reasons == NO_EFFECT).mean():.0f}% | {np.median(tally.images['all']):.0f} | "
            f"{100 * (reasons == DIRECTION_KNOWN).mean():.0f}% | {np.median(tally.cosines['all']):.3f} |"
        )
    print(flush=True)


# --- real differences from the mini-world ---------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pools", nargs="*")
    parser.add_argument("--labels", default="tests/assets/miniworld/labels.json")
    parser.add_argument("--runs", type=int, default=3, help="of each published LoRA")
    parser.add_argument("--every", type=int, default=1, help="only every so many-th published LoRA")
    parser.add_argument("--pool-runs", type=int, default=25, help="of each mini-world LoRA")
    parser.add_argument("--no-simulation", action="store_true")
    options = parser.parse_args()
    with open(options.labels, encoding="utf-8") as file:
        labels = json.load(file)
    print(f"# The adaptive stopping rule\n\nPrinted by `studies/stopping_rule.py`. {RULE}\n")
    if options.pools:
        report_pools(options.pools, labels, options.pool_runs)
        report_seeds(options.pools, [f for f, label in labels.items() if label["kind"] in ("ordinary", "duplicate")])
    if not options.no_simulation:
        report_simulation(options.runs, options.every)
        report_no_effect(100)


if __name__ == "__main__":
    main()
