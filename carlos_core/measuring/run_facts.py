"""What an indexing run will do and did, in words and as scripts read it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..search.limits import PUBLISHED_LIMITS
from .settings import AS_PRESET

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..records import LayerFit
    from ..search.limits import Miss
    from .indexer import Indexer
    from .outcome import Outcome
    from .plan import Shot

LOOKING_FOR_STEPS = "once for this model, how few steps will do: "
"""Said before the progress of the pictures that tell."""


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
        *([f"scale sweep: at most {_most_pictures(shots)} pictures more a LoRA"] if indexer.scale_sweep else []),
    ]


def parts_of_cost(n_trial: int, n_base: int) -> str:
    """Of all model evaluations of a run: those of the trial for the steps, and those without a LoRA beside it."""
    return f"{n_trial:,} to find how few steps do, {n_base:,} more without a LoRA" if n_trial else f"{n_base:,} without a LoRA"


def settings_facts(indexer: Indexer) -> dict[str, Any]:
    """How a run samples its pictures, as scripts read it."""
    settings, steps = indexer.studio.generator.settings, indexer.quick_steps
    return {
        "sampling": indexer.protocol.sampling or AS_PRESET,
        **{name: settings[name] for name in ("steps", "cfg", "sampler", "scheduler", "width", "height")},
        "quick_steps": steps.facts if steps is not None else None,
    }


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
        **({"measured_with": outcome.other_program} if outcome.other_program else {}),
        **({"fit": {"layers": fit.layers, "of": fit.of}} if fit is not None else {}),
        **(sweep if row.strength_curve else {}),
    }


def _most_pictures(shots: Sequence[Shot]) -> int:
    # Nodes import this module, and that one loads what takes a while.
    return import_module(".strength_curve", __package__).most_pictures(shots)
