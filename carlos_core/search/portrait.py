"""What a database knows of one LoRA, beside its row: how it stands among the others, and which of them do nearly the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from ..foreign import ForeignFacts
from ..records import NO_EFFECT, LoraRecord
from ..vectors import unit

if TYPE_CHECKING:
    from ..database.database import MetricsDatabase

N_NEIGHBOURS = 5


class Spread(NamedTuple):
    """How a metric is spread over a library: its least value, the quartiles, its greatest value."""

    least: float
    lower: float
    middle: float
    upper: float
    greatest: float


class Neighbour(NamedTuple):
    """Another LoRA of the library, and how alike it is."""

    record: LoraRecord
    cosine: float
    """Of the two directions, in [-1, 1]."""

    @property
    def facts(self) -> dict[str, Any]:
        """For scripts."""
        return {"lora_id": self.record.lora_id, "name": self.record.name, "cosine": self.cosine}


@dataclass(frozen=True, eq=False)
class Portrait:
    """A LoRA among those of its library."""

    record: LoraRecord
    n_loras: int
    """Of the library, those without effect left out."""

    spreads: Mapping[str, Spread]
    """Of "strength", "consistency" and "alignment", where any LoRA has it."""

    neighbours: tuple[Neighbour, ...]
    """The nearest first; empty for a LoRA without effect."""

    protocol: Mapping[str, Any]
    """How it was measured, as the database describes it; empty if it does not."""

    @cached_property
    def weight(self) -> float | None:
        """The weight that the LoRA was measured at; None if it is not known."""
        weight = ForeignFacts(self.protocol).decimal("lora_weight")
        return None if weight is None else float(weight)


def portrait(db: MetricsDatabase, record: LoraRecord, n_neighbours: int = N_NEIGHBOURS) -> Portrait:
    """What a database knows of a LoRA.

    Args:
        db: the database.
        record: the LoRA's row, of this database or of another one with the same encoder.
        n_neighbours: how many LoRAs that are like it, at most.
    """
    arrays = db.ranking_arrays
    has_effect = db.has_effect
    values = {
        "strength": arrays.strength.numpy()[has_effect],
        "consistency": arrays.consistency[torch.from_numpy(has_effect)].numpy(),
        "alignment": np.array(db.column("alignment"), dtype=np.float64)[arrays.rows[has_effect]],
    }
    spreads = {name: spread for name, found in values.items() if (spread := _spread(found)) is not None}
    protocol = db.protocols.get(record.protocol_id or "")
    known = protocol if isinstance(protocol, Mapping) else {}
    return Portrait(record, int(has_effect.sum()), spreads, _neighbours(db, record, n_neighbours), known)


def _spread(values: np.ndarray) -> Spread | None:
    finite = values[np.isfinite(values)]
    return Spread(*map(float, np.quantile(finite, (0, 0.25, 0.5, 0.75, 1)))) if len(finite) else None


def _neighbours(db: MetricsDatabase, record: LoraRecord, most: int) -> tuple[Neighbour, ...]:
    arrays = db.ranking_arrays
    if not record.direction.any() or NO_EFFECT in record.notes or record.direction.shape != (arrays.directions.shape[1],):
        return ()
    towards = unit(torch.tensor(record.direction)).float()
    cosines = (arrays.directions @ towards / torch.where(arrays.norms > 0, arrays.norms, torch.inf)).numpy()
    cosines[~db.has_effect] = -np.inf
    found = []
    # Of equal cosines the first id counts, as in a search.
    for place in np.argsort(-cosines, kind="stable")[: most + 1]:
        other = db.row_at(int(arrays.rows[place]))
        if other.lora_id != record.lora_id and np.isfinite(cosines[place]):
            found.append(Neighbour(other, float(cosines[place])))
    return tuple(found[:most])
