"""What indexing needs from a text-to-image model, whatever program runs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from .errors import LoraError
from .progress import OnProgress

if TYPE_CHECKING:
    from torch import Tensor


LEADING = "leading"
"""Name of the schedule that diffusers uses for SDXL by default. The published protocol uses it too."""


@dataclass(frozen=True)
class Sampling:
    """How a picture is sampled."""

    steps: int
    """Sampler steps, >= 1."""
    cfg: float
    """Scale of classifier-free guidance; 1 is without guidance."""
    sampler_name: str
    """As the program that runs the model calls it."""
    scheduler: str
    """As the program that runs the model calls it, or `LEADING`."""
    width: int = 0
    """Pixels; 0 for the model's native size."""
    height: int = 0
    """Pixels; 0 for the model's native size."""
    zero_negative: bool = False
    """The unconditional side is zeros, not an encoded empty text."""

    @property
    def evaluations_per_image(self) -> int:
        """Forward passes that a picture takes with a sampler of one evaluation in each step: cond and uncond one each."""
        return self.steps * (1 if self.cfg == 1.0 else 2)

    def facts(self, width: int, height: int) -> dict[str, Any]:
        """For a generator's `settings`. width, height: of its pictures, native where they are 0 here."""
        return {
            "steps": self.steps,
            "cfg": self.cfg,
            "sampler": self.sampler_name,
            "scheduler": self.scheduler,
            "width": width,
            "height": height,
            **({"negative": "zeros"} if self.zero_negative else {}),
        }


@dataclass(frozen=True)
class LoraUse:
    """A LoRA file applied with a weight, to the diffusion model and the text encoder alike."""

    path: Path
    weight: float


@dataclass(frozen=True)
class Job:
    """One picture to be made."""

    prompt: str
    seed: int
    loras: tuple[LoraUse, ...] = ()
    """LoRAs to apply, in this order. Without any, the picture belongs to the base side."""
    triggers: tuple[str, ...] = ()
    """Trigger words, appended to the prompt literally: ", " + each."""


@dataclass(frozen=True, eq=False)
class Generated:
    """Pictures that were made, and what they cost."""

    images: Tensor
    """[B, H, W, 3] float, values in [0, 1], in the order of the jobs."""
    model_evaluations: int
    """Forward passes of the diffusion model, for all pictures together. Cond and uncond count as one each."""
    warm_up_evaluations: int = 0
    """Further ones whose results were thrown away."""


@dataclass(frozen=True)
class LoraFit:
    """How many of a LoRA file's tensors the model took."""

    matched: int
    """Tensors that the model took."""
    total: int
    """Tensors in the file."""
    model: str
    """The model's name for people; empty if there is only a text encoder."""
    of_other_shape: int = 0
    """Tensors that have the name of one of the model's layers, but do not fit its shape."""

    @property
    def warning(self) -> str:
        """Which part of the LoRA has no effect on this model, in words; empty if all of it has an effect."""
        if self.matched == self.total:
            return ""
        shapes = f" ({self.of_other_shape} have its names and other shapes)" if self.of_other_shape else ""
        lacking = f"{self.total - self.matched} of {self.total} keys do not match this {self.model} model"
        return f"{lacking}{shapes} and are without effect"

    def check(self, file_name: str, n_broken: int) -> None:
        """Raises LoraError, with the counts, if the model took nothing of a file, or something that is not finite.

        n_broken: how many of the tensors that it took hold a value that is not.
        """
        if not self.matched:
            shapes = f"; {self.of_other_shape} have its names and other shapes" if self.of_other_shape else ""
            model = self.model or "text encoder"
            raise LoraError(
                f"LoRA does not fit: 0 of {self.total} keys in '{file_name}' match this {model} model{shapes}.",
                "Load a checkpoint of the LoRA's own family and size, or pick another LoRA.",
            )
        if n_broken:
            what = (
                f"{n_broken} of {self.matched} keys of '{file_name}' hold NaN or infinity: all pictures with it would be broken."
            )
            raise LoraError(what, "Download it again, or delete it.")


class Generator(Protocol):
    """Makes pictures. The same jobs give the same pictures, whatever shares a batch: a picture's noise depends only on its seed.

    fingerprint: a name for everything that decides the base side's pictures (weights, text encoder, VAE, sampler, steps, cfg,
    size), so that their features can be kept and used again. settings: the same facts in readable form, for the protocol; what
    stands for the weights is its "model". model_key: what a LoRA must fit, the same for every checkpoint of one architecture and
    size; empty if that is not known.
    """

    @property
    def fingerprint(self) -> str: ...

    @property
    def settings(self) -> dict[str, Any]: ...

    @property
    def model_key(self) -> str: ...

    @property
    def steps(self) -> int: ...

    @property
    def evaluations_per_image(self) -> int: ...

    def suggest_batch_size(self) -> int: ...

    def check_lora(self, lora: LoraUse) -> LoraFit:
        """Load a LoRA. Its next pictures show what its file holds now, even if it is changed meanwhile."""
        ...

    def prepare(self, jobs: Sequence[Job]) -> None:
        """Called with the jobs that come next: a chance to do at once what would be expensive batch by batch."""

    def generate(self, jobs: Sequence[Job], on_progress: OnProgress | None = None) -> Generated:
        """Make pictures. on_progress: called after each sampler step, with steps done and in total, for all pictures together."""
        ...


@dataclass(frozen=True)
class Environment:
    """What a generator runs on, beside the model and its settings: pictures may differ in their last bits from one to another."""

    host: str
    """The program that runs the model, with its version."""
    torch: str
    """Version of torch."""
    device: str
    """The device's name."""
    weights: str
    """Type of the model's weights, e.g. "bfloat16"."""
    dynamic_vram: bool
    """Whether the host moves weights in and out while the model runs."""
    checkpoint: str = ""
    """A name for the model's weights and what is attached to them, equal for every number of steps; empty if it is not known."""


@runtime_checkable
class OnDevice(Protocol):
    """A generator that knows what it runs on, and whose model can be unloaded."""

    @property
    def environment(self) -> Environment: ...

    def unload(self) -> None:
        """Take the model off its device; the next picture loads it again."""
