"""How far the first picture after loading is from the next one, in a bare process on ComfyUI's own code.

usage: PYTHONPATH=COMFYUI:. python tests/gpu/first_picture_run.py CHECKPOINT LORA SIZE [--static] [--fp8]

(with ComfyUI's Python) Prints one JSON object a line: mean differences of pixels, of 255, as the generator makes its pictures and
as it would without warming a loaded model up; then the noise floor. --fp8: with weights in 8 bits, unscaled.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CHECKPOINT, LORA, SIZE, *OPTIONS = sys.argv[1:]

import torch

HAS_GPU = torch.cuda.is_available()
sys.argv = [sys.argv[0], *([] if HAS_GPU else ["--cpu"])]
import comfyui_memory

comfyui_memory.prepare(is_dynamic=HAS_GPU and "--static" not in OPTIONS)
import comfy.sd
from facts import say

from benchmarks.model_families import TEXT_ENCODER_OPTIONS
from carlos_core.clip.weights import local_encoders
from carlos_core.comfy.encoder import load_comfy_encoder
from carlos_core.comfy.generator import ComfyGenerator
from carlos_core.generator import Job, LoraUse, Sampling
from carlos_core.loras.lora_file import read_lora_file
from carlos_core.measuring.noise_floor import noise_floor
from carlos_core.measuring.plan import Plan
from carlos_core.measuring.studio import Studio
from carlos_core.prompts.prompt_set import default_index_prompts

BATCH = 4
MINIWORLD = Path(__file__).resolve().parents[1] / "assets" / "miniworld"


class Unprepared(ComfyGenerator):
    """Takes every model for one that was used before."""

    def _is_warm(self, side: Any) -> bool:
        return True


@torch.inference_mode()
def main() -> None:
    model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(
        CHECKPOINT,
        model_options={"dtype": torch.float8_e4m3fn} if "--fp8" in OPTIONS else {},
        te_model_options=dict(TEXT_ENCODER_OPTIONS),
    )
    say(dynamic=comfyui_memory.is_dynamic(), weights=str(model.model_dtype()))

    def jobs(weight: float) -> list[Job]:
        loras = (LoraUse(Path(LORA), weight),) if weight else ()
        return [Job("a red house on a hill", seed, loras) for seed in range(BATCH)]

    sampling = Sampling(4, 3.0, "euler", "simple", int(SIZE), int(SIZE))

    def differences(kind: type[ComfyGenerator], weight: float) -> dict[str, float]:
        generator = kind(model, clip, vae, sampling)
        generator.prepare([*jobs(0.0), *jobs(weight)])

        def made(weight: float) -> Any:
            return generator.generate(jobs(weight)).images.float().cpu()

        generator.unload()
        first, again = made(weight), made(weight)
        base = made(0.0)
        after_the_other = made(weight if weight else 0.0)
        generator.unload()
        reloaded = made(weight)

        def of_255(a: Any, b: Any) -> float:
            return round(float((a - b).abs().mean()) * 255, 3)

        found = {"after loading": of_255(first, again), "after reloading": of_255(reloaded, again)}
        if weight:
            found |= {"after the other side": of_255(after_the_other, again), "effect": of_255(again, base)}
        return found

    for name, weight in (("base", 0.0), ("lora", 1.0)):
        for kind in (Unprepared, ComfyGenerator):
            say(side=name, is_prepared=kind is ComfyGenerator, **differences(kind, weight))
    encoder = load_comfy_encoder(local_encoders([MINIWORLD])["mini_clip"].encoder_id, [MINIWORLD])
    with tempfile.TemporaryDirectory() as folder:
        studio = Studio(ComfyGenerator(model, clip, vae, sampling), encoder, Path(folder))
        sides = studio.without_lora(), studio.with_lora(read_lora_file(Path(LORA)), 1.0, ())
        start = time.perf_counter()
        floor = noise_floor(studio, sides, Plan.all(default_index_prompts(), max_prompts=16).shots)
        seconds = round(time.perf_counter() - start, 1)
    say(noise_floor=floor.features, pixels=floor.pixels, evaluations=floor.model_evaluations, seconds=seconds)


main()
