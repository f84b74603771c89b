"""What foretells that pictures show next to nothing of their prompts, of what a database knows of the LoRAs in them?

usage: python -m studies.content_foretold POOL MINIWORLD PLAIN   (as of `content.py`)

"Broken": `base_check` would say that nothing is shown. Limits are chosen for the highest mean of the two rates of right answers:
for each LoRA on the sides that it is not in, and for each CLIP on the other one. One LoRA and pairs; without the LoRAs that were
made to be odd.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from carlos_core.measuring.base_check import MATCHED
from carlos_core.search.keeping import BREAKS_AT
from carlos_core.search.limits import MAX_STRENGTH
from studies.choosing import clips, interval
from studies.content import print_table
from studies.content_sides import Pool, Side

PREDICTORS: dict[str, Callable[[Pool, Side], float]] = {
    "sum of the weights": lambda pool, side: float(side.weights.sum()),
    "sum of weight x strength": lambda pool, side: float(side.weights @ pool.candidates(side.files).strength),
    "predicted change": lambda pool, side: side.predicted,
    "predicted change, without what pictures share": lambda pool, side: float(
        np.sqrt(max(side.predicted**2 - np.linalg.norm(side.weights @ pool.candidates(side.files).directions) ** 2, 0.0))
    ),
    "predicted change / the library's median strength": lambda pool, side: side.predicted / median_strength(pool),
}


def median_strength(pool: Pool) -> float:
    return float(pool.rows.loc[pool.ordinary].strength.median())


@dataclass(frozen=True, eq=False)
class Told:
    """Values of a predictor, and what came of it. All [N]; files: the LoRAs of each side."""

    values: np.ndarray
    matched: np.ndarray
    files: list[tuple[str, ...]]

    @property
    def is_broken(self) -> np.ndarray:
        return self.matched < MATCHED


def told(pool: Pool, predictor: Callable[[Pool, Side], float]) -> Told:
    """Of all sides but those of the LoRAs that were made to be odd."""
    sides = [side for side in pool.sides.values() if set(side.files) <= {*pool.ordinary}]
    values = np.array([predictor(pool, side) for side in sides])
    return Told(values, np.array([side.look.matched for side in sides]), [side.files for side in sides])


def best_limit(values: np.ndarray, is_broken: np.ndarray) -> float:
    """The limit with the highest mean of the two rates of right answers."""
    limits = np.quantile(values, np.linspace(0.01, 0.99, 99))
    rates = [((values > limit)[is_broken].mean() + (values <= limit)[~is_broken].mean()) / 2 for limit in limits]
    return float(limits[int(np.argmax(rates))])


def auc(values: np.ndarray, is_broken: np.ndarray) -> float:
    """How often a broken side has a higher value than another one."""
    ranks = pd.Series(values).rank().to_numpy()
    n, m = is_broken.sum(), (~is_broken).sum()
    return float((ranks[is_broken].sum() - n * (n + 1) / 2) / (n * m))


def errors(says: np.ndarray, is_broken: np.ndarray) -> str:
    """Missed, and false alarms."""
    return f"{(~says)[is_broken].mean():.0%}, {says[~is_broken].mean():.0%}"


def report_predictors(pools: Sequence[Pool]) -> None:
    """Which number tells best that a side is broken: ranks, and errors with a limit from other LoRAs or from the other CLIP."""
    rows = []
    for name, predictor in PREDICTORS.items():
        found = [told(pool, predictor) for pool in pools]
        row: list[object] = [name]
        for pool, mine, other in zip(pools, found, found[::-1], strict=True):
            says = np.zeros(len(mine.values), dtype=bool)
            for lora in pool.ordinary:
                has_it = np.array([lora in files for files in mine.files])
                says[has_it] |= mine.values[has_it] > best_limit(mine.values[~has_it], mine.is_broken[~has_it])
            elsewhere = best_limit(other.values, other.is_broken)
            rank = pd.Series(mine.values).corr(pd.Series(mine.matched), method="spearman")
            row += [f"{rank:.2f}", auc(mine.values, mine.is_broken), errors(says, mine.is_broken)]
            row += [f"{elsewhere:.2f}: {errors(mine.values > elsewhere, mine.is_broken)}"]
        rows.append(row)
    names = (
        "rank correlation with matched",
        "AUC",
        "missed, false alarms (limit from other LoRAs)",
        "the same (limit of the other CLIP)",
    )
    print_table(["predictor", *(f"{pool.title}: {name}" for pool in pools for name in names)], *rows)
    for pool in pools:
        mine = told(pool, PREDICTORS["predicted change"])
        n_broken = int(mine.is_broken.sum())
        for limit in (BREAKS_AT, MAX_STRENGTH):
            says = mine.values > limit
            missed, alarms = int((~says & mine.is_broken).sum()), int((says & ~mine.is_broken).sum())
            print(
                f"{pool.title}, predicted change above {limit:g}: said of {int(says.sum())} of {len(says)} sides, {n_broken} are "
                f"broken; missed {interval(missed, n_broken)}; false alarms {interval(alarms, len(says) - n_broken)}.\n"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pool", type=Path)
    parser.add_argument("miniworld", type=Path)
    parser.add_argument("plain", type=Path)
    options = parser.parse_args()
    report_predictors([Pool(clip, options.pool, options.miniworld) for clip in clips(options.miniworld, options.plain)])


if __name__ == "__main__":
    main()
