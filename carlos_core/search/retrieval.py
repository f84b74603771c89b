"""A search in one call, for scripts: a sentence in, LoRAs out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, TypedDict
from weakref import WeakKeyDictionary

from ..clip.encoder import Encoder
from ..database.database import MetricsDatabase
from ..prompts.prompt_set import PromptSet
from .limits import DEFAULT_RULES, PUBLISHED, ChoiceRules, SearchLimits
from .matches import Match
from .searcher import Searcher, check_ranking
from .selection import Selection

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Limits(TypedDict, total=False):
    """The fields of `SearchLimits`, as keywords."""

    max_strength: float
    min_consistency: float
    min_alignment: float
    base_model: str | Collection[str] | None
    installed_only: bool
    max_nsfw_level: int
    min_downloads: int
    exclude: Collection[str]


def retrieve(
    db: MetricsDatabase,
    query: str,
    *,
    top_k: int = 5,
    ranking: str = PUBLISHED,
    prompts: PromptSet | None = None,
    encoder: Encoder | None = None,
    installed: Mapping[str, str] | None = None,
    **limits: Unpack[Limits],
) -> list[Match]:
    """The LoRAs of `db` whose measured effect fits `query` best.

    Args:
        db: the database.
        query: what the LoRAs should do.
        top_k: how many LoRAs at most, at least 1.
        ranking: "published" by cosine, "calibrated" by z-score, where every match also says how sure it is.
        prompts: prompt set of the signature (default: the built-in one).
        encoder: default is the one that the rows were measured with; it stays loaded as long as `db` is there.
        installed: lora_id -> file name of the LoRAs on this machine.
        limits: see `SearchLimits`.

    Raises RetrievalError for an empty query, top_k < 1 or another ranking, EncoderError when the encoder is missing or is not the
    rows' own.
    """
    searcher = searcher_of(db, encoder, prompts).among(installed or {})
    check_ranking(ranking)
    found = searcher.find(searcher.signature(query), SearchLimits(**limits), top_k, query=query, ranking=ranking)
    return list(found.items)


def choose(
    db: MetricsDatabase,
    query: str,
    *,
    negative: str = "",
    rules: ChoiceRules = DEFAULT_RULES,
    prompts: PromptSet | None = None,
    encoder: Encoder | None = None,
    installed: Mapping[str, str] | None = None,
    **limits: Unpack[Limits],
) -> Selection:
    """The LoRAs to apply for a sentence, with their weights: what the node Auto LoRA does. Nothing if nothing fits.

    If a LoRA does not load, `Selection.without` gives the next best choice.

    Args:
        db: the database.
        query: one effect or several, e.g. "pixel art, burning flames".
        negative: what the LoRAs should not do.
        rules: how many LoRAs, how they are weighed, and how sure a match must be.
        prompts: prompt set of the signatures (default: the built-in one).
        encoder: default is the one that the rows were measured with; it stays loaded as long as `db` is there.
        installed: lora_id -> file name of the LoRAs on this machine.
        limits: see `SearchLimits`.

    Raises RetrievalError for values that make no sense, EncoderError as `retrieve`.
    """
    searcher = searcher_of(db, encoder, prompts).among(installed or {})
    return searcher.choose(query, negative=negative, rules=rules, limits=SearchLimits(**limits))


def searcher_of(db: MetricsDatabase, encoder: Encoder | None = None, prompts: PromptSet | None = None) -> Searcher:
    """The searcher of a database, which lives as long as the database does, so that its encoder is loaded once."""
    searchers = _searchers.setdefault(db, {})
    key = (id(encoder) if encoder is not None else None, prompts.content_hash if prompts is not None else "")
    if key not in searchers:
        searchers[key] = Searcher(db, encoder=encoder, prompts=prompts)
    return searchers[key]


_searchers: WeakKeyDictionary[MetricsDatabase, dict[tuple[int | None, str], Searcher]] = WeakKeyDictionary()
