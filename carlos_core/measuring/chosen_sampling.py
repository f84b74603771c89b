"""How the pictures of a measurement are sampled: as the preset says, as the user says, or as a model wants it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..errors import GenerationError
from ..generator import Sampling
from ..records import RACE
from .presets import AS_GIVEN, FEW_STEPS, PRESETS, Preset
from .settings import AUTOMATIC, MeasureSettings

_WITHOUT_GUIDANCE = 1.5
"""Scales of guidance up to this one are those of models that are distilled to do without."""


@dataclass(frozen=True)
class SampledModel:
    """What of a model decides how it is sampled."""

    class_name: str
    """ComfyUI's name for its kind, such as "SDXL"."""

    has_embedded_guidance: bool = False
    """Whether it takes its guidance as an input and needs no CFG, such as Flux."""

    wants_few_steps: str = ""
    """What in the model itself says that it is distilled to few steps without guidance, in words; empty if nothing does."""


@dataclass(frozen=True)
class ChosenSampling:
    """A sampling, its name in the protocol, and why it was chosen."""

    sampling: Sampling
    name: str = ""
    """See `Protocol.sampling`."""

    why: str = ""
    """In words; empty for the preset's own."""

    full_steps: int = 0
    """Steps of pictures that its few steps are to be compared with: the model decides how many suffice. 0: the steps stand."""


def chosen_sampling(model: SampledModel, settings: MeasureSettings, guidances: tuple[float, ...]) -> ChosenSampling:
    """What the settings of an indexing run come to.

    Args:
        model: what makes the pictures.
        settings: of the run.
        guidances: the scales of guidance that the model is used with otherwise, as far as they are known.

    Raises GenerationError for the published protocol on another model than SDXL.
    """
    size = settings.width, settings.height
    given = Sampling(settings.steps, settings.cfg, settings.sampler_name, settings.scheduler, *size)
    preset = PRESETS.get(settings.preset)
    if preset is None:
        return ChosenSampling(given)
    if preset.name == "paper":
        if model.class_name != "SDXL":
            raise GenerationError("The published protocol is one for SDXL.", "Load an SDXL checkpoint, or choose 'standard'.")
        return ChosenSampling(preset.sampling)
    if settings.sampling == AS_GIVEN:
        return ChosenSampling(given, AS_GIVEN, "sampled as given: steps, cfg, sampler and scheduler of this node")
    return _of_model(model, preset, settings.sampling == AUTOMATIC, size, guidances)


def _of_model(
    model: SampledModel, preset: Preset, is_automatic: bool, size: tuple[int, int], guidances: tuple[float, ...]
) -> ChosenSampling:
    width, height = size
    fullest = PRESETS["standard"]
    full_steps = fullest.sampling.steps if is_automatic and preset.name in (RACE, "quick") else 0
    if model.has_embedded_guidance:
        # Its guidance is an input, and its cfg is 1 whatever the workflow says. That is no sign of few steps.
        why = "cfg 1: the model takes its guidance as an input (guidance_embed)"
        return ChosenSampling(replace(preset.sampling, cfg=1.0, width=width, height=height), "", why, full_steps)
    reason = _few_steps(model, guidances) if is_automatic and preset.few_steps is not None else ""
    if not reason or preset.few_steps is None:
        return ChosenSampling(replace(preset.sampling, width=width, height=height), full_steps=full_steps)
    why = f"sampled with few steps and cfg 1, as models are that are distilled for it: {reason}"
    if full_steps and fullest.few_steps is not None:
        full_steps = fullest.few_steps.steps
    return ChosenSampling(replace(preset.few_steps, width=width, height=height), FEW_STEPS, why, full_steps)


def _few_steps(model: SampledModel, guidances: tuple[float, ...]) -> str:
    """Why a model wants few steps without guidance, in words; empty if it does not, as far as can be known."""
    if model.wants_few_steps:
        return model.wants_few_steps
    if guidances and max(guidances) <= _WITHOUT_GUIDANCE:
        scales = " and ".join(f"{scale:g}" for scale in sorted(set(guidances)))
        return f"this workflow samples this model with cfg {scales}"
    return ""
