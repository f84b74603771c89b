"""What CLIP and the pixels say of pictures that are right, burnt, without their text, and broken.

usage: python -m studies.base_check COMFYUI_FOLDER MINIWORLD FEW_STEP_LORA [--clip NAME=FOLDER ...] [--sheet PICTURE.png]

(inside ComfyUI's environment; ten minutes on two cores) FEW_STEP_LORA comes from `studies/few_step_lora.py`. 32 prompts for each
setting, looked at 16 at a time, as `carlos_core/measuring/base_check.py` does.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from .miniworld_pool import MiniWorld

FEW = "with the few-step LoRA"
CASES = (
    ("right", 4, 3.0, "simple", ""),
    ("right", 12, 3.0, "simple", ""),
    ("right", 25, 5.0, "normal", ""),
    ("right", 4, 1.0, "simple", FEW),
    ("right", 8, 1.0, "simple", FEW),
    ("right, pale", 4, 1.0, "simple", ""),
    ("right", 12, 8.0, "simple", ""),
    ("burnt", 4, 3.0, "simple", FEW),
    ("burnt", 25, 5.0, "normal", FEW),
    ("burnt a little", 4, 2.0, "simple", FEW),
    ("burnt", 4, 5.0, "normal", ""),
    ("burnt", 4, 8.0, "simple", ""),
    ("burnt", 12, 12.0, "simple", ""),
    ("burnt", 25, 20.0, "simple", ""),
    ("without their text", 12, 0.0, "simple", ""),
    ("noise", 12, 30.0, "simple", ""),
)
N, LOOK, BATCH = 32, 16, 8


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comfyui", type=Path)
    parser.add_argument("miniworld", type=Path)
    parser.add_argument("few_steps", type=Path)
    parser.add_argument("--clip", nargs="*", default=[], help="NAME=FOLDER of further encoders")
    parser.add_argument("--sheet", type=Path, help="where to save the first eight pictures of each setting")
    options = parser.parse_args()
    world = MiniWorld(options.comfyui, options.miniworld)
    from PIL import Image

    from carlos_core.clip.loading import load_encoder
    from carlos_core.clip.weights import local_encoders
    from carlos_core.comfy.generator import ComfyGenerator
    from carlos_core.generator import Job, LoraUse, Sampling
    from carlos_core.measuring.base_check import CLEAR, CLIPPED, LOSS, MATCHED, VARIETY, Looks
    from carlos_core.measuring.plan import own_seed
    from carlos_core.prompts.prompt_set import load_prompt_set

    texts = [prompt.text for prompt in load_prompt_set(options.miniworld / "prompts_index.json").stratified()[:N]]
    encoders = {}
    for name, folder in [("mini_clip", options.miniworld), *((part.split("=")) for part in options.clip)]:
        local = local_encoders([Path(folder)])[name]
        encoders[name] = load_encoder(local.encoder_id, [Path(folder)])
    features_of = {name: encoder.encode_texts(texts).numpy() for name, encoder in encoders.items()}
    without: dict[tuple[str, str], float] = {}
    sheet = []
    print("| pictures | steps, cfg | clipped |", *(f"{name}: matched, alignment, variety | verdict |" for name in encoders))
    print("|---|---|---|" + "---|---|" * len(encoders))
    # Those without guidance come first: the others are compared with them.
    for kind, steps, cfg, scheduler, lora in sorted(CASES, key=lambda case: case[2] != 1):
        loras = (LoraUse(options.few_steps, 1.0),) if lora else ()
        generator = ComfyGenerator(world.model, world.clip, world.vae, Sampling(steps, cfg, "euler", scheduler, 128, 128))
        jobs = [Job(text, own_seed(text, 0), loras) for text in texts]
        images = torch.cat([generator.generate(jobs[place : place + BATCH]).images for place in range(0, N, BATCH)]).float()
        sheet.append(np.concatenate(list(images[:8].numpy()), axis=1))
        clipped = float(((images < 0.01) | (images > 0.99)).float().mean())
        cells = []
        for name, encoder in encoders.items():
            pictures = encoder.encode_images(images).numpy()
            parts = [slice(place, place + LOOK) for place in range(0, N, LOOK)]
            looks = [Looks.of(pictures[part], features_of[name][part]) for part in parts]
            matched, alignment, variety = np.mean([[each.matched, each.alignment, each.variety] for each in looks], axis=0)
            if cfg == 1:
                without[name, lora] = max(alignment, without.get((name, lora), -1.0))
            is_suspect = clipped >= CLIPPED or matched < CLEAR
            verdict = "nothing shown" if matched < MATCHED else "all alike" if variety < VARIETY else ""
            if not verdict and is_suspect:
                verdict = "burnt" if alignment < without[name, lora] - LOSS else "right, after comparing"
            cells.append(f"{matched:.2f}, {alignment:.2f}, {variety:.2f} | {verdict or 'right'}")
        print(f"| {kind} {lora} | {steps}, {cfg:g} | {clipped:.3f} |", " | ".join(cells), "|", flush=True)
    if options.sheet:
        Image.fromarray((np.concatenate(sheet) * 255).clip(0, 255).astype("uint8")).save(options.sheet)


if __name__ == "__main__":
    main()
