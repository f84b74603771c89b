"""What somebody for whom nothing was found can do now, as the nodes call it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ...carlos_core.database.told import raced
from ...carlos_core.search import next_step
from ...carlos_core.search.next_step import SAY_EFFECT as SAY_EFFECT  # noqa: PLC0414
from ..host import lora_folder

if TYPE_CHECKING:
    from ...carlos_core.database.database import MetricsDatabase
    from ...carlos_core.loras.matching import Resolved
    from .model_fit import ForModel


def after_filters(database: MetricsDatabase, allowed: ForModel, files: Mapping[str, Resolved], any_model: str = "any") -> str:
    """What to do where the limits leave no LoRA; empty if they leave some.

    Args:
        database: what was searched.
        allowed: among which LoRAs.
        files: what `lora_folder.resolved` gave.
        any_model: the choice of base_model that leaves out none for its label.
    """
    n = _n_unmeasured(files, allowed)
    return next_step.after_filters(database, allowed.limits, allowed.installed, n, _ways(any_model))


def after_search(database: MetricsDatabase, allowed: ForModel, files: Mapping[str, Resolved]) -> str:
    """What to do where LoRAs were looked at and none fits. Arguments as of `after_filters`."""
    return next_step.after_search(_n_unmeasured(files, allowed), raced(database), bool(allowed.model), _ways())


def _ways(any_model: str = "any") -> next_step.Ways:
    race = "Race LoRAs, or race_unindexed of Auto LoRA"
    return next_step.Ways(
        "Index Library", race, widen=lambda others: f"set base_model to {any_model}{f' or {others}' if others else ''}"
    )


def _n_unmeasured(files: Mapping[str, Resolved], allowed: ForModel) -> int:
    """How many files no row is of. Those for other models do not count."""
    return next_step.unmeasured(lora_folder.lora_library().entries, files, allowed.misfits)
