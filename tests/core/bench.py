"""A bench to measure drawn LoRAs on, with the mini CLIP, in a folder of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from drawn import DrawingGenerator, lora_file

from carlos_core.clip.encoder import OpenClipEncoder
from carlos_core.loras.lora_file import LoraFile, read_lora_file
from carlos_core.measuring.measure import Measurement, measure
from carlos_core.measuring.plan import Plan, Shot
from carlos_core.measuring.presets import TRIGGERS_ON_LORA_SIDE
from carlos_core.measuring.protocol import Protocol
from carlos_core.measuring.studio import Studio
from carlos_core.prompts.prompt_set import Prompt, PromptSet

PROMPTS = PromptSet("p", tuple(Prompt(f"{topic} {k}", topic, "s") for topic in ("cat", "hill", "boat") for k in range(3)))
PLAN = Plan.all(PROMPTS, seeds=2, first_seed=7)
"""9 prompts x 2 seeds."""

SHOTS = PLAN.shots


class Bench:
    """A folder to work in, the mini CLIP, and a way to measure a LoRA in it."""

    def __init__(self, folder: Path, encoder: OpenClipEncoder) -> None:
        self.folder = folder
        self.encoder = encoder

    def lora(self, name: str = "red.safetensors", **effect: Any) -> LoraFile:
        return read_lora_file(lora_file(self.folder / name, **effect))

    def protocol(self, generator: DrawingGenerator, **changes: Any) -> Protocol:
        facts: dict[str, Any] = {
            "preset": "custom",
            "prompts_hash": PROMPTS.content_hash,
            "seed_rule": "7 + k",
            "lora_weight": 1.0,
        }
        return Protocol(**(facts | {"trigger_rule": TRIGGERS_ON_LORA_SIDE, "generator": generator.settings} | changes))

    def studio(self, generator: DrawingGenerator, work: str = "work", batch_size: int = 0) -> Studio:
        return Studio(generator, self.encoder, self.folder / work, batch_size)

    def measure(
        self,
        lora: LoraFile,
        generator: DrawingGenerator,
        *,
        work: str = "work",
        weight: float = 1.0,
        shots: Sequence[Shot] = SHOTS,
        batch_size: int = 0,
        **options: Any,
    ) -> Measurement:
        protocol = self.protocol(generator, lora_weight=weight)
        plan = replace(PLAN, shots=tuple(shots))
        return measure(self.studio(generator, work, batch_size), lora, protocol, plan, **options)


def assert_same_bits(found: Measurement, expected: Measurement) -> None:
    assert found.record.direction.tobytes() == expected.record.direction.tobytes()
    for name in ("strength", "consistency", "strength_se", "consistency_se", "alignment", "n_images", "n_prompts"):
        assert getattr(found.record, name) == getattr(expected.record, name), name
