"""What the indexing nodes share: their settings as widgets, and from widgets to an indexer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import comfy.samplers
from comfy_api.latest import io

from ... import carlos_core as carlos
from ...carlos_core.comfy.workflow import guidances_of
from ...carlos_core.errors import GenerationError
from ...carlos_core.measuring.presets import TRIGGER_RULES
from ...carlos_core.measuring.run_facts import LOOKING_FOR_STEPS, plan_lines
from ...carlos_core.measuring.settings import (
    ANY_CHECKPOINT,
    AUTOMATIC,
    CHECKPOINTS,
    PRESET_NAMES,
    SAMPLINGS,
    MeasureSettings,
)
from ...carlos_core.prompts.prompt_set import default_index_prompts
from ..host import folders, runtime
from ..host.lora_folder import ListedLoras
from ..host.progress import NodeProgress, Tally
from .own_database import own_database
from .report import number, table
from .schema import advanced
from .sockets import CarlosDb

if TYPE_CHECKING:
    from ...carlos_core.loras.lora_file import LoraFile
    from ...carlos_core.measuring.indexer import Indexer
    from ...carlos_core.measuring.outcome import Outcome
    from ...carlos_core.measuring.workplace import Workplace
    from ...carlos_core.records import LoraRecord

_OWN = "The other presets have their own."
"""Ends the tooltips of widgets that only the preset custom looks at."""


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
            options=list(PRESET_NAMES),
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
        *sampling_inputs(),
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
            options=list(CHECKPOINTS),
            default=ANY_CHECKPOINT,
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


def sampling_inputs(*, of_presets: bool = True) -> list[io.Input]:
    """Steps, cfg, sampler and scheduler. of_presets: of a node with presets; elsewhere they are optional."""
    samplers, schedulers = comfy.samplers.KSampler.SAMPLERS, comfy.samplers.KSampler.SCHEDULERS
    only = f"Only for custom, or sampling = as given: {{}}. {_OWN}" if of_presets else "Only for sampling = as given: {}."
    further = advanced() if of_presets else {"optional": True, **advanced()}
    return [
        io.Int.Input("steps", default=25, min=1, max=1000, tooltip=only.format("sampler steps"), **further),
        io.Float.Input("cfg", default=5.0, min=0.0, max=100.0, step=0.1, tooltip=only.format("guidance"), **further),
        io.Combo.Input("sampler_name", options=list(samplers), default="euler", tooltip=only.format("sampler"), **further),
        io.Combo.Input("scheduler", options=list(schedulers), default="normal", tooltip=only.format("scheduler"), **further),
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
    # Workflows that were saved before the optional settings get their defaults.
    wanted = MeasureSettings(**settings)
    folders.check_choice(wanted.preset, PRESET_NAMES, "preset")
    folders.check_choice(wanted.sampler_name, comfy.samplers.KSampler.SAMPLERS, "sampler")
    folders.check_choice(wanted.scheduler, comfy.samplers.KSampler.SCHEDULERS, "scheduler")
    folders.check_choice(wanted.triggers, TRIGGER_RULES, "trigger rule")
    folders.check_choice(wanted.checkpoint, CHECKPOINTS, "checkpoint")
    folders.check_choice(wanted.sampling, SAMPLINGS, "sampling")
    check_whole(clip, vae)
    guidances = guidances_of(hidden.prompt, hidden.unique_id)
    loaded, at = carlos.Loaded(model, clip, vae), workplace(database, wanted.prompts)
    return carlos.comfy_indexer(loaded, wanted, at, guidances, names, progress_of_steps(hidden, tally))


def workplace(database: Any, prompts: str) -> Workplace:
    """What LoRAs are measured with and for, besides the model. Raises DatabaseError, PromptSetError.

    prompts: the combo's value.
    """
    target, prompt_set = own_database(database), folders.prompt_set(prompts, default_index_prompts())
    return carlos.Workplace(
        target, prompt_set, runtime.encoder(database), folders.cache_folder(), ListedLoras(), runtime.gallery()
    )


def progress_of_steps(hidden: Any, tally: Tally) -> NodeProgress:
    """Progress of the pictures that show how many steps suffice."""
    return NodeProgress(hidden.unique_id, lambda: LOOKING_FOR_STEPS, tally)


def check_whole(clip: Any, vae: Any) -> None:
    """Raises GenerationError for a part that is missing: Load Checkpoint then gives nothing, or a VAE without a model."""
    vae = getattr(vae, "first_stage_model", vae)
    for name, value, what, loader in (("clip", clip, "text encoder", "Load CLIP"), ("vae", vae, "VAE", "Load VAE")):
        if value is None:
            raise GenerationError(
                f"The input {name} of this indexing node is empty: the checkpoint that it comes from has no {what}.",
                f"Wire in one that belongs to the model, from {loader}.",
            )


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
