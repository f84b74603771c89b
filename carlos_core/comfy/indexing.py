"""From the settings of a measurement to an indexer that makes its pictures with ComfyUI's model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..measuring.chosen_sampling import chosen_sampling
from ..measuring.indexer import Indexer
from ..measuring.settings import MeasureSettings
from ..measuring.workplace import PictureMaker, Workplace, indexer_at
from .families import makes_videos, sampled_model
from .generator import ComfyGenerator

if TYPE_CHECKING:
    from ..generator import Sampling
    from ..progress import OnProgress

_ONE_FRAME = "measured on videos of one frame"


@dataclass(frozen=True, eq=False)
class Loaded:
    """ComfyUI's MODEL, CLIP and VAE, without a LoRA."""

    model: Any
    clip: Any
    vae: Any


def comfy_indexer(
    loaded: Loaded,
    settings: MeasureSettings,
    at: Workplace,
    guidances: tuple[float, ...],
    names: Sequence[str] | None,
    on_progress: OnProgress | None,
) -> Indexer:
    """An indexer for some settings; see `indexer_at`.

    Args:
        loaded: what makes the pictures.
        settings: how they are made, and how many.
        at: where everything else is.
        guidances: the scales of guidance that the MODEL is used with otherwise, as far as they are known.
        names: of the LoRAs that may have to be measured, with "/" between folders; None if they are not known yet.
        on_progress: called while pictures are made here.

    Raises CarlosError for a model or settings that cannot be used, or a database that cannot be written.
    """

    def generator_of(sampling: Sampling) -> ComfyGenerator:
        return ComfyGenerator(loaded.model, loaded.clip, loaded.vae, sampling)

    chosen = chosen_sampling(sampled_model(loaded.model), settings, guidances)
    notes = (_ONE_FRAME,) if makes_videos(loaded.model) else ()
    return indexer_at(at, PictureMaker(generator_of, chosen, notes), settings, names, on_progress)
