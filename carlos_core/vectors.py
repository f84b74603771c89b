"""Vectors in the encoder's space: lengths, angles, and one without its part along another."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .errors import RetrievalError


def units_of(rows: Tensor) -> Tensor:
    """Rows [R, D] scaled to length 1; rows of zeros stay as they are."""
    lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / torch.where(lengths > 0, lengths, 1.0)


def unit(signature: Tensor) -> Tensor:
    """A signature [D] scaled to length 1, in float64. Raises RetrievalError for one without direction."""
    length = torch.linalg.vector_norm(signature.double())
    if not torch.isfinite(length) or length == 0:
        raise RetrievalError("The query changes nothing in the encoder's eyes.", "Use other words or pictures.")
    return signature.double() / length


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine of two vectors [D]; 0 if one of them has no direction. Lengths are computed in the vectors' own precision."""
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a.astype(np.float64) @ b / lengths) if lengths > 0 else 0.0


def without(vector: Tensor, unit_vector: Tensor, share: float = 1.0) -> Tensor:
    """`vector` minus `share` of its part along `unit_vector`, if it points that way at all. [D], of the vectors' own type.

    Raises RetrievalError if nothing is left.
    """
    left = vector - share * torch.clamp(vector @ unit_vector, min=0.0) * unit_vector
    # A signature without itself leaves only rounding errors, and these would rank LoRAs by chance.
    if torch.linalg.vector_norm(left) <= 1e-5 * torch.linalg.vector_norm(vector):
        raise RetrievalError("What is to be avoided is all that was looked for.", "Look for something else, or avoid less.")
    return left
