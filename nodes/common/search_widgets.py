"""The limits that nodes offer for finding LoRAs, as widgets, and from widgets to limits."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...carlos_core.loras.family import FAMILIES
from ...carlos_core.search import limits
from ...carlos_core.search.limits import SearchLimits
from ..host import folders
from .schema import advanced

ANY_BASE_MODEL = "any"

HIDDEN = (io.Hidden.unique_id, io.Hidden.prompt)
"""What a node with `model_input` needs to know of the workflow: which checkpoint the model comes from."""


def top_k_input() -> io.Input:
    return io.Int.Input("top_k", default=5, min=1, max=100, tooltip="How many LoRAs to list.")


def prompts_input() -> io.Input:
    return io.Combo.Input(
        "prompts",
        options=[folders.DEFAULT_PROMPTS, *folders.prompt_set_names()],
        default=folders.DEFAULT_PROMPTS,
        tooltip="The prompts that the query is tried on: built in, or a file in models/carlos/prompts.",
        **advanced(),
    )


def effect_inputs(*, optional: bool) -> list[io.Input]:
    """Limits on what was measured."""
    return [
        io.Float.Input(
            "max_strength",
            default=limits.MAX_STRENGTH,
            min=0.0,
            max=100.0,
            step=0.1,
            optional=optional,
            tooltip="Leaves out LoRAs that change pictures more than this. Such LoRAs tend to break pictures.",
            **advanced(),
        ),
        io.Float.Input(
            "min_consistency",
            default=limits.MIN_CONSISTENCY,
            min=-1.0,
            max=1.0,
            step=0.001,
            optional=optional,
            tooltip="Leaves out LoRAs whose effect is less consistent than this from picture to picture.",
            **advanced(),
        ),
    ]


def file_inputs(*, optional: bool) -> list[io.Input]:
    """Limits on the files: their family, and whether they are installed."""
    return [
        io.Combo.Input(
            "base_model",
            options=[ANY_BASE_MODEL, *FAMILIES],
            default=ANY_BASE_MODEL,
            optional=optional,
            tooltip="Only LoRAs for this family of models. LoRAs of an unknown family stay in the list.",
        ),
        io.Boolean.Input("installed_only", default=False, optional=optional, tooltip="Only LoRAs whose file is in models/loras."),
    ]


def nsfw_input(*, optional: bool) -> io.Input:
    return io.Int.Input(
        "max_nsfw_level",
        default=limits.NO_NSFW_LIMIT,
        min=1,
        max=limits.NO_NSFW_LIMIT,
        optional=optional,
        tooltip="Highest level that the LoRA's pictures on CivitAI may have: "
        "1 for all ages, 2 PG-13, 4 R, 8 X, 16 XXX, 32 no limit.",
        **advanced(),
    )


def civitai_inputs() -> list[io.Input]:
    """Limits on what CivitAI says; LoRAs about which it says nothing stay."""
    return [
        nsfw_input(optional=True),
        io.Int.Input(
            "min_downloads",
            default=0,
            min=0,
            max=100_000_000,
            optional=True,
            tooltip="Smallest number of downloads on CivitAI.",
            **advanced(),
        ),
    ]


def optional_limits() -> list[io.Input]:
    """All limits, for nodes that work without any of them."""
    return [*effect_inputs(optional=True), *file_inputs(optional=True), *civitai_inputs()]


def model_input() -> io.Input:
    return io.Model.Input(
        "model", optional=True, tooltip="Only LoRAs that fit this model, as their files say. Without it, their labels decide."
    )


def ranking_input(default: str, tooltip: str, **further: Any) -> io.Input:
    return io.Combo.Input("ranking", options=list(limits.RANKINGS), default=default, optional=True, tooltip=tooltip, **further)


def min_confidence_input() -> io.Input:
    return io.Combo.Input(
        "min_confidence",
        options=list(limits.CONFIDENCES),
        default=limits.ANY,
        optional=True,
        tooltip="How sure a match must be for lora_name and Apply Retrieved LoRAs, as in Auto LoRA. "
        "any: the best installed match is taken, however badly it fits.",
    )


def base_model_of(choice: str) -> str | None:
    """The family that a combo's value stands for. Raises CarlosError for a value that is not offered."""
    folders.check_choice(choice, (ANY_BASE_MODEL, *FAMILIES), "base model")
    return None if choice == ANY_BASE_MODEL else choice


def limits_of(*, base_model: str = ANY_BASE_MODEL, **settings: Any) -> SearchLimits:
    """Limits as the widgets say; a limit without a widget keeps its default. Raises CarlosError for an unknown family."""
    return SearchLimits(base_model=base_model_of(base_model), **settings)
