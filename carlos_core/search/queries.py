"""Ways to ask other than by a sentence: each gives a vector that ranks LoRAs as a sentence's signature does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import RetrievalError
from ..vectors import unit, without

if TYPE_CHECKING:
    from ..clip.encoder import Encoder
    from ..database.database import MetricsDatabase
    from ..records import LoraRecord


def row_of(db: MetricsDatabase, lora_id: str) -> LoraRecord:
    """The row of a LoRA that somebody asks for. Raises RetrievalError if `db` has none."""
    row = db.row(lora_id.strip())
    if row is None:
        raise RetrievalError(f"{db.name} has no LoRA {lora_id.strip()!r}.", "Take the id from a report, or index the LoRA first.")
    return row


def like_lora(db: MetricsDatabase, lora_id: str) -> Tensor:
    """The direction of a LoRA. [D] float32. Raises RetrievalError if `db` has no such row, or the LoRA has no effect."""
    row = row_of(db, lora_id)
    direction = torch.tensor(row.direction)
    if not bool(direction.any()):
        raise RetrievalError(f"{row.name} has no measurable effect.", "Nothing is like it: choose another LoRA.")
    return direction


def like_images(encoder: Encoder, images: Tensor, *, without: Tensor | None = None, base_mean: Tensor | None = None) -> Tensor:
    """What sets pictures apart, as a vector to compare directions with. [D] float32.

    Without `without` and `base_mean` it is the pictures' own mean feature: then what they show counts as much as how they look.

    Args:
        encoder: the encoder of the directions.
        images: the pictures, [B, H, W, 3], values in [0, 1]; the mean over several pictures is taken.
        without: pictures without what is looked for, of the same form; their mean feature is subtracted.
        base_mean: [D], the mean feature of many pictures made without a LoRA; used in the same way if `without` is not given.
    """
    features = encoder.encode_images(images).double().mean(0)
    if without is not None:
        return (features - encoder.encode_images(without).double().mean(0)).float()
    return (features if base_mean is None else features - base_mean.double()).float()


def combined(signatures: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """One signature for several searches: the weighted sum of the unit signatures. [D] float32.

    A negative weight takes that search away, as `but_not` does; -1 or less takes it away completely. Raises RetrievalError if no
    weight is positive or nothing is left.
    """
    units = [unit(signature) for signature in signatures]
    wanted = [weight * towards for towards, weight in zip(units, weights, strict=True) if weight > 0]
    if not wanted:
        raise RetrievalError("No search has a weight above 0.", "Say what to look for, not only what to avoid.")
    aim = torch.stack(wanted).sum(0)
    for away, weight in zip(units, weights, strict=True):
        if weight < 0:
            aim = without(aim, away, min(-weight, 1.0))
    return aim.float()


def but_not(signature: Tensor, negative: Tensor) -> Tensor:
    """`signature` without its part along `negative`. [D] float32.

    LoRAs that do what is unwanted and nothing else then score 0, not less: "not B" asks for the absence of B, not for its
    opposite. A signature that points away from the negative stays as it is. Raises RetrievalError if nothing is left.
    """
    return without(signature.double(), unit(negative)).float()
