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
    from .comfy.indexing import comfy_indexer as comfy_indexer
    from .comfy.racing import check_asked as check_asked
    from .comfy.racing import keep_race_pictures as keep_race_pictures
    from .comfy.racing import question_of as question_of
    from .comfy.racing import race_facts as race_facts
    from .comfy.racing import race_indexer as race_indexer
    from .comfy.racing import race_of as race_of
    from .comfy.racing import settings_of_rows as settings_of_rows
    from .database.database import MetricsDatabase, create_database, load_database
    from .database.published import copy_bundled_database, load_bundled_database
    from .database.target import DatabaseFile
    from .diffusers.generator import DiffusersGenerator as DiffusersGenerator
    from .diffusers.loading import load_model as load_model
    from .errors import CarlosError
    from .measuring.base_check import BaseCheck as BaseCheck
    from .measuring.caches import cache_usage, clear_cache
    from .measuring.estimate import LibraryProgress as LibraryProgress
    from .measuring.estimate import estimate_lora as estimate_lora
    from .measuring.failures import Failure
    from .measuring.failures import alike as alike
    from .measuring.gallery import Gallery
    from .measuring.index_lora import index_lora
    from .measuring.indexer import Indexer
    from .measuring.outcome import Outcome
    from .measuring.plan import Plan
    from .measuring.protocol import Protocol
    from .measuring.quick_steps import QuickSteps as QuickSteps
    from .measuring.race_terms import RaceResult as RaceResult
    from .measuring.race_terms import RaceRules as RaceRules
    from .measuring.start import Costs as Costs
    from .measuring.start import Files as Files
    from .measuring.start import Start as Start
    from .measuring.strength_curve import most_pictures as most_pictures
    from .measuring.studio import Studio
    from .measuring.workplace import Workplace as Workplace
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
    "Costs": ".measuring.start",
    "DatabaseFile": ".database.target",
    "Describer": ".search.describing",
    "Files": ".measuring.start",
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
    "Outcome": ".measuring.outcome",
    "Plan": ".measuring.plan",
    "Protocol": ".measuring.protocol",
    "QuickSteps": ".measuring.quick_steps",
    "RaceResult": ".measuring.race_terms",
    "RaceRules": ".measuring.race_terms",
    "SearchLimits": ".search.limits",
    "Searcher": ".search.searcher",
    "Selection": ".search.selection",
    "Start": ".measuring.start",
    "Studio": ".measuring.studio",
    "Workplace": ".measuring.workplace",
    "alike": ".measuring.failures",
    "cache_usage": ".measuring.caches",
    "choose": ".search.retrieval",
    "DiffusersGenerator": ".diffusers.generator",
    "load_model": ".diffusers.loading",
    "comfy_indexer": ".comfy.indexing",
    "check_asked": ".comfy.racing",
    "clear_cache": ".measuring.caches",
    "copy_bundled_database": ".database.published",
    "create_database": ".database.database",
    "encoder_dimension": ".clip.loading",
    "estimate_lora": ".measuring.estimate",
    "index_lora": ".measuring.index_lora",
    "keep_race_pictures": ".comfy.racing",
    "load_bundled_database": ".database.published",
    "load_comfy_encoder": ".comfy.encoder",
    "load_database": ".database.database",
    "load_encoder": ".clip.loading",
    "load_prompt_set": ".prompts.prompt_set",
    "most_pictures": ".measuring.strength_curve",
    "question_of": ".comfy.racing",
    "race_facts": ".comfy.racing",
    "race_indexer": ".comfy.racing",
    "race_of": ".comfy.racing",
    "settings_of_rows": ".comfy.racing",
    "refresh_metadata": ".civitai.refresh",
    "retrieve": ".search.retrieval",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _HOMES[name].startswith(".diffusers."):
        import_module(".measuring.headless", __name__).check_installed()
    return getattr(import_module(_HOMES[name], __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
