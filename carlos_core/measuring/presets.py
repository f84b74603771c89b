"""The presets: how much work a measurement is, and what it may be compared with. Light enough for the widgets of a node.

Cost is counted in model evaluations: forward passes of the diffusion model, where cond and uncond count one each. The published
protocol takes 224,000 on the LoRA side. `studies/README.md` says how the presets were chosen and what each is worth.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..generator import LEADING, Sampling
from ..records import RACE

CUSTOM = "custom"
"""The name of a protocol whose settings all come from the user."""

TRIGGERS_ON_LORA_SIDE = "lora side"
"""The published rule: trigger words are appended on the LoRA side only, so that their own effect counts as the LoRA's."""

TRIGGERS_ON_BOTH_SIDES = "both sides"
"""The controlled variant: the words stand on both sides, so that only the LoRA's own effect is left."""

TRIGGER_RULES = (TRIGGERS_ON_LORA_SIDE, TRIGGERS_ON_BOTH_SIDES)


FEW_STEPS = "few steps"
"""Name, in a protocol, of the sampling of a preset for models that want few steps and no guidance."""

AS_GIVEN = "as given"
"""Name, in a protocol, of a sampling that comes from the user, with the pictures and the rule of a preset."""


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

    few_steps: Sampling | None = None
    """The same for models that are distilled to few steps without guidance (turbo, lightning and the like), whose pictures
    burn with guidance; None if the protocol is as published."""


_FOUR_STEPS = Sampling(4, 3.0, "euler", "simple")
_FOUR_STEPS_WITHOUT_GUIDANCE = Sampling(4, 1.0, "euler", "simple")

PRESETS = {
    preset.name: preset
    for preset in (
        # Its pictures are quick's. quick finds them where its batches are no larger than a race's: a batch is made as a whole.
        Preset(RACE, _FOUR_STEPS, seeds=4, max_evaluations=896, is_adaptive=True, few_steps=_FOUR_STEPS_WITHOUT_GUIDANCE),
        # Four steps keep the direction if guidance is on but low (at 5 pictures break, without guidance the effect is another),
        # and if no step is spent on the lowest noise level, as "normal" does.
        Preset(
            "quick",
            _FOUR_STEPS,
            seeds=4,
            max_evaluations=896,
            is_adaptive=True,
            few_steps=_FOUR_STEPS_WITHOUT_GUIDANCE,
        ),
        # Eight steps: such models are made for 4 to 9 and take eight well.
        Preset(
            "standard",
            Sampling(25, 5.0, "euler", "normal"),
            seeds=16,
            max_evaluations=224_000,
            is_adaptive=True,
            few_steps=Sampling(8, 1.0, "euler", "simple"),
        ),
        Preset("paper", Sampling(25, 5.0, "euler", LEADING, zero_negative=True), seeds=16, max_evaluations=0, is_adaptive=False),
    )
}
"""From the quickest to the fullest: a row of a later one is as good as one of an earlier one."""

OFFERED = tuple(name for name in PRESETS if name != RACE)
"""Those that a LoRA can be indexed with."""
