"""Cancelling an index run: at once, and nothing is lost."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path

import websocket

from tests.support import workflows
from tests.support.comfyui_host import Host, facts_of

NAME = "red_balloons.safetensors"


def test_cancel_mid_index_leaves_the_database_as_it_was_and_keeps_finished_pictures(host: Host, base: Path) -> None:
    host.run(workflows.index("sepia_toned.safetensors", "cancelled"))
    path = base / "models" / "carlos" / "cancelled.parquet"
    before = path.read_bytes()
    # Enough work to be caught in the middle: 16 pictures of 12 steps on each side.
    settings = {"prompts": "miniworld-index", "max_prompts": 16, "first_seed": 1000, "batch_size": 4}
    workflow = workflows.index(NAME, "cancelled", **settings)
    with host.events() as (client_id, socket):
        prompt_id = host.submit(workflow, client_id)
        steps_done = wait_for_progress(socket, at_least=12 * 5)
        host.interrupt()
        entry = host.wait(prompt_id, timeout_s=30)
    kinds = [kind for kind, _ in entry["status"]["messages"]]
    assert "execution_interrupted" in kinds
    assert steps_done >= 12 * 5
    assert path.read_bytes() == before

    facts = facts_of(host.run(workflow), "index")
    assert facts["status"] == "indexed"
    assert facts["n_images"] == 16
    # The base side was being made when the run was cancelled, its second batch at least; what was finished is not made again.
    assert 0 < facts["base_model_evaluations"] <= (16 - 4) * 12 * 2
    assert facts["model_evaluations"] == 16 * 12 * 2

    shutil.rmtree(base / "user" / "carlos" / "cache")
    uninterrupted = facts_of(host.run(workflows.index(NAME, "whole", **settings)), "index")
    assert uninterrupted["base_model_evaluations"] == 16 * 12 * 2
    for key in ("strength", "consistency", "alignment"):
        assert facts[key] == uninterrupted[key]


def test_a_cancelled_run_says_what_it_has_kept(host: Host, base: Path) -> None:
    settings = {"prompts": "miniworld-index", "max_prompts": 16, "first_seed": 3000, "batch_size": 4}
    workflow = workflows.index(NAME, "told", **settings)
    with host.events() as (client_id, socket):
        prompt_id = host.submit(workflow, client_id)
        wait_for_progress(socket, at_least=12 * 6)
        host.interrupt()
        host.wait(prompt_id, timeout_s=30)
        kept = int(told(socket, r"cancelled: (\d+) pictures? kept, run again to go on")[0])
    assert 0 < kept < 32
    facts = facts_of(host.run(workflow), "index")
    # Without a LoRA, all 16 come first; what was kept is not made again.
    assert facts["base_model_evaluations"] == (16 - min(kept, 16)) * 12 * 2


def test_a_cancelled_library_run_says_how_many_loras_it_has_indexed(host: Host) -> None:
    settings = {"prompts": "miniworld-index", "preset": "custom", "max_prompts": 16, "first_seed": 4000, "batch_size": 4}
    with host.events() as (client_id, socket):
        prompt_id = host.submit(workflows.index_library("mystery_1*", "told-library", **settings), client_id)
        lines = told(socket, r"(2 of 4, [^\x00]*)")
        host.interrupt()
        host.wait(prompt_id, timeout_s=30)
        loras, pictures = told(socket, r"cancelled: (\d+) LoRAs? indexed, (\d+) pictures? kept, run again to go on")
    # One time is told: that of the whole run.
    assert lines[0].count(" left") <= 1
    assert int(loras) == 1
    assert 16 + 16 <= int(pictures) <= 16 + 2 * 16


def test_cancel_acts_within_one_sampler_step(host: Host) -> None:
    """Progress moves step by step, and after a cancel not one more step is reported."""
    workflow = workflows.index("pixel_art.safetensors", "steps", prompts="miniworld-index", batch_size=8, first_seed=77, steps=30)
    with host.events() as (client_id, socket):
        prompt_id = host.submit(workflow, client_id)
        wait_for_progress(socket, at_least=3 * 8)
        host.interrupt()
        # What was reported while ComfyUI was being asked, which takes a while on a busy machine.
        while _progress_values(socket, for_s=0.02):
            pass
        host.wait(prompt_id, timeout_s=30)
        values = _progress_values(socket, for_s=1.0)
    # One step of a batch of 8 may have been under way, its report on the wire.
    assert len(set(values)) <= 2


def wait_for_progress(socket: websocket.WebSocket, at_least: int) -> int:
    """Listen until the indexer has done so many steps of single pictures. Returns how many it has."""
    while True:
        message = socket.recv()
        if isinstance(message, bytes):
            continue
        event = json.loads(message)
        if event["type"] == "progress" and event["data"]["node"] == "index" and event["data"]["value"] >= at_least:
            return event["data"]["value"]


def told(socket: websocket.WebSocket, pattern: str) -> tuple[str, ...]:
    """Listen until a line of text on a node fits a pattern. Returns the pattern's groups."""
    while True:
        message = socket.recv()
        found = re.search(pattern, message.decode(errors="replace") if isinstance(message, bytes) else message)
        if found:
            return found.groups()


def _progress_values(socket: websocket.WebSocket, for_s: float) -> list[int]:
    socket.settimeout(for_s)
    values = []
    end = time.monotonic() + for_s
    while time.monotonic() < end:
        try:
            message = socket.recv()
        except websocket.WebSocketTimeoutException:
            break
        if isinstance(message, str):
            event = json.loads(message)
            if event["type"] == "progress":
                values.append(event["data"]["value"])
    return values
