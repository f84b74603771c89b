"""Pictures from ComfyUI's own loaded model. One of the two places where ComfyUI is known.

It does what the graph Load LoRA -> CLIP Text Encode -> KSampler -> VAE Decode does, for many pictures in one sampler call.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import comfy.lora
import comfy.lora_convert
import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from torch import Tensor

from ..errors import GenerationError, LoraError
from .base import LEADING, Generated, Job, LoraFit, LoraUse, OnStep
from .conditioning import Conditioning, form_of, joined, text_of, zeroed
from .fingerprint import Fingerprint

logger = logging.getLogger(__name__)

_BATCHED_SAMPLERS = frozenset(
    (
        "euler",
        "heun",
        "heunpp2",
        "dpm_2",
        "lms",
        "dpm_fast",
        "dpmpp_2m",
        "ddim",
        "uni_pc",
        "uni_pc_bh2",
        "ipndm",
        "ipndm_v",
        "deis",
    )
    + (
        "res_multistep",
        "gradient_estimation",
        "euler_cfg_pp",
        "dpmpp_2m_cfg_pp",
        "res_multistep_cfg_pp",
        "gradient_estimation_cfg_pp",
    )
)
"""Samplers that draw no noise of their own and treat each picture of a batch alone; others get one picture at a time."""

_NATIVE_SIZES = {"SD15": 512, "SD20": 768, "SD21UnclipL": 768, "SD21UnclipH": 768, "SDXL": 1024, "SD3": 1024, "Flux": 1024}
_DEFAULT_NATIVE_SIZE = 1024
_BATCH_SIZES = (16, 8, 4, 2)
_CPU_BATCH_SIZE = 4
_MEMORY_MARGIN = 1.5


class ComfyGenerator:
    """The Generator of ComfyUI's MODEL, CLIP and VAE. The three are cloned before anything is hung on them.

    width, height: pixels; 0 for the native size of the model's family. scheduler: one of ComfyUI's, or "leading", diffusers'
    default spacing for SDXL. zero_negative: zeros in place of the encoded empty negative, as diffusers does for SDXL.
    """

    def __init__(
        self,
        model: Any,
        clip: Any,
        vae: Any,
        *,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        width: int = 0,
        height: int = 0,
        zero_negative: bool = False,
    ) -> None:
        self._model, self._clip, self._vae = model, clip, vae
        self._steps, self._cfg, self._sampler_name, self._scheduler = steps, cfg, sampler_name, scheduler
        self._zero_negative = zero_negative
        self.width = width or native_size(model)
        self.height = height or native_size(model)
        self._compression = int(vae.spacial_compression_encode())
        if self.width % self._compression or self.height % self._compression:
            raise GenerationError(
                f"{self.width} x {self.height} is no size for this VAE.", f"Choose multiples of {self._compression}."
            )
        self._patched: tuple[tuple[LoraUse, ...], Any, Any] | None = None
        self._conditionings: dict[str, Conditioning] = {}
        self._max_batch: int | None = None
        self._evaluations = 0

    @property
    def steps(self) -> int:
        return self._steps

    @property
    def evaluations_per_image(self) -> int:
        """Forward passes that a picture takes with a sampler of one evaluation a step."""
        return self._steps * (1 if self._cfg == 1.0 else 2)

    @cached_property
    def model_fingerprint(self) -> str:
        """16 hex digits for MODEL, CLIP and VAE with all that is hung on them."""
        fingerprint = Fingerprint()
        for name, patcher in (("model", self._model), ("clip", self._clip.patcher), ("vae", self._vae.patcher)):
            fingerprint.add_tensors(_unpatched_weights(patcher))
            fingerprint.add(f"{name} patches", _described_patches(patcher))
            fingerprint.add(f"{name} options", patcher.model_options)
            fingerprint.add(f"{name} object patches", patcher.object_patches)
        fingerprint.add("clip layer", self._clip.layer_idx)
        fingerprint.add("tokenizer", self._clip.tokenizer_options)
        fingerprint.add("sampling", self._sigmas)
        return fingerprint.hexdigest()

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "model": self.model_fingerprint,
            "steps": self._steps,
            "cfg": self._cfg,
            "sampler": self._sampler_name,
            "scheduler": self._scheduler,
            "width": self.width,
            "height": self.height,
            **({"negative": "zeros"} if self._zero_negative else {}),
        }

    @cached_property
    def fingerprint(self) -> str:
        fingerprint = Fingerprint()
        fingerprint.add("settings", self.settings)
        return fingerprint.hexdigest()

    def suggest_batch_size(self) -> int:
        """The largest batch that fits into free memory by ComfyUI's own estimate."""
        if self._sampler_name not in _BATCHED_SAMPLERS:
            return 1
        device = self._model.load_device
        if comfy.model_management.is_device_cpu(device):
            return _CPU_BATCH_SIZE
        free = comfy.model_management.get_total_memory(device) - self._model.model_size()
        shape = list(self._empty_latent.shape[1:])
        for batch in _BATCH_SIZES:
            if self._model.model.memory_required([2 * batch, *shape]) * _MEMORY_MARGIN < free:
                return batch
        return 1

    def check_lora(self, lora: LoraUse) -> LoraFit:
        """Load a LoRA onto clones of model and text encoder and count what fitted. Raises LoraError if nothing did."""
        _, _, fit = self._apply(lora, self._model, self._clip)
        return fit

    def generate(self, jobs: Sequence[Job], on_step: OnStep | None = None) -> Generated:
        """Make pictures; see `Generator`. Raises LoraError for a LoRA that does not fit; on_step's errors pass through."""
        jobs = list(jobs)
        images: list[Tensor | None] = [None] * len(jobs)
        self._evaluations = 0
        done = 0
        for indices in self._groups(jobs):
            group = [jobs[index] for index in indices]

            def report(step: int, done: int = done, n: int = len(group)) -> None:
                comfy.model_management.throw_exception_if_processing_interrupted()
                if on_step is not None:
                    on_step(done + step * n, len(jobs) * self._steps)

            for index, image in zip(indices, self._sampled(group, report), strict=True):
                images[index] = image
            done += len(group) * self._steps
        return Generated(torch.stack([image for image in images if image is not None]), self._evaluations)

    def _groups(self, jobs: Sequence[Job]) -> Iterator[list[int]]:
        """Indices of jobs that can share a sampler call: same LoRAs, conditionings of one form."""
        limit = 1 if self._sampler_name not in _BATCHED_SAMPLERS else self._max_batch or len(jobs)
        groups: dict[Any, list[int]] = {}
        for index, job in enumerate(jobs):
            groups.setdefault(job.loras, []).append(index)
        for loras, members in groups.items():
            _, clip = self._with_loras(loras)
            by_form: dict[Any, list[int]] = {}
            for index in members:
                by_form.setdefault(form_of(self._encoded(clip, text_of(jobs[index]))), []).append(index)
            for alike in by_form.values():
                for start in range(0, len(alike), limit):
                    yield alike[start : start + limit]

    def _sampled(self, jobs: Sequence[Job], report: Callable[[int], None]) -> list[Tensor]:
        """Pictures of jobs that share a sampler call, in halves if memory does not suffice."""
        try:
            return list(self._sampled_together(jobs, report))
        except comfy.model_management.OOM_EXCEPTION as error:
            if len(jobs) == 1:
                raise GenerationError(
                    f"The GPU has too little memory for one picture of {self.width} x {self.height}.",
                    "Choose a smaller width and height, or close other programs that use the GPU.",
                ) from error
        half = (len(jobs) + 1) // 2
        logger.warning("carlos: out of memory with %d pictures at a time, going on with %d", len(jobs), half)
        comfy.model_management.soft_empty_cache()
        self._max_batch = half
        return self._sampled(jobs[:half], report) + self._sampled(jobs[half:], report)

    def _sampled_together(self, jobs: Sequence[Job], report: Callable[[int], None]) -> Tensor:
        model, clip = self._with_loras(jobs[0].loras)
        positive = joined([self._encoded(clip, text_of(job)) for job in jobs])
        negative = joined([zeroed(self._encoded(clip, "")) if self._zero_negative else self._encoded(clip, "")])
        # The noise a KSampler with that seed makes for one picture, whatever shares the batch.
        noise = torch.cat([comfy.sample.prepare_noise(self._empty_latent, job.seed) for job in jobs])
        if self._scheduler == LEADING:
            # diffusers starts from sqrt(sigma^2 + 1) * noise, ComfyUI below its highest level from sigma * noise.
            noise = noise * (1 + 1 / self._sigmas[0] ** 2).sqrt()
        model = model.clone()
        model.set_model_unet_function_wrapper(self._counting(model.model_options.get("model_function_wrapper")))
        latents = comfy.sample.sample(
            model,
            noise,
            self._steps,
            self._cfg,
            self._sampler_name,
            comfy.samplers.SCHEDULER_NAMES[0] if self._scheduler == LEADING else self._scheduler,
            positive,
            negative,
            torch.zeros_like(noise),
            sigmas=self._sigmas if self._scheduler == LEADING else None,
            callback=lambda step, x0, x, total: report(step + 1),
            disable_pbar=True,
            seed=jobs[0].seed,
        )
        images = self._vae.decode(latents)
        if images.ndim == 5:
            images = images[:, 0]
        return images

    def _counting(self, inner: Any) -> Callable[[Any, dict[str, Any]], Any]:
        """A model function that counts forward passes, around the one that the user's model may have already."""

        def counted(apply_model: Any, arguments: dict[str, Any]) -> Any:
            self._evaluations += int(arguments["input"].shape[0])
            if inner is not None:
                return inner(apply_model, arguments)
            return apply_model(arguments["input"], arguments["timestep"], **arguments["c"])

        return counted

    def _encoded(self, clip: Any, text: str) -> Conditioning:
        """Conditioning of a text under the text encoder in use, kept while that stays the same."""
        if text not in self._conditionings:
            encoded = clip.encode_from_tokens_scheduled(clip.tokenize(text))
            if len(encoded) != 1:
                raise GenerationError(
                    "This CLIP has a schedule of its own (hooks), so that a prompt is no single conditioning.",
                    "Index with the CLIP as the checkpoint loader gives it.",
                )
            self._conditionings[text] = (encoded[0][0], encoded[0][1])
        return self._conditionings[text]

    def _with_loras(self, loras: tuple[LoraUse, ...]) -> tuple[Any, Any]:
        """Model and text encoder with LoRAs applied, on clones; the last combination is kept."""
        if self._patched is None or self._patched[0] != loras:
            model, clip = self._model, self._clip
            for lora in loras:
                model, clip, _ = self._apply(lora, model, clip)
            self._patched = (loras, model, clip)
            self._conditionings = {}
        return self._patched[1], self._patched[2]

    def _apply(self, lora: LoraUse, model: Any, clip: Any) -> tuple[Any, Any, LoraFit]:
        return apply_lora(model, clip, load_lora(lora.path), lora.path.name, lora.weight, lora.weight)

    @cached_property
    def _empty_latent(self) -> Tensor:
        """Zeros of one picture's latent, in the model's own number of channels."""
        flat = torch.zeros(1, 4, self.height // self._compression, self.width // self._compression)
        return comfy.sample.fix_empty_latent_channels(self._model, flat)

    @property
    def _sigmas(self) -> Tensor:
        """The noise levels of the schedule: they tell of any change to the model's sampling."""
        sampling = self._model.get_model_object("model_sampling")
        if self._scheduler == LEADING:
            return _leading_sigmas(sampling, self._steps)
        return comfy.samplers.calculate_sigmas(sampling, self._scheduler, self._steps)


class _ReadKeys(dict[str, Tensor]):
    """A LoRA's tensors that remembers which of them were taken: ComfyUI only logs those that do not fit."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__(tensors)
        self.taken: set[str] = set()

    def __getitem__(self, key: str) -> Tensor:
        self.taken.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        if key in self:
            self.taken.add(key)
        return super().get(key, default)


def load_lora(path: Path) -> dict[str, Tensor]:
    """Tensors of a LoRA file. Raises LoraError when it cannot be read."""
    try:
        return comfy.utils.load_torch_file(str(path), safe_load=True)
    except Exception as error:  # ComfyUI passes on whatever the format's reader raises; none of it is a cancel
        raise LoraError(f"The LoRA {path.name} cannot be loaded ({error}).", "Check that the file is whole.") from error


def apply_lora(
    model: Any, clip: Any, tensors: dict[str, Tensor], name: str, weight: float, clip_weight: float
) -> tuple[Any, Any, LoraFit]:
    """Clones of model and text encoder (either may be None) with a LoRA applied, and how much of it fitted.

    Raises LoraError, with the counts, if none of its tensors fits the model.
    """
    key_map: dict[str, Any] = {}
    if model is not None:
        key_map = comfy.lora.model_lora_keys_unet(model.model, key_map)
    if clip is not None:
        key_map = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, key_map)
    read = _ReadKeys(comfy.lora_convert.convert_lora(dict(tensors)))
    patches = comfy.lora.load_lora(read, key_map, log_missing=False)
    patched = set()
    if model is not None:
        model = model.clone()
        patched |= set(model.add_patches(patches, weight))
    if clip is not None:
        clip = clip.clone()
        patched |= set(clip.add_patches(patches, clip_weight))
    fit = LoraFit(
        matched=len(read.taken) if patched else 0, total=len(read), model=family_of_model(model) if model is not None else ""
    )
    if fit.matched == 0:
        raise LoraError(
            f"LoRA does not fit: 0 of {fit.total} keys in '{name}' match this {fit.model or 'text encoder'} model.",
            "Load a checkpoint of the LoRA's own family, or pick another LoRA.",
        )
    return model, clip, fit


def native_size(model: Any) -> int:
    """Side, in pixels, of the pictures that a model's family was trained on."""
    names = [base.__name__ for base in type(model.model.model_config).__mro__]
    return next((_NATIVE_SIZES[name] for name in names if name in _NATIVE_SIZES), _DEFAULT_NATIVE_SIZE)


def family_of_model(model: Any) -> str:
    """ComfyUI's own name for what kind of model is loaded, e.g. "SDXL" or "SD3"."""
    return type(model.model.model_config).__name__


def is_guidance_distilled(model: Any) -> bool:
    """Whether a model takes its guidance as an input and wants no CFG, as Flux does."""
    return bool(model.model.model_config.unet_config.get("guidance_embed", False))


def has_timesteps(model: Any) -> bool:
    """Whether a model was trained on numbered timesteps (SD 1.5, SD 2, SDXL), which "leading" counts by."""
    return hasattr(model.get_model_object("model_sampling"), "num_timesteps")


def _leading_sigmas(sampling: Any, steps: int) -> Tensor:
    """diffusers' "leading" spacing with an offset of 1: every (T / steps)-th timestep from the lowest, then zero."""
    stride = int(sampling.num_timesteps) // steps
    timesteps = torch.arange(steps - 1, -1, -1) * stride + 1
    return torch.cat([sampling.sigma(timesteps).float().cpu(), torch.zeros(1)])


def _unpatched_weights(patcher: Any) -> Iterator[tuple[str, Tensor]]:
    """A model's own weights, also while a LoRA is patched into them: ComfyUI keeps the originals aside."""
    for name, tensor in patcher.model.state_dict().items():
        kept = patcher.backup.get(name)
        yield name, tensor if kept is None else kept.weight


def _described_patches(patcher: Any) -> dict[str, Any]:
    """Patches that came with the model, e.g. a LoRA that the user applied before: weights and strengths."""
    return {
        key: [(strength, getattr(patch, "weights", patch), strength_model) for strength, patch, strength_model, *_ in patches]
        for key, patches in patcher.patches.items()
    }
