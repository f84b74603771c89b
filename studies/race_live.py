"""Six of the races that `race_replay.py` plays back, in a real ComfyUI: do they come to the same?

usage: python -m studies.race_live POOL   (ComfyUI in COMFYUI_DIR or ~/comfy/ComfyUI)

POOL: a folder by `race_pool.py`. Node Race LoRAs, the easy CLIP, the calibrated ranking, the best one; every race begins with an
empty database and an empty feature store.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from studies.race_replay import SINGLE, World, empty_store, is_right, winner
from tests.support import comfyui_host as hosts
from tests.support import workflows

PLACES = range(1, 48, 8)
"""Of queries.json's queries for one effect: every eighth."""


def live(host: hosts.Host, place: int) -> tuple[dict[str, Any], float]:
    """A race's facts, and the seconds that the workflow took."""
    host.run({"clear": workflows.node("CarlosCaches", clear="pictures")})
    start = time.monotonic()
    facts = hosts.facts_of(host.run(workflows.race(SINGLE[place]["query"], f"live_{place}"), timeout_s=3000), "race")
    return facts, time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pool", type=Path)
    options = parser.parse_args()
    world = World(options.pool, "mini_clip")
    comfyui = hosts.comfyui_folder()
    if comfyui is None:
        raise SystemExit("There is no ComfyUI.")
    print("## Six of them in a real ComfyUI\n")
    print(
        "| query | live: won | right | model evaluations | replayed: won | model evaluations | confidence, live / replayed "
        "| seconds |"
    )
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        base = hosts.make_base_folder(Path(folder))
        hosts.build_checkpoint(base / "models" / "checkpoints" / "miniworld.safetensors")
        with hosts.running(comfyui, base) as host:
            for place in PLACES:
                with empty_store() as store:
                    replayed = world.race(store, place, world.background)
                facts, seconds = live(host, place)
                won = facts["choice"][0]["file"] if facts["choice"] else None
                right = "yes" if is_right(place, won) else "no"
                print(
                    f"| {SINGLE[place]['query']} | {won} | {right} | {facts['model_evaluations']} | {winner(replayed)} "
                    f"| {replayed.model_evaluations} | {facts['confidence']:.4f} / {replayed.confidence:.4f} | {seconds:.0f} |",
                    flush=True,
                )
    print(
        "\nThe first race on a model also makes the pictures that say how many steps suffice, as indexing does, and whether the "
        "host makes the same picture twice."
    )


if __name__ == "__main__":
    main()
