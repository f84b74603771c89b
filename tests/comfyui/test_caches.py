"""What is kept to save time, shown and cleared by a node; a row needs none of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from carlos_core.database.database import load_database
from tests.comfyui.test_cancel import wait_for_progress
from tests.support import workflows
from tests.support.comfyui_host import Failed, Host, facts_of, not_offered

NAME = "pencil_sketch.safetensors"
QUERY = "sketched with a pencil, on paper"
"""Asked by no other test: of a text that was asked for before, this process keeps the signature, and does not write it again."""
SETTINGS = {"max_prompts": 4, "steps": 4, "first_seed": 500}


def caches(clear: str = "nothing") -> workflows.Workflow:
    return {"caches": workflows.node("CarlosCaches", clear=clear)}


def parts(host: Host, clear: str = "nothing") -> dict[str, dict[str, Any]]:
    """What the node says of each kind, once the text and the JSON of its report are there."""
    outputs = host.run(caches(clear))
    assert "pictures and thumbnails:" in outputs["caches"]["text"][0]
    facts = facts_of(outputs, "caches")
    assert (facts["cleared"], facts["limit_bytes"], facts["most_signatures"]) == (clear, 10e9, 50_000)
    return {part["kind"]: part for part in facts["parts"]}


def row(base: Path, database: str, lora_id: str) -> dict[str, Any]:
    cells = load_database(base / "models" / "carlos" / f"{database}.parquet").cells(lora_id)
    # When it was measured, and among how many other LoRAs it is described.
    kept = {name: value for name, value in cells.items() if name not in ("indexed_at", "described_as", "described_by")}
    return {name: value.tobytes() if name == "direction" else str(value) for name, value in kept.items()}


def test_the_node_shows_what_there_is_each_time_and_after_clearing_a_row_is_the_same(host: Host, base: Path) -> None:
    parts(host, "everything")
    first = facts_of(host.run(workflows.index(NAME, "cached", **SETTINGS)), "index")
    found = host.run(workflows.retrieve(QUERY, "cached"))
    shown = parts(host)
    assert {kind: part["count"] for kind, part in shown.items() if kind in ("base", "loras", "thumbnails")} == {
        "base": 4,
        "loras": 4,
        "thumbnails": 8,
    }
    # The run has ended: nothing is in use.
    assert {part["bytes_in_use"] for part in shown.values()} == {0}
    assert shown["signatures"]["count"] >= 1
    # Queued again as it was, it runs again.
    facts_of(host.run(workflows.index("pixel_art.safetensors", "cached", **SETTINGS)), "index")
    assert parts(host)["loras"]["count"] == 8

    cleared = parts(host, "everything")
    assert {kind: part["count_cleared"] for kind, part in cleared.items() if kind in ("base", "loras", "thumbnails")} == {
        "base": 4,
        "loras": 8,
        "thumbnails": 12,
    }
    assert {part["count"] for part in cleared.values()} == {0}
    left = [path for path in (base / "user" / "carlos" / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert [path.name for path in left] == ["signatures.sqlite"]

    again = facts_of(host.run(workflows.index(NAME, "cached-again", **SETTINGS)), "index")
    assert again["base_model_evaluations"] == first["base_model_evaluations"] > 0
    assert row(base, "cached-again", again["lora_id"]) == row(base, "cached", first["lora_id"])
    answers = [found, host.run(workflows.retrieve(QUERY, "cached"))]
    before, now = ({**facts_of(each, "report")["matches"][0], "described_as": None} for each in answers)
    assert now == before


def test_a_run_that_was_cancelled_leaves_nothing_that_cannot_be_cleared(host: Host) -> None:
    workflow = workflows.index(NAME, "cached-cancelled", prompts="miniworld-index", batch_size=2, first_seed=600)
    with host.events() as (client_id, socket):
        prompt_id = host.submit(workflow, client_id)
        wait_for_progress(socket, at_least=3 * 12)
        host.interrupt()
        host.wait(prompt_id, timeout_s=60)
    assert parts(host)["base"]["count"] > 0
    cleared = parts(host, "pictures")
    assert {part["bytes_in_use"] for part in cleared.values()} == {0}
    assert cleared["base"]["count"] == cleared["loras"]["count"] == 0


def test_another_word_for_what_to_clear_is_refused(host: Host) -> None:
    with pytest.raises(Failed, match=not_offered("clear", "cache")):
        host.run(caches("../x"))
