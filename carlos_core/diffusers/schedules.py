"""Samplers and schedules by ComfyUI's names, as diffusers' schedulers.

With Euler's method and the schedules that are known here, the noise levels are ComfyUI's own. For others the nearest is taken,
and named as what it is.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from diffusers import DPMSolverMultistepScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

from ..generator import LEADING, Sampling

_RHO = 7.0
"""Of the schedule of Karras et al. (arXiv 2206.00364)."""

_EULER = ("euler", "ddim")
"""Samplers that are Euler's method; without noise of its own, DDIM is the same."""


_PLAIN = {
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "use_lu_lambdas": False,
    "use_flow_sigmas": False,
    "stochastic_sampling": False,
    "algorithm_type": "dpmsolver++",
}
"""Options of schedulers that a model's repository may set: other levels than the named ones, and noise of the whole batch."""

_SHIFTING = ("base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len", "time_shift_type", "shift_terminal")
"""What else decides a flow's levels where they depend on the picture's size."""


class _WholeSteps(EulerDiscreteScheduler):  # type: ignore[misc]
    """Euler's method at given noise levels. The model is told the nearest of the levels that it was trained on."""

    # The pipelines look for these names.
    def set_timesteps(
        self, num_inference_steps: Any = None, device: Any = None, timesteps: Any = None, sigmas: Any = None
    ) -> None:
        super().set_timesteps(num_inference_steps, device, timesteps, sigmas)
        self.timesteps: Any = self.timesteps.round()


@dataclass(frozen=True)
class Schedule:
    """How a pipeline samples."""

    scheduler: Any
    """diffusers' scheduler."""

    sigmas: list[float] | None
    """Noise levels for the pipeline, from the highest; None for the scheduler's own."""

    sampler_name: str
    scheduler_name: str
    """As ComfyUI would call them; what has no counterpart is named after it in brackets."""

    trained: tuple[str, ...]
    """What the model was trained to tell, and at which levels, rounded: as much part of it as its weights."""


def schedule_of(config: Any, sampling: Sampling, *, is_flow: bool, levels: int) -> Schedule:
    """A sampling as diffusers does it.

    Args:
        config: of the scheduler that the model came with.
        sampling: in ComfyUI's names.
        is_flow: whether the model takes noise and picture for the ends of a straight line.
        levels: how many noise levels ComfyUI tells apart for a flow.
    """
    wanted, steps = sampling.scheduler, sampling.steps
    if is_flow:
        sampler = "euler" if sampling.sampler_name in _EULER else f"euler (for {sampling.sampler_name})"
        name, place_of = _nearest(_FLOW, wanted, "simple")
        scheduler = _made(FlowMatchEulerDiscreteScheduler, config)
        trained = _rounded(scheduler.sigmas)
        if scheduler.config.use_dynamic_shifting:
            trained += tuple(f"{key} {scheduler.config.get(key)}" for key in _SHIFTING)
        return Schedule(scheduler, place_of(steps, levels, float(config.get("shift") or 1.0)), sampler, name, trained)
    if sampling.sampler_name == "dpmpp_2m":
        is_karras = wanted == "karras"
        scheduler = _made(DPMSolverMultistepScheduler, config, use_karras_sigmas=is_karras, timestep_spacing="linspace")
        name = f"{'karras' if is_karras else 'linspace'} (diffusers' own, for {wanted})"
        return Schedule(scheduler, None, "dpmpp_2m", name, _trained(scheduler))
    sampler = sampling.sampler_name if sampling.sampler_name in _EULER else f"euler (for {sampling.sampler_name})"
    # "leading" also says that the noise is as long as the noise and the picture together, as ComfyUI begins at the highest level.
    spacing = {"timestep_spacing": "leading", "steps_offset": 1}
    if wanted == LEADING:
        scheduler = _made(EulerDiscreteScheduler, config, **spacing)
        return Schedule(scheduler, None, sampler, LEADING, _trained(scheduler))
    scheduler = _made(_WholeSteps, config, **spacing)
    name, levels_of = _nearest(_DIFFUSION, wanted, "normal")
    kept = np.asarray(scheduler.alphas_cumprod, dtype=np.float64)
    sigmas = [*levels_of(steps, np.log(((1 - kept) / kept) ** 0.5)), 0.0]
    return Schedule(scheduler, sigmas, sampler, name, _trained(scheduler))


def _made(kind: Any, config: Any, **given: Any) -> Any:
    """A scheduler with a model's own configuration, as far as it is not about how to sample."""
    known = inspect.signature(kind.__init__).parameters
    return kind.from_config(config, **{name: value for name, value in _PLAIN.items() if name in known} | given)


def _trained(scheduler: Any) -> tuple[str, ...]:
    return scheduler.config.prediction_type, *_rounded(scheduler.alphas_cumprod)


def _rounded(levels: Any) -> tuple[str, ...]:
    return tuple(f"{level:.4g}" for level in levels.tolist())


def _nearest(known: dict[str, Any], wanted: str, otherwise: str) -> tuple[str, Callable[..., list[float]]]:
    name = wanted if wanted in known else otherwise
    return (name if name == wanted else f"{name} (for {wanted})"), known[name]


def _flow_simple(steps: int, levels: int, shift: float) -> list[float]:
    return [1 - int(step * levels / steps) / levels for step in range(steps)]


def _flow_normal(steps: int, levels: int, shift: float) -> list[float]:
    return np.linspace(1.0, _lowest(levels, shift), steps).tolist()


def _flow_uniform(steps: int, levels: int, shift: float) -> list[float]:
    return np.linspace(1.0, _lowest(levels, shift), steps + 1)[:-1].tolist()


def _lowest(levels: int, shift: float) -> float:
    """ComfyUI's lowest level, which is shifted, where the others are shifted by the scheduler."""
    return shift / levels / (1 + (shift - 1) / levels)


def _simple(steps: int, logs: np.ndarray) -> list[float]:
    return [float(np.exp(logs[-(1 + int(step * len(logs) / steps))])) for step in range(steps)]


def _normal(steps: int, logs: np.ndarray) -> list[float]:
    return _at(np.linspace(len(logs) - 1, 0, steps), logs)


def _uniform(steps: int, logs: np.ndarray) -> list[float]:
    return _at(np.linspace(len(logs) - 1, 0, steps + 1)[:-1], logs)


def _karras(steps: int, logs: np.ndarray) -> list[float]:
    lowest, highest = np.exp(logs[[0, -1]] / _RHO)
    return (np.linspace(highest, lowest, steps) ** _RHO).tolist()


def _exponential(steps: int, logs: np.ndarray) -> list[float]:
    return np.exp(np.linspace(logs[-1], logs[0], steps)).tolist()


def _at(places: np.ndarray, logs: np.ndarray) -> list[float]:
    """Levels at places between those of training, whose logarithms are given."""
    return np.exp(np.interp(places, np.arange(len(logs)), logs)).tolist()


_FLOW = {"simple": _flow_simple, "normal": _flow_normal, "sgm_uniform": _flow_uniform}
_DIFFUSION = {
    "simple": _simple,
    "normal": _normal,
    "sgm_uniform": _uniform,
    "karras": _karras,
    "exponential": _exponential,
}
