"""Indexing on a GPU that has too little memory for the batch asked for.

usage: python -m benchmarks.out_of_memory COMFYUI_FOLDER MINIWORLD

A full-size SDXL-shaped model with random weights, 1024 px. The process is allowed what the models take and some GiB more
(torch.cuda.set_per_process_memory_fraction), and 16 pictures at a time are asked for: torch's own out-of-memory error is what is
met. The directions are compared with that of a run with all the memory.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from pathlib import Path

import torch


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comfyui", type=Path)
    parser.add_argument("miniworld", type=Path)
    options = parser.parse_args()
    sys.argv = sys.argv[:1]
    sys.path.insert(0, str(options.comfyui))
    import comfy.options

    comfy.options.enable_args_parsing()
    import numpy as np

    from benchmarks.overhead import plan_of, sdxl
    from carlos_core.errors import CarlosError
    from carlos_core.measuring.measure import measure
    from carlos_core.measuring.presets import TRIGGERS_ON_LORA_SIDE
    from carlos_core.measuring.protocol import Protocol
    from carlos_core.measuring.studio import Studio

    logging.basicConfig(level=logging.WARNING, stream=sys.stdout, format="log: %(message)s")
    with tempfile.TemporaryDirectory() as name:
        models = sdxl(options.miniworld, Path(name), False)

        def direction(label: str, batch: int) -> np.ndarray:
            generator = models.generator(4)
            plan = plan_of(16)
            protocol = Protocol("custom", "16", plan.seed_rule, 1.0, TRIGGERS_ON_LORA_SIDE, generator.settings)
            measured = measure(Studio(generator, models.encoder, Path(name) / label, batch), models.lora, protocol, plan)
            print(
                f"{label}: {measured.record.n_images} pairs, strength {measured.record.strength:.4f}, auto batch now "
                f"{generator.suggest_batch_size()}",
                flush=True,
            )
            return measured.record.direction.astype(np.float64)

        whole = direction("all memory, batch 16", 16)
        fours = direction("all memory, batch 4", 4)
        compared = [("batch 4", fours)]
        total = torch.cuda.get_device_properties(0).total_memory
        for gib in (4.0, 2.0, 0.25):
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + gib * 2**30) / total)
            label = f"{gib:g} GiB beside the models, batch 16"
            try:
                compared.append((label, direction(label.replace(" ", "-"), 16)))
            except CarlosError as error:
                print(f"{label}: {error}", flush=True)
        for label, other in compared:
            cosine = whole @ other / np.linalg.norm(whole) / np.linalg.norm(other)
            print(f"cosine of the directions, all memory at batch 16 and {label}: {cosine:.6f}")


if __name__ == "__main__":
    main()
