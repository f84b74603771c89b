"""From a signature to a ranking: one matrix product over the directions of all LoRAs."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import RetrievalError
from ..vectors import unit

_FLOAT32_SLACK = 1e-5


def rank(
    directions: Tensor,
    signature: Tensor,
    top_k: int,
    *,
    norms: Tensor | None = None,
    allowed: Tensor | None = None,
    z: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The `top_k` rows whose directions have the highest cosine with `signature`, best first.

    Candidates are found in float32 by one matrix-vector product and scored again in float64, so that the order is that of
    the published formula, cos(direction, signature), and rows with the same direction tie exactly.

    Args:
        directions: [R, D] float32.
        signature: [D], of any length.
        top_k: how many rows at most, at least 1.
        norms: [R], the lengths of the directions, if they are known.
        allowed: [R] bool, rows that may be found. Rows without a direction never are.
        z: [R], values to order the rows by instead, highest first; the scores stay cosines.

    Returns indices [K] and scores [K] float32 with K <= top_k. Equal scores are ordered by index. Raises RetrievalError for
    top_k < 1, a zero signature, or shapes that do not fit.
    """
    if top_k < 1:
        raise RetrievalError(f"top_k is {top_k}.", "Ask for at least 1 LoRA.")
    if directions.ndim != 2 or signature.shape != directions.shape[1:]:
        raise RetrievalError(
            f"A signature of shape {list(signature.shape)} does not fit directions of shape {list(directions.shape)}.",
            "Make the signature with the encoder of the rows.",
        )
    aim = unit(signature)
    if norms is None:
        norms = torch.linalg.vector_norm(directions, dim=1)
    has_direction = norms > 0
    allowed = has_direction if allowed is None else allowed & has_direction
    if z is not None:
        rows = torch.nonzero(allowed).squeeze(1)
        chosen = rows[torch.sort(z[rows], descending=True, stable=True).indices[:top_k]]
        return chosen, _cosines(directions[chosen], aim).float()
    scores = torch.where(allowed, (directions @ aim.to(directions.dtype)) / norms, -torch.inf)
    k = min(top_k, int(allowed.sum()))
    if k == 0:
        return torch.zeros(0, dtype=torch.long), torch.zeros(0)
    least = torch.topk(scores, k).values[-1]
    candidates = torch.nonzero(scores >= least - _FLOAT32_SLACK).squeeze(1)
    exact = _cosines(directions[candidates], aim)
    order = torch.sort(exact, descending=True, stable=True).indices[:k]
    return candidates[order], exact[order].float()


def places(
    directions: Tensor, signature: Tensor, rows: Tensor, *, norms: Tensor, allowed: Tensor, z: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Where `rank` would put some rows if it returned all, without ordering the others.

    Args:
        directions: [R, D] float32.
        signature: [D], of any length.
        rows: [K] long, rows that are allowed.
        norms: [R], the lengths of the directions.
        allowed: [R] bool, as in `rank`.
        z: [R], as in `rank`.

    Returns places [K] long, 0 for the best, and scores [K] float32. Raises RetrievalError for a zero signature.
    """
    aim, before = unit(signature), list[int]()
    allowed, scores = allowed & (norms > 0), _cosines(directions[rows], aim)
    index, rough = torch.arange(len(directions)), torch.zeros(0)
    if z is None:
        rough = (directions @ aim.to(directions.dtype)) / norms
    for row, score in zip(rows.tolist(), scores, strict=True):
        if z is not None:
            is_better = (z > z[row]) | ((z == z[row]) & (index < row))
        else:
            is_better = rough > score + _FLOAT32_SLACK
            near = torch.nonzero(allowed & ((rough - score).abs() <= _FLOAT32_SLACK)).squeeze(1)
            exact = _cosines(directions[near], aim)
            is_better[near] = (exact > score) | ((exact == score) & (near < row))
        before.append(int((is_better & allowed).sum()))
    return torch.tensor(before, dtype=torch.long), scores.float()


def _cosines(directions: Tensor, aim: Tensor) -> Tensor:
    """The published score in float64. directions: [K, D], none zero; aim: [D], of length 1. [K]."""
    rows = directions.double()
    return (rows * aim).sum(1) / (rows * rows).sum(1).sqrt()
