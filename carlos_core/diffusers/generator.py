"""The Generator of a pipeline of diffusers: indexing without ComfyUI."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any

import diffusers
import torch
from torch import Tensor

from ..errors import GenerationError
from ..generator import Environment, Generated, Job, LoraFit, LoraUse, Sampling
from ..memory import halved, in_parts, unless_too_many
from ..picture_jobs import StepReporter, places_by_side, texts_by_side, too_little_memory_said
from ..progress import OnProgress
from .model import DiffusersModel, Side
from .quiet import quiet
from .schedules import schedule_of
from .texts import form_of, zeroed

logger = logging.getLogger(__name__)

GENERATOR = "diffusers"
"""What a protocol says of rows whose pictures were made here."""

_BATCH_SIZES = (16, 8, 4, 2)
_CPU_BATCH_SIZE = 4
_MEMORY_MARGIN = 1.2
_PIXELS_DECODED = 1 << 20
"""At a time: an autoencoder takes several times the memory of a step of the diffusion model."""


class DiffusersGenerator:
    """The Generator of a `DiffusersModel` (`loading.load_model`), by a sampling in ComfyUI's names."""

    def __init__(self, model: DiffusersModel, sampling: Sampling) -> None:
        """Raises GenerationError for a size that the model cannot make."""
        self._model, self._sampling = model, sampling
        pipe, family = model.pipe, model.family
        native = family.native_size(pipe)
        self.width, self.height = sampling.width or native, sampling.height or native
        multiple = family.multiple(pipe)
        if self.width % multiple or self.height % multiple:
            raise GenerationError(
                f"{self.width} x {self.height} is not a size for this model.", f"Choose multiples of {multiple}."
            )
        self._arguments = family.guidance(pipe, sampling.cfg)
        self._schedule = schedule_of(pipe.scheduler.config, sampling, is_flow=family.is_flow, levels=family.levels)
        self._max_batch: int | None = None
        self._evaluations = 0

    @property
    def steps(self) -> int:
        return self._sampling.steps

    @property
    def evaluations_per_image(self) -> int:
        return self._sampling.evaluations_per_image

    @property
    def model_key(self) -> str:
        """What a LoRA must fit: the same as ComfyUI's generator gives for the same model."""
        return self._model.model_key

    @property
    def settings(self) -> dict[str, Any]:
        named = {"sampler": self._schedule.sampler_name, "scheduler": self._schedule.scheduler_name}
        facts = self._sampling.facts(self.width, self.height)
        return {"generator": GENERATOR, "model": self._model_fingerprint, **facts, **named}

    @cached_property
    def _model_fingerprint(self) -> str:
        """The weights with what they were trained to tell: the same weights read in another way are another model."""
        return hashlib.sha256(json.dumps([self._model.fingerprint, self._schedule.trained]).encode()).hexdigest()[:16]

    @cached_property
    def fingerprint(self) -> str:
        facts = json.dumps([self.settings, _plain(self._schedule.scheduler.config)], sort_keys=True, default=repr)
        return hashlib.sha256(facts.encode()).hexdigest()[:16]

    @cached_property
    def environment(self) -> Environment:
        device = self._model.device
        return Environment(
            host=f"diffusers {diffusers.__version__}",
            torch=torch.__version__,
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            weights=str(self._model.dtype).removeprefix("torch."),
            dynamic_vram=False,
            checkpoint=self._model.fingerprint,
        )

    def unload(self) -> None:
        """Take the model off the device."""
        self._model.unload()

    @torch.inference_mode()
    def suggest_batch_size(self) -> int:
        """The largest batch that fits into memory, by what one step of a single picture takes."""
        device = self._model.device
        if device.type != "cuda":
            return _CPU_BATCH_SIZE
        self._model.load()
        side = self._model.side(())
        side.texts.prepare([""])
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        self._run(side, [Job("", 0)], 1, StepReporter(1, None))
        taken = torch.cuda.max_memory_allocated(device) - before
        self._evaluations = 0
        free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return next((batch for batch in _BATCH_SIZES if batch * taken * _MEMORY_MARGIN < free), 1)

    def check_lora(self, lora: LoraUse) -> LoraFit:
        """Load a LoRA and count what fitted. Raises LoraError if nothing did.

        From now on its pictures are those of its file as it is now.
        """
        self._model.forget_changed(lora.path)
        return self._model.side((lora,)).fits[0]

    @torch.inference_mode()
    def prepare(self, jobs: Sequence[Job]) -> None:
        """Encode the texts of the next jobs at once, several at a time."""
        for loras, texts in texts_by_side(jobs, text_of).items():
            self._model.side(loras).texts.prepare(texts)

    @torch.inference_mode()
    def generate(self, jobs: Sequence[Job], on_progress: OnProgress | None = None) -> Generated:
        """Make pictures; see `Generator`.

        Raises LoraError for a LoRA that does not fit, and GenerationError if there is too little memory for one picture.
        """
        self._evaluations = 0
        self._model.load()
        reporter = StepReporter(len(jobs) * self._sampling.steps, on_progress)
        images: dict[int, Tensor] = {}
        with too_little_memory_said(self.width, self.height):
            for loras, places in places_by_side(jobs).items():
                latents = self._sampled(self._model.side(loras), [jobs[place] for place in places], reporter)
                images |= zip(places, self._decoded(latents), strict=True)
        return Generated(torch.stack([images[place] for place in range(len(jobs))]), self._evaluations)

    def _sampled(self, side: Side, jobs: Sequence[Job], reporter: StepReporter) -> Tensor:
        """Latents of jobs of one side, in as few sampler calls as the texts and the memory allow."""
        groups: dict[Any, list[int]] = {}
        for place, job in enumerate(jobs):
            groups.setdefault(form_of(side.texts.encoded(text_of(job))), []).append(place)
        latents: dict[int, Tensor] = {}
        open_parts = list(groups.values())
        while open_parts:
            part = open_parts.pop(0)
            limit = self._max_batch or len(part)
            if len(part) > limit:
                open_parts[:0] = [part[start : start + limit] for start in range(0, len(part), limit)]
                continue
            together = partial(self._run, side, [jobs[place] for place in part], self._sampling.steps, reporter)
            made = unless_too_many(together, len(part))
            if made is None:
                self._halve(len(part))
                open_parts.insert(0, part)
                continue
            latents |= zip(part, made, strict=True)
            reporter.done += len(part) * self._sampling.steps
        return torch.stack([latents[place] for place in range(len(jobs))])

    def _run(self, side: Side, jobs: Sequence[Job], steps: int, reporter: StepReporter) -> Tensor:
        """Latents of one call of the pipeline, [B, C, h, w], after the first so many steps."""
        model, sampling = self._model, self._sampling
        pipe, family = model.pipe, model.family
        texts = family.joined([side.texts.encoded(text_of(job)) for job in jobs])
        if sampling.cfg != 1.0:
            empty = side.texts.encoded("")
            negative = family.joined([zeroed(empty) if sampling.zero_negative else empty] * len(jobs))
            texts |= {f"negative_{name}": value for name, value in negative.items()}
        model.put_in(side)
        shape = family.latent_shape(pipe, self.height, self.width)
        # The noise that ComfyUI's KSampler makes for one picture with this seed.
        noise = torch.cat([torch.randn(1, *shape, generator=torch.Generator().manual_seed(job.seed)) for job in jobs])
        latents = family.packed(pipe, noise).to(model.device, model.dtype)
        is_whole = steps == sampling.steps

        def after_step(_pipe: Any, step: int, _time: Any, values: dict[str, Any]) -> dict[str, Any]:
            reporter.step((step + 1) * len(jobs))
            pipe._interrupt = not is_whole and step + 1 >= steps
            return values

        pipe.scheduler = self._schedule.scheduler
        sigmas = {"sigmas": self._schedule.sigmas} if self._schedule.sigmas is not None else {}
        counter = model.denoiser.register_forward_pre_hook(self._count, with_kwargs=True)
        try:
            with quiet():
                made = pipe(
                    **texts,
                    **self._arguments,
                    **sigmas,
                    latents=latents,
                    num_inference_steps=sampling.steps,
                    height=self.height,
                    width=self.width,
                    output_type="latent",
                    callback_on_step_end=after_step,
                    return_dict=False,
                )[0]
        finally:
            counter.remove()
        return family.unpacked(pipe, made, self.height, self.width)

    def _count(self, _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = args[0] if args else kwargs["hidden_states" if "hidden_states" in kwargs else "sample"]
        self._evaluations += len(given)

    def _decoded(self, latents: Tensor) -> Tensor:
        at_once = max(1, _PIXELS_DECODED // (self.width * self.height))
        return in_parts(self._model.decoded, latents, min(at_once, self._max_batch or at_once), self._halve)

    def _halve(self, pictures: int) -> int:
        """Half as many pictures as were too many at a time: so many from now on, also in later batches."""
        self._max_batch = halved(pictures, "pictures")
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()
        return self._max_batch


def text_of(job: Job) -> str:
    """Prompt and trigger words as the tokenizers get them: brackets have no meaning here, and need no escape."""
    return ", ".join([job.prompt, *job.triggers])


def _plain(config: Any) -> dict[str, Any]:
    return {key: value for key, value in dict(config).items() if not key.startswith("_")}
