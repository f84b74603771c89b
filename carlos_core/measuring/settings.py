"""The settings of a measurement, as the indexing nodes and the command line offer them. Light enough for widgets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import IndexingError
from ..records import RACE
from .presets import AS_GIVEN, CUSTOM, OFFERED, TRIGGER_RULES

AUTOMATIC, AS_PRESET = "automatic", "preset"
SAMPLINGS = (AUTOMATIC, AS_PRESET, AS_GIVEN)

ANY_CHECKPOINT, THIS_CHECKPOINT = "any of its shape", "this one"
CHECKPOINTS = (ANY_CHECKPOINT, THIS_CHECKPOINT)

RACE_EVALUATIONS = 20_000
"""Model evaluations that a race takes at most, unless it is told otherwise."""

PRESET_NAMES = (*OFFERED, CUSTOM)


@dataclass(frozen=True, kw_only=True)
class MeasureSettings:
    """What the widgets of LoRA Indexer and Index Library say, by the widgets' names; `nodes.common.indexing` explains each."""

    preset: str
    prompts: str = "default"
    seeds: int = 1
    first_seed: int = 0
    max_prompts: int = 0
    steps: int = 25
    cfg: float = 5.0
    sampler_name: str = "euler"
    scheduler: str = "normal"
    width: int = 0
    height: int = 0
    batch_size: int = 0
    lora_weight: float = 1.0
    overwrite: bool = False
    triggers: str = TRIGGER_RULES[0]
    scale_sweep: bool = False
    checkpoint: str = ANY_CHECKPOINT
    sampling: str = AUTOMATIC

    def check(self, presets: Sequence[str] = PRESET_NAMES) -> None:
        """Raises IndexingError for a word that the widgets do not offer; samplers and schedulers are for what makes pictures to
        judge. presets: those that there are to choose from."""
        check_choice(self.preset, presets, "preset")
        check_choice(self.triggers, TRIGGER_RULES, "trigger rule")
        check_choice(self.checkpoint, CHECKPOINTS, "choice of checkpoints")
        check_choice(self.sampling, SAMPLINGS, "sampling")


@dataclass(frozen=True, kw_only=True)
class RaceSettings:
    """What the widgets of Race LoRAs say of its pictures, by the widgets' names. The preset quick takes the same ones."""

    prompt: str = ""
    """The user's own; empty for the index prompts."""

    index_prompts: str = "default"
    sampling: str = AUTOMATIC
    width: int = 0
    height: int = 0
    steps: int = 25
    cfg: float = 5.0
    sampler_name: str = "euler"
    scheduler: str = "normal"

    @property
    def measuring(self) -> MeasureSettings:
        """The same as settings of a measurement."""
        return MeasureSettings(
            preset=RACE,
            prompts=self.index_prompts,
            sampling=self.sampling,
            width=self.width,
            height=self.height,
            steps=self.steps,
            cfg=self.cfg,
            sampler_name=self.sampler_name,
            scheduler=self.scheduler,
        )


def check_choice(value: str, choices: Sequence[str], noun: str) -> None:
    """Raises IndexingError for a value that is none of the choices. noun: what it is."""
    if value not in choices:
        raise IndexingError(f"There is no {noun} {value!r}.", f"Choose one of {', '.join(choices)}.")
