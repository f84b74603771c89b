"""From a query to a ranking: one matrix product over the directions of all LoRAs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import RetrievalError
from ..foreign import whole_text
from ..records import Confidence, LoraVector, Match, Matches
from .calibration import CalibratedRows, calibrated_rows, confidences

if TYPE_CHECKING:
    from ..clip.encoder import Encoder, OpenClipEncoder
    from ..clip.signatures import OnPhrase, SignatureCache
    from ..database.database import MetricsDatabase, RankingArrays
    from ..prompts.prompt_set import PromptSet
    from .calibration import Background

MAX_STRENGTH = 9.8
MIN_CONSISTENCY = 0.041
"""The published limits (arXiv 2512.08826): stronger LoRAs break the picture, less consistent ones do no one thing."""

_PUBLISHED_IMAGES = 4480
"""Pictures behind a published row: the full protocol (arXiv 2512.08826)."""

PUBLISHED, CALIBRATED = "published", "calibrated"
RANKINGS = (PUBLISHED, CALIBRATED)
"""By the cosine of the published formula, or by how far a row stands out of its own background (`calibration`)."""

NO_NSFW_LIMIT = 32
"""CivitAI's highest level. A model's level is the sum of the levels of its pictures: 1, 2, 4, 8, 16, 32."""

_FLOAT32_SLACK = 1e-5
_ANY_CONSISTENCY = -1.0


def rank(
    directions: Tensor,
    signature: Tensor,
    *,
    strength: Tensor,
    consistency: Tensor,
    top_k: int,
    max_strength: float = MAX_STRENGTH,
    min_consistency: float = MIN_CONSISTENCY,
    norms: Tensor | None = None,
    keep: Tensor | None = None,
    z: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The `top_k` rows within the limits whose directions have the highest cosine with `signature`, best first.

    directions: [R, D] float32. signature: [D]. strength, consistency: [R]; NaN consistency (undefined) is below every limit
    but -1. norms: [R], the lengths of the directions, if they are at hand. keep: [R] bool, rows that may be chosen at all.
    z: [R], values to order the rows by instead, highest first; the scores stay cosines.
    Returns indices [K] and scores [K] float32 with K <= top_k: rows outside the limits and rows without a direction never
    appear. Equal scores are ordered by index. Raises RetrievalError for top_k < 1, a zero signature, or shapes that do not fit.

    Candidates are found in float32 by one matrix-vector product and scored again in float64, so that the order is that of
    the published formula, cos(direction, signature), and rows with the same direction tie exactly.
    """
    if top_k < 1:
        raise RetrievalError(f"top_k is {top_k}.", "Ask for at least 1 LoRA.")
    if directions.ndim != 2 or signature.shape != directions.shape[1:]:
        raise RetrievalError(
            f"A signature of shape {list(signature.shape)} does not fit directions of shape {list(directions.shape)}.",
            "Make the signature with the encoder of the rows.",
        )
    signature_norm = torch.linalg.vector_norm(signature.double())
    if not torch.isfinite(signature_norm) or signature_norm == 0:
        raise RetrievalError("The query changes nothing in the encoder's eyes.", "Use other words.")
    if norms is None:
        norms = torch.linalg.vector_norm(directions, dim=1)
    allowed = _allowed(norms, strength, consistency, max_strength, min_consistency, keep)
    if z is not None:
        rows = torch.nonzero(allowed).squeeze(1)
        chosen = rows[torch.sort(z[rows], descending=True, stable=True).indices[:top_k]]
        return chosen, _cosines(directions[chosen], signature).float()
    unit = (signature.double() / signature_norm).to(directions.dtype)
    scores = torch.where(allowed, (directions @ unit) / norms, -torch.inf)
    k = min(top_k, int(allowed.sum()))
    if k == 0:
        return torch.zeros(0, dtype=torch.long), torch.zeros(0)
    least = torch.topk(scores, k).values[-1]
    candidates = torch.nonzero(scores >= least - _FLOAT32_SLACK).squeeze(1)
    exact = _cosines(directions[candidates], signature)
    order = torch.sort(exact, descending=True, stable=True).indices[:k]
    return candidates[order], exact[order].float()


def _allowed(
    norms: Tensor, strength: Tensor, consistency: Tensor, max_strength: float, min_consistency: float, keep: Tensor | None
) -> Tensor:
    """Which rows have a direction, are within the limits and may be chosen at all. [R] bool."""
    allowed = (norms > 0) & (strength <= max_strength)
    allowed &= torch.nan_to_num(consistency, nan=_ANY_CONSISTENCY) >= min_consistency
    return allowed if keep is None else allowed & keep


def _cosines(directions: Tensor, signature: Tensor) -> Tensor:
    """The published score in float64. directions: [K, D], none zero; signature: [D], not zero. [K]."""
    rows = directions.double()
    unit = signature.double() / torch.linalg.vector_norm(signature.double())
    return (rows * unit).sum(1) / (rows * rows).sum(1).sqrt()


def retrieve(
    db: MetricsDatabase,
    query: str,
    *,
    top_k: int = 5,
    max_strength: float = MAX_STRENGTH,
    min_consistency: float = MIN_CONSISTENCY,
    min_alignment: float = 0.0,
    base_model: str | None = None,
    installed: Mapping[str, str] | None = None,
    installed_only: bool = False,
    prompts: PromptSet | None = None,
    encoder: Encoder | None = None,
    cache: SignatureCache | None = None,
    ranking: str = PUBLISHED,
    on_phrase: OnPhrase | None = None,
) -> list[Match]:
    """The LoRAs of `db` whose measured effect fits `query` best.

    min_alignment: leave out rows whose direction is known less well, as their expected cosine with the full protocol's tells; 0
    for no limit. A row without that figure stays if the full protocol is what it was measured by (as the published ones) or if
    it does not say; one of fewer pictures goes: it has no figure because they told nothing about its direction.
    base_model: keep rows that fit this family (`loras.fits`), and rows whose family is not known. installed: lora_id -> file
    name of the LoRAs at hand; `installed_only` keeps no others. prompts: prompt set of the signature (default: the built-in
    one). encoder: default is the one the rows were measured with, loaded once. ranking: "published" by cosine, "calibrated" by
    z-score, where every match also says how sure it is and on_phrase is that of `background_for`. Raises RetrievalError for an
    empty query, top_k < 1 or another ranking, EncoderError when the encoder is missing or is not the rows' own.
    """
    check_ranking(ranking)
    signature = signature_for(db, query, prompts=prompts, encoder=encoder, cache=cache)
    background = None
    if ranking == CALIBRATED:
        background = background_for(db, prompts=prompts, encoder=encoder, cache=cache, on_phrase=on_phrase)
    matches = find_matches(
        db,
        query,
        signature,
        top_k=top_k,
        max_strength=max_strength,
        min_consistency=min_consistency,
        min_alignment=min_alignment,
        base_model=base_model,
        installed=installed,
        installed_only=installed_only,
        ranking=ranking,
        background=background,
    )
    return list(matches.items)


def find_matches(
    db: MetricsDatabase,
    query: str,
    signature: Tensor,
    *,
    top_k: int,
    max_strength: float = MAX_STRENGTH,
    min_consistency: float = MIN_CONSISTENCY,
    min_alignment: float = 0.0,
    base_model: str | Collection[str] | None = None,
    installed: Mapping[str, str] | None = None,
    installed_only: bool = False,
    max_nsfw_level: int = NO_NSFW_LIMIT,
    min_downloads: int = 0,
    exclude: Collection[str] = (),
    ranking: str = PUBLISHED,
    background: Background | None = None,
) -> Matches:
    """`retrieve` for a signature that is known, with the reason when nothing is found.

    max_nsfw_level: the highest level that a LoRA's own pictures on CivitAI may have. min_downloads: on CivitAI. Rows of which
    these are not known stay. exclude: ids that are not to be found. background: of the same encoder and prompts as the
    signature; with it every match says how sure it is, whatever the ranking. Raises RetrievalError as `retrieve`, and for the
    calibrated ranking without a background.
    """
    check_ranking(ranking)
    if ranking == CALIBRATED and background is None:
        raise RetrievalError("The calibrated ranking needs a background.", "Pass the one of background_for.")
    arrays = db.ranking_arrays
    keep = selected(
        db,
        base_model=base_model,
        installed=(installed or {}) if installed_only else None,
        max_nsfw_level=max_nsfw_level,
        min_downloads=min_downloads,
        exclude=exclude,
    )
    aligned = _aligned(db, min_alignment)
    chosen = aligned if keep is None else keep if aligned is None else keep & aligned
    z = _calibrated(arrays, background).z_scores(signature) if background is not None else None
    indices, scores = rank(
        arrays.directions,
        signature,
        strength=arrays.strength,
        consistency=arrays.consistency,
        top_k=top_k,
        max_strength=max_strength,
        min_consistency=min_consistency,
        norms=arrays.norms,
        keep=chosen,
        z=z if ranking == CALIBRATED else None,
    )
    sure = None
    if z is not None:
        allowed = _allowed(arrays.norms, arrays.strength, arrays.consistency, max_strength, min_consistency, chosen)
        sure = confidences(z[indices], int(allowed.sum()))
    items = matches_at(db, indices.tolist(), scores.tolist(), installed or {}, sure)
    reason = "" if items else why_nothing(len(db), keep, max_strength, min_consistency, min_alignment)
    return Matches(query=query.strip(), encoder_id=str(db.encoder_id), items=items, reason=reason, signature=signature)


def matches_at(
    db: MetricsDatabase,
    indices: Sequence[int],
    scores: Sequence[float],
    installed: Mapping[str, str],
    sure: Sequence[Confidence] | None = None,
) -> tuple[Match, ...]:
    """Matches for rows in ranking order, best first. sure: the confidence of each, if it is known."""
    items = []
    for place, (index, score) in enumerate(zip(indices, scores, strict=True), start=1):
        row = db.row_at(int(db.ranking_arrays.rows[index]))
        vector = LoraVector(row["direction"], row["strength"], row["consistency"])
        confidence = sure[place - 1] if sure is not None else None
        items.append(Match(place, row["lora_id"], score, row, vector, installed.get(row["lora_id"]), confidence))
    return tuple(items)


def signature_for(
    db: MetricsDatabase,
    query: str,
    *,
    prompts: PromptSet | None = None,
    encoder: Encoder | None = None,
    cache: SignatureCache | None = None,
    load: Callable[[str], Encoder] | None = None,
) -> Tensor:
    """The signature of `query` in the space of the rows of `db`. [D] float32. Raises as `retrieve`.

    load: encoder id -> encoder, called only for a query that is not in the cache and if there is no `encoder`.
    """
    from ..prompts.prompt_set import default_signature_prompts

    query = whole_text(query).strip()
    if not query:
        raise RetrievalError("The query is empty.", 'Say what the LoRA should do, e.g. "snowfall, cold winter scene".')
    encoder_id = db.check_encoder(encoder.encoder_id if encoder is not None else None)
    prompts = prompts or default_signature_prompts()
    cache = cache or _default_cache()
    known = cache.known(encoder_id, prompts, query)
    if known is not None:
        return known
    return cache.signature(encoder or (load or _default_encoder)(encoder_id), prompts, query)


def background_for(
    db: MetricsDatabase,
    *,
    prompts: PromptSet | None = None,
    bank: PromptSet | None = None,
    encoder: Encoder | None = None,
    cache: SignatureCache | None = None,
    load: Callable[[str], Encoder] | None = None,
    on_phrase: OnPhrase | None = None,
) -> Background:
    """What unrelated effects look like to the encoder of the rows of `db`, for `find_matches`.

    The bank (default: the built-in one) is encoded once for each encoder and prompt set and kept; on_phrase hears of it, and
    what it raises ends the work, which goes on from there the next time. load: encoder id -> encoder, called only if
    something is missing and there is no `encoder`. Raises EncoderError as `retrieve`.
    """
    from ..prompts.prompt_set import default_effect_bank, default_signature_prompts

    encoder_id = db.check_encoder(encoder.encoder_id if encoder is not None else None)
    prompts = prompts or default_signature_prompts()
    bank = bank or default_effect_bank()
    cache = cache or _default_cache()
    known = cache.known_background(encoder_id, prompts, bank)
    if known is not None:
        return known
    return cache.background(encoder or (load or _default_encoder)(encoder_id), prompts, bank, on_phrase)


def check_ranking(ranking: str) -> None:
    """Raises RetrievalError for a ranking that does not exist."""
    if ranking not in RANKINGS:
        raise RetrievalError(f"There is no ranking {ranking!r}.", f"Choose {' or '.join(RANKINGS)}.")


def selected(
    db: MetricsDatabase,
    *,
    base_model: str | Collection[str] | None = None,
    installed: Mapping[str, str] | None = None,
    max_nsfw_level: int = NO_NSFW_LIMIT,
    min_downloads: int = 0,
    exclude: Collection[str] = (),
) -> Tensor | None:
    """Which rows may be chosen at all, in ranking order. [R] bool, None for all. See `find_matches`."""
    if base_model is None and installed is None and max_nsfw_level >= NO_NSFW_LIMIT and min_downloads <= 0 and not exclude:
        return None
    from ..loras.family import fits

    ids = db.column("lora_id")
    families, levels, downloads = db.column("base_model"), db.column("nsfw_level"), db.column("download_count")
    keep = [
        ids[row] not in exclude
        and (installed is None or ids[row] in installed)
        and (base_model is None or fits(families[row], base_model))
        and (max_nsfw_level >= NO_NSFW_LIMIT or _highest_level(levels[row] or 0) <= max_nsfw_level)
        and (downloads[row] is None or downloads[row] >= min_downloads)
        for row in db.ranking_arrays.rows.tolist()
    ]
    return torch.tensor(keep, dtype=torch.bool)


def _aligned(db: MetricsDatabase, min_alignment: float) -> Tensor | None:
    """Which rows have a direction that is known well enough, in ranking order. [R] bool, None for all."""
    if min_alignment <= 0:
        return None
    alignments, images = db.column("alignment"), db.column("n_images")
    keep = [
        (images[row] or _PUBLISHED_IMAGES) >= _PUBLISHED_IMAGES if alignments[row] is None else alignments[row] >= min_alignment
        for row in db.ranking_arrays.rows.tolist()
    ]
    return torch.tensor(keep, dtype=torch.bool)


def _highest_level(levels: int) -> int:
    return 1 << (levels.bit_length() - 1) if levels > 0 else 0


def why_nothing(n_rows: int, keep: Tensor | None, max_strength: float, min_consistency: float, min_alignment: float = 0.0) -> str:
    """Why no row was found, and the way out."""
    if n_rows == 0:
        return "The database is empty: index some LoRAs first."
    if keep is not None and not bool(keep.any()):
        return f"None of the {n_rows} LoRAs in the database is installed, of the chosen base model and within the other filters."
    left = n_rows if keep is None else int(keep.sum())
    limits = f"strength <= {max_strength:g}, consistency >= {min_consistency:g}"
    if min_alignment > 0:
        limits += f", alignment >= {min_alignment:g}"
    return f"None of the {left} LoRAs has {limits} and an effect: loosen the limits."


@lru_cache(maxsize=2)
def _calibrated(arrays: RankingArrays, background: Background) -> CalibratedRows:
    return calibrated_rows(arrays.directions, background)


@lru_cache(maxsize=1)
def _default_encoder(encoder_id: str) -> OpenClipEncoder:
    from ..clip.loading import load_encoder

    return load_encoder(encoder_id)


@lru_cache(maxsize=1)
def _default_cache() -> SignatureCache:
    from .. import paths
    from ..clip.signatures import SignatureCache

    return SignatureCache(paths.cache_directory() / "signatures")
