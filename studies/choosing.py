"""What Auto LoRA's choice is worth: single queries, compound ones, and those that nothing fits.

usage: python -m studies.choosing MINIWORLD QUERIES ENCODER DATABASE

MINIWORLD: folder of labels.json and prompts_signature.json. QUERIES: a queries.json (single, compound, nothing_fits). ENCODER:
folder/name of a local encoder. DATABASE: a parquet with rows of it, measured by the indexer or the reference metrics.
Intervals: Wilson, 95%. `composition.py` measures what the choices for compound queries do.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from carlos_core.clip.encoder import Encoder
from carlos_core.clip.loading import load_encoder
from carlos_core.clip.signatures import SignatureCache
from carlos_core.clip.weights import local_encoders
from carlos_core.database.columns import normalised
from carlos_core.database.database import MetricsDatabase, load_database
from carlos_core.prompts.prompt_set import PromptSet, load_prompt_set
from carlos_core.search.limits import COMPOSED, PUBLISHED_LIMITS, RANKINGS, ChoiceRules
from carlos_core.search.matches import Matches
from carlos_core.search.searcher import Searcher
from carlos_core.search.selection import CANDIDATES, Selection, select

BUDGET = 2.0
"""What the weights of a choice may add up to."""


@dataclass(frozen=True)
class Clip:
    """One of the mini-world's CLIPs: where it is, its name, and the reference metrics under it."""

    title: str
    folder: Path
    name: str
    metrics: Path


def clips(miniworld: Path, plain: Path | None) -> list[Clip]:
    """The easy CLIP of the mini-world, and the hard one if its folder is given."""
    easy = Clip("easy CLIP", miniworld, "mini_clip", miniworld / "reference_metrics.parquet")
    hard = [Clip("hard CLIP", plain, "mini_clip_plain", plain / "reference_metrics_plain.parquet")] if plain else []
    return [easy, *hard]


def interval(k: int, n: int) -> str:
    """k of n with Wilson's 95% interval."""
    z = 1.96
    centre, half = (k + z * z / 2) / (n + z * z), z * (k * (n - k) / n + z * z / 4) ** 0.5 / (n + z * z)
    return f"{k} of {n} ({k / n:.0%}; {max(0.0, centre - half):.0%} to {min(1.0, centre + half):.0%})"


def alike(files: Iterable[str], labels: dict[str, dict[str, str]]) -> set[str]:
    """The right files and the duplicates of their effects."""
    wanted = {labels[file]["label"] for file in files}
    return {name for name, facts in labels.items() if facts["label"] in wanted and facts["kind"] in ("ordinary", "duplicate")}


def database(path: Path, encoder_id: str) -> MetricsDatabase:
    """A database of the indexer's, or the mini-world's reference metrics, whose rows are named by file alone."""
    table = pq.read_table(path)
    if "encoder_id" in table.column_names:
        return load_database(path)
    columns = table.drop_columns([name for name in ("lora_id",) if name in table.column_names])
    return MetricsDatabase(normalised(columns.append_column("lora_id", columns["file_name"]), path.name), encoder_id=encoder_id)


def searcher(
    db: MetricsDatabase, encoder: Encoder, cache: SignatureCache, prompts: PromptSet, ranking: str
) -> Callable[[str], Matches]:
    searcher = Searcher(db, encoder=encoder, prompts=prompts, signatures=cache)
    background = searcher.background()

    def search(text: str) -> Matches:
        signature = searcher.signature(text)
        return searcher.find(signature, PUBLISHED_LIMITS, CANDIDATES, query=text, ranking=ranking, background=background)

    return search


def auto_choice(query: str, search: Callable[[str], Matches]) -> Selection:
    """Up to two LoRAs, as the node Auto LoRA chooses them."""
    return select(query, search, ChoiceRules(COMPOSED, strength_budget=BUDGET))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("miniworld", type=Path)
    parser.add_argument("queries", type=Path)
    parser.add_argument("encoder", type=Path)
    parser.add_argument("database", type=Path)
    options = parser.parse_args()
    labels = json.loads((options.miniworld / "labels.json").read_text())
    queries = json.loads(options.queries.read_text())
    encoder_id = local_encoders([options.encoder.parent])[options.encoder.name].encoder_id
    db = database(options.database, encoder_id)
    encoder, cache = load_encoder(encoder_id, [options.encoder.parent]), SignatureCache()
    prompts = load_prompt_set(options.miniworld / "prompts_signature.json")
    print(f"{options.encoder.name}, {len(db)} rows:\n")
    columns = ("ranking", "single query: right one first", "and alone", "gets nothing", "compound: right pair", "gets nothing")
    print(f"| {' | '.join((*columns, 'misfit gets nothing'))} |")
    print("|---|---|---|---|---|---|---|")
    for ranking in RANKINGS:
        search = searcher(db, encoder, cache, prompts, ranking)

        def files(selection: Selection) -> list[str]:
            return [str(pick.match.record.file_name) for pick in selection.picks]

        first = alone = silent = pairs = silent_pairs = misfits = 0
        for query in queries["single"]:
            found, right = files(auto_choice(query["query"], search)), alike(query["files"], labels)
            first += bool(found) and found[0] in right
            alone += bool(found) and set(found) <= right
            silent += not found
        for query in queries["compound"]:
            found = files(auto_choice(query["query"], search))
            each = [alike([file], labels) for file in query["files"]]
            pairs += len(found) == 2 and any(found[0] in a and found[1] in b for a, b in (each, each[::-1]))
            silent_pairs += not found
        for query in queries["nothing_fits"]:
            misfits += not files(auto_choice(query["query"] if isinstance(query, dict) else query, search))
        n, m, k = len(queries["single"]), len(queries["compound"]), len(queries["nothing_fits"])
        print(
            f"| {ranking} | {interval(first, n)} | {interval(alone, n)} | {interval(silent, n)} | {interval(pairs, m)} | "
            f"{interval(silent_pairs, m)} | {interval(misfits, k)} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
