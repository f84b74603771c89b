"""The presets: how much work a measurement is, and what it may be compared with.

Cost is counted in model evaluations, forward passes of the diffusion model, cond and uncond one each: the published protocol
takes 224,000 on the LoRA side. `benchmarks/README.md` says how the presets were chosen and what each is worth.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from ..errors import IndexingError
from ..generator import LEADING
from ..prompts.prompt_set import PromptSet
from .plan import Shot
from .stopping import picture_order

PAPER_IMAGES = 4480
"""Pairs of pictures of the published protocol: 280 prompts x 16 seeds (arXiv 2512.08826)."""

TYPICAL_IMAGES = 150
"""Pictures that an adaptive preset is expected to take: the median over the published rows is 120 to 186, by the shape of the
noise (`benchmarks/stopping_rule.py`)."""

_REPEAT_EVERY = 14

OWN_SEED_RULE = "sha256(prompt) + k, each prompt its own"


@dataclass(frozen=True)
class Preset:
    """A protocol by name. seeds: pictures a prompt at most. max_evaluations: on the LoRA side, 0 for no limit. is_adaptive: it
    ends when the direction is known. zero_negative: the unconditional side is zeros, not an encoded empty text."""

    name: str
    steps: int
    cfg: float
    sampler_name: str
    scheduler: str
    seeds: int
    max_evaluations: int
    is_adaptive: bool
    zero_negative: bool = False


PRESETS = {
    preset.name: preset
    for preset in (
        # Four steps keep the direction if guidance is there but low (at 5 pictures break, without it the effect is another), and
        # if none is spent on the lowest noise level, as "normal" does.
        Preset("quick", 4, 3.0, "euler", "simple", seeds=4, max_evaluations=896, is_adaptive=True),
        Preset("standard", 25, 5.0, "euler", "normal", seeds=16, max_evaluations=224_000, is_adaptive=True),
        Preset("paper", 25, 5.0, "euler", LEADING, seeds=16, max_evaluations=0, is_adaptive=False, zero_negative=True),
    )
}


def preset_shots(preset: Preset, prompts: PromptSet, evaluations_per_image: int) -> tuple[Shot, ...]:
    """Which pictures a preset may take, in order: all prompts once, stratified, then all again with the next seed, and a few
    second seeds early, which tell the stopping rule how much seeds matter.

    Raises IndexingError if the preset's budget does not suffice for two pictures.
    """
    order = prompts.stratified()
    limit = preset.max_evaluations // evaluations_per_image if preset.max_evaluations else len(order) * preset.seeds
    if limit < 2:
        raise IndexingError(
            f"One picture takes {evaluations_per_image} model evaluations, {preset.name} has {preset.max_evaluations}.",
            "Choose the preset 'standard'.",
        )
    plan = picture_order(len(order), preset.seeds, repeat_every=_REPEAT_EVERY if preset.is_adaptive else 0, spread_seeds=False)
    return tuple(Shot(order[prompt], own_seed(order[prompt].text, k)) for prompt, k in plan[:limit])


def own_seed(prompt: str, k: int) -> int:
    """Seed of the k-th picture of a prompt: from the prompt's text, so that it does not depend on its place in a list."""
    return int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:6], "big") + k
