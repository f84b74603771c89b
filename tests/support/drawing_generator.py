"""A text-to-image model that draws: a Generator without a network, whose LoRAs' effects are known exactly.

A picture is coloured patches that depend on prompt and seed alone. A LoRA file names its effect in its metadata: a tint that
the picture is mixed with, and colours for its trigger words.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import Tensor

from carlos_core.errors import LoraError
from carlos_core.generator import Generated, Job, LoraFit, LoraUse
from carlos_core.progress import OnProgress, Progress

SIDE = 128
STEPS = 4
EVALUATIONS = 2 * STEPS
"""Forward passes of one picture: cond and uncond in each step."""


def lora_file(
    path: Path,
    tint: Sequence[float] = (1.0, 0.2, 0.1),
    *,
    mix: float = 0.5,
    trigger: str = "",
    fitting: int = 4,
    saturates_at: float = math.inf,
    breaks_above: float = math.inf,
    breaks_to: Sequence[float] = (0.0, 0.0, 0.0),
) -> Path:
    """Write a LoRA that mixes `mix` of the colour `tint` into each picture; `fitting` of its 4 tensors fit the model.

    Its weight counts up to `saturates_at`; at weights beyond `breaks_above` the colour is `breaks_to`.
    """
    metadata = {"tint": json.dumps(list(tint)), "mix": str(mix), "fitting": str(fitting), "saturates_at": str(saturates_at)}
    metadata |= {"breaks_above": str(breaks_above), "breaks_to": json.dumps(list(breaks_to))}
    if trigger:
        metadata["modelspec.trigger_phrase"] = trigger
    save_file({f"layer.{k}": np.full(3, k, np.float32) for k in range(4)}, path, metadata)
    return path


class DrawingGenerator:
    """Implements `generation.Generator`. jobs: all that it was asked for. broken: (side, prompt, seed) whose pictures come out
    as NaN, with "base" or "lora" as the side."""

    def __init__(self, *, model: str = "drawn-1", model_key: str = "", batch_size: int = 4) -> None:
        self.model, self.model_key = model, model_key
        self.batch_size = batch_size
        self.jobs: list[Job] = []
        self.broken: set[tuple[str, str, int]] = set()

    @property
    def fingerprint(self) -> str:
        return self.model

    @property
    def settings(self) -> dict[str, Any]:
        return {"model": self.model, "steps": STEPS, "size": f"{SIDE}x{SIDE}"}

    @property
    def steps(self) -> int:
        return STEPS

    @property
    def evaluations_per_image(self) -> int:
        return EVALUATIONS

    @property
    def base_jobs(self) -> list[Job]:
        return [job for job in self.jobs if not job.loras]

    @property
    def lora_jobs(self) -> list[Job]:
        return [job for job in self.jobs if job.loras]

    def suggest_batch_size(self) -> int:
        return self.batch_size

    def check_lora(self, lora: LoraUse) -> LoraFit:
        fitting = int(_metadata(lora.path)["fitting"])
        if fitting == 0:
            raise LoraError(f"LoRA does not fit: 0 of 4 keys in {lora.path.name} match.", "Pick another LoRA.")
        return LoraFit(matched=fitting, total=4, model="drawn")

    def prepare(self, jobs: Sequence[Job]) -> None:
        pass

    def generate(self, jobs: Sequence[Job], on_progress: OnProgress | None = None) -> Generated:
        for step in range(1, STEPS + 1):
            if on_progress is not None:
                on_progress(Progress(step * len(jobs), STEPS * len(jobs)))
        self.jobs.extend(jobs)
        images = torch.stack([self.picture(job) for job in jobs])
        return Generated(images, model_evaluations=EVALUATIONS * len(jobs))

    def picture(self, job: Job) -> Tensor:
        """[SIDE, SIDE, 3] in [0, 1]."""
        if ("lora" if job.loras else "base", job.prompt, job.seed) in self.broken:
            return torch.full((SIDE, SIDE, 3), torch.nan)
        picture = _patches(f"{job.seed} {job.prompt}")
        for word in job.triggers:
            picture[: SIDE // 4] = _patches(word)[: SIDE // 4]
        for lora in job.loras:
            metadata = _metadata(lora.path)
            share = min(lora.weight, float(metadata["saturates_at"])) * float(metadata["mix"])
            colour = metadata["breaks_to" if lora.weight > float(metadata["breaks_above"]) else "tint"]
            picture = (1 - share) * picture + share * torch.tensor(json.loads(colour))
        return picture


def _patches(seed_text: str) -> Tensor:
    numbers = np.random.default_rng(int.from_bytes(hashlib.sha256(seed_text.encode()).digest()[:8], "little"))
    coarse = numbers.random((8, 8, 3), dtype=np.float32)
    return torch.from_numpy(np.kron(coarse, np.ones((SIDE // 8, SIDE // 8, 1), np.float32)))


def _metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="np") as file:
        return file.metadata()
