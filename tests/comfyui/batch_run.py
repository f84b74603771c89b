"""Pictures of several texts at once against those of ComfyUI's sampler one by one, for models of many families.

usage: PYTHONPATH=COMFYUI:. python tests/comfyui/batch_run.py  (with ComfyUI's Python)

The models are `tiny_models`. What stands for their text encoders, of gigabytes, gives random conditionings of the form that the
real ones give; what stands for the VAE shows the latents. Prints one JSON object a family, and then the batches that are chosen
for so many GiB of free memory.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

sys.argv = [sys.argv[0], "--cpu"]
import comfy.options

comfy.options.enable_args_parsing()
import comfy.conds
import comfy.model_management
import comfy.sample
import torch
from tiny_models import CONFIGS, build
from torch import Tensor

from carlos_core.comfy.batch_size import largest_batch
from carlos_core.comfy.conditioning import Conditioning
from carlos_core.comfy.generator import ComfyGenerator
from carlos_core.comfy.shared_batch import NotAlikeError, SharedBatches
from carlos_core.generator import Job, Sampling

TEXTS = ("a red house", "a small boat on the sea", "a blue house", "a very old tree in a field of tall yellow grass", "a cat")
QUOTING = ('a sign "OPEN"', "a red house", 'a card "HI"', "a blue house")
"""All of three words."""

STEPS, CFG, SIDE = 2, 3.0, 128
WITH_POOLED = {"SDXL": 1280, "SD3": 64, "Flux": 768}
FIXED = {"SD15": 77, "SDXL": 77, "SD3": 154, "Flux": 256, "WAN21_T2V": 512}
SCALES = {"Flux2": 16, "HunyuanImage21": 32}
WIDTH = {"SD15": 768, "SDXL": 2048, "Anima": 1024, "Krea2": 320}


@dataclass
class Latents:
    """In place of a VAE: shows latents as pictures."""

    scale: int

    def spacial_compression_encode(self) -> int:
        return self.scale

    def decode(self, latents: Tensor) -> Tensor:
        """[B, H, W, 3], or [B, 1, H, W, 3] for videos of one frame, as ComfyUI's VAEs do."""
        return latents[:, :3].movedim(1, -1)


@dataclass
class Encoder:
    """In place of a text encoder: a text's conditioning is random, of the length that its words give."""

    family: str

    def tokenize(self, text: str) -> str:
        return text

    def encode_from_tokens_scheduled(self, text: str) -> list[list[Any]]:
        random = torch.Generator().manual_seed(sum(text.encode()))
        words = len(text.split())
        length = FIXED.get(self.family, 3 + 2 * words)
        extras: dict[str, Any] = {"pooled_output": None}
        if self.family in WITH_POOLED:
            extras["pooled_output"] = torch.randn(1, WITH_POOLED[self.family], generator=random)
        if self.family in ("Lumina2", "Omnigen2", "ZImage"):
            extras["attention_mask"] = torch.ones(1, length, dtype=torch.int64)
        if self.family == "Anima":
            # For one text, without a dimension for batches.
            extras["t5xxl_ids"] = torch.randint(1, 32000, (2 + words,), generator=random, dtype=torch.int)
            extras["t5xxl_weights"] = torch.ones(2 + words)
        if self.family == "HunyuanImage21" and '"' in text:
            # The glyphs of what is quoted; other texts have none.
            extras["conditioning_byt5small"] = torch.randn(1, 4, 1472, generator=random)
        return [[torch.randn(1, length, WIDTH.get(self.family, 96), generator=random), extras]]


def alone(model: Any, encoder: Encoder, latent: Tensor, job: Job) -> Tensor:
    """The picture as a graph of ComfyUI's nodes makes it."""
    positive, negative = (encoder.encode_from_tokens_scheduled(text) for text in (job.prompt, ""))
    noise = comfy.sample.prepare_noise(latent, job.seed)
    settings = (STEPS, CFG, "euler", "simple", positive, negative, latent)
    return comfy.sample.sample(model, noise, *settings, disable_pbar=True, seed=job.seed)


def seen_of_each() -> list[Any]:
    """What a model is told of pictures of which only the first has a further fact, and of how many tokens."""
    told: list[Any] = []

    class Model:
        def extra_conds(self, **facts: Any) -> dict[str, Any]:
            told.append([facts.get("only_of_the_first"), int(facts["attention_mask"].sum())])
            return {"tokens": comfy.conds.CONDConstant(told[-1][1])}

    pictures: list[Conditioning] = [
        (torch.zeros(1, 4, 8), {"only_of_the_first": "glyphs", "attention_mask": torch.tensor([[1, 1, 1, 0]])}),
        (torch.zeros(1, 4, 8), {"attention_mask": torch.tensor([[1, 1, 0, 0]])}),
    ]
    shared = SharedBatches()
    ((tensor, extras),) = shared.conditioning_of(pictures)
    guider = SimpleNamespace(inner_model=Model(), conds={"positive": [{"cross_attn": tensor, "model_conds": {}, **extras}]})
    try:
        shared._sample(lambda *_: None, guider, torch.zeros(2), {}, None, torch.zeros(2, 4, 8, 8))
    except NotAlikeError:
        told.append(shared.groups(pictures))
    return told


def chosen_batches() -> dict[str, list[int]]:
    """For SDXL at 1024 px as if on a GPU, of which only the free memory is made up: with 4, 14, 22 and 200 GiB."""
    model = build("SDXL")
    model.load_device = torch.device("cuda:0")
    model.model_size = lambda: 5 << 30
    chosen: dict[str, list[int]] = {}
    for kind in ("static", "dynamic"):
        model.is_dynamic = lambda kind=kind: kind == "dynamic"
        chosen[kind] = []
        for free in (4, 14, 22, 200):
            comfy.model_management.get_free_memory = lambda device, free=free: free << 30
            chosen[kind].append(largest_batch(model, torch.zeros(1, 4, 128, 128)))
    return chosen


@torch.inference_mode()
def main() -> None:
    for family in CONFIGS:
        model = build(family)
        if model is None:
            continue
        encoder, vae = Encoder(family), Latents(SCALES.get(family, 8))
        generator = ComfyGenerator(model, encoder, vae, Sampling(STEPS, CFG, "euler", "simple", SIDE, SIDE))
        calls: list[int] = []
        inner = comfy.sample.sample

        def counted(model: Any, noise: Tensor, *args: Any, calls: list[int] = calls, inner: Any = inner, **kwargs: Any) -> Tensor:
            made: Tensor = inner(model, noise, *args, **kwargs)
            calls.append(len(noise))
            return made

        texts = QUOTING if family == "HunyuanImage21" else TEXTS
        jobs = [Job(text, seed) for seed, text in enumerate(texts)]
        comfy.sample.sample = counted
        together = generator.generate(jobs).images
        first, again = list(calls), generator.generate(jobs).images
        comfy.sample.sample = inner
        latent = torch.zeros(1, 4, SIDE // vae.scale, SIDE // vae.scale)
        latent = comfy.sample.fix_empty_latent_channels(model, latent)
        expected = torch.cat([vae.decode(alone(model, encoder, latent, job)) for job in jobs]).view_as(together)
        found = {
            "calls": first,
            "calls_again": calls[len(first) :],
            "difference": float((together - expected).abs().max()),
            "difference_again": float((together - again).abs().max()),
            "spread": float(expected.std()),
            "between_texts": float((expected[0] - expected[1]).abs().mean()),
        }
        sys.stdout.write(json.dumps({family: found}) + "\n")
        sys.stdout.flush()
    sys.stdout.write(json.dumps({"chosen": chosen_batches(), "seen": seen_of_each()}) + "\n")


main()
