"""Makes pictures with ComfyUI's generator, in a bare process on ComfyUI's own code, for comparison with another generator's.

usage: PYTHONPATH=COMFYUI:. python tests/comfyui/same_pictures_run.py CHECKPOINT WORK  (with ComfyUI's Python)

WORK/jobs.json: "sampling", the fields of `Sampling`; "jobs", a list of [prompt, seed, path of a LoRA or "", trigger words].
Writes WORK/pictures.npz, "images" [N, H, W, 3] float32, and WORK/facts.json with the model's key and the counts of each LoRA.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

CHECKPOINT, WORK = sys.argv[1:]

sys.argv = [sys.argv[0], "--cpu"]
import comfy.options

comfy.options.enable_args_parsing()
import comfy.sd
import numpy as np
import torch

from carlos_core.comfy.generator import ComfyGenerator
from carlos_core.generator import Job, LoraUse, Sampling

_BATCH = 4


@torch.inference_mode()
def main() -> None:
    given = json.loads((Path(WORK) / "jobs.json").read_text())
    model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(CHECKPOINT)
    generator = ComfyGenerator(model, clip, vae, Sampling(**given["sampling"]))
    jobs = [
        Job(prompt, seed, (LoraUse(Path(lora), 1.0),) if lora else (), tuple(words))
        for prompt, seed, lora, words in given["jobs"]
    ]
    images = [generator.generate(jobs[start : start + _BATCH]).images.numpy() for start in range(0, len(jobs), _BATCH)]
    np.savez(Path(WORK) / "pictures.npz", images=np.concatenate(images))
    uses = {use for job in jobs for use in job.loras}
    fits = {str(use.path): asdict(generator.check_lora(use)) for use in uses}
    (Path(WORK) / "facts.json").write_text(json.dumps({"model_key": generator.model_key, "fits": fits}))


main()
