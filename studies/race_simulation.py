"""Which way of sharing out pictures finds the best LoRAs of a field soonest, and whether the confidence asked for is kept.

usage: python -m studies.race_simulation compare|keep [--pool FOLDER] [--world NAME] [--size N] [--top-k K] [--runs N]
       [--first-seed N] [--budget N] [--confidence P] [--ways NAME ...]

NAME: published, mini_clip or mini_clip_plain; the latter two need a pool by `race_pool.py`. `compare` runs all ways, or those of
--ways, on the same fields. `keep` runs the race's own way: an error is a choice of which one's true score is more than 0.02 below
the last that should have been chosen. One line of Markdown comes out for each way.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from carlos_core.database.published import load_bundled_database
from carlos_core.measuring.race_rule import FIRST, Standing, best, doubling, first_batch, following, round_of
from carlos_core.measuring.race_scores import Seen, Yardstick, noise_of, scores_of

PAIR = 8
"""Model evaluations of a picture by quick: four steps, with and without condition."""

MOST = 112
"""Pairs of pictures of quick's plan."""

TOLERANCE = 0.02
DIMENSIONS = 64

SAID_EVERY = 50
"""Runs after which what came of all so far is printed."""


@dataclass(frozen=True, eq=False)
class World:
    """A field of LoRAs and a query."""

    truth: np.ndarray
    """Scores, [A]."""

    diffs: np.ndarray
    """[A, 112, D]."""

    aim: np.ndarray


class Published:
    """LoRAs like the published rows that pass the default limits, in the 64 largest components of their directions.

    The noise of a difference has the shape of the differences between LoRAs; its size follows from strength and consistency.
    """

    def __init__(self) -> None:
        arrays = load_bundled_database().ranking_arrays
        directions, strength, consistency = (
            value.double().numpy() for value in (arrays.directions, arrays.strength, arrays.consistency)
        )
        kept = (strength <= 9.8) & (consistency >= 0.041)
        directions, self._consistency = directions[kept], consistency[kept]
        _, values, axes = np.linalg.svd(directions - directions.mean(0), full_matrices=False)
        self._rows = directions @ axes[:DIMENSIONS].T
        self._shape = np.sqrt(values[:DIMENSIONS] ** 2 / (values[:DIMENSIONS] ** 2).sum())

    def draw(self, rng: np.random.Generator, size: int) -> World:
        """The query is the direction of a LoRA that is not in the field, with noise. A field that is larger than what there is
        consists of mixtures of two."""
        order = rng.permutation(len(self._rows))
        held, rest = order[0], order[1:]
        lora = rest[:size] if size <= len(rest) else rng.choice(rest, size)
        means = self._rows[lora]
        if size > len(rest):
            share = rng.uniform(0, 0.5, (size, 1))
            means = (1 - share) * means + share * self._rows[rng.choice(rest, size)]
        lengths = np.linalg.norm(means, axis=1)
        deviation = lengths * np.sqrt(1 / self._consistency[lora] - 1)
        noise = rng.standard_normal((size, MOST, DIMENSIONS), dtype=np.float32) * self._shape.astype(np.float32)
        diffs = means[:, None].astype(np.float32) + deviation[:, None, None].astype(np.float32) * noise
        query = self._rows[held] / np.linalg.norm(self._rows[held])
        query = query + 0.8 * rng.standard_normal(DIMENSIONS) / np.sqrt(512)
        aim = query / np.linalg.norm(query)
        return World(means @ aim / lengths, diffs, aim)


class Resampled:
    """Mixtures of two of the mini-world's LoRAs: their real differences on the same pairs, resampled, for real queries."""

    def __init__(self, pool: Path, clip: str) -> None:
        base = np.load(pool / "base.npz")[clip]
        diffs = []
        for path in sorted(pool.glob("*.safetensors.npz")):
            features = np.load(path)[clip]
            n = min(len(base), len(features), 64)
            diffs.append((features[:n] - base[:n]).astype(np.float64))
        self.diffs = np.stack([each for each in diffs if each.any()])
        signatures = np.load(pool / "signatures.npz")
        self.queries = signatures[f"{clip}|single"].astype(np.float64)
        means = self.diffs.mean(1)
        strength = np.linalg.norm(self.diffs, axis=2).mean(1)
        consistency = (np.linalg.norm(means, axis=1) / strength) ** 2
        self.diffs = self.diffs[(strength <= 9.8) & (consistency >= 0.041)]

    def draw(self, rng: np.random.Generator, size: int) -> World:
        query = self.queries[rng.integers(len(self.queries))]
        aim = query / np.linalg.norm(query)
        first, second = rng.integers(len(self.diffs), size=(2, size))
        angle = rng.uniform(0, np.pi / 2, size)[:, None, None]
        pairs = rng.integers(self.diffs.shape[1], size=MOST)
        own, other = self.diffs[first], self.diffs[second]
        means = np.cos(angle[:, 0]) * own.mean(1) + np.sin(angle[:, 0]) * other.mean(1)
        diffs = np.cos(angle) * own[:, pairs] + np.sin(angle) * other[:, pairs]
        return World(means @ aim / np.linalg.norm(means, axis=1), diffs.astype(np.float32), aim)


class Field:
    """A race in a simulated world: what has been seen, and what it cost."""

    def __init__(self, world: World, top_k: int) -> None:
        self.world, self.top_k = world, top_k
        self.size, self.yardstick = len(world.truth), Yardstick.cosine(world.aim)
        self.n = np.zeros(self.size, int)
        self._seen = np.zeros((self.size, len(Seen._fields)))
        self._noise = [np.zeros(0)] * self.size
        self.rng = np.random.default_rng(12)

    @property
    def evaluations(self) -> int:
        """Those of both sides."""
        return int(self.n.sum() + self.n.max()) * PAIR

    def take(self, lora: int, pairs: int) -> None:
        self.n[lora] = min(MOST, self.n[lora] + pairs)
        diffs = self.world.diffs[lora, : self.n[lora]]
        self._seen[lora], self._noise[lora] = Seen.of(diffs, self.yardstick), noise_of(diffs, self.yardstick)

    def look(self) -> None:
        """Those that were never seen come last, and none is chosen."""
        known = np.flatnonzero(self.n >= 2)
        assert len(known) == known.max() + 1, "first pictures go in order"
        scores = scores_of(self._seen[known], self.yardstick)
        self.standing = Standing.of(scores, self.top_k, TOLERANCE, self._noise[: len(known)], self.size - len(known))
        self.chosen, self.confidence = self.standing.chosen, self.standing.confidence
        self.mean, self.deviation = scores.mean, scores.deviation

    @property
    def open(self) -> np.ndarray:
        """Who can get pictures."""
        return self.n[: len(self.mean)] < MOST

    @property
    def loss(self) -> float:
        """How far the worst of the chosen is below the last that should have been chosen."""
        truth = self.world.truth
        return float(np.sort(truth)[::-1][self.top_k - 1] - truth[self.chosen].min())

    @property
    def is_right(self) -> bool:
        return self.loss <= TOLERANCE


Allocation = Callable[[Field], int | None]
"""Who is next; None if nobody can be."""


def even(field: Field) -> int | None:
    at = np.where(field.open, field.n[: len(field.mean)], MOST + 1)
    return int(at.argmin()) if field.open.any() else None


def lucb(field: Field) -> int | None:
    return following(field.standing, field.open)


def wider(field: Field, candidates: list[int]) -> int | None:
    """The one of some that is known least, or else the likeliest to be chosen wrongly."""
    may = [each for each in candidates if field.open[each]]
    if may:
        return max(may, key=lambda each: (field.deviation[each], -each))
    chance = np.where(field.open, field.standing.chances, -1.0)
    return int(chance.argmax()) if chance.max() > 1e-4 else None


def challenger(field: Field) -> int | None:
    """The likeliest to be better than the last of the chosen, or that one."""
    chance = np.where(field.open, field.standing.chances, 0.0)
    return wider(field, [int(field.chosen[-1]), int(chance.argmax())])


def ugape(field: Field) -> int | None:
    """Gabillon, Ghavamzadeh and Lazaric 2012, with posterior bounds."""
    high, low = field.mean + 2 * field.deviation, field.mean - 2 * field.deviation
    order = np.sort(high)[::-1]
    kth = np.where(high >= order[field.top_k - 1], order[field.top_k], order[field.top_k - 1])
    gaps = kth - low
    chosen = np.argsort(gaps, kind="stable")[: field.top_k]
    inside = np.isin(np.arange(len(high)), chosen)
    return wider(field, [int(chosen[gaps[chosen].argmax()]), int(np.where(inside, -np.inf, high).argmax())])


def top_two(field: Field) -> int | None:
    """Top-two Thompson sampling (Russo 2016): one of the chosen in a draw, or another in the next draw that has others."""
    chosen: np.ndarray | None = None
    for _ in range(100):
        draw = best(field.rng.normal(field.mean, field.deviation), field.top_k)
        if chosen is None:
            chosen = draw
            if field.rng.random() < 0.5:
                return wider(field, [int(field.rng.choice(chosen))])
            continue
        if new := [int(each) for each in draw if each not in chosen]:
            return wider(field, new)
    return challenger(field)


def tracking(field: Field) -> int | None:
    """Shares that balance the chances of all mistakes (Glynn and Juneja 2004): who is furthest behind its own."""
    last, n = int(field.chosen[-1]), field.n[: len(field.mean)]
    variance = field.deviation**2 * np.maximum(n, 1)
    gap = np.maximum(field.mean[last] + TOLERANCE - field.mean, 0.01)
    share = variance / gap**2
    share[field.chosen] = 0.0
    share[last] = np.sqrt(variance[last] * (share**2 / np.maximum(variance, 1e-12)).sum())
    lack = np.where(field.open & (share > 0), share / share.sum() * n.sum() - n, -np.inf)
    return int(lack.argmax()) if np.isfinite(lack.max()) else None


ALLOCATIONS: dict[str, Allocation] = {
    "even split": even,
    "LUCB": lucb,
    "UGapE": ugape,
    "top-two Thompson": top_two,
    "tracking": tracking,
    "likeliest challenger": challenger,
}

HALVING = "successive halving"


@dataclass(frozen=True)
class Setting:
    """Of a simulation."""

    top_k: int = 1
    confidence: float = 0.9
    budget: int = 20_000


def race(world: World, allocation: Allocation, setting: Setting) -> tuple[str, Field]:
    """Run a race. Returns why it ended, and the field."""
    field = Field(world, setting.top_k)
    first = first_batch(field.size, setting.budget // PAIR)
    for lora in range(field.size):
        if setting.budget and field.evaluations + first * PAIR > setting.budget:
            break
        field.take(lora, first)
    while True:
        field.look()
        if field.confidence >= setting.confidence and field.n.min() >= FIRST:
            return "known", field
        lora = allocation(field)
        if allocation is lucb and field.n.min() < FIRST:
            lora = doubling(field.standing, field.n, field.open, (setting.budget - field.evaluations) // PAIR)
        if lora is None:
            return "all taken", field
        further = round_of(field.n[lora], first)
        if setting.budget and field.evaluations + 2 * further * PAIR > setting.budget:
            return "budget", field
        field.take(lora, further)


def halving(world: World, setting: Setting) -> tuple[str, Field]:
    """Successive halving of a fixed budget (Karnin, Koren and Somekh 2013). Pictures of earlier rounds count on."""
    field = Field(world, setting.top_k)
    left = np.arange(field.size)
    rounds = max(1, int(np.ceil(np.log2(field.size / setting.top_k))))
    for k in range(rounds):
        pairs = (setting.budget - field.evaluations) // PAIR // (rounds - k) // len(left)
        for lora in left:
            field.take(int(lora), max(2 if field.n[lora] == 0 else 0, pairs))
        field.look()
        left = left[np.argsort(-field.mean[left], kind="stable")[: max(setting.top_k, len(left) // 2)]]
    field.chosen = left[np.argsort(-field.mean[left], kind="stable")[: setting.top_k]]
    return "budget", field


def wilson(k: int, n: int) -> str:
    """k of n with Wilson's 95% interval."""
    z = 1.96
    if not n:
        return "none"
    centre, half = (k + z * z / 2) / (n + z * z), z * (k * (n - k) / n + z * z / 4) ** 0.5 / (n + z * z)
    return f"{k} of {n} ({max(0.0, centre - half):.0%} to {min(1.0, centre + half):.0%})"


@dataclass
class Tally:
    """What came of many races."""

    name: str
    ends: list[str]
    right: list[bool]
    losses: list[float]
    confidences: list[float]
    evaluations: list[int]

    @classmethod
    def of(cls, name: str) -> Tally:
        return cls(name, [], [], [], [], [])

    def add(self, why: str, field: Field) -> None:
        self.ends.append(why)
        self.right.append(field.is_right)
        self.losses.append(max(0.0, field.loss))
        self.confidences.append(field.confidence)
        self.evaluations.append(field.evaluations)

    def line(self) -> str:
        known = np.array([why == "known" for why in self.ends])
        right, said, cost = np.array(self.right), np.array(self.confidences), np.array(self.evaluations)
        cells = [
            self.name,
            wilson(int(right.sum()), len(right)),
            f"{np.mean(self.losses):.3f}",
            f"{np.median(cost):.0f}",
            f"{int(known.sum())}",
            wilson(int((~right[known]).sum()), int(known.sum())),
            f"{np.median(cost[known]):.0f}" if known.any() else "",
            f"{int((~known).sum())}",
            "" if known.all() else f"{said[~known].mean():.2f}",
            "" if known.all() else f"{right[~known].mean():.2f}",
        ]
        return f"| {' | '.join(cells)} |"


HEADER = (
    "| way | right | mean loss | evaluations, median | ended known | errors among those | their evaluations, median | ended "
    "otherwise | confidence they reported, mean | right among those |\n|---|---|---|---|---|---|---|---|---|---|"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("compare", "keep"))
    parser.add_argument("--pool", type=Path)
    parser.add_argument("--world", default="published")
    parser.add_argument("--size", type=int, default=300)
    parser.add_argument("--top-k", type=int, default=1)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--budget", type=int, default=20_000)
    parser.add_argument("--confidence", type=float, default=0.9)
    parser.add_argument("--ways", nargs="+", choices=(*ALLOCATIONS, HALVING), default=(*ALLOCATIONS, HALVING))
    options = parser.parse_args()
    ways = options.ways if options.what == "compare" else ["LUCB"]
    worlds = Published() if options.world == "published" else Resampled(options.pool, options.world)
    setting = Setting(options.top_k, options.confidence, options.budget)
    tallies = {name: Tally.of(name) for name in ways}
    print(f"{options.world}, {options.size} candidates, {setting}, seeds from {options.first_seed}\n{HEADER}", flush=True)
    for run in range(options.runs):
        seed = options.first_seed + run
        world = worlds.draw(np.random.default_rng([seed, options.size]), options.size)
        for name in ways:
            tallies[name].add(*(halving(world, setting) if name == HALVING else race(world, ALLOCATIONS[name], setting)))
        if run == options.runs - 1 or (run + 1) % SAID_EVERY == 0 or (options.what == "compare" and (run + 1) % 10 == 0):
            print("\n".join(tally.line() for tally in tallies.values()), flush=True)


if __name__ == "__main__":
    main()
