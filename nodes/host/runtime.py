"""What one ComfyUI process keeps between runs: the encoder, what it has encoded, and the searcher of the last database."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from ... import carlos_core as carlos
from ...carlos_core.clip import signature_file
from ...carlos_core.clip.lazy_encoder import LazyEncoder
from ...carlos_core.clip.signatures import SignatureCache
from ...carlos_core.clip.weights import is_at_hand
from ...carlos_core.prompts.prompt_set import PromptSet, default_signature_prompts
from . import folders
from .progress import bar

if TYPE_CHECKING:
    from ...carlos_core.comfy.encoder import ComfyEncoder
    from ...carlos_core.database.database import MetricsDatabase
    from ...carlos_core.measuring.gallery import Gallery
    from ...carlos_core.search.searcher import Searcher


def load_encoder(encoder_id: str) -> ComfyEncoder:
    """The encoder with this id, under ComfyUI's memory management; the last one is kept. Fetching shows a progress bar."""
    key = (encoder_id, *map(str, folders.encoder_folders()))
    if key not in _process.encoders:
        _process.encoders = {key: carlos.load_comfy_encoder(encoder_id, key[1:], bar())}
    return _process.encoders[key]


def encoder(database: MetricsDatabase) -> LazyEncoder:
    """The encoder of a database, loaded when it is needed. Raises EncoderError if the database does not name its encoder."""
    return LazyEncoder(database.check_encoder(), database.dimension, load_encoder)


def searcher(database: MetricsDatabase, prompts: PromptSet | None = None) -> Searcher:
    """The searcher of a database; the last one is kept. prompts: of the signatures (default: the built-in set)."""
    prompts = prompts or default_signature_prompts()
    last = _process.searcher
    if last is None or last.db is not database or last.prompts.content_hash != prompts.content_hash:
        # Rows of an unknown encoder can still be searched by a LoRA.
        own = None if database.encoder_id is None else encoder(database)
        last = carlos.Searcher(database, encoder=own, prompts=prompts, signatures=_process.signatures)
        _process.searcher = last
    return last


def searcher_at_hand(database: MetricsDatabase) -> Searcher | None:
    """The searcher that was used last, if it is of this database."""
    last = _process.searcher
    return last if last is not None and last.db is database else None


def is_encoder_at_hand(database: MetricsDatabase) -> bool:
    """Whether the encoder of a database is loaded or can be without fetching anything; so if none is known."""
    encoder_id = database.encoder_id
    return encoder_id is None or is_at_hand(encoder_id, folders.encoder_folders())


def bundled() -> MetricsDatabase:
    """The published rows, read once."""
    if _process.bundled is None:
        _process.bundled = carlos.load_bundled_database()
    return _process.bundled


def gallery() -> Gallery:
    """The pictures that are kept of LoRAs in the user's folders."""
    places = tuple(folders.picture_folders())
    if _process.gallery is None or _process.gallery.places != places:
        _process.gallery = carlos.Gallery(*places)
    return _process.gallery


@dataclass
class _Process:
    encoders: dict[tuple[str, ...], ComfyEncoder] = field(default_factory=dict)
    searcher: Searcher | None = None
    bundled: MetricsDatabase | None = None
    gallery: Gallery | None = None

    @cached_property
    def signatures(self) -> SignatureCache:
        return SignatureCache(folders.cache_folder() / signature_file.FOLDER)


_process = _Process()
