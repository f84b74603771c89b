"""A database's rows as the arrays that ranking needs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import torch

from . import columns as schema


@dataclass(frozen=True, eq=False)
class RankingArrays:
    """Rows in the order of their ids, ready for `search.ranking.rank`."""

    rows: np.ndarray
    """[R], the place of each row in the table."""
    directions: torch.Tensor
    """[R, D] float32, raw CLIP units."""
    norms: torch.Tensor
    """[R] float32, lengths of the directions."""
    strength: torch.Tensor
    """[R] float64, raw CLIP units."""
    consistency: torch.Tensor
    """[R] float64, NaN where it is undefined."""

    @cached_property
    def median_strength(self) -> float | None:
        """The median strength of the LoRAs with an effect; None if there are none."""
        strengths = self.strength[self.norms > 0].numpy()
        return float(np.median(strengths)) if len(strengths) else None

    @cached_property
    def usual_strength(self) -> tuple[float, float] | None:
        """Between which values nine of ten strengths are: the 5th and the 95th percentile. None if there are none."""
        return _usual(self.strength)

    @cached_property
    def usual_consistency(self) -> tuple[float, float] | None:
        """The same of the consistencies that are defined."""
        return _usual(self.consistency)


def ranking_arrays(table: pa.Table, name: str) -> RankingArrays:
    """The arrays of a table with the columns of `columns.column_types`. name: of the database, for what may be wrong with it.

    Raises DatabaseError for directions that are not all of one length.
    """
    ids = np.array(table["lora_id"].to_pylist(), dtype=object)
    rows = np.argsort(ids, kind="stable") if len(ids) else np.zeros(0, dtype=np.int64)
    directions = torch.from_numpy(schema.direction_matrix(table["direction"], name)[rows])
    strength = table["strength"].to_numpy()[rows]
    consistency = table["consistency"].to_numpy()[rows].astype(np.float64)
    return RankingArrays(
        rows=rows,
        directions=directions,
        norms=torch.linalg.vector_norm(directions, dim=1),
        strength=torch.tensor(strength),
        consistency=torch.tensor(consistency),
    )


def _usual(values: torch.Tensor) -> tuple[float, float] | None:
    defined = values[torch.isfinite(values)].numpy()
    return (float(np.percentile(defined, 5)), float(np.percentile(defined, 95))) if len(defined) else None
