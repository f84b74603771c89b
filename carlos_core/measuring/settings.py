"""The settings of a measurement, as the indexing nodes and the command line offer them. Light enough for widgets."""

from __future__ import annotations

from dataclasses import dataclass

from .presets import AS_GIVEN, CUSTOM, PRESETS, TRIGGER_RULES

AUTOMATIC, AS_PRESET = "automatic", "preset"
SAMPLINGS = (AUTOMATIC, AS_PRESET, AS_GIVEN)

ANY_CHECKPOINT, THIS_CHECKPOINT = "any of its shape", "this one"
CHECKPOINTS = (ANY_CHECKPOINT, THIS_CHECKPOINT)

PRESET_NAMES = (*PRESETS, CUSTOM)


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
