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
    from .database import MetricsDatabase, copy_bundled_database, load_bundled_database, load_database
    from .embedding import load_encoder
    from .errors import CarlosError
    from .prompts import load_prompt_set
    from .retrieval import retrieve
    from .types import IndexingResult, LoraRecord, LoraVector, Match

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
    "IndexingResult": ".types",
    "LoraRecord": ".types",
    "LoraVector": ".types",
    "Match": ".types",
    "MetricsDatabase": ".database",
    "copy_bundled_database": ".database",
    "index_lora": ".api",
    "load_bundled_database": ".database",
    "load_database": ".database",
    "load_encoder": ".embedding",
    "load_prompt_set": ".prompts",
    "retrieve": ".retrieval",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
