"""What indexing asks of a text-to-image model, whatever runs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from .progress import OnProgress
from .records import LayerFit

if TYPE_CHECKING:
    from torch import Tensor


LEADING = "leading"
"""Name of the schedule that diffusers uses for SDXL by default, and the published protocol with it."""


@dataclass(frozen=True)
class Sampling:
    """How a picture is sampled. width, height: pixels; 0 for the model's native size. zero_negative: the unconditional side is
    zeros, not an encoded empty text."""

    steps: int
    cfg: float
    sampler_name: str
    scheduler: str
    width: int = 0
    height: int = 0
    zero_negative: bool = False


@dataclass(frozen=True)
class LoraUse:
    """A LoRA file applied with a weight, to the diffusion model and the text encoder alike."""

    path: Path
    weight: float


@dataclass(frozen=True)
class Job:
    """One picture. No `loras` is the base side. `triggers` are appended to the prompt, literally: ", " + each."""

    prompt: str
    seed: int
    loras: tuple[LoraUse, ...] = ()
    triggers: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Generated:
    """images: [B, H, W, 3] float, values in [0, 1], in the order of the jobs. model_evaluations: forward passes of the
    diffusion model that they took, all pictures together, cond and uncond counted one each."""

    images: Tensor
    model_evaluations: int


@dataclass(frozen=True)
class LoraFit:
    """How many of a LoRA file's tensors the model took. model: the model's name for people. of_other_shape: tensors that have
    the name of one of the model's layers, but do not fit its shape. layers: the same, counted by layer."""

    matched: int
    total: int
    model: str
    of_other_shape: int = 0
    layers: LayerFit | None = None

    @property
    def warning(self) -> str:
        """What of the LoRA is without effect on this model, for people; empty if all of it has one."""
        if self.matched == self.total:
            return ""
        shapes = f" ({self.of_other_shape} have its names and other shapes)" if self.of_other_shape else ""
        lacking = f"{self.total - self.matched} of {self.total} keys do not match this {self.model} model"
        return f"{lacking}{shapes} and are without effect"


class Generator(Protocol):
    """Same jobs, same pictures, whatever shares a batch: a picture's noise depends on its seed alone.

    fingerprint: names all that decides the base side's pictures (weights, text encoder, VAE, sampler, steps, cfg, size), so
    that features of them may be kept and used again. settings: the same facts, readable, for the protocol.
    """

    @property
    def fingerprint(self) -> str: ...

    @property
    def settings(self) -> dict[str, Any]: ...

    @property
    def steps(self) -> int: ...

    @property
    def evaluations_per_image(self) -> int: ...

    def suggest_batch_size(self) -> int: ...

    def check_lora(self, lora: LoraUse) -> LoraFit: ...

    def prepare(self, jobs: Sequence[Job]) -> None:
        """Called with what will be asked for next: a chance to do in one go what would be expensive batch by batch."""

    def generate(self, jobs: Sequence[Job], on_progress: OnProgress | None = None) -> Generated:
        """Make pictures. on_progress is called after each sampler step: steps done and steps in all, all pictures together."""
        ...
