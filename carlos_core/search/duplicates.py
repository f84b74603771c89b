"""LoRAs that do the same, by the cosine of their directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import RetrievalError
from .matches import Match, matches_at

if TYPE_CHECKING:
    from ..database.database import MetricsDatabase

_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Cluster:
    """LoRAs that do the same."""

    rows: tuple[int, ...]
    """The first is the one that most others are like."""

    cosines: tuple[float, ...]
    """Cosine of each row with the first, 1 for the first itself."""


def clusters(directions: Tensor, min_cosine: float, *, ids: Sequence[str]) -> tuple[Cluster, ...]:
    """Groups of rows around one whose cosine with each of them is at least `min_cosine`; the largest group first.

    directions: [R, D] float32; rows without a direction are in no group. ids: [R]; they decide between equal rows. The row with
    the most rows like it takes all of these; then comes the next of the rows that are left. So LoRAs that differ are not put
    together by a chain of small steps. Memory is [1024, R] at most. Raises RetrievalError for a min_cosine outside (0, 1].
    """
    if not 0 < min_cosine <= 1:
        raise RetrievalError(f"min_cosine is {min_cosine:g}.", "Choose a cosine above 0, at most 1: 0.95 means nearly the same.")
    norms = torch.linalg.vector_norm(directions, dim=1)
    units = directions / torch.where(norms > 0, norms, torch.ones(()))[:, None]
    # float32 leaves copies at a cosine of 1 - 1e-7.
    least = min_cosine - 1e-6
    likes = torch.cat([((part @ units.T) >= least).sum(1) for part in units.split(_ROWS_AT_ONCE)]) if len(units) else norms
    open_rows = {row for row in range(len(ids)) if likes[row] > 1 and norms[row] > 0}
    found = []
    for row in sorted(open_rows, key=lambda row: (-int(likes[row]), ids[row])):
        if row not in open_rows:
            continue
        cosines = (units @ units[row]).tolist()
        others = [other for other in open_rows if other != row and cosines[other] >= least]
        if others:
            others.sort(key=lambda other: (-cosines[other], ids[other]))
            found.append(Cluster((row, *others), (1.0, *(min(cosines[other], 1.0) for other in others))))
            open_rows -= {row, *others}
    return tuple(sorted(found, key=lambda cluster: (-len(cluster.rows), ids[cluster.rows[0]])))


def groups_of(
    db: MetricsDatabase, min_cosine: float, installed: Mapping[str, str], *, installed_only: bool = False
) -> list[tuple[Match, ...]]:
    """The LoRAs of a database that do the same, as `clusters` of matches whose scores are the cosines.

    installed: lora_id -> file name of the LoRAs on this machine. installed_only: only these are compared. Raises as `clusters`.
    """
    arrays, ids = db.ranking_arrays, db.column("lora_id")
    places = [place for place, row in enumerate(arrays.rows.tolist()) if not installed_only or ids[row] in installed]
    compared = [ids[row] for row in arrays.rows[places].tolist()]
    return [
        matches_at(db, [places[row] for row in cluster.rows], cluster.cosines, installed)
        for cluster in clusters(arrays.directions[places], min_cosine, ids=compared)
    ]
