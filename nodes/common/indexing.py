"""What the indexing nodes share: their settings as widgets, and from widgets to an indexer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import comfy.samplers
from comfy_api.latest import io

from ... import carlos_core as carlos
from ...carlos_core.comfy.families import makes_videos
from ...carlos_core.comfy.generator import ComfyGenerator
from ...carlos_core.errors import GenerationError
from ...carlos_core.generator import Sampling
from ...carlos_core.measuring.presets import CUSTOM, PRESETS, TRIGGER_RULES
from ...carlos_core.prompts.prompt_set import PromptSet, default_index_prompts
from ...carlos_core.search.limits import PUBLISHED_LIMITS
from ..host import folders, runtime
from ..host.lora_folder import ListedLoras
from ..host.progress import NodeProgress, Tally
from .own_database import own_database
from .report import number, table
from .sampling import AS_PRESET, AUTOMATIC, SAMPLINGS, ChosenSampling, chosen_sampling
from .schema import advanced
from .sockets import CarlosDb

if TYPE_CHECKING:
    from ...carlos_core.generator import Generator
    from ...carlos_core.loras.lora_file import LoraFile
    from ...carlos_core.measuring.base_check import BaseCheck
    from ...carlos_core.measuring.indexer import Indexer, Outcome
    from ...carlos_core.measuring.plan import Plan
    from ...carlos_core.measuring.quick_steps import QuickSteps
    from ...carlos_core.measuring.studio import Studio
    from ...carlos_core.records import LayerFit, LoraRecord
    from ...carlos_core.search.limits import Miss

_PRESETS = (*PRESETS, CUSTOM)
_ANY_CHECKPOINT, _THIS_CHECKPOINT = "any of its shape", "this one"
_CHECKPOINTS = (_ANY_CHECKPOINT, _THIS_CHECKPOINT)
_ONE_FRAME = "measured on videos of one frame"
_OWN = "The other presets have their own."
"""Ends the tooltips of widgets that only the preset custom looks at."""

_OPTIONAL = {"triggers": TRIGGER_RULES[0], "scale_sweep": False, "checkpoint": _ANY_CHECKPOINT, "sampling": AUTOMATIC}
"""What workflows that were saved before these settings get."""


def model_inputs() -> list[io.Input]:
    """The inputs for the model that pictures are made with, and for the database that rows are added to."""
    return [
        io.Model.Input("model", tooltip="A model of the LoRA's family, with no LoRA on it. The LoRA is compared with it."),
        io.Clip.Input("clip", tooltip="From the checkpoint loader, with no LoRA on it."),
        io.Vae.Input("vae"),
        CarlosDb.Input("database", tooltip="A database of your own: Metrics DB Loader with create_as."),
    ]


def settings_inputs(default_preset: str) -> list[io.Input]:
    """The settings of a measurement, in the order of the widgets."""
    return [
        io.Combo.Input(
            "preset",
            options=list(_PRESETS),
            default=default_preset,
            tooltip="quick: at most 900 model evaluations for each LoRA. standard: until the direction is known. "
            "paper: the published protocol, 224,000. custom: all prompts x seeds with the settings below.",
        ),
        io.Combo.Input(
            "prompts",
            options=[folders.DEFAULT_PROMPTS, *folders.prompt_set_names()],
            default=folders.DEFAULT_PROMPTS,
            tooltip="The prompts to measure on: 280 built in, or a file in models/carlos/prompts.",
            **advanced(),
        ),
        io.Int.Input(
            "seeds",
            default=1,
            min=1,
            max=1024,
            tooltip=f"Only for custom: how many pictures to make for each prompt. {_OWN}",
            **advanced(),
        ),
        io.Int.Input(
            "first_seed",
            default=0,
            min=0,
            max=2**53,
            tooltip=f"Only for custom: the first seed. The next ones count up from it. {_OWN}",
            **advanced(),
        ),
        io.Int.Input(
            "max_prompts",
            default=0,
            min=0,
            max=100_000,
            tooltip=f"Only for custom: use only this many prompts, spread over all topics. 0: all. {_OWN}",
            **advanced(),
        ),
        *_sampling_inputs(),
        io.Int.Input("width", default=0, min=0, max=8192, step=8, tooltip="0: the native size of the model."),
        io.Int.Input("height", default=0, min=0, max=8192, step=8, tooltip="0: the native size of the model."),
        io.Int.Input(
            "batch_size",
            default=0,
            min=0,
            max=256,
            tooltip="How many pictures to make at a time. 0: as many as memory allows.",
            **advanced(),
        ),
        io.Float.Input(
            "lora_weight",
            default=1.0,
            min=-10.0,
            max=10.0,
            step=0.05,
            tooltip="The weight to measure the LoRA at.",
            **advanced(),
        ),
        io.Boolean.Input(
            "overwrite",
            default=False,
            tooltip="Measures again what is already in the database, also where its row is better.",
        ),
        io.Combo.Input(
            "triggers",
            options=list(TRIGGER_RULES),
            default=TRIGGER_RULES[0],
            optional=True,
            tooltip="Where trigger words are used. lora side: only with the LoRA, as published; their effect counts as the "
            "LoRA's. both sides: also without the LoRA, so only the LoRA's own effect counts.",
            **advanced(),
        ),
        io.Boolean.Input(
            "scale_sweep",
            default=False,
            optional=True,
            tooltip="Also measures 12 prompts at other weights, and suggests a weight for Apply Retrieved LoRAs and Auto LoRA.",
        ),
        io.Combo.Input(
            "checkpoint",
            options=list(_CHECKPOINTS),
            default=_ANY_CHECKPOINT,
            optional=True,
            tooltip="any of its shape: a LoRA that had an effect on another checkpoint of its class and size is not measured "
            "again. this one: it is, on this checkpoint.",
        ),
        io.Combo.Input(
            "sampling",
            options=list(SAMPLINGS),
            default=AUTOMATIC,
            optional=True,
            tooltip="quick and standard. automatic: as the preset says, or with few steps and cfg 1 where this model wants that "
            "(turbo, lightning ...), which a KSampler of this workflow shows. preset: always as the preset says. as given: with "
            "steps, cfg, sampler and scheduler of this node.",
        ),
    ]


def _sampling_inputs() -> list[io.Input]:
    samplers, schedulers = comfy.samplers.KSampler.SAMPLERS, comfy.samplers.KSampler.SCHEDULERS
    only = f"Only for custom, or sampling = as given: {{}}. {_OWN}"
    return [
        io.Int.Input("steps", default=25, min=1, max=1000, tooltip=only.format("sampler steps"), **advanced()),
        io.Float.Input("cfg", default=5.0, min=0.0, max=100.0, step=0.1, tooltip=only.format("guidance"), **advanced()),
        io.Combo.Input("sampler_name", options=list(samplers), default="euler", tooltip=only.format("sampler"), **advanced()),
        io.Combo.Input("scheduler", options=list(schedulers), default="normal", tooltip=only.format("scheduler"), **advanced()),
    ]


def indexer_of(
    hidden: Any, names: Sequence[str] | None, tally: Tally, *, model: Any, clip: Any, vae: Any, database: Any, **settings: Any
) -> Indexer:
    """An indexer for the settings of an indexing node.

    Pictures are made here to see how many steps suffice, unless that is known, or nothing needs to be measured.

    Args:
        hidden: of the node; it asks for `prompt` and `unique_id`.
        names: of the LoRAs that may have to be measured, with "/" between folders; None if they are not known yet.
        tally: counts the pictures that are made here.
        model: ComfyUI's model, without a LoRA.
        clip: ComfyUI's text encoder.
        vae: ComfyUI's VAE.
        database: a database of the user's own.
        settings: the values of `settings_inputs`, by widget.

    Raises CarlosError for values that the widgets do not offer, an input that is empty, or a database that cannot be written.
    """
    settings = {**_OPTIONAL, **settings}
    folders.check_choice(settings["preset"], _PRESETS, "preset")
    folders.check_choice(settings["sampler_name"], comfy.samplers.KSampler.SAMPLERS, "sampler")
    folders.check_choice(settings["scheduler"], comfy.samplers.KSampler.SCHEDULERS, "scheduler")
    folders.check_choice(settings["triggers"], TRIGGER_RULES, "trigger rule")
    folders.check_choice(settings["checkpoint"], _CHECKPOINTS, "checkpoint")
    folders.check_choice(settings["sampling"], SAMPLINGS, "sampling")
    _check_whole(clip, vae)
    target = own_database(database)
    prompts = folders.prompt_set(settings["prompts"], default_index_prompts())
    chosen = chosen_sampling(model, settings, hidden.prompt, hidden.unique_id)
    encoder = runtime.encoder(database)

    @cache
    def studio_with(sampling: Sampling) -> Studio:
        generator = ComfyGenerator(model, clip, vae, sampling)
        return carlos.Studio(generator, encoder, folders.cache_folder(), settings["batch_size"])

    def indexer_with(studio: Studio, quick_steps: QuickSteps | None = None) -> Indexer:
        plan = _plan(prompts, studio.generator, settings)
        protocol = carlos.Protocol(
            preset=settings["preset"],
            prompts_hash=prompts.content_hash,
            seed_rule=plan.seed_rule,
            lora_weight=settings["lora_weight"],
            trigger_rule=settings["triggers"],
            generator=studio.generator.settings,
            sampling=chosen.name,
        )
        return carlos.Indexer(
            studio,
            protocol,
            plan,
            target,
            overwrite=settings["overwrite"],
            scale_sweep=settings["scale_sweep"],
            folder=ListedLoras(),
            any_checkpoint=settings["checkpoint"] == _ANY_CHECKPOINT,
            base_check=_base_check(chosen, studio_with, settings),
            quick_steps=quick_steps,
            remarks=(chosen.why,) if chosen.why else (),
            notes=(_ONE_FRAME,) if makes_videos(model) else (),
            gallery=runtime.gallery(),
        )

    indexer = indexer_with(studio_with(chosen.sampling))
    if not chosen.full_steps or not _needs_pictures(indexer, names):
        return indexer

    def studio_of(steps: int) -> Studio:
        return studio_with(replace(chosen.sampling, steps=steps))

    quick_steps = carlos.QuickSteps(studio_of, chosen.full_steps, indexer.plan.shots)
    indexer.check_ready()
    progress = NodeProgress(hidden.unique_id, lambda: "looking for the steps that suffice: ", tally)
    return indexer_with(studio_of(quick_steps.choose(progress)), quick_steps)


def _needs_pictures(indexer: Indexer, names: Sequence[str] | None) -> bool:
    """Whether one of the LoRAs must be measured, as far as their names tell."""
    if names is None:
        return True
    database = indexer.target.read()
    covered = {row.file_name for row in database.measured if indexer.is_covered(row, database)}
    return not covered.issuperset(names)


def _base_check(chosen: ChosenSampling, studio_with: Callable[[Sampling], Studio], settings: dict[str, Any]) -> BaseCheck:
    few_steps, sampling = PRESETS["standard"].few_steps, chosen.sampling
    assert few_steps is not None, "standard has it"
    sized = replace(few_steps, width=sampling.width, height=sampling.height)
    preset = PRESETS.get(settings["preset"])
    is_strict = settings["sampling"] == AUTOMATIC and preset is not None and preset.few_steps is not None
    return carlos.BaseCheck(None if sampling.cfg == 1.0 else lambda: studio_with(sized), is_strict=is_strict)


def _plan(prompts: PromptSet, generator: Generator, settings: dict[str, Any]) -> Plan:
    preset = PRESETS.get(settings["preset"])
    if preset is not None:
        return carlos.Plan.of_preset(preset, prompts, generator.evaluations_per_image)
    sizes = {name: settings[name] for name in ("seeds", "first_seed", "max_prompts")}
    return carlos.Plan.all(prompts, **sizes)


def _check_whole(clip: Any, vae: Any) -> None:
    """Raises GenerationError for a part that is missing: Load Checkpoint then gives nothing, or a VAE without a model."""
    vae = getattr(vae, "first_stage_model", vae)
    for name, value, what, loader in (("clip", clip, "text encoder", "Load CLIP"), ("vae", vae, "VAE", "Load VAE")):
        if value is None:
            raise GenerationError(
                f"The input {name} of this indexing node is empty: the checkpoint that it comes from has no {what}.",
                f"Wire in one that belongs to the model, from {loader}.",
            )


def plan_lines(indexer: Indexer) -> list[str]:
    """What a run will do at most, in words."""
    generator, protocol, shots = indexer.studio.generator, indexer.protocol, indexer.plan.shots
    evaluations = len(shots) * generator.evaluations_per_image
    words = "at most" if indexer.plan.rule is not None else "in all"
    settings = generator.settings
    return [
        f"preset {protocol.preset}: {words} {len(shots)} pairs of pictures, {evaluations:,} model evaluations a LoRA",
        f"{settings['width']} x {settings['height']}, {settings['steps']} steps, cfg {settings['cfg']:g}, "
        f"{settings['sampler']} / {settings['scheduler']}, seeds {protocol.seed_rule}, model {generator.model_key}",
        *indexer.remarks,
        *(indexer.quick_steps.lines if indexer.quick_steps is not None else []),
        *([f"scale sweep: at most {carlos.most_pictures(shots)} pictures more a LoRA"] if indexer.scale_sweep else []),
    ]


def settings_facts(indexer: Indexer) -> dict[str, Any]:
    """How a run samples its pictures, as scripts read it."""
    settings, steps = indexer.studio.generator.settings, indexer.quick_steps
    return {
        "sampling": indexer.protocol.sampling or AS_PRESET,
        **{name: settings[name] for name in ("steps", "cfg", "sampler", "scheduler", "width", "height")},
        "quick_steps": steps.facts if steps is not None else None,
    }


def index(indexer: Indexer, lora: LoraFile, progress: NodeProgress) -> Outcome:
    """Show how long it will take, then measure a LoRA."""
    progress.say(f"{plan_lines(indexer)[0]}; {carlos.estimate_lora(indexer, lora)}")
    return indexer.index(lora, progress)


def curve_lines(row: LoraRecord) -> list[str]:
    """A row's strength curve as a table, and what weight it suggests; nothing if it was not measured."""
    cells = [(number(point.weight, 2), number(point.strength, 2), number(point.alignment)) for point in row.strength_curve]
    if not cells:
        return []
    suggested = f"suggested weight: {number(row.suggested_weight, 2)}"
    return ["scale sweep:", *table(("weight", "strength", "alignment"), cells), suggested]


def misses_of(outcome: Outcome) -> tuple[Miss, ...]:
    """Why searches with the usual limits will never find a LoRA; empty if they may."""
    return PUBLISHED_LIMITS.misses_of(outcome.row)


def facts_of(outcome: Outcome, fit: LayerFit | None) -> dict[str, Any]:
    """The facts of one LoRA, as scripts read them. fit: its layers that fit the model; None if they are not known."""
    row = outcome.row
    sweep = {
        "suggested_weight": row.suggested_weight,
        "strength_curve": [vars(point) for point in row.strength_curve],
        "sweep_evaluations": outcome.sweep_evaluations,
    }
    measured = ("strength", "consistency", "n_images", "n_prompts", "alignment", "strength_se", "consistency_se")
    return {
        "lora_id": row.lora_id,
        "file": outcome.lora.name,
        "status": outcome.status,
        **{name: getattr(row, name) for name in measured},
        "topics": {effect.topic: effect.vector.strength for effect in row.topics},
        "protocol_id": row.protocol_id,
        "model_key": row.model_key,
        "encoder_id": row.encoder_id,
        "model_evaluations": outcome.model_evaluations,
        "base_model_evaluations": outcome.base_model_evaluations,
        "other_model_evaluations": outcome.other_evaluations,
        "notes": list(outcome.notes),
        "not_found": [vars(miss) for miss in misses_of(outcome)],
        "file_notes": list(outcome.file_notes),
        **({"fit": {"layers": fit.layers, "of": fit.of}} if fit is not None else {}),
        **(sweep if row.strength_curve else {}),
    }
