"""The presets: how much work a measurement is, and what it may be compared with. Light enough for the widgets of a node.

Cost is counted in model evaluations: forward passes of the diffusion model, where cond and uncond count one each. The published
protocol takes 224,000 on the LoRA side. `studies/README.md` says how the presets were chosen and what each is worth.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..generator import LEADING, Sampling

CUSTOM = "custom"
"""The name of a protocol whose settings all come from the user."""

TRIGGERS_ON_LORA_SIDE = "lora side"
"""The published rule: trigger words are appended on the LoRA side only, so that their own effect counts as the LoRA's."""

TRIGGERS_ON_BOTH_SIDES = "both sides"
"""The controlled variant: the words stand on both sides, so that only the LoRA's own effect is left."""

TRIGGER_RULES = (TRIGGERS_ON_LORA_SIDE, TRIGGERS_ON_BOTH_SIDES)


@dataclass(frozen=True)
class Preset:
    """A protocol by name."""

    name: str
    sampling: Sampling
    seeds: int
    """Pictures of each prompt at most."""

    max_evaluations: int
    """Model evaluations on the LoRA side at most; 0 for no limit."""

    is_adaptive: bool
    """Whether the measurement ends when the direction is known."""


PRESETS = {
    preset.name: preset
    for preset in (
        # Four steps keep the direction if guidance is on but low (at 5 pictures break, without guidance the effect is another),
        # and if no step is spent on the lowest noise level, as "normal" does.
        Preset("quick", Sampling(4, 3.0, "euler", "simple"), seeds=4, max_evaluations=896, is_adaptive=True),
        Preset("standard", Sampling(25, 5.0, "euler", "normal"), seeds=16, max_evaluations=224_000, is_adaptive=True),
        Preset("paper", Sampling(25, 5.0, "euler", LEADING, zero_negative=True), seeds=16, max_evaluations=0, is_adaptive=False),
    )
}
"""From the quickest to the fullest: a row of a later one is as good as one of an earlier one."""
