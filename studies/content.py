"""How much of their prompts do pictures show once LoRAs are applied, and what does it cost to keep it?

usage: python -m studies.content POOL MINIWORLD PLAIN [--picture CURVES.png]

POOL: folder with the files of `content_pool.py`. PLAIN: folder of the second CLIP and its metrics. No pictures are made.

Content: how often the prompt that is nearest to a picture, of all 64, is its own (top-1), and the share of the other prompts that
are further away (matched), both as `carlos_core/measuring/base_check.py` compares them. Effect: how far the mean change of the
pictures goes along the signature of the query (its projection, raw CLIP units), its cosine with it, and whether that is higher
than that of the best of the 16 ordinary LoRAs alone at 1.0. Parts found: how many of the query's two effects are among the two of
the 16 whose measured directions are nearest to the mean change, without what all 16 share. Pairs of one query differ by one
factor: what was not made is read off, linearly, between two that were; the default's own weights were made, to check that.
Broken: `base_check` would say that nothing is shown (matched below 0.75). Each CLIP judges what was chosen with it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from carlos_core.measuring.base_check import MATCHED
from carlos_core.search.limits import KEEP_CONTENT
from studies.choosing import clips
from studies.content_sides import FULL, TWO_PHRASES, Line, Pool, Side

KEEPS = (0.0, 0.4, 0.5, 0.6, 0.75, 1.0)
"""Positions of the knob that are compared."""

BEFORE, NEW = 0.0, KEEP_CONTENT


def print_table(*rows: Sequence[object]) -> None:
    """The first row is the header."""
    header, *others = [[cell if isinstance(cell, str) else f"{cell:.2f}" for cell in row] for row in rows]
    print("\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *others]), end="\n\n")


def report_alone(pools: Sequence[Pool]) -> None:
    """Each LoRA alone."""
    weights = sorted({float(side.weights[0]) for pool in pools for side in pool.sides.values() if len(side.files) == 1})
    rows = []
    for weight in weights:
        row: list[object] = [f"{weight:g}"]
        for pool in pools:
            found = [side for side in pool.sides.values() if len(side.files) == 1 and side.weights[0] == weight]
            looks = [side.look for side in found if side.files[0] in pool.ordinary]
            row += [np.mean([look.top1 for look in looks]), np.min([look.top1 for look in looks])]
            row += [np.mean([look.matched for look in looks]), np.mean([look.length for look in looks])]
            row.append(f"{sum(look.matched < MATCHED for look in looks)} of {len(looks)}")
        rows.append(row)
    names = ("top-1", "worst LoRA", "matched", "change", "broken")
    print_table(["weight", *(f"{pool.title}: {name}" for pool in pools for name in names)], *rows)


def row_of(pool: Pool, lines: Sequence[Line], totals: Sequence[float]) -> list[object]:
    """What comes of pairs at weights that add up to `totals`."""
    pairs, n = list(zip(lines, totals, strict=True)), len(totals)
    content, effect = content_and_effect(lines, totals)
    return [
        np.mean(totals),
        content,
        np.mean([line.matched_at(total) for line, total in pairs]),
        f"{sum(line.matched_at(total) < MATCHED for line, total in pairs)} of {n}",
        np.mean([line.effect_at(total) for line, total in pairs]),
        f"{effect:.0%}",
        np.mean([line.cosine_at(total) for line, total in pairs]),
        f"{sum(line.cosine_at(total) > line.best_alone for line, total in pairs)} of {n}",
        np.mean([pool.parts_found(line.change_at(total), line.wanted) for line, total in pairs]),
    ]


def content_and_effect(lines: Sequence[Line], totals: Sequence[float]) -> tuple[float, float]:
    """Top-1, and the effect as a share of that at the full budget before: means over all pairs."""
    pairs = list(zip(lines, totals, strict=True))
    effect = sum(line.effect_at(total) for line, total in pairs) / sum(line.effect_at(FULL) for line in lines)
    return float(np.mean([line.top1_at(total) for line, total in pairs])), effect


def totals_of(pool: Pool, lines: Sequence[Line], budget: float, keep: float) -> list[float]:
    return [pool.kept_total(line, budget, keep) for line in lines]


TITLES = (
    *("weights add up to", "top-1", "matched", "broken", "effect", "of that before at 2.0", "cosine"),
    *("nearer than the best single one", "parts found"),
)


def report_pairs(pool: Pool, budgets: Sequence[float]) -> None:
    """All compound queries of two phrases, over the budget and over the knob; the others at the full budget."""

    def row(head: str, lines: Sequence[Line], budget: float, keep: float) -> list[object]:
        return [head, *row_of(pool, lines, totals_of(pool, lines, budget, keep))]

    for name, keep in (("Before", BEFORE), ("Now", NEW)):
        print(f"{name} (`keep_content` = {keep:g}), over the budget:\n")
        print_table(["budget", *TITLES], *(row(f"{budget:g}", pool.lines, budget, keep) for budget in budgets))
    print(f"At the budget of {FULL:g}, over the knob:\n")
    print_table(["keep_content", *TITLES], *(row(f"{keep:g}", pool.lines, FULL, keep) for keep in KEEPS))
    by_form = [(form, lines) for form in pool.forms if (lines := pool.lines_of({form}))]
    if by_form:
        by_form.append(("all of these", pool.lines_of(pool.forms)))
        print(f"Queries as people ask, at the budget of {FULL:g}:\n")
        rows = [
            row(f"{form}: {word}", lines, FULL, keep)
            for form, lines in by_form
            for word, keep in (("before", BEFORE), ("now", NEW))
        ]
        print_table(["form", *TITLES], *rows)


def report_made(pool: Pool) -> None:
    """The default's own weights: what was made, and what is read off between the others for them."""
    found = []
    for line in pool.lines_of({TWO_PHRASES, *pool.forms}):
        side = pool.kept_of(line)
        if side is not None:
            total, along = float(side.weights.sum()), float(side.look.change @ line.signature)
            made = (side.look.top1, side.look.matched, along, along / float(np.linalg.norm(side.look.change)))
            found.append([made, (line.top1_at(total), line.matched_at(total), line.effect_at(total), line.cosine_at(total))])
    if found:
        print(f"{pool.title}, pairs at the default's own weights: {len(found)}\n")
        rows = [[name, *row] for name, row in zip(("made", "read off"), np.mean(found, axis=0).tolist(), strict=True)]
        print_table(["", "top-1", "matched", "effect", "cosine"], *rows)


def report_equal(pools: Sequence[Pool], n_loras: int) -> None:
    """Two or three LoRAs with one weight each, whatever a rule would say of them."""
    weights = sorted({side.weights[0] for pool in pools for side in equal_sides(pool, n_loras)})
    rows = []
    for weight in weights:
        row: list[object] = [f"{weight:.2f}"]
        for pool in pools:
            looks = [side.look for side in equal_sides(pool, n_loras) if side.weights[0] == weight]
            row += [np.mean([look.top1 for look in looks]), np.mean([look.matched for look in looks])]
            row += [np.mean([look.length for look in looks]), f"{sum(look.matched < MATCHED for look in looks)} of {len(looks)}"]
        rows.append(row)
    if rows:
        names = ("top-1", "matched", "change", "broken")
        print_table(["weight of each", *(f"{pool.title}: {name}" for pool in pools for name in names)], *rows)


def equal_sides(pool: Pool, n_loras: int) -> list[Side]:
    return [side for side in pool.sides.values() if len(side.files) == n_loras and len(set(side.weights.tolist())) == 1]


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
            found = np.array(
                [content_and_effect(pool.lines, totals_of(pool, pool.lines, float(budget), keep)) for budget in budgets]
            )
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
    parser.add_argument("--picture", type=Path, help="where to draw the curves over the budget")
    options = parser.parse_args()
    pools = [Pool(clip, options.pool, options.miniworld) for clip in clips(options.miniworld, options.plain)]
    print("### One LoRA\n")
    report_alone(pools)
    for pool in pools:
        print(f"### Two LoRAs, {pool.title}: the {len(pool.lines)} compound queries that get a pair\n")
        report_pairs(pool, (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, FULL))
        report_made(pool)
    for n_loras, name in ((2, "Two"), (3, "Three")):
        print(f"### {name} LoRAs with equal weights\n")
        report_equal(pools, n_loras)
    if options.picture:
        draw(pools, options.picture)


if __name__ == "__main__":
    main()
