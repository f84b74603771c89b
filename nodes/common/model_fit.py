"""What a loaded model can take of a database's LoRAs, and which of them were made for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ...carlos_core.comfy.families import class_of_model, model_family
from ...carlos_core.counting import counted
from ...carlos_core.loras.family import families_alike
from ...carlos_core.loras.family import fits as is_labelled_for
from ...carlos_core.loras.fits import misfit_of as misfit_of  # noqa: PLC0414
from ...carlos_core.records import LayerFit
from ...carlos_core.search.limits import SearchLimits
from ...carlos_core.search.preference import Preference
from ..host import lora_folder
from .preferred import preference_for

if TYPE_CHECKING:
    from ...carlos_core.database.database import MetricsDatabase

DOES_NOT_FIT = "does not fit"


@dataclass(frozen=True)
class ForModel:
    """Limits for a model, how many LoRAs they leave out for its sake, and which of the others to prefer."""

    limits: SearchLimits
    n_unfit: int = 0
    model: str = ""
    """ComfyUI's class of the model; empty if there is none."""

    installed: Mapping[str, str] = field(default_factory=dict)
    """lora_id -> name in ComfyUI's list, of the LoRAs on this machine."""

    preference: Preference | None = None
    """None if nothing is known of the checkpoint."""

    misfits: Mapping[str, LayerFit] = field(default_factory=dict)
    """The listed files, measured or not, whose layers do not fit the model, by their names in ComfyUI's list."""

    fitting: frozenset[str] = frozenset()
    """Ids of the LoRAs whose files are known to fit the model."""

    @property
    def notes(self) -> list[str]:
        """Of what was left out, for the report."""
        if not self.n_unfit:
            return []
        unfit = counted(self.n_unfit, "LoRA of the database is", "LoRAs of the database are")
        its = "its" if self.n_unfit == 1 else "their"
        return [f"{unfit} left out: {its} layers do not fit this {self.model} model."]

    @property
    def facts(self) -> dict[str, int]:
        """The same for scripts: reason -> how many."""
        return {DOES_NOT_FIT: self.n_unfit} if self.n_unfit else {}


def for_model(
    limits: SearchLimits,
    database: MetricsDatabase,
    model: Any,
    clip: Any,
    installed: Mapping[str, str],
    hidden: Any,
    *,
    by_label: bool = True,
) -> ForModel:
    """Limits narrowed to what fits a MODEL, as the files themselves say; for rows without a file their labels decide.

    A file that fits only in part, and is labelled for another family, is left out: families share names and some shapes.

    Args:
        limits: those of the user; a base model that is chosen there stays a limit for all.
        database: the rows that are searched.
        model: a MODEL; None: the limits stay as they are.
        clip: its CLIP, None if it is not known.
        installed: lora_id -> name in ComfyUI's list.
        hidden: of the node, whose prompt names the checkpoint.
        by_label: whether labels count.
    """
    if model is None:
        return ForModel(limits, installed=installed)
    chosen = limits.base_model if isinstance(limits.base_model, str) else None
    preference = preference_for(database, installed, hidden, chosen)
    family = model_family(model) if by_label and limits.base_model is None else None
    alike = None if family is None else families_alike(family)
    labels = dict(zip(database.column("lora_id"), database.column("base_model"), strict=True))
    found = lora_folder.lora_fits(model, clip)
    fits = {lora_id: found[name] for lora_id, name in installed.items() if name in found}
    fitting = frozenset(lora_id for lora_id, fit in fits.items() if _is_for(fit, labels.get(lora_id), alike))
    unfit = frozenset(fits) - fitting
    if alike is not None:
        limits = replace(limits, base_model=alike, fitting=fitting)
    kind = class_of_model(model)
    misfits = {name: fit for name, fit in found.items() if fit.of and not fit.fits}
    return ForModel(replace(limits, model=kind, unfit=unfit), len(unfit), kind, installed, preference, misfits, fitting)


def _is_for(fit: LayerFit, label: str | None, alike: frozenset[str] | None) -> bool:
    return fit.fits and (fit.layers == fit.of or alike is None or is_labelled_for(label, alike))
