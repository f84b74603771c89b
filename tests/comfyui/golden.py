"""What the pack answers in a real ComfyUI, written down: rows, ids, caches, choices, reports, nodes.

usage: python -m tests.comfyui.golden TARGET [--all] [--same-as OTHER]

Runs the ComfyUI that the tests use (COMFYUI_DIR) and writes what it saw to TARGET, a JSON file, to be compared with that
of another commit: on one machine to the bit. --all: all of
the mini-world's LoRAs by `quick` and `standard` (15 minutes), else one. --same-as: say what is not as in an earlier TARGET.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow.parquet as pq

from tests.support import comfyui_host as hosts
from tests.support import workflows
from tests.support.comfyui_host import Host, facts_of
from tests.support.miniworld import MINIWORLD

FEW = ("pencil_sketch",)
DATABASE, REFERENCE = "golden", "golden-reference.parquet"
_OF_THE_HOST = ("sampler_name", "scheduler")
_OF_THE_RUN = ("indexed_at", "measured_on", "described_by")


def observe(host: Host, *, with_all: bool = False) -> dict[str, Any]:
    """Everything, of a ComfyUI with the mini-world in it. Leaves the database golden.parquet behind."""
    seen: dict[str, Any] = {"nodes": nodes(host)}
    files = sorted(path.name for path in (MINIWORLD / "loras").glob("*.safetensors"))
    chosen = files if with_all else [f"{name}.safetensors" for name in FEW]
    reports: dict[str, Any] = {}
    for preset in ("quick", "standard") if with_all else ("quick",):
        indexing = {"prompts": "miniworld-index", "width": 128, "height": 128, "preset": preset}
        for name in [""] if with_all else chosen:
            library = facts_of(host.run(workflows.index_library(name, f"{DATABASE}-{preset}", **indexing), 3600), "index")
            reports["CarlosIndexLibrary"] = _keys(library)
    one = facts_of(host.run(workflows.index(chosen[0], DATABASE, max_prompts=4, scale_sweep=True)), "index")
    reports["CarlosLoraIndexer"] = _keys(one)
    _with_encoder(host.base / "models" / "carlos")
    seen["rows"] = {
        path.stem: _rows(path)
        for path in sorted((host.base / "models" / "carlos").glob(f"{DATABASE}*.parquet"))
        if path.name != REFERENCE
    }
    cache = host.base / "user" / "carlos" / "cache"
    seen["cache"] = sorted(
        path.relative_to(cache).as_posix() for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"
    )
    seen["choices"] = choices(host, reports)
    seen["searches"] = searches(host, reports)
    seen["reports"] = reports
    return seen


def nodes(host: Host) -> dict[str, Any]:
    """Inputs, their order and choices, and outputs of our nodes. Words for people are left out: they may become better."""
    found = {}
    for name, info in sorted(host.object_info().items()):
        if name.startswith("Carlos"):
            inputs = {group: {key: _input(key, *value) for key, value in of.items()} for group, of in info["input"].items()}
            kept = {key: info[key] for key in ("input_order", "output", "output_name", "output_is_list", "output_node")}
            found[name] = {"input": inputs, **kept, "display_name": info["display_name"], "category": info["category"]}
    return found


def _input(name: str, kind: Any, settings: Mapping[str, Any] = MappingProxyType({})) -> list[Any]:
    kept = {key: settings[key] for key in ("default", "min", "max", "step", "multiline", "options") if key in settings}
    if name in _OF_THE_HOST:
        kept.pop("options", None)
    return [kind, kept]


def choices(host: Host, reports: dict[str, Any]) -> dict[str, Any]:
    """What Auto LoRA chooses for each query of the mini-world, with the reference's rows and several settings."""
    asked: list[tuple[str, dict[str, Any]]] = [(query["query"], {}) for queries in _queries().values() for query in queries]
    for settings in (
        {"mode": "best one"},
        {"mode": "top k equal", "max_loras": 3},
        {"negative_query": "snow"},
        {"ranking": "published"},
    ):
        asked += [(query["query"], settings) for query in _queries()["compound"][:8]]
    found = {}
    for query, settings in asked:
        # With the weights that were given before `keep_content` came.
        facts = facts_of(host.run(workflows.auto_lora(query, REFERENCE, keep_content=0.0, **settings)), "report")
        found[f"{query} {json.dumps(settings)}"] = {key: facts[key] for key in ("choice", "reason")}
        reports["CarlosAutoLora"] = _keys(facts)
    return found


def searches(host: Host, reports: dict[str, Any]) -> dict[str, Any]:
    """What the nodes that find LoRAs list."""
    db = {"db": workflows.loader(REFERENCE)}
    sentence = workflows.retrieve("snow falling")["find"]
    picture = {"picture": workflows.node("EmptyImage", width=64, height=64, batch_size=1, color=0x804020)}
    asked = {
        "CarlosLoraRetriever published": (sentence, {}),
        "CarlosLoraRetriever calibrated": ({**sentence, "inputs": {**sentence["inputs"], "ranking": "calibrated"}}, {}),
        "CarlosSimilarLoras": (_node("CarlosSimilarLoras", lora_id="", lora_name="pixel_art.safetensors"), {}),
        "CarlosLorasByName": (_node("CarlosLorasByName", name="mystery"), {}),
        "CarlosLorasLikeImage": (_node("CarlosLorasLikeImage", image=["picture", 0]), picture),
        "CarlosCombineSearches": (
            _node(
                "CarlosCombineSearches",
                matches_1=["first", 0],
                matches_2=["second", 0],
                weight_1=1.0,
                weight_2=-0.5,
                weight_3=1.0,
            ),
            {"first": sentence, "second": _node("CarlosSimilarLoras", lora_id="", lora_name="pixel_art.safetensors")},
        ),
    }
    found = {}
    for name, (find, extra) in asked.items():
        workflow = {**db, **extra, "find": find, "report": workflows.node("PreviewAny", source=["find", 3])}
        facts = facts_of(host.run(workflow), "report")
        reports[name.split()[0]] = _keys(facts)
        found[name] = facts["matches"]
    duplicates = {**db, "find": workflows.node("CarlosDuplicateLoras", database=["db", 0], min_cosine=0.9)}
    facts = facts_of(host.run(duplicates), "find")
    reports["CarlosDuplicateLoras"] = _keys(facts)
    found["CarlosDuplicateLoras"] = facts["groups"]
    return found


def differences(ours: Any, theirs: Any, place: str = "", *, tolerance: float = 0.0) -> Iterable[str]:
    """Where two observations are not alike. tolerance: what numbers may differ by, relative and absolute."""
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        for key in sorted({*ours, *theirs}):
            if key not in ours or key not in theirs:
                yield f"{place}/{key}: only {'there' if key in theirs else 'here'}"
            else:
                yield from differences(ours[key], theirs[key], f"{place}/{key}", tolerance=tolerance)
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for index, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            yield from differences(a, b, f"{place}/{index}", tolerance=tolerance)
    elif isinstance(ours, float) and isinstance(theirs, float):
        if abs(ours - theirs) > tolerance * max(1.0, abs(ours), abs(theirs)):
            yield f"{place}: {ours!r} here, {theirs!r} there"
    elif ours != theirs:
        yield f"{place}: {ours!r} here, {theirs!r} there"


def _rows(path: Path) -> list[dict[str, Any]]:
    """Every cell but the times; directions as they are, and as hashes of their bits."""
    rows = []
    for row in sorted(pq.read_table(path).to_pylist(), key=lambda row: row["lora_id"]):
        kept = {key: value for key, value in row.items() if key not in _OF_THE_RUN}
        rows.append({**kept, "bits": hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]})
    metadata = pq.read_schema(path).metadata
    return [
        *rows,
        {
            key.decode(): json.loads(value)
            for key, value in sorted(metadata.items())
            if key.startswith(b"carlos.") and key != b"carlos.stamp"
        },
    ]


def _with_encoder(folder: Path) -> None:
    """The reference's rows under the name of the encoder that made them, without this pack's help."""
    table = pq.read_table(MINIWORLD / "reference_metrics.parquet")
    encoder = hashlib.sha256((MINIWORLD / "mini_clip.safetensors").read_bytes()).hexdigest()[:12]
    metadata = {b"carlos.schema_version": b"1", b"carlos.encoder_id": json.dumps(f"mini_clip@{encoder}").encode()}
    pq.write_table(
        table.replace_schema_metadata({**(table.schema.metadata or {}), **metadata, b"carlos.protocols": b"{}"}),
        folder / REFERENCE,
    )


def _keys(facts: Any) -> Any:
    """The keys of a report, at every depth; of a list those of its first entry."""
    if isinstance(facts, Mapping):
        return {key: _keys(value) for key, value in facts.items()}
    if isinstance(facts, list):
        return [_keys(facts[0])] if facts else []
    return ""


def _queries() -> dict[str, list[dict[str, Any]]]:
    return json.loads((MINIWORLD / "queries.json").read_text(encoding="utf-8"))


def _node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return workflows.node(class_type, database=["db", 0], top_k=5, **inputs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--same-as", type=Path)
    options = parser.parse_args()
    folder = hosts.comfyui_folder()
    assert folder is not None, "no ComfyUI"
    hosts.install_requirements(folder)
    with tempfile.TemporaryDirectory() as name:
        base = hosts.make_base_folder(Path(name))
        hosts.build_checkpoint(base / "models" / "checkpoints" / workflows.CHECKPOINT)
        with hosts.running(folder, base) as host:
            seen = json.loads(json.dumps(observe(host, with_all=options.all)))
    options.target.write_text(json.dumps(seen, indent=1, sort_keys=True), encoding="utf-8")
    if options.same_as:
        unlike = list(differences(seen, json.loads(options.same_as.read_text(encoding="utf-8"))))
        sys.stdout.write("\n".join([*unlike[:100], f"{len(unlike)} differences", ""]))


if __name__ == "__main__":
    main()
