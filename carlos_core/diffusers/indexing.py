"""From the settings of a measurement to an indexer that makes its pictures with diffusers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..measuring.chosen_sampling import SampledModel, chosen_sampling
from ..measuring.indexer import Indexer
from ..measuring.settings import MeasureSettings
from ..measuring.workplace import PictureMaker, Workplace, indexer_at
from .generator import DiffusersGenerator
from .model import DiffusersModel

if TYPE_CHECKING:
    from ..generator import Sampling
    from ..progress import OnProgress

_ONLY_DISTILLED = ("FluxSchnell",)


def diffusers_indexer(
    model: DiffusersModel,
    settings: MeasureSettings,
    at: Workplace,
    guidances: tuple[float, ...] = (),
    names: Sequence[str] | None = None,
    on_progress: OnProgress | None = None,
) -> Indexer:
    """An indexer for some settings; see `indexer_at`.

    Args:
        model: what makes the pictures.
        settings: how they are made, and how many.
        at: where everything else is.
        guidances: the scales of guidance that the model is used with otherwise, as far as they are known.
        names: of the LoRAs that may have to be measured, with "/" between folders; None if they are not known yet.
        on_progress: called while pictures are made here.

    Raises CarlosError for a model or settings that cannot be used, or a database that cannot be written.
    """

    def generator_of(sampling: Sampling) -> DiffusersGenerator:
        return DiffusersGenerator(model, sampling)

    chosen = chosen_sampling(sampled_model(model), settings, guidances)
    return indexer_at(at, PictureMaker(generator_of, chosen), settings, names, on_progress)


def sampled_model(model: DiffusersModel) -> SampledModel:
    """What of a model decides how it is sampled."""
    name = model.family.class_name(model.pipe)
    reason = f"models of the class {name} are" if name in _ONLY_DISTILLED else ""
    return SampledModel(name, model.family.has_embedded_guidance(model.pipe), reason)
