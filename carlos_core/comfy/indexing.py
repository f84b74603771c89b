"""From the settings of a measurement to an indexer that makes its pictures with ComfyUI's model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..generator import Sampling
from ..measuring.base_check import BaseCheck
from ..measuring.indexer import Indexer, LoraFolder
from ..measuring.plan import Plan
from ..measuring.presets import PRESETS
from ..measuring.protocol import Protocol
from ..measuring.quick_steps import QuickSteps
from ..measuring.settings import ANY_CHECKPOINT, AUTOMATIC, MeasureSettings
from ..measuring.studio import Studio
from .families import makes_videos
from .generator import ComfyGenerator
from .sampling import ChosenSampling, chosen_sampling

if TYPE_CHECKING:
    from ..clip.encoder import Encoder
    from ..database.target import Target
    from ..generator import Generator
    from ..measuring.gallery import Gallery
    from ..progress import OnProgress
    from ..prompts.prompt_set import PromptSet

_ONE_FRAME = "measured on videos of one frame"


@dataclass(frozen=True, eq=False)
class Loaded:
    """ComfyUI's MODEL, CLIP and VAE, without a LoRA."""

    model: Any
    clip: Any
    vae: Any


@dataclass(frozen=True, eq=False)
class Workplace:
    """What a run measures with and for, besides the model."""

    target: Target
    prompts: PromptSet
    encoder: Encoder
    cache: Path
    """Where features of finished pictures are kept."""

    folder: LoraFolder
    """Where the LoRAs are."""

    gallery: Gallery | None = None
    """Where a few pairs of pictures of each LoRA are kept; None for nowhere."""


def comfy_indexer(
    loaded: Loaded,
    settings: MeasureSettings,
    at: Workplace,
    guidances: tuple[float, ...],
    names: Sequence[str] | None,
    on_progress: OnProgress | None,
) -> Indexer:
    """An indexer for some settings.

    Pictures are made here to see how many steps suffice, unless that is known, or nothing needs to be measured.

    Args:
        loaded: what makes the pictures.
        settings: how they are made, and how many.
        at: where everything else is.
        guidances: the scales of guidance that the MODEL is used with otherwise, as far as they are known.
        names: of the LoRAs that may have to be measured, with "/" between folders; None if they are not known yet.
        on_progress: called while pictures are made here.

    Raises CarlosError for a model or settings that cannot be used, or a database that cannot be written.
    """
    chosen = chosen_sampling(loaded.model, settings, guidances)

    @cache
    def studio_with(sampling: Sampling) -> Studio:
        generator = ComfyGenerator(loaded.model, loaded.clip, loaded.vae, sampling)
        return Studio(generator, at.encoder, at.cache, settings.batch_size)

    def indexer_with(studio: Studio, quick_steps: QuickSteps | None = None) -> Indexer:
        plan = _plan(at.prompts, studio.generator, settings)
        protocol = Protocol(
            preset=settings.preset,
            prompts_hash=at.prompts.content_hash,
            seed_rule=plan.seed_rule,
            lora_weight=settings.lora_weight,
            trigger_rule=settings.triggers,
            generator=studio.generator.settings,
            sampling=chosen.name,
        )
        return Indexer(
            studio,
            protocol,
            plan,
            at.target,
            overwrite=settings.overwrite,
            scale_sweep=settings.scale_sweep,
            folder=at.folder,
            any_checkpoint=settings.checkpoint == ANY_CHECKPOINT,
            base_check=_base_check(chosen, studio_with, settings),
            quick_steps=quick_steps,
            remarks=(chosen.why,) if chosen.why else (),
            notes=(_ONE_FRAME,) if makes_videos(loaded.model) else (),
            gallery=at.gallery,
        )

    indexer = indexer_with(studio_with(chosen.sampling))
    if not chosen.full_steps or not _needs_pictures(indexer, names):
        return indexer

    def studio_of(steps: int) -> Studio:
        return studio_with(replace(chosen.sampling, steps=steps))

    quick_steps = QuickSteps(studio_of, chosen.full_steps, indexer.plan.shots)
    indexer.check_ready()
    return indexer_with(studio_of(quick_steps.choose(on_progress)), quick_steps)


def _needs_pictures(indexer: Indexer, names: Sequence[str] | None) -> bool:
    """Whether one of the LoRAs must be measured, as far as their names tell."""
    if names is None:
        return True
    database = indexer.target.read()
    covered = {row.file_name for row in database.measured if indexer.is_covered(row, database)}
    return not covered.issuperset(names)


def _base_check(chosen: ChosenSampling, studio_with: Callable[[Sampling], Studio], settings: MeasureSettings) -> BaseCheck:
    few_steps, sampling = PRESETS["standard"].few_steps, chosen.sampling
    assert few_steps is not None, "standard has it"
    sized = replace(few_steps, width=sampling.width, height=sampling.height)
    preset = PRESETS.get(settings.preset)
    is_strict = settings.sampling == AUTOMATIC and preset is not None and preset.few_steps is not None
    return BaseCheck(None if sampling.cfg == 1.0 else lambda: studio_with(sized), is_strict=is_strict)


def _plan(prompts: PromptSet, generator: Generator, settings: MeasureSettings) -> Plan:
    preset = PRESETS.get(settings.preset)
    if preset is not None:
        return Plan.of_preset(preset, prompts, generator.evaluations_per_image)
    return Plan.all(prompts, seeds=settings.seeds, first_seed=settings.first_seed, max_prompts=settings.max_prompts)
