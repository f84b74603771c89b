"""A bench to measure drawn LoRAs on, with the mini CLIP, in a folder of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from drawn import DrawingGenerator, lora_file

from carlos_core.clip.encoder import OpenClipEncoder
from carlos_core.loras.lora_file import LoraFile, read_lora_file
from carlos_core.measuring.measure import Measurement, measure_lora
from carlos_core.measuring.plan import all_shots
from carlos_core.measuring.protocol import TRIGGERS_ON_LORA_SIDE, Protocol
from carlos_core.prompts.prompt_set import Prompt, PromptSet

PROMPTS = PromptSet("p", tuple(Prompt(f"{topic} {k}", topic, "s") for topic in ("cat", "hill", "boat") for k in range(3)))
SHOTS = all_shots(PROMPTS, seeds=2, first_seed=7)
"""9 prompts x 2 seeds."""


class Bench:
    """A folder to work in, the mini CLIP, and a way to measure a LoRA in it."""

    def __init__(self, folder: Path, encoder: OpenClipEncoder) -> None:
        self.folder = folder
        self.encoder = encoder

    def lora(self, name: str = "red.safetensors", **effect: Any) -> LoraFile:
        return read_lora_file(lora_file(self.folder / name, **effect))

    def protocol(self, generator: DrawingGenerator, **changes: Any) -> Protocol:
        facts = {"preset": "custom", "prompts_hash": PROMPTS.content_hash, "seed_rule": "7 + k", "lora_weight": 1.0}
        return Protocol(**(facts | {"trigger_rule": TRIGGERS_ON_LORA_SIDE, "generator": generator.settings} | changes))

    def measure(
        self, lora: LoraFile, generator: DrawingGenerator, *, work: str = "work", weight: float = 1.0, **options: Any
    ) -> Measurement:
        return measure_lora(
            lora,
            generator=generator,
            encoder=self.encoder,
            protocol=self.protocol(generator, lora_weight=weight),
            **({"shots": SHOTS, "working_directory": self.folder / work} | options),
        )


def assert_same_bits(found: Measurement, expected: Measurement) -> None:
    assert found.record.direction.tobytes() == expected.record.direction.tobytes()
    for name in ("strength", "consistency", "strength_se", "consistency_se", "alignment", "n_images", "n_prompts"):
        assert getattr(found.record, name) == getattr(expected.record, name), name
