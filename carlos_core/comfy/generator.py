"""The Generator of ComfyUI's loaded model.

It does what the graph Load LoRA -> CLIP Text Encode -> KSampler -> VAE Decode does, for many pictures in one sampler call.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import torch
from comfyui_version import __version__ as comfyui_version
from torch import Tensor

from ..errors import GenerationError
from ..generator import LEADING, Environment, Generated, Job, LoraFit, LoraUse, Sampling
from ..memory import halved, in_parts, unless_too_many
from ..picture_jobs import FileStates, StepReporter, places_by_side, states_of, texts_by_side, too_little_memory_said
from ..progress import OnProgress
from .batch_size import BATCHED_SAMPLERS, has_dynamic_vram, largest_batch
from .conditioning import Conditioning, text_of, zeroed
from .families import check_makes_pictures, native_size
from .fingerprint import Fingerprint, model_fingerprints
from .layers import model_key
from .patching import apply_lora, in_memory, load_lora
from .shared_batch import NotAlikeError, SharedBatches
from .texts import Texts

logger = logging.getLogger(__name__)

_SIDES_KEPT = 3


@dataclass(eq=False)
class _Side:
    """Model and text encoder with some LoRAs applied (none: the base side)."""

    model: Any
    fits: tuple[LoraFit, ...]
    texts: Texts
    """Shared with the base side if the LoRAs do not touch the text encoder."""

    files: FileStates
    """`_states_of` the LoRAs before they were read."""


@dataclass
class _Count:
    """Forward passes of the diffusion model.

    It is not part of the generator. A model that held the generator would be freed only by the garbage collector, in no order;
    ComfyUI would then take it for a leak and collect garbage at every later load.
    """

    evaluations: int = 0
    warm_up: int = 0
    """Those whose results are thrown away."""


class _Reporter(StepReporter):
    """Asks at each step whether the user has cancelled."""

    def step(self, further: int) -> None:
        """Raises ComfyUI's exception if the user has cancelled."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        super().step(further)


class ComfyGenerator:
    """The Generator of ComfyUI's MODEL, CLIP and VAE. LoRAs are applied to clones of MODEL and CLIP."""

    def __init__(self, model: Any, clip: Any, vae: Any, sampling: Sampling) -> None:
        """Nothing is loaded yet. Raises GenerationError if the model makes no pictures from text, or the VAE not of this size.

        Args:
            model: ComfyUI's MODEL.
            clip: ComfyUI's CLIP.
            vae: ComfyUI's VAE.
            sampling: its sampler and scheduler are ComfyUI's, or the scheduler is "leading", diffusers' default spacing for
                SDXL.
        """
        check_makes_pictures(model)
        self._model, self._clip, self._vae = model, clip, vae
        self._sampling = sampling
        self.width = sampling.width or native_size(model)
        self.height = sampling.height or native_size(model)
        self._compression = int(vae.spacial_compression_encode())
        if self.width % self._compression or self.height % self._compression:
            raise GenerationError(
                f"{self.width} x {self.height} is not a size for this VAE.", f"Choose multiples of {self._compression}."
            )
        self._sides: dict[tuple[LoraUse, ...], _Side] = {}
        self._max_batch: int | None = None if sampling.sampler_name in BATCHED_SAMPLERS else 1
        self._shared = SharedBatches()
        self._count = _Count()

    @property
    def steps(self) -> int:
        return self._sampling.steps

    @property
    def evaluations_per_image(self) -> int:
        return self._sampling.evaluations_per_image

    @property
    def model_fingerprint(self) -> str:
        """16 hex digits for MODEL, CLIP and VAE with everything attached to them, and the noise levels."""
        return self._fingerprints[1]

    @cached_property
    def _fingerprints(self) -> tuple[str, str]:
        return model_fingerprints(self._model, self._clip, self._vae, self._sigmas)

    @cached_property
    def model_key(self) -> str:
        """What a LoRA must fit: the class of the MODEL and the shapes of its layers."""
        return model_key(self._model)

    @property
    def settings(self) -> dict[str, Any]:
        return {"model": self.model_fingerprint, **self._sampling.facts(self.width, self.height)}

    @cached_property
    def fingerprint(self) -> str:
        fingerprint = Fingerprint()
        fingerprint.add("settings", self.settings)
        return fingerprint.hexdigest()

    @cached_property
    def environment(self) -> Environment:
        """What pictures are made on."""
        device = self._model.load_device
        return Environment(
            host=f"ComfyUI {comfyui_version}",
            torch=torch.__version__,
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            weights=str(self._model.model_dtype()).removeprefix("torch."),
            dynamic_vram=has_dynamic_vram(self._model),
            checkpoint=self._fingerprints[0],
        )

    def unload(self) -> None:
        """Take all models off the device."""
        comfy.model_management.unload_all_models()

    def suggest_batch_size(self) -> int:
        """The largest batch that fits into memory by ComfyUI's own estimate, once other models have made room."""
        return 1 if self._sampling.sampler_name not in BATCHED_SAMPLERS else largest_batch(self._model, self._empty_latent)

    def check_lora(self, lora: LoraUse) -> LoraFit:
        """Apply a LoRA to clones of model and text encoder, and count what fitted. Raises LoraError if nothing did.

        From now on its pictures are those of its file as it is now.
        """
        for loras in [loras for loras in self._sides if any(use.path == lora.path for use in loras)]:
            if self._sides[loras].files != states_of(loras):
                del self._sides[loras]
        return self._side((lora,)).fits[0]

    def prepare(self, jobs: Sequence[Job]) -> None:
        """Encode the texts of the next jobs at once, so that a small GPU does not have to change models at every batch."""
        for loras, texts in texts_by_side(jobs, text_of).items():
            self._side(loras).texts.prepare(texts)

    def generate(self, jobs: Sequence[Job], on_progress: OnProgress | None = None) -> Generated:
        """Make pictures; see `Generator`.

        Raises LoraError for a LoRA that does not fit, and GenerationError if there is too little memory for one picture.
        """
        self._count.evaluations = self._count.warm_up = 0
        reporter = _Reporter(len(jobs) * self._sampling.steps, on_progress)
        by_side = places_by_side(jobs)
        images: dict[int, Tensor] = {}
        with too_little_memory_said(self.width, self.height):
            for loras, places in by_side.items():
                decoded = self._decoded(self._sampled(self._side(loras), [jobs[place] for place in places], reporter))
                if len(by_side) == 1:
                    return Generated(decoded, self._count.evaluations, self._count.warm_up)
                images |= zip(places, decoded, strict=True)
        made = torch.stack([images[place] for place in range(len(jobs))])
        return Generated(made, self._count.evaluations, self._count.warm_up)

    def _sampled(self, side: _Side, jobs: Sequence[Job], reporter: _Reporter) -> Tensor:
        """Latents of jobs of one side, in as few sampler calls as the sampler, the texts and the memory allow."""
        texts = [side.texts.conditioning(text_of(job)) for job in jobs]
        latents: dict[int, Tensor] = {}
        open_parts = [list(range(len(jobs)))]
        while open_parts:
            part = open_parts.pop(0)
            limit = self._max_batch or len(part)
            groups = self._shared.groups([texts[place] for place in part])
            if len(groups) > 1 or len(part) > limit:
                found = [[part[index] for index in group] for group in groups]
                open_parts[:0] = [group[start : start + limit] for group in found for start in range(0, len(group), limit)]
                continue
            together = partial(
                self._sampled_together, side, [texts[place] for place in part], [jobs[place].seed for place in part], reporter
            )
            try:
                made = unless_too_many(together, len(part))
            except NotAlikeError:
                if len(self._shared.groups([texts[place] for place in part])) == 1:
                    open_parts[:0] = [[place] for place in part]
                else:
                    open_parts.insert(0, part)
                continue
            if made is None:
                self._halve(len(part))
                open_parts.insert(0, part)
                continue
            latents |= zip(part, made, strict=True)
            reporter.done += len(part) * self._sampling.steps
        return torch.stack([latents[place] for place in range(len(jobs))])

    def _decoded(self, latents: Tensor) -> Tensor:
        """Pictures of latents, [B, H, W, 3]."""

        def decode(part: Tensor) -> Tensor:
            images: Tensor = self._vae.decode(part)
            # A video of one frame has one more dimension.
            return images[:, 0] if images.ndim == 5 else images

        return in_parts(decode, latents, self._max_batch or len(latents), self._halve)

    def _halve(self, pictures: int) -> int:
        """Half as many pictures as were too many at a time: so many from now on, also in later batches."""
        self._max_batch = halved(pictures, "pictures")
        comfy.model_management.soft_empty_cache()
        return self._max_batch

    def _sampled_together(self, side: _Side, texts: Sequence[Conditioning], seeds: Sequence[int], reporter: _Reporter) -> Tensor:
        """Latents of one sampler call. Raises NotAlikeError."""
        positive = self._shared.conditioning_of(texts)
        empty = side.texts.conditioning("")
        negative = self._shared.conditioning_of([zeroed(empty) if self._sampling.zero_negative else empty])
        # The noise that a KSampler with this seed makes for one picture, whatever shares the batch.
        noise = torch.cat([comfy.sample.prepare_noise(self._empty_latent, seed) for seed in seeds])
        if self._sampling.scheduler == LEADING:
            # diffusers starts from sqrt(sigma^2 + 1) * noise. Below its highest level, ComfyUI starts from sigma * noise.
            noise = noise * (1 + 1 / self._sigmas[0] ** 2).sqrt()
        if not self._is_warm(side):
            self._warm_up(side, noise[:1], self._shared.conditioning_of(texts[:1]), negative)
        steps, sigmas = self._sampling.steps, self._sigmas if self._sampling.scheduler == LEADING else None
        return self._latents(
            side,
            noise,
            (positive, negative),
            (self._sampling.sampler_name, steps, sigmas),
            seed=seeds[0],
            callback=lambda step, x0, x, total: reporter.step((step + 1) * len(seeds)),
        )

    def _latents(
        self, side: _Side, noise: Tensor, conditionings: tuple[Any, Any], way: tuple[str, int, Tensor | None], **further: Any
    ) -> Tensor:
        """Latents of one sampler call. way: sampler, steps, and the noise levels, unless they are those of the scheduler."""
        sampler, steps, sigmas = way
        is_own = self._sampling.scheduler == LEADING
        scheduler = comfy.samplers.SCHEDULER_NAMES[0] if is_own else self._sampling.scheduler
        empty = torch.zeros_like(noise)
        settings = (steps, self._sampling.cfg, sampler, scheduler, *conditionings, empty)
        return comfy.sample.sample(side.model, noise, *settings, sigmas=sigmas, disable_pbar=True, **further)

    def _is_warm(self, side: _Side) -> bool:
        """Whether a side's model is loaded with its LoRAs, as far as ComfyUI's list says.

        Weights that were moved out since do not show in it. On the CPU it makes no difference.
        """
        loaded = comfy.model_management.current_loaded_models
        return comfy.model_management.is_device_cpu(side.model.load_device) or any(each.model is side.model for each in loaded)

    def _warm_up(self, side: _Side, noise: Tensor, positive: Any, negative: Any) -> None:
        """One step of one picture, which is thrown away.

        On a GPU the first picture after loading differs a little from all later ones (H200, SDXL's layout: by a mean of 0.40 of
        255), and the first one with a LoRA on 8-bit weights under dynamic VRAM by 2.4 of 255, a tenth of that LoRA's effect.
        After one step there is no difference (`benchmarks/results/gpu.md`).
        """
        before = self._count.evaluations
        self._latents(side, noise, (positive, negative), ("euler", 1, self._sigmas[:2]), seed=0)
        self._count.warm_up += self._count.evaluations - before
        self._count.evaluations = before

    def _side(self, loras: tuple[LoraUse, ...]) -> _Side:
        """Model and text encoder with LoRAs applied, on clones; the last few combinations are kept."""
        side = self._sides.pop(loras, None)
        if side is None:
            model, clip, files = self._model, self._clip, states_of(loras)
            fits = []
            for lora in loras:
                tensors = in_memory(load_lora(lora.path))
                model, clip, fit = apply_lora(model, clip, tensors, lora.path.name, lora.weight, lora.weight)
                fits.append(fit)
            model = model.clone()
            model.set_model_unet_function_wrapper(_counting(model.model_options.get("model_function_wrapper"), self._count))
            self._shared.attach(model)
            has_own_texts = not loras or clip is not self._clip
            side = _Side(model, tuple(fits), Texts(clip) if has_own_texts else self._side(()).texts, files)
            while len(self._sides) >= _SIDES_KEPT:
                del self._sides[next(iter(self._sides))]
        self._sides[loras] = side
        return side

    @cached_property
    def _empty_latent(self) -> Tensor:
        """Zeros of one picture's latent, in the model's own number of channels."""
        flat = torch.zeros(1, 4, self.height // self._compression, self.width // self._compression)
        return comfy.sample.fix_empty_latent_channels(self._model, flat)

    @cached_property
    def _sigmas(self) -> Tensor:
        """The noise levels of the schedule, which show any change to the model's sampling.

        They are always computed on the CPU. The model's `model_sampling` moves to the GPU with it, where they differ by 5e-7; a
        model would then have another fingerprint once it has made a picture.
        """
        sampling = copy.deepcopy(self._model.get_model_object("model_sampling")).to("cpu")
        if self._sampling.scheduler == LEADING:
            return _leading_sigmas(sampling, self._sampling.steps)
        return comfy.samplers.calculate_sigmas(sampling, self._sampling.scheduler, self._sampling.steps)


def _counting(inner: Any, count: _Count) -> Callable[[Any, dict[str, Any]], Any]:
    """A model function that counts forward passes, around the one that the user's model may already have."""

    def counted(apply_model: Any, arguments: dict[str, Any]) -> Any:
        count.evaluations += int(arguments["input"].shape[0])
        if inner is not None:
            return inner(apply_model, arguments)
        return apply_model(arguments["input"], arguments["timestep"], **arguments["c"])

    return counted


def _leading_sigmas(sampling: Any, steps: int) -> Tensor:
    """diffusers' "leading" spacing with an offset of 1: every (T / steps)-th timestep from the lowest, then zero."""
    stride = int(sampling.num_timesteps) // steps
    timesteps = torch.arange(steps - 1, -1, -1) * stride + 1
    return torch.cat([sampling.sigma(timesteps).float().cpu(), torch.zeros(1)])
