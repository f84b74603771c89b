"""CARLoS: LoRAs by what they do. Measures the effect of a LoRA and finds LoRAs for a sentence.

    import carlos_core as carlos
    db = carlos.load_bundled_database()
    for match in carlos.retrieve(db, "snowfall"):
        print(match.rank, match.lora_id, match.score)

Everything is loaded on first use: importing this package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .civitai.refresh import refresh_metadata
    from .clip.loading import encoder_dimension, load_encoder
    from .comfy.encoder import load_comfy_encoder as load_comfy_encoder
    from .comfy.indexing import Loaded as Loaded
    from .comfy.indexing import Workplace as Workplace
    from .comfy.indexing import comfy_indexer as comfy_indexer
    from .database.database import MetricsDatabase, create_database, load_database
    from .database.published import copy_bundled_database, load_bundled_database
    from .database.target import DatabaseFile
    from .errors import CarlosError
    from .measuring.base_check import BaseCheck as BaseCheck
    from .measuring.caches import cache_usage, clear_cache
    from .measuring.estimate import LibraryProgress as LibraryProgress
    from .measuring.estimate import estimate_lora as estimate_lora
    from .measuring.failures import Failure
    from .measuring.failures import alike as alike
    from .measuring.gallery import Gallery
    from .measuring.index_lora import index_lora
    from .measuring.indexer import Indexer, Outcome
    from .measuring.plan import Plan
    from .measuring.protocol import Protocol
    from .measuring.quick_steps import QuickSteps as QuickSteps
    from .measuring.strength_curve import most_pictures as most_pictures
    from .measuring.studio import Studio
    from .prompts.prompt_set import load_prompt_set
    from .records import IndexingResult, LoraMetadata, LoraRecord, LoraVector
    from .search.describing import Describer
    from .search.limits import ChoiceRules, SearchLimits
    from .search.matches import Match
    from .search.retrieval import choose, retrieve
    from .search.searcher import Searcher
    from .search.selection import Selection

__all__ = [
    "CarlosError",
    "ChoiceRules",
    "DatabaseFile",
    "Describer",
    "Failure",
    "Gallery",
    "Indexer",
    "IndexingResult",
    "LoraMetadata",
    "LoraRecord",
    "LoraVector",
    "Match",
    "MetricsDatabase",
    "Outcome",
    "Plan",
    "Protocol",
    "SearchLimits",
    "Searcher",
    "Selection",
    "Studio",
    "cache_usage",
    "choose",
    "clear_cache",
    "copy_bundled_database",
    "create_database",
    "encoder_dimension",
    "index_lora",
    "load_bundled_database",
    "load_database",
    "load_encoder",
    "load_prompt_set",
    "refresh_metadata",
    "retrieve",
    "Failure",
]

_HOMES = {
    "BaseCheck": ".measuring.base_check",
    "CarlosError": ".errors",
    "ChoiceRules": ".search.limits",
    "DatabaseFile": ".database.target",
    "Describer": ".search.describing",
    "Gallery": ".measuring.gallery",
    "Indexer": ".measuring.indexer",
    "IndexingResult": ".records",
    "LibraryProgress": ".measuring.estimate",
    "Loaded": ".comfy.indexing",
    "LoraMetadata": ".records",
    "LoraRecord": ".records",
    "LoraVector": ".records",
    "Match": ".search.matches",
    "MetricsDatabase": ".database.database",
    "Failure": ".measuring.failures",
    "Outcome": ".measuring.indexer",
    "Plan": ".measuring.plan",
    "Protocol": ".measuring.protocol",
    "QuickSteps": ".measuring.quick_steps",
    "SearchLimits": ".search.limits",
    "Searcher": ".search.searcher",
    "Selection": ".search.selection",
    "Studio": ".measuring.studio",
    "Workplace": ".comfy.indexing",
    "alike": ".measuring.failures",
    "cache_usage": ".measuring.caches",
    "choose": ".search.retrieval",
    "comfy_indexer": ".comfy.indexing",
    "clear_cache": ".measuring.caches",
    "copy_bundled_database": ".database.published",
    "create_database": ".database.database",
    "encoder_dimension": ".clip.loading",
    "estimate_lora": ".measuring.estimate",
    "index_lora": ".measuring.index_lora",
    "load_bundled_database": ".database.published",
    "load_comfy_encoder": ".comfy.encoder",
    "load_database": ".database.database",
    "load_encoder": ".clip.loading",
    "load_prompt_set": ".prompts.prompt_set",
    "most_pictures": ".measuring.strength_curve",
    "refresh_metadata": ".civitai.refresh",
    "retrieve": ".search.retrieval",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
