"""Searches as tests write them: limits as keywords, no encoder unless one is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from carlos_core.clip.encoder import Encoder
from carlos_core.clip.signatures import SignatureCache
from carlos_core.database.database import MetricsDatabase
from carlos_core.prompts.prompt_set import PromptSet
from carlos_core.search.calibration import Background
from carlos_core.search.limits import PUBLISHED, SearchLimits
from carlos_core.search.matches import Match, Matches
from carlos_core.search.searcher import Searcher


def find(
    database: MetricsDatabase,
    signature: Tensor,
    top_k: int = 10,
    *,
    installed: Mapping[str, str] | None = None,
    ranking: str = PUBLISHED,
    background: Background | None = None,
    **limits: Any,
) -> Matches:
    """What is found for a signature."""
    searcher = Searcher(database, installed=installed)
    return searcher.find(signature, SearchLimits(**limits), top_k, query="q", ranking=ranking, background=background)


def retrieved(
    database: MetricsDatabase,
    query: str,
    encoder: Encoder | None = None,
    prompts: PromptSet | None = None,
    cache: SignatureCache | None = None,
    *,
    top_k: int = 5,
    **limits: Any,
) -> list[Match]:
    """What is found for a query."""
    searcher = Searcher(database, encoder=encoder, prompts=prompts, signatures=cache)
    return list(searcher.find(searcher.signature(query), SearchLimits(**limits), top_k, query=query).items)


def signature_of(
    database: MetricsDatabase, query: str, encoder: Encoder | None, prompts: PromptSet | None, cache: SignatureCache | None = None
) -> Tensor:
    """The signature of a query. [D]."""
    return Searcher(database, encoder=encoder, prompts=prompts, signatures=cache or SignatureCache()).signature(query)
