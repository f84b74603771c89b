"""The encoder of a database, its background and the cache of signatures, shared by the nodes of one ComfyUI process."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import comfy.utils

from ...carlos_core.clip.signatures import SignatureCache
from ...carlos_core.search import ranking as retrieval
from . import folders

if TYPE_CHECKING:
    from torch import Tensor

    from ...carlos_core.comfy.encoder import ComfyEncoder
    from ...carlos_core.database.database import MetricsDatabase
    from ...carlos_core.prompts.prompt_set import PromptSet
    from ...carlos_core.search.calibration import Background


def load_encoder(encoder_id: str) -> ComfyEncoder:
    """The encoder with this id, under ComfyUI's memory management; the last one is kept. Fetching shows a progress bar."""
    return _load(encoder_id, tuple(map(str, folders.encoder_folders())))


@lru_cache(maxsize=1)
def signature_cache() -> SignatureCache:
    """Signatures made before, in this process or an earlier one."""
    return SignatureCache(folders.cache_folder() / "signatures")


def signature(database: MetricsDatabase, prompts: PromptSet, text: str) -> Tensor:
    """The signature of a text in the space of a database. Raises CarlosError as `retrieval.signature_for`."""
    return retrieval.signature_for(database, text, prompts=prompts, cache=signature_cache(), load=load_encoder)


def background(database: MetricsDatabase, prompts: PromptSet) -> Background:
    """What unrelated effects look like to the encoder of a database. The first time shows a progress bar and can be cancelled."""
    bar = comfy.utils.ProgressBar(1)
    return retrieval.background_for(
        database,
        prompts=prompts,
        cache=signature_cache(),
        load=load_encoder,
        on_phrase=bar.update_absolute,
    )


@lru_cache(maxsize=1)
def _load(encoder_id: str, search: tuple[str, ...]) -> ComfyEncoder:
    from ...carlos_core.comfy.encoder import load_comfy_encoder

    bar = comfy.utils.ProgressBar(1)
    return load_comfy_encoder(encoder_id, search, on_bytes=lambda have, total: bar.update_absolute(have, max(total, have)))
