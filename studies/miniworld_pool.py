"""Makes a pool of features from the mini-world: every LoRA, prompt and seed under many protocols, full and cheap.

usage: python -m studies.miniworld_pool COMFYUI_FOLDER MINIWORLD OUTPUT.npz [--clip NAME=FOLDER ...] [--only VARIANT ...]

Runs inside ComfyUI's environment, best on a GPU: about 40 s a full variant on an H100. What is chosen from such a pool is
measured on it by `quick_protocols.py` and `stopping_rule.py`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

SIDE = 128
BATCH = 256


@dataclass(frozen=True)
class Variant:
    """A protocol. start: 0 for pure noise, else the noise level that the base picture's own latent is taken up to again. seeds:
    "shared" by all prompts, or one "own" to each prompt. size: side of the pictures in pixels."""

    name: str
    steps: int
    cfg: float
    start: float = 0.0
    seeds: str = "shared"
    size: int = SIDE
    scheduler: str = "simple"

    @property
    def evaluations(self) -> int:
        """Forward passes for one picture."""
        return self.steps * (1 if self.cfg == 1 else 2)


VARIANTS = (
    Variant("full", 12, 3.0),
    Variant("steps4-cfg1", 4, 1.0),
    Variant("late0.85-steps2-cfg1", 2, 1.0, 0.85),
    Variant("late0.95-steps4-cfg1", 4, 1.0, 0.95),
    Variant("late0.95-steps2-cfg1", 2, 1.0, 0.95),
    Variant("late0.85-steps1-cfg1", 1, 1.0, 0.85),
    Variant("late0.85-steps4-cfg1", 4, 1.0, 0.85),
    Variant("late0.7-steps1-cfg1", 1, 1.0, 0.7),
    Variant("late0.7-steps2-cfg1", 2, 1.0, 0.7),
    Variant("late0.95-steps1-cfg1", 1, 1.0, 0.95),
    Variant("late0.95-steps3-cfg1", 3, 1.0, 0.95),
    Variant("late0.5-steps1-cfg1", 1, 1.0, 0.5),
    Variant("steps6-cfg1", 6, 1.0),
    Variant("steps4-cfg3", 4, 3.0),
    Variant("steps8-cfg1", 8, 1.0),
    Variant("late0.85-steps2-cfg3", 2, 3.0, 0.85),
    Variant("steps6-cfg1-small", 6, 1.0, size=96),
    Variant("steps3-cfg1", 3, 1.0),
    Variant("steps2-cfg1", 2, 1.0),
    Variant("steps1-cfg1", 1, 1.0),
    Variant("full-own", 12, 3.0, seeds="own"),
    Variant("steps4-cfg3-96px", 4, 3.0, size=96),
    Variant("steps4-cfg3-64px", 4, 3.0, size=64),
    *(
        Variant(f"steps{steps}-cfg{cfg:g}-{scheduler}", steps, cfg, scheduler=scheduler)
        for cfg in (3.0, 5.0, 8.0, 12.0)
        for scheduler in ("simple", "normal")
        for steps in (2, 3, 4, 6, 8, 12, 25)
    ),
)


class MiniWorld:
    """The mini-world on ComfyUI's own code."""

    def __init__(self, comfyui: Path, assets: Path, dtype: torch.dtype | None = None) -> None:
        sys.path.insert(0, str(comfyui))
        arguments, sys.argv = sys.argv, [sys.argv[0], *([] if torch.cuda.is_available() else ["--cpu"])]
        import comfy.options

        comfy.options.enable_args_parsing()
        import comfy.sd

        sys.argv = arguments
        sys.path.insert(0, str(assets))
        import build_checkpoint

        checkpoint = Path("/tmp/miniworld.safetensors")
        build_checkpoint.build(str(assets / "mini_diffusion.safetensors"), str(checkpoint))
        self.model, self.clip, self.vae, _ = comfy.sd.load_checkpoint_guess_config(
            str(checkpoint), output_vae=True, output_clip=True, model_options={"dtype": dtype} if dtype else {}
        )

    def with_lora(self, path: Path) -> tuple[Any, Any]:
        from carlos_core.comfy.patching import apply_lora, load_lora

        model, clip, _ = apply_lora(self.model, self.clip, load_lora(path), path.name, 1.0, 1.0)
        return model, clip


def latents_of(
    model: Any, conditionings: tuple[Any, Any], noise: torch.Tensor, variant: Variant, clean: torch.Tensor | None
) -> torch.Tensor:
    """Latents [N, 16, h, w] of one side of a variant. clean: the base side's own latents, for a late start."""
    import comfy.sample
    import comfy.samplers

    if variant.start:
        sigmas = torch.linspace(variant.start, 0, variant.steps + 1)
    else:
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), variant.scheduler, variant.steps)
    latent = torch.zeros_like(noise) if clean is None or not variant.start else clean
    return comfy.sample.sample_custom(
        model,
        noise,
        variant.cfg,
        comfy.samplers.sampler_object("euler"),
        sigmas,
        *conditionings,
        latent,
        disable_pbar=True,
        seed=0,
    )


def conditionings_of(clip: Any, texts: list[str]) -> tuple[Any, Any]:
    """Positive and negative conditioning for pictures of these texts."""
    encoded = {text: clip.encode_from_tokens_scheduled(clip.tokenize(text))[0] for text in {*texts, ""}}
    pooled = torch.cat([encoded[text][1]["pooled_output"] for text in texts])
    return [[torch.cat([encoded[text][0] for text in texts]), {"pooled_output": pooled}]], [encoded[""]]


def noise_of(seeds: list[int], size: int) -> torch.Tensor:
    """What a KSampler with each of these seeds makes for one picture."""
    import comfy.sample

    made = {seed: comfy.sample.prepare_noise(torch.zeros(1, 16, size // 8, size // 8), seed) for seed in set(seeds)}
    return torch.cat([made[seed] for seed in seeds])


def own_seed(prompt: str, k: int) -> int:
    return int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:4], "big") + k


def options_of() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comfyui", type=Path)
    parser.add_argument("miniworld", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--clip", nargs="*", default=[], help="NAME=FOLDER of further encoders")
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--skip", type=int, default=0, help="so many LoRAs, in the order of their names")
    parser.add_argument("--files", type=int, default=99)
    parser.add_argument("--seconds", type=float, default=540, help="stop before this time is over")
    return parser.parse_args()


@torch.inference_mode()
def main() -> None:
    options = options_of()
    world = MiniWorld(options.comfyui, options.miniworld)
    from carlos_core.clip.loading import load_encoder
    from carlos_core.clip.weights import local_encoders
    from carlos_core.errors import LoraError
    from carlos_core.loras.lora_file import read_lora_file
    from carlos_core.prompts.prompt_set import load_prompt_set

    encoders = {}
    for name, folder in [("mini_clip", options.miniworld), *((part.split("=")) for part in options.clip)]:
        local = local_encoders([Path(folder)])[name]
        encoders[name] = load_encoder(local.encoder_id, [folder])
    prompts = load_prompt_set(options.miniworld / "prompts_index.json").stratified()[: options.prompts]
    files = sorted((options.miniworld / "loras").glob("*.safetensors"))[options.skip :][: options.files]
    pool: dict[str, np.ndarray] = {}
    variants = [variant for variant in VARIANTS if not options.only or variant.name in options.only]
    clean: torch.Tensor | None = None
    spent = dict.fromkeys((variant.name for variant in variants), 0.0)
    begin = time.time()
    for file in [None, *files]:
        if time.time() - begin > options.seconds:
            print("out of time before", file)
            break
        triggers = read_lora_file(file).trigger_words if file else ()
        try:
            model, clip = world.with_lora(file) if file else (world.model, world.clip)
        except LoraError:
            continue
        texts = [", ".join([prompt.text, *triggers]) for _ in range(options.seeds) for prompt in prompts]
        conditionings = conditionings_of(clip, texts)
        for variant in variants:
            start = time.time()
            pairs = [(prompt, k) for k in range(options.seeds) for prompt in prompts]
            seeds = [own_seed(prompt.text, k) if variant.seeds == "own" else k for prompt, k in pairs]
            latents = latents_of(model, conditionings, noise_of(seeds, variant.size), variant, clean)
            if file is None and variant.name == "full":
                clean = latents
            images = torch.cat([world.vae.decode(part) for part in latents.split(BATCH)])
            for name, encoder in encoders.items():
                features = encoder.encode_images(images).numpy()
                pool[f"{variant.name}|{name}|{file.name if file else 'base'}"] = features.astype(np.float16)
            spent[variant.name] += time.time() - start
        print(file, f"{time.time() - begin:.0f} s", flush=True)
    print({name: round(seconds, 1) for name, seconds in spent.items()})
    pool["variants"] = np.array(json.dumps([vars(variant) | {"evaluations": variant.evaluations} for variant in VARIANTS]))
    pool["prompts"] = np.array([prompt.text for prompt in prompts])
    np.savez(options.output, **pool)


if __name__ == "__main__":
    main()
