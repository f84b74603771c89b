"""Pictures of the mini-world that were made once, played back: a Generator of features, and an Encoder that reads them.

A pool holds the features of quick's first pairs of pictures, as `studies/race_pool.py` makes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from carlos_core.database.database import MetricsDatabase
from carlos_core.database.target import InMemory, Target
from carlos_core.errors import LoraError
from carlos_core.generator import Generated, Job, LoraFit, LoraUse
from carlos_core.loras.lora_file import LoraFile, read_lora_file
from carlos_core.measuring.indexer import Indexer
from carlos_core.measuring.plan import Plan
from carlos_core.measuring.presets import PRESETS, TRIGGERS_ON_LORA_SIDE
from carlos_core.measuring.protocol import Protocol
from carlos_core.measuring.studio import Studio
from carlos_core.progress import OnProgress, Progress
from carlos_core.prompts.prompt_set import PromptSet, load_prompt_set
from carlos_core.records import RACE
from tests.support.miniworld import MINIWORLD

STEPS = 4
EVALUATIONS = 2 * STEPS
_SIDE = 8
ASSET = MINIWORLD.parent / "race_pictures.npz"


class Pool:
    """Features of the mini-world's pictures by one CLIP, and signatures."""

    def __init__(self, features: Mapping[str, np.ndarray], signatures: Mapping[str, np.ndarray], clip: str) -> None:
        """features: [n, D] by LoRA file, "base" for none. signatures: [Q, D] by kind of query in queries.json, and "bank"."""
        self.clip = clip
        self.features = {name: values.astype(np.float32) for name, values in features.items() if name != "base"}
        self.base = features["base"].astype(np.float32)
        self.signatures = {kind: values.astype(np.float64) for kind, values in signatures.items()}
        self.pairs = min(len(values) for values in (self.base, *self.features.values()))

    @classmethod
    def of_folder(cls, folder: Path, clip: str) -> Pool:
        """A pool by `studies/race_pool.py`."""
        paths = [path for path in sorted(folder.glob("*.npz")) if path.name != "signatures.npz"]
        features = {path.name.removesuffix(".npz"): np.load(path)[clip] for path in paths}
        found = dict(np.load(folder / "signatures.npz"))
        own = {name.partition("|")[2]: values for name, values in found.items() if name.startswith(f"{clip}|")}
        return cls(features, own, clip)

    @classmethod
    def of_tests(cls) -> Pool:
        """The mini CLIP's, with the first 48 pairs."""
        found = dict(np.load(ASSET))
        signatures = {name.partition("|")[2]: values for name, values in found.items() if name.startswith("signatures|")}
        return cls({name: values for name, values in found.items() if "|" not in name}, signatures, "mini_clip")

    def save(self, path: Path, pairs: int) -> None:
        """Write a small file for `of_tests`."""
        arrays: dict[str, Any] = {"base": self.base[:pairs].astype(np.float16)}
        arrays |= {name: values[:pairs].astype(np.float16) for name, values in self.features.items()}
        arrays |= {f"signatures|{kind}": values.astype(np.float16) for kind, values in self.signatures.items()}
        np.savez_compressed(path, **arrays)

    @property
    def dimension(self) -> int:
        return int(self.base.shape[1])

    def diffs(self, file: str) -> np.ndarray:
        """[n, D] float64."""
        return self.features[file][: self.pairs].astype(np.float64) - self.base[: self.pairs]


def prompts() -> PromptSet:
    return load_prompt_set(MINIWORLD / "prompts_index.json")


def plan_of(pool: Pool, preset: str = RACE) -> Plan:
    """A preset's plan, as far as the pool goes."""
    whole = Plan.of_preset(PRESETS[preset], prompts(), EVALUATIONS)
    return replace(whole, shots=whole.shots[: pool.pairs])


def lora_files(pool: Pool) -> list[LoraFile]:
    """The mini-world's LoRAs whose pictures are there."""
    return [read_lora_file(MINIWORLD / "loras" / name) for name in sorted(pool.features)]


def replayed_indexer(pool: Pool, folder: Path, target: Target | None = None, preset: str = RACE, **changes: Any) -> Indexer:
    """An indexer that plays a pool's pictures back, and keeps features in a folder. target: a database in memory by default."""
    encoder, generator = ReplayedEncoder(pool), ReplayedGenerator(pool)
    plan = plan_of(pool, preset)
    protocol = Protocol(preset, prompts().content_hash, plan.seed_rule, 1.0, TRIGGERS_ON_LORA_SIDE, generator.settings)
    target = target or InMemory(MetricsDatabase.empty(encoder.encoder_id, encoder.dimension))
    return replace(Indexer(Studio(generator, encoder, folder), protocol, plan, target), **changes)


class ReplayedGenerator:
    """Implements `generator.Generator`. jobs: all that it was asked for."""

    def __init__(self, pool: Pool, *, batch_size: int = 4) -> None:
        self._pool, self._batch_size = pool, batch_size
        self._place = {(shot.prompt.text, shot.seed): place for place, shot in enumerate(plan_of(pool).shots)}
        self.jobs: list[Job] = []

    fingerprint = "replayed"
    model_key = "mini"
    steps = STEPS
    evaluations_per_image = EVALUATIONS

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "model": self.fingerprint,
            "steps": STEPS,
            "cfg": 3.0,
            "sampler": "euler",
            "scheduler": "simple",
            "size": "128x128",
        }

    def suggest_batch_size(self) -> int:
        return self._batch_size

    def check_lora(self, lora: LoraUse) -> LoraFit:
        if lora.path.name not in self._pool.features:
            raise LoraError(f"LoRA does not fit: 0 of 18 keys in {lora.path.name} match.", "Pick another LoRA.")
        return LoraFit(matched=18, total=18, model="mini")

    def prepare(self, jobs: Sequence[Job]) -> None:
        pass

    def generate(self, jobs: Sequence[Job], on_progress: OnProgress | None = None) -> Generated:
        if on_progress is not None:
            on_progress(Progress(0, STEPS * len(jobs)))
        self.jobs.extend(jobs)
        images = torch.zeros(len(jobs), _SIDE, _SIDE, 3)
        for image, job in zip(images, jobs, strict=True):
            features = self._pool.features[job.loras[0].path.name] if job.loras else self._pool.base
            image[..., 0] = torch.from_numpy(features[self._place[job.prompt, job.seed]]).view(_SIDE, _SIDE)
        return Generated(images, EVALUATIONS * len(jobs))


class ReplayedEncoder:
    """Implements `clip.encoder.Encoder` for pictures that are features."""

    def __init__(self, pool: Pool) -> None:
        self.encoder_id = f"{pool.clip}@replayed"
        self.dimension = pool.dimension

    def encode_images(self, images: Tensor) -> Tensor:
        return images[..., 0].reshape(len(images), -1)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        raise NotImplementedError("signatures come with the pool")
