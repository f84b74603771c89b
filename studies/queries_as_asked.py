"""What Auto LoRA chooses for queries in the forms in which people ask: emphasis, sentences, whole prompts, negations, garbage.

usage: python -m studies.queries_as_asked MINIWORLD [--plain FOLDER] [--rows FILE] [--queries FILE] [--misses]

MINIWORLD: folder with mini_clip, labels.json, queries.json, queries_as_asked.json and reference_metrics.parquet. --plain: folder
with the second CLIP and its metrics. --rows: a database of the mini-world's files, measured by the indexer with mini_clip,
instead of its reference metrics (--plain keeps its own). --queries: other queries of that form. Mode composed, at most 2 LoRAs,
budget 2, likely. "Right": just one LoRA for each effect that is asked for; nothing where none is. Intervals: Wilson, 95%.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from carlos_core.clip.loading import load_encoder
from carlos_core.clip.signatures import SignatureCache
from carlos_core.clip.weights import local_encoders
from carlos_core.prompts.prompt_set import load_prompt_set
from carlos_core.search.limits import COMPOSED, ChoiceRules
from carlos_core.search.searcher import Searcher
from studies.choosing import BUDGET, Clip, alike, clips, database, interval

Choose = Callable[[str], list[str]]
"""A query -> the files chosen."""


@dataclass(frozen=True)
class Asked:
    """An entry of the queries. wants: for each effect the files that do it."""

    form: str
    query: str
    wants: list[list[str]]
    forbids: list[str]
    nothing: bool

    def is_right(self, files: list[str]) -> bool:
        if self.nothing:
            return not files
        return len(files) == len(self.wants) and all(any(file in right for file in files) for right in self.wants)


def chooser(miniworld: Path, clip: Clip) -> tuple[Searcher, Choose]:
    """Auto LoRA's choice under one CLIP."""
    encoder_id = local_encoders([clip.folder])[clip.name].encoder_id
    searcher = Searcher(
        database(clip.metrics, encoder_id),
        encoder=load_encoder(encoder_id, [clip.folder]),
        prompts=load_prompt_set(miniworld / "prompts_signature.json"),
        signatures=SignatureCache(),
    )
    rules = ChoiceRules(COMPOSED, strength_budget=BUDGET)

    def choose(query: str) -> list[str]:
        return [str(pick.match.record.file_name) for pick in searcher.choose(query, rules=rules).picks]

    return searcher, choose


def report_forms(asked: list[Asked], choose: Choose, *, with_misses: bool, labels: dict[str, dict[str, str]]) -> None:
    chosen = [(entry, choose(entry.query)) for entry in asked]
    print("| form | right | applies what was forbidden | nothing at all |")
    print("|---|---|---|---|")
    for form in dict.fromkeys(entry.form for entry in asked):
        of = [(entry, files) for entry, files in chosen if entry.form == form]
        n = len(of)
        right = interval(sum(entry.is_right(files) for entry, files in of), n)
        may_err = [(entry, files) for entry, files in of if entry.forbids]
        wrong = interval(sum(bool({*files} & {*entry.forbids}) for entry, files in may_err), len(may_err)) if may_err else ""
        print(f"| {form} | {right} | {wrong} | {interval(sum(not files for _, files in of), n)} |")
    if with_misses:
        for entry, files in chosen:
            if not entry.is_right(files):
                print(f"\n- {entry.form}: `{entry.query}` -> {' + '.join(labels[file]['label'] for file in files) or 'nothing'}")


def report_bare(queries: dict[str, list[dict[str, Any]]], choose: Choose, labels: dict[str, dict[str, str]]) -> None:
    """The clean phrases of queries.json, as in `auto_lora.py`: the right one first, the right pair, nothing."""
    right = {}
    for kind, entries in queries.items():
        right[kind] = 0
        for entry in entries:
            files = choose(entry["query"])
            each = [alike([file], labels) for file in entry["files"]]
            if kind == "nothing_fits":
                right[kind] += not files
            elif kind == "single":
                right[kind] += bool(files) and files[0] in each[0]
            else:
                right[kind] += len(files) == 2 and any(files[0] in a and files[1] in b for a, b in (each, each[::-1]))
    said = ", ".join(f"{kind} {interval(n, len(queries[kind]))}" for kind, n in right.items())
    print(f"\nqueries.json: {said}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("miniworld", type=Path)
    parser.add_argument("--plain", type=Path)
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--queries", type=Path)
    parser.add_argument("--misses", action="store_true")
    options = parser.parse_args()
    labels = json.loads((options.miniworld / "labels.json").read_text(encoding="utf-8"))
    path = options.queries or options.miniworld / "queries_as_asked.json"
    asked = [Asked(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    bare = json.loads((options.miniworld / "queries.json").read_text(encoding="utf-8"))
    easy, *hard = clips(options.miniworld, options.plain)
    for clip in (replace(easy, metrics=options.rows or easy.metrics), *hard):
        searcher, choose = chooser(options.miniworld, clip)
        searcher.background()
        start = time.perf_counter()
        print(f"\n### {clip.title}: {len(asked)} queries of {path.name}, rows of {clip.metrics.name}\n")
        report_forms(asked, choose, with_misses=options.misses, labels=labels)
        print(f"\n{time.perf_counter() - start:.0f} s after the bank of effects.")
        report_bare(bare, choose, labels)


if __name__ == "__main__":
    main()
