"""The stopping rule on real differences: pools of features from the mini-world."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from carlos_core.measuring.stopping import picture_order
from studies.stopping_tally import HEADER, RULE, TARGET, Library, Tally, cosine, jackknife_alignment


class Pool:
    """Differences [4, 64, D] by file: seeds x prompts, prompts in stratified order (rounds of 16 sub-categories)."""

    def __init__(self, paths: Sequence[str], variant: str, clip: str) -> None:
        features: dict[str, np.ndarray] = {}
        for path in paths:
            with np.load(path) as pool:
                self.prompts = [str(prompt) for prompt in pool["prompts"]]
                for key in pool.files:
                    if key.startswith(f"{variant}|{clip}|"):
                        features[key.split("|")[2]] = pool[key].astype(np.float64)
        base = features.pop("base")
        self.seeds = len(base) // len(self.prompts)
        self.diffs = {file: (rows - base).reshape(self.seeds, len(self.prompts), -1) for file, rows in features.items()}
        self.means = {file: diffs.mean((0, 1)) for file, diffs in self.diffs.items()}

    def shuffled(self, rng: np.random.Generator, *, shared_seeds: bool) -> tuple[np.ndarray, np.ndarray]:
        """Another stratified order: prompt of each place [64] and seed [4, 64] of each round over the seeds."""
        rounds = np.arange(len(self.prompts)).reshape(-1, 16)
        rounds = rng.permuted(rng.permuted(rounds, axis=0), axis=1)
        seeds = np.tile(np.arange(self.seeds)[:, None], (1, len(self.prompts)))
        seeds = rng.permutation(self.seeds)[seeds] if shared_seeds else rng.permuted(seeds, axis=0)
        return rounds.reshape(-1), seeds


@dataclass(frozen=True)
class SeedPlan:
    """Which pool and which seeds: every prompt has its own, or all share a few, one a round or spread over each round."""

    name: str
    variant: str
    is_shared: bool
    is_spread: bool


SEED_PLANS = (
    SeedPlan("the same seeds for all prompts, spread over each round", "full", True, True),
    SeedPlan("own seeds for each prompt", "full-own", False, False),
    SeedPlan("one seed a round for all prompts", "full", True, False),
)


def pool_oracle(pool: Pool, file: str, plan: SeedPlan, draws: int = 400) -> tuple[int, int]:
    """Oracle and first passage of a file, over runs without early repeats."""
    rng = np.random.default_rng(77)
    order = np.array(picture_order(len(pool.prompts), pool.seeds, repeat_every=0, spread_seeds=plan.is_spread))
    kept = []
    for _ in range(draws):
        places, seeds = pool.shuffled(rng, shared_seeds=plan.is_shared)
        taken = pool.diffs[file][seeds[order[:, 1], order[:, 0]], places[order[:, 0]]]
        means = np.cumsum(taken, axis=0)
        kept.append(cosine(means, pool.means[file]) >= TARGET)
    share = np.mean(kept, axis=0)
    return int(np.argmax(share >= 0.95)) + 1, int(np.median(np.argmax(kept, axis=1))) + 1


def run_pool(pool: Pool, file: str, plan: SeedPlan, repeats: int, runs: int, tallies: dict[str, Tally], overlap: partial) -> None:
    order = np.array(picture_order(len(pool.prompts), pool.seeds, repeat_every=repeats, spread_seeds=plan.is_spread))
    total = len(order)
    for k in range(runs):
        places, seeds = pool.shuffled(np.random.default_rng([k, 31]), shared_seeds=plan.is_shared)
        prompts = places[order[:, 0]]
        diffs = pool.diffs[file][seeds[order[:, 1], order[:, 0]], prompts]
        names, strata = [pool.prompts[prompt] for prompt in prompts], [f"s{prompt % 16}" for prompt in prompts]
        stops: dict[str, tuple[int, str]] = {}
        for n in RULE.checkpoints(total):
            if "ours" not in stops:
                decision = RULE.decide(diffs[:n], names[:n], total, len(pool.prompts), strata[:n])
                if decision.stop:
                    stops["ours"] = n, decision.reason
            if "jackknife" in tallies and "jackknife" not in stops and diffs.any():
                bound = jackknife_alignment(diffs[:n])[1]
                if bound >= TARGET:
                    stops["jackknife"] = n, ""
        for name, (n, reason) in stops.items():
            mean = diffs[:n].mean(0)
            known = float(cosine(mean, pool.means[file])) if mean.any() else math.nan
            tallies[name].add(file, n, known, overlap(mean) if mean.any() else math.nan, reason)


def report_pools(paths: Sequence[str], labels: dict[str, dict[str, str]], runs: int) -> None:
    ordinary = [file for file, label in labels.items() if label["kind"] in ("ordinary", "duplicate")]
    special = [file for file, label in labels.items() if label["kind"] in ("weak", "strong", "inconsistent", "noop")]
    print(
        "## Real differences: the mini-world\n\n64 prompts x 4 seeds = 256 pairs are the full protocol; "
        f"{runs} orders of each of the {len(ordinary)} ordinary files (duplicates among them).\n"
    )
    specials = []
    for clip in ("mini_clip", "mini_clip_plain"):
        for plan in SEED_PLANS:
            pool = Pool(paths, plan.variant, clip)
            files = [file for file in pool.diffs if pool.diffs[file].any()]
            library = Library(np.stack([pool.means[file] for file in files]))
            oracle, passage = {}, {}
            for file in [*ordinary, *special]:
                oracle[file], passage[file] = pool_oracle(pool, file, plan) if file in files else (0, 0)
            tallies = {"early": {"ours": Tally()}, "plain": {"ours": Tally(), "jackknife": Tally()}}
            for file in ordinary:
                overlap = partial(_overlap, library, files.index(file), pool.means[file])
                run_pool(pool, file, plan, 14, runs, tallies["early"], overlap)
                run_pool(pool, file, plan, 0, runs, tallies["plain"], overlap)
            print(
                f"### {clip}: {plan.name}\n\nOracle: median {np.median([oracle[f] for f in ordinary]):.0f} images, most "
                f"{max(oracle[f] for f in ordinary)}; median first passage {np.median([passage[f] for f in ordinary]):.0f}. "
                f"Correlation r between the seeds of a prompt: {correlations(pool, ordinary)}.\n\n{HEADER}"
            )
            print(tallies["early"]["ours"].row("**ours, every 14th picture a repeat**", oracle))
            print(tallies["plain"]["ours"].row("ours, all prompts before any repeat", oracle))
            print(tallies["plain"]["jackknife"].row("plain jackknife bound", oracle) + "\n", flush=True)
            for file in special:
                tally = {"ours": Tally()}
                overlap = partial(_overlap, library, files.index(file), pool.means[file]) if file in files else None
                run_pool(pool, file, plan, 14, runs, tally, overlap)
                ours = tally["ours"]
                images, cosines = ours.images[file], np.array(ours.cosines[file])
                ends = ", ".join(
                    f"{reason} {100 * ours.reasons.count(reason) / runs:.0f}%" for reason in sorted(set(ours.reasons))
                )
                kept = f"{100 * (cosines >= TARGET).mean():.0f}%" if file in files else ""
                specials.append(
                    f"| {labels[file]['kind']} | {clip} | {plan.name} | {ends} | "
                    f"{np.median(images):.0f} | {oracle[file] or ''} | {kept} |"
                )
    print(
        "### The mini-world's special LoRAs\n\n| kind | CLIP | seeds | ends | median images | oracle | promise kept |\n"
        "|---|---|---|---|---|---|---|\n" + "\n".join(specials) + "\n"
    )


def _overlap(library: Library, row: int, wanted: np.ndarray, found: np.ndarray) -> float:
    return library.overlap(row, found, wanted)


def correlations(pool: Pool, files: Sequence[str]) -> str:
    """Intraclass correlation of the files' differences by prompt (traces of a one-way analysis of variance)."""
    values = []
    for file in files:
        diffs = pool.diffs[file]
        seeds, prompts, _ = diffs.shape
        of_prompts = diffs.mean(0)
        within = ((diffs - of_prompts) ** 2).sum() / (prompts * (seeds - 1))
        between = seeds * ((of_prompts - of_prompts.mean(0)) ** 2).sum() / (prompts - 1)
        values.append((between - within) / (between + (seeds - 1) * within))
    return f"median {np.median(values):.2f}, {min(values):.2f} to {max(values):.2f}"


def report_seeds(paths: Sequence[str], ordinary: Sequence[str], draws: int = 200) -> None:
    """The three seed plans at equal numbers of pictures."""
    print(
        "### Which seeds\n\nCosine with the mean of both full protocols (shared and own seeds, 512 pairs) after n pictures "
        "without early repeats, over the ordinary files and orders. Error energy: mean of 1 - cos^2.\n\n"
        "| CLIP | n | seeds | median | lowest 5% | error energy, beside one seed a round |\n|---|---|---|---|---|---|"
    )
    for clip in ("mini_clip", "mini_clip_plain"):
        pools = {variant: Pool(paths, variant, clip) for variant in ("full", "full-own")}
        for n in (32, 64):
            errors = {}
            for plan in reversed(SEED_PLANS):
                pool, rng, found = pools[plan.variant], np.random.default_rng(11), []
                order = np.array(picture_order(len(pool.prompts), pool.seeds, repeat_every=0, spread_seeds=plan.is_spread)[:n])
                for file in ordinary:
                    truth = pools["full"].means[file] + pools["full-own"].means[file]
                    for _ in range(draws):
                        places, seeds = pool.shuffled(rng, shared_seeds=plan.is_shared)
                        taken = pool.diffs[file][seeds[order[:, 1], order[:, 0]], places[order[:, 0]]]
                        found.append(float(cosine(taken.mean(0), truth)))
                errors[plan] = 1 - np.mean(np.square(found))
                print(
                    f"| {clip} | {n} | {plan.name} | {np.median(found):.4f} | {np.quantile(found, 0.05):.4f} | "
                    f"{errors[plan] / errors[SEED_PLANS[-1]]:.2f} |"
                )
    print()
