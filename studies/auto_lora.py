"""Auto LoRA in a real ComfyUI, from files to choices: indexes all LoRAs of the mini-world with `quick` and asks for its queries.

usage: python -m studies.auto_lora QUERIES [--keep FILE | --indexed FILE]   (ComfyUI in COMFYUI_DIR or ~/comfy/ComfyUI)

QUERIES: a queries.json (single, compound, nothing_fits). --keep: where to copy the database that was indexed. --indexed: such a
copy, which is asked instead of indexing again. Each query is a CarlosAutoLora node of its own (composed, at most 2 LoRAs, budget
2, likely). "Right" is the file whose effect was asked for, or a duplicate of it. Intervals: Wilson, 95%.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studies.choosing import alike, interval
from tests.support import comfyui_host as hosts
from tests.support import miniworld, workflows

KINDS = ("single", "compound", "nothing_fits")
LIBRARY = "library"


@dataclass(frozen=True)
class Answer:
    """What Auto LoRA chose for a query. asked: its entry in queries.json."""

    kind: str
    asked: dict[str, Any]
    chosen: list[dict[str, Any]]
    reason: str

    @property
    def files(self) -> list[str]:
        return [lora["file"] for lora in self.chosen]

    def is_right(self, labels: dict[str, dict[str, str]]) -> bool:
        """single: the right file first. compound: just the right pair. nothing_fits: nothing."""
        if self.kind == "nothing_fits":
            return not self.files
        each = [alike([file], labels) for file in self.asked["files"]]
        if self.kind == "single":
            return bool(self.files) and any(self.files[0] in right for right in each)
        return len(self.files) == 2 and any(self.files[0] in a and self.files[1] in b for a, b in (each, each[::-1]))


def index(host: hosts.Host) -> None:
    """Index everything, and say what came of it."""
    start = time.time()
    workflow = workflows.index_library("", LIBRARY, preset="quick", prompts="miniworld-index")
    indexed = hosts.facts_of(host.run(workflow, timeout_s=6000), "index")
    failed = ", ".join(f"{entry['file']} ({entry['reason']})" for entry in indexed["failed"]) or "none"
    minutes = (time.time() - start) / 60
    print(f"{len(indexed['indexed'])} LoRAs indexed with `quick` in {minutes:.1f} minutes; failed: {failed}.")


def ask_all(host: hosts.Host, queries: dict[str, list[Any]]) -> list[Answer]:
    """The answers of one workflow with a node for each query."""
    asked = [(kind, entry if isinstance(entry, dict) else {"query": entry}) for kind in KINDS for entry in queries[kind]]
    workflow = {}
    for place, (_, entry) in enumerate(asked):
        one = workflows.auto_lora(entry["query"], f"{LIBRARY}.parquet")
        workflow |= {"checkpoint": one["checkpoint"], "db": one["db"], f"auto-{place}": one["auto"]}
        workflow[f"report-{place}"] = workflows.node("PreviewAny", source=[f"auto-{place}", 4])
    outputs = host.run(workflow)
    facts = [hosts.facts_of(outputs, f"report-{place}") for place in range(len(asked))]
    return [Answer(kind, entry, fact["choice"], fact["reason"]) for (kind, entry), fact in zip(asked, facts, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("queries", type=Path)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--indexed", type=Path)
    options = parser.parse_args()
    folder = hosts.comfyui_folder()
    if folder is None:
        sys.exit("No ComfyUI in COMFYUI_DIR or ~/comfy/ComfyUI.")
    labels = json.loads((miniworld.MINIWORLD / "labels.json").read_text())
    with tempfile.TemporaryDirectory() as name:
        base = hosts.make_base_folder(Path(name) / "base")
        hosts.build_checkpoint(base / "models" / "checkpoints" / workflows.CHECKPOINT)
        library = base / "models" / "carlos" / f"{LIBRARY}.parquet"
        with hosts.running(folder, base) as host:
            if options.indexed:
                shutil.copy(options.indexed, library)
            else:
                index(host)
            if options.keep:
                shutil.copy(library, options.keep)
            start = time.time()
            answers = ask_all(host, json.loads(options.queries.read_text()))
            seconds = time.time() - start
    print(f"{len(answers)} queries in one workflow: {seconds:.0f} s, with the encoding of the bank.\n")
    print_table(answers, labels)
    print_misses(answers, labels)


def print_table(answers: list[Answer], labels: dict[str, dict[str, str]]) -> None:
    of = {kind: [answer for answer in answers if answer.kind == kind] for kind in KINDS}
    right = {kind: interval(sum(answer.is_right(labels) for answer in of[kind]), len(of[kind])) for kind in KINDS}
    silent = {kind: sum(not answer.files for answer in of[kind]) for kind in KINDS}
    in_library = [kind for kind in KINDS if kind != "nothing_fits"]
    print("| asked | measured |")
    print("|---|---|")
    print(f"| one effect: the right file first | {right['single']} |")
    print(f"| one effect: gets nothing | {interval(silent['single'], len(of['single']))} |")
    print(f"| two effects: the right pair | {right['compound']} |")
    print(f"| two effects: gets nothing | {interval(silent['compound'], len(of['compound']))} |")
    n = sum(len(of[kind]) for kind in in_library)
    print(f"| all queries for what the library has: gets nothing | {interval(sum(silent[kind] for kind in in_library), n)} |")
    print(f"| an effect that no LoRA has: gets nothing | {right['nothing_fits']} |")


def print_misses(answers: list[Answer], labels: dict[str, dict[str, str]]) -> None:
    misses = [answer for answer in answers if not answer.is_right(labels)]
    if not misses:
        print("\nNo misses.")
        return
    print("\n| missed query | wanted | chosen (weight) | reason |")
    print("|---|---|---|---|")
    for answer in misses:
        wanted = " + ".join(labels[file]["label"] for file in answer.asked.get("files", ())) or "nothing"
        chosen = " + ".join(f"{labels[lora['file']]['label']} ({lora['weight']:.2f})" for lora in answer.chosen) or "nothing"
        print(f"| {answer.asked['query']} | {wanted} | {chosen} | {answer.reason} |")


if __name__ == "__main__":
    main()
