"""Where a run measures, and the indexer for its settings, whatever makes the pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ..generator import Generator, Sampling
from .base_check import BaseCheck
from .chosen_sampling import ChosenSampling
from .indexer import Indexer, LoraFolder
from .plan import Plan
from .presets import PRESETS
from .protocol import Protocol
from .quick_steps import QuickSteps
from .settings import ANY_CHECKPOINT, AUTOMATIC, MeasureSettings
from .studio import Studio

if TYPE_CHECKING:
    from ..clip.encoder import Encoder
    from ..database.target import Target
    from ..progress import OnProgress
    from ..prompts.prompt_set import PromptSet
    from .gallery import Gallery


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


@dataclass(frozen=True, eq=False)
class PictureMaker:
    """What makes the pictures of a run."""

    generator_of: Callable[[Sampling], Generator]
    """A sampling -> a generator that differs from the others in nothing else."""

    chosen: ChosenSampling
    """How the run's settings have it sample."""

    notes: tuple[str, ...] = ()
    """What every row is to say."""


def indexer_at(
    at: Workplace,
    maker: PictureMaker,
    settings: MeasureSettings,
    names: Sequence[str] | None = None,
    on_progress: OnProgress | None = None,
) -> Indexer:
    """An indexer for some settings.

    Pictures are made here to see how many steps suffice, unless that is known, or nothing needs to be measured.

    Args:
        at: where everything is but what makes the pictures.
        maker: that.
        settings: how the pictures are made, and how many.
        names: of the LoRAs that may have to be measured, with "/" between folders; None if they are not known yet.
        on_progress: called while pictures are made here.

    Raises CarlosError for settings that cannot be used, or a database that cannot be written.
    """
    chosen = maker.chosen

    @cache
    def studio_with(sampling: Sampling) -> Studio:
        return Studio(maker.generator_of(sampling), at.encoder, at.cache, settings.batch_size)

    def indexer_with(studio: Studio, quick_steps: QuickSteps | None = None) -> Indexer:
        plan = plan_for(at.prompts, studio.generator, settings)
        return Indexer(
            studio,
            protocol_for(at.prompts, plan, studio.generator, settings, chosen.name),
            plan,
            at.target,
            overwrite=settings.overwrite,
            scale_sweep=settings.scale_sweep,
            folder=at.folder,
            any_checkpoint=settings.checkpoint == ANY_CHECKPOINT,
            base_check=_base_check(chosen, studio_with, settings),
            quick_steps=quick_steps,
            remarks=(chosen.why,) if chosen.why else (),
            notes=maker.notes,
            gallery=at.gallery,
        )

    indexer = indexer_with(studio_with(chosen.sampling))
    if not chosen.full_steps:
        return indexer

    def studio_of(steps: int) -> Studio:
        return studio_with(replace(chosen.sampling, steps=steps))

    quick_steps = QuickSteps(studio_of, chosen.full_steps, indexer.plan.shots)
    if not quick_steps.is_known:
        if not _needs_pictures(indexer, names):
            return indexer
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


def plan_for(prompts: PromptSet, generator: Generator, settings: MeasureSettings) -> Plan:
    """Which pictures are taken, by a run's settings."""
    preset = PRESETS.get(settings.preset)
    if preset is not None:
        return Plan.of_preset(preset, prompts, generator.evaluations_per_image)
    return Plan.all(prompts, seeds=settings.seeds, first_seed=settings.first_seed, max_prompts=settings.max_prompts)


def protocol_for(prompts: PromptSet, plan: Plan, generator: Generator, settings: MeasureSettings, sampling: str = "") -> Protocol:
    """What decides the rows of a run. plan: `plan_for` these settings. sampling: see `Protocol`."""
    return Protocol(
        preset=settings.preset,
        prompts_hash=prompts.content_hash,
        seed_rule=plan.seed_rule,
        lora_weight=settings.lora_weight,
        trigger_rule=settings.triggers,
        generator=generator.settings,
        sampling=sampling,
    )
