"""Do pictures without a LoRA tell how many steps the directions of LoRAs need? Tried where both are known.

usage: python -m studies.quick_steps POOL.npz [POOL.npz ...]

The pools come from `studies/miniworld_pool.py`, with the variants "steps<n>-cfg<g>-<scheduler>", some of which break pictures.
Pictures at 25 steps with the same guidance and scheduler are the truth. "Enough" is when the directions of the LoRAs, each over
64 prompts, agree with those at 25 steps to a cosine of at least 0.95 for every ordinary one and 0.98 for their median. What
`carlos_core/measuring/quick_steps.py` says is tried on 200 draws of 16 prompts.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from carlos_core.measuring.quick_steps import CANDIDATES, agreement

from .quick_protocols import MINIWORLD, load_pool, unit

FULL = 25
MEDIAN, LEAST = 0.98, 0.95
DRAWS, LOOK = 200, 16
FEW = 12


@dataclass(frozen=True)
class Setting:
    """Steps under one guidance and scheduler, for one CLIP."""

    clip: str
    cfg: str
    scheduler: str
    steps: int

    def name(self, steps: int) -> str:
        return f"steps{steps}-cfg{self.cfg}-{self.scheduler}|{self.clip}|"


@dataclass(frozen=True)
class Found:
    """What was found for a setting."""

    means: np.ndarray
    owns: np.ndarray
    is_taken: np.ndarray
    """Of each draw."""

    cosines: np.ndarray
    """Of the directions with those at full steps, ordinary LoRAs."""

    of_few: np.ndarray
    """The same from 12 prompts, as the report says it of the first LoRA."""

    all_least: float

    @property
    def cells(self) -> tuple[str, ...]:
        """For the table."""
        low, high = np.percentile(self.means, [5, 95])
        return (
            f"{self.owns.mean():.2f}",
            f"{self.means.mean():.3f} ({low:.3f} to {high:.3f})",
            f"{self.is_taken.mean():.0%}",
            f"{np.median(self.cosines):.3f}, {self.cosines.min():.3f} ({self.all_least:.3f})",
            f"{self.of_few.min():.3f}",
            "yes" if self.is_enough else "no",
        )

    @property
    def is_enough(self) -> bool:
        return bool(np.median(self.cosines) >= MEDIAN and self.cosines.min() >= LEAST)


def found(pool: dict[str, np.ndarray], setting: Setting, kinds: dict[str, str]) -> Found:
    few, full = (pool[setting.name(steps) + "base"].astype(np.float64) for steps in (setting.steps, FULL))
    files = [name for name, kind in kinds.items() if kind not in ("noop", "misfit") and setting.name(FULL) + name in pool]

    def cosines(n_prompts: int) -> np.ndarray:
        sides = (setting.steps, few), (FULL, full)
        means = [
            np.stack([(pool[setting.name(steps) + name].astype(np.float64) - base)[:n_prompts].mean(0) for name in files])
            for steps, base in sides
        ]
        return (unit(means[0]) * unit(means[1])).sum(1)

    chance = np.random.default_rng(0)
    draws = [chance.permutation(len(few))[:LOOK] for _ in range(DRAWS)]
    agreements = [agreement(few[draw], full[draw]) for draw in draws]
    is_ordinary = np.array([kinds[name] == "ordinary" for name in files])
    of_all = cosines(len(few))
    return Found(
        np.array([each.mean for each in agreements]),
        np.array([each.own for each in agreements]),
        np.array([each.is_enough for each in agreements]),
        of_all[is_ordinary],
        cosines(FEW)[is_ordinary],
        float(of_all.min()),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pool", type=Path, nargs="+")
    options = parser.parse_args()
    pool: dict[str, np.ndarray] = {}
    for path in options.pool:
        pool = load_pool([path]) | pool
    kinds = {name: facts["kind"] for name, facts in json.loads((MINIWORLD / "labels.json").read_text()).items()}
    names = {name.split("|")[0] for name in pool if "|" in name}
    ways = sorted({tuple(name.split("-")[1:]) for name in names if name.startswith(f"steps{FULL}-")}, key=str)
    tally: dict[tuple[bool, bool], float] = {}
    choices = []
    heads = ("CLIP", "guidance, scheduler", "steps", "own picture nearest", "agreement (5% to 95%)", "taken")
    row(*heads, "directions: median, least (all LoRAs)", "12 prompts: least", "enough")
    row(*["---"] * 9)
    for clip in ("mini_clip", "mini_clip_plain"):
        for cfg, scheduler in ways:
            by_steps: dict[int, Found] = {}
            way = f"{cfg.removeprefix('cfg')}, {scheduler}"
            for steps in (2, 3, 4, 6, 8, 12):
                setting = Setting(clip, cfg.removeprefix("cfg"), scheduler, steps)
                if setting.name(steps) + "base" not in pool:
                    continue
                facts = by_steps[steps] = found(pool, setting, kinds)
                row(clip, way, steps, *facts.cells)
                for is_taken in (True, False):
                    key = is_taken, facts.is_enough
                    tally[key] = tally.get(key, 0) + float((facts.is_taken == is_taken).mean())
            if all(steps in by_steps for steps in CANDIDATES):
                right = next((steps for steps in CANDIDATES if by_steps[steps].is_enough), FULL)
                taken = [[steps for steps in CANDIDATES if by_steps[steps].is_taken[draw]] for draw in range(DRAWS)]
                choices.append((clip, way, right, np.array([(steps or [FULL])[0] for steps in taken])))
    wrong, right_ones = (sum(n for (_, is_enough), n in tally.items() if is_enough == wanted) for wanted in (False, True))
    too_few, too_many = tally.get((True, False), 0), tally.get((False, True), 0)
    print(f"\nSettings taken that are not enough: {too_few:.2f} of {wrong:.0f}; ", end="")
    print(f"enough and not taken: {too_many:.2f} of {right_ones:.0f}.\n")
    row("CLIP", "guidance, scheduler", "fewest that are enough", "chosen (share of draws)", "too few", "too many")
    row(*["---"] * 6)
    for clip, way, right, chosen in choices:
        shares = ", ".join(f"{steps}: {share:.0%}" for steps in np.unique(chosen) if (share := (chosen == steps).mean()))
        row(clip, way, right, shares, f"{(chosen < right).mean():.0%}", f"{(chosen > right).mean():.0%}")


def row(*cells: object) -> None:
    print("|", " | ".join(map(str, cells)), "|")


if __name__ == "__main__":
    main()
