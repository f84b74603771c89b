"""A bench to measure drawn LoRAs on, with the mini CLIP, in a folder of its own; and indexers into a database in that folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from carlos_core.clip.encoder import OpenClipEncoder
from carlos_core.database.database import MetricsDatabase
from carlos_core.database.target import DatabaseFile
from carlos_core.generator import Job, LoraUse
from carlos_core.loras.lora_file import LoraFile, read_lora_file
from carlos_core.measuring.indexer import Indexer
from carlos_core.measuring.measure import Measurement, measure
from carlos_core.measuring.plan import OWN_SEED_RULE, Plan, Shot
from carlos_core.measuring.presets import PRESETS, TRIGGERS_ON_LORA_SIDE
from carlos_core.measuring.protocol import Protocol
from carlos_core.measuring.studio import Studio
from carlos_core.prompts.prompt_set import Prompt, PromptSet
from tests.support.drawing_generator import EVALUATIONS, DrawingGenerator, lora_file

PROMPTS = PromptSet("p", tuple(Prompt(f"{topic} {k}", topic, "s") for topic in ("cat", "hill", "boat") for k in range(3)))
PLAN = Plan.all(PROMPTS, seeds=2, first_seed=7)
"""9 prompts x 2 seeds."""

SHOTS = PLAN.shots

MANY_PROMPTS = PromptSet(
    "p", tuple(Prompt(f"{topic} {part} {k}", topic, f"{topic} {part}") for topic in "abcd" for part in "xy" for k in range(8))
)
"""64 prompts in 8 sub-categories."""


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


def indexer_of(
    bench: Bench,
    generator: DrawingGenerator,
    *,
    preset: str = "quick",
    plan: Plan | None = None,
    batch_size: int = 0,
    work: str = "work",
    **changes: Any,
) -> Indexer:
    """An indexer with a preset's plan over 64 prompts, into db.parquet."""
    path = bench.folder / "db.parquet"
    if not path.exists():
        MetricsDatabase.empty(bench.encoder.encoder_id, bench.encoder.dimension).save_parquet(path)
    plan = plan or replace(Plan.of_preset(PRESETS[preset], MANY_PROMPTS, EVALUATIONS), expected=0)
    protocol = replace(bench.protocol(generator), preset=preset, prompts_hash=MANY_PROMPTS.content_hash, seed_rule=OWN_SEED_RULE)
    return replace(Indexer(bench.studio(generator, work, batch_size), protocol, plan, DatabaseFile(path)), **changes)


def naive_diffs(bench: Bench, lora: LoraFile, shots: Sequence[Shot], weight: float = 1.0) -> np.ndarray:
    """Differences of features, picture by picture, from pictures drawn one at a time. [N, D] float64."""
    world, use = DrawingGenerator(), (LoraUse(lora.path, weight),)

    def features(job: Job) -> np.ndarray:
        return bench.encoder.encode_images(world.picture(job)[None])[0].double().numpy()

    return np.stack(
        [
            features(Job(shot.prompt.text, shot.seed, use, lora.trigger_words)) - features(Job(shot.prompt.text, shot.seed))
            for shot in shots
        ]
    )
