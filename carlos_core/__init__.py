"""CARLoS: LoRAs by what they do. Measures the effect of a LoRA and finds LoRAs for a sentence.

    import carlos_core as carlos
    db = carlos.load_bundled_database()
    for match in carlos.retrieve(db, "snowfall, cold winter scene"):
        print(match.rank, match.lora_id, match.score)

Everything is loaded on first use: importing this package is free.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .api import index_lora
    from .clip.loading import load_encoder
    from .database.database import MetricsDatabase
    from .database.parquet import load_database
    from .database.published import copy_bundled_database, load_bundled_database
    from .errors import CarlosError
    from .prompts.prompt_set import load_prompt_set
    from .records import IndexingResult, LoraRecord, LoraVector, Match
    from .search.ranking import retrieve

__all__ = [
    "CarlosError",
    "IndexingResult",
    "LoraRecord",
    "LoraVector",
    "Match",
    "MetricsDatabase",
    "copy_bundled_database",
    "index_lora",
    "load_bundled_database",
    "load_database",
    "load_encoder",
    "load_prompt_set",
    "retrieve",
]

_HOMES = {
    "CarlosError": ".errors",
    "IndexingResult": ".records",
    "LoraRecord": ".records",
    "LoraVector": ".records",
    "Match": ".records",
    "MetricsDatabase": ".database.database",
    "copy_bundled_database": ".database.published",
    "index_lora": ".api",
    "load_bundled_database": ".database.published",
    "load_database": ".database.parquet",
    "load_encoder": ".clip.loading",
    "load_prompt_set": ".prompts.prompt_set",
    "retrieve": ".search.ranking",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
