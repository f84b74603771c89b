"""Races on all pictures of the mini-world, played back: what they cost, and whether the right LoRA wins.

usage: python -m studies.race_replay POOL [--clip mini_clip ...] [--part queries related third priors]

POOL: a folder by `race_pool.py`. Each race begins with an empty feature store unless the table says otherwise; it looks for the
best one with a confidence of 0.9. Beside it: indexing all with `quick` and asking, and an even split of the race's own budget.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from carlos_core.loras.lora_file import LoraFile
from carlos_core.measuring.race import Race
from carlos_core.measuring.race_field import Candidate
from carlos_core.measuring.race_terms import NOTHING_FITS, RaceQuestion, RaceResult, RaceRules
from carlos_core.records import LoraRecord
from carlos_core.search.calibration import Background, calibrated_rows, confidences, fit_background
from carlos_core.search.limits import PUBLISHED_LIMITS
from studies.choosing import alike, interval
from tests.support.miniworld import MINIWORLD
from tests.support.replayed import EVALUATIONS, Pool, lora_files, replayed_indexer

LABELS: dict[str, dict[str, Any]] = json.loads((MINIWORLD / "labels.json").read_text(encoding="utf-8"))
QUERIES = json.loads((MINIWORLD / "queries.json").read_text(encoding="utf-8"))
SINGLE = QUERIES["single"]
RULES = RaceRules(top_k=1)


@contextmanager
def empty_store() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


class World:
    """The mini-world under one CLIP."""

    def __init__(self, folder: Path, clip: str) -> None:
        self.pool = Pool.of_folder(folder, clip)
        self.loras = lora_files(self.pool)
        self.background = fit_background(torch.from_numpy(self.pool.signatures["bank"]))
        self.rows: dict[str, LoraRecord] = {}
        with empty_store() as store:
            indexer = replayed_indexer(self.pool, store, preset="quick")
            outcomes = [indexer.index(lora) for lora in self.loras]
            self.quick_evaluations = sum(each.model_evaluations + each.base_model_evaluations for each in outcomes)
            self.rows = {each.lora.name: each.row for each in outcomes}

    def question(self, place: int, background: Background | None, kind: str = "single") -> RaceQuestion:
        return RaceQuestion(QUERIES[kind][place]["query"], self.pool.signatures[kind][place], background)

    def race(
        self,
        store: Path,
        place: int,
        background: Background | None = None,
        rules: RaceRules = RULES,
        candidates: Sequence[Candidate] = (),
    ) -> RaceResult:
        chosen = candidates or [Candidate(lora) for lora in self.loras]
        return Race(replayed_indexer(self.pool, store), chosen, self.question(place, background), rules).run()

    def asked(self, place: int, background: Background | None) -> str:
        """What asking finds once all are indexed with quick."""
        files = [file for file, row in self.rows.items() if not PUBLISHED_LIMITS.misses_of(row) and row.direction.any()]
        return self.best(place, background, files, np.stack([self.rows[file].direction for file in files]))

    def best(self, place: int, background: Background | None, files: list[str], directions: np.ndarray) -> str:
        signature = self.pool.signatures["single"][place]
        if background is None:
            values = directions @ signature / np.linalg.norm(directions, axis=1)
        else:
            every = np.stack([row.direction for row in self.rows.values()])
            every = np.concatenate([directions, every[[file not in files for file in self.rows]]])
            values = calibrated_rows(torch.from_numpy(every), background).z_scores(torch.from_numpy(signature)).numpy()
            values = values[: len(files)]
        return files[int(values.argmax())]

    def fits(self, question: RaceQuestion) -> bool:
        """Whether asking finds something that fits once all are indexed with quick."""
        kept = [not PUBLISHED_LIMITS.misses_of(row) and bool(row.direction.any()) for row in self.rows.values()]
        directions = torch.from_numpy(np.stack([row.direction for row in self.rows.values()]))
        z = calibrated_rows(directions, self.background).z_scores(torch.from_numpy(question.signature))[kept]
        return confidences(z.max()[None], sum(kept))[0].fits

    def even(self, place: int, background: Background | None, evaluations: int) -> str:
        """What asking finds after an even split of some evaluations."""
        pairs = max(2, evaluations // EVALUATIONS // (len(self.loras) + 1))
        files = [file for file in self.pool.features if self.pool.diffs(file).any()]
        diffs = np.stack([self.pool.diffs(file)[:pairs] for file in files])
        lengths = np.linalg.norm(diffs, axis=2)
        means, strength = diffs.mean(1), lengths.mean(1)
        units = (diffs / lengths[:, :, None]).sum(1)
        consistency = ((units**2).sum(1) - pairs) / (pairs * (pairs - 1))
        kept = [
            index for index in range(len(files)) if not PUBLISHED_LIMITS.misses(float(strength[index]), float(consistency[index]))
        ]
        return self.best(place, background, [files[index] for index in kept], means[kept])


def is_right(place: int, file: str | None) -> bool:
    return file is not None and file in alike(SINGLE[place]["files"], LABELS)


def winner(result: RaceResult) -> str | None:
    """The leader, whether it counts as sure enough or not: so does asking."""
    return result.leaders[0].candidate.lora.name if result.leaders else None


def queries(worlds: dict[str, World]) -> None:
    print("## Every query for one effect, from an empty feature store\n")
    print(
        "| CLIP | ranking | race: right | quick and ask: right | even split: right | race: evaluations, median (mean, most) "
        "| quick: evaluations | share, median (mean) | ended known | other than quick |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for clip, world in worlds.items():
        for ranking, background in (("published", None), ("calibrated", world.background)):
            right, asked, even, cost, known = [], [], [], [], []
            for place in range(len(SINGLE)):
                with empty_store() as store:
                    result = world.race(store, place, background)
                right.append(is_right(place, winner(result)))
                asked.append(is_right(place, world.asked(place, background)))
                even.append(is_right(place, world.even(place, background, result.model_evaluations)))
                cost.append(result.model_evaluations)
                same = winner(result) == world.asked(place, background)
                known.append((result.reason, same))
            total = world.quick_evaluations
            sure = [same for reason, same in known if reason in ("the best are known", "nothing fits")]
            n = len(SINGLE)
            print(f"| {clip} | {ranking} | {interval(sum(right), n)} | {interval(sum(asked), n)} | {interval(sum(even), n)} "
                  f"| {np.median(cost):.0f} ({np.mean(cost):.0f}, {max(cost)}) | {total} "
                  f"| {np.median(cost) / total:.2f} ({np.mean(cost) / total:.2f}) | {len(sure)} of {n} "
                  f"| {sum(not same for same in sure)} |", flush=True)  # fmt: skip


def nothing(worlds: dict[str, World]) -> None:
    print("\n## Queries that nothing fits, and those that a LoRA fits, calibrated\n")
    print("| CLIP | queries | race: something fits | quick and ask | race: evaluations, median | ended with nothing fits |")
    print("|---|---|---|---|---|---|")
    for clip, world in worlds.items():
        for kind in ("nothing_fits", "single"):
            found, asked, cost, ended = [], [], [], []
            for place in range(0, len(QUERIES[kind]), 1 if kind == "nothing_fits" else 3):
                with empty_store() as store:
                    candidates = [Candidate(lora) for lora in world.loras]
                    question = world.question(place, world.background, kind)
                    result = Race(replayed_indexer(world.pool, store), candidates, question, RULES).run()
                found.append(bool(result.choice))
                cost.append(result.model_evaluations)
                ended.append(result.reason == NOTHING_FITS)
                asked.append(world.fits(question))
            n = len(found)
            print(f"| {clip} | {kind} | {interval(sum(found), n)} | {interval(sum(asked), n)} | {np.median(cost):.0f} "
                  f"| {sum(ended)} |", flush=True)  # fmt: skip


def related(worlds: dict[str, World]) -> None:
    print("\n## Two races, one after the other\n\nThe second finds the first one's pictures.\n")
    print("| CLIP | second query | first: evaluations, mean | second: mean | share |\n|---|---|---|---|---|")
    by_file: dict[str, list[int]] = {}
    for place, entry in enumerate(SINGLE):
        by_file.setdefault(entry["files"][0], []).append(place)
    groups = list(by_file.values())
    for clip, world in worlds.items():
        for title, pairs in (
            ("another phrase for the effect", [(group[0], group[1]) for group in groups]),
            ("another effect", [(group[0], other[0]) for group, other in zip(groups, groups[1:] + groups[:1], strict=True)]),
        ):
            first, second = [], []
            for one, two in pairs:
                with empty_store() as store:
                    first.append(world.race(store, one, world.background).model_evaluations)
                    second.append(world.race(store, two, world.background).model_evaluations)
            print(
                f"| {clip} | {title} | {np.mean(first):.0f} | {np.mean(second):.0f} | {sum(second) / sum(first):.2f} |",
                flush=True,
            )


def third(worlds: dict[str, World]) -> None:
    print("\n## After a third of the library was indexed with quick\n")
    print("| CLIP | nothing indexed: evaluations, mean | a third indexed: mean | share | right |\n|---|---|---|---|---|")
    for clip, world in worlds.items():
        before, after, right = [], [], []
        for place in range(0, len(SINGLE), 2):
            candidates = [
                Candidate(lora, world.rows[lora.name] if index % 3 == place % 3 else None)
                for index, lora in enumerate(world.loras)
            ]
            with empty_store() as store:
                before.append(world.race(store, place, world.background).model_evaluations)
            with empty_store() as store:
                result = world.race(store, place, world.background, candidates=candidates)
            after.append(result.model_evaluations)
            right.append(is_right(place, winner(result)))
        share = sum(after) / sum(before)
        print(
            f"| {clip} | {np.mean(before):.0f} | {np.mean(after):.0f} | {share:.2f} | {interval(sum(right), len(right))} |",
            flush=True,
        )


def promised(loras: Sequence[LoraFile], first: str) -> list[Candidate]:
    return [Candidate(lora, promise=float(lora.name == first)) for lora in loras]


def priors(worlds: dict[str, World]) -> None:
    print("\n## Priors: the right name first, a wrong one, none\n")
    print("A budget for two pairs of half of the files, and no limit.\n")
    print("| CLIP | names | right when half of the files were seen | right at the end | evaluations at the end, mean |")
    print("|---|---|---|---|---|")
    for clip, world in worlds.items():
        half = RaceRules(1, 0.9, (len(world.loras) // 2 + 1) * 2 * EVALUATIONS)
        for title in ("none", "the right one first", "a wrong one first"):
            early, late, cost = [], [], []
            for place in range(0, len(SINGLE), 2):
                own = SINGLE[place]["files"][0]
                wrong = next(lora.name for lora in world.loras[place % 7 :] if lora.name not in alike([own], LABELS))
                first = {"none": "", "the right one first": own, "a wrong one first": wrong}[title]
                candidates = promised(world.loras, first)
                with empty_store() as store:
                    early.append(is_right(place, winner(world.race(store, place, world.background, half, candidates))))
                with empty_store() as store:
                    result = world.race(store, place, world.background, RULES, candidates)
                late.append(is_right(place, winner(result)))
                cost.append(result.model_evaluations)
            n = len(early)
            print(
                f"| {clip} | {title} | {interval(sum(early), n)} | {interval(sum(late), n)} | {np.mean(cost):.0f} |", flush=True
            )


PARTS = {"queries": queries, "nothing": nothing, "related": related, "third": third, "priors": priors}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pool", type=Path)
    parser.add_argument("--clip", nargs="*", default=["mini_clip", "mini_clip_plain"])
    parser.add_argument("--part", nargs="*", default=list(PARTS), choices=list(PARTS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    worlds = {clip: World(options.pool, clip) for clip in options.clip}
    for part in options.part:
        PARTS[part](worlds)


if __name__ == "__main__":
    main()
