"""A library as a map: each LoRA's direction as a place in the plane, so that LoRAs of like effects lie near each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..counting import counted
from ..loras.family import family_of_name
from ..records import LoraRecord
from ..vectors import unit
from .limits import SearchLimits
from .queries import row_of

if TYPE_CHECKING:
    from ..database.database import MetricsDatabase

MOST_DOTS = 3000
MOST_FITTED = 4000
"""Directions that the axes are computed from: further ones change them little, and cost much."""

N_NEAREST = 6
_UNLIKE = 0.1
"""Cosine up to which a LoRA has next to nothing in common with what is looked for, and is not named as near."""

N_LANDMARKS = 10


@dataclass(frozen=True, eq=False)
class Projection:
    """The plane in which unit directions differ most: their two first principal components."""

    centre: np.ndarray
    """[D], the mean of the unit directions."""

    axes: np.ndarray
    """[2, D], of length 1; zeros where there is no further difference."""

    shares: tuple[float, float]
    """Of the variance of the unit directions, along each axis, in [0, 1]."""

    def places(self, units: np.ndarray) -> np.ndarray:
        """Where unit directions [N, D] lie, [N, 2]."""
        return (units - self.centre) @ self.axes.T


def projection(units: np.ndarray) -> Projection:
    """The principal components of unit directions [N, D]: the eigenvectors of their covariance with the largest eigenvalues.

    Their signs are fixed (the largest number of an axis is positive), so that a library looks the same each time. Of more than
    `MOST_FITTED` rows, as many are taken at even distances.
    """
    dimension = units.shape[1]
    units = units[_evenly(len(units), MOST_FITTED)].astype(np.float64)
    centre = units.mean(axis=0) if len(units) else np.zeros(dimension)
    axes, shares = np.zeros((2, dimension)), [0.0, 0.0]
    if len(units) > 1:
        away = units - centre
        variances, columns = np.linalg.eigh(away.T @ away / len(units))
        for axis in range(min(2, dimension)):
            # What is left of directions that are equal is rounding.
            if variances[-1 - axis] > 1e-10:
                column = columns[:, -1 - axis]
                axes[axis] = np.sign(column[np.abs(column).argmax()]) * column
                shares[axis] = float(variances[-1 - axis] / variances.sum())
    return Projection(centre, axes, (shares[0], shares[1]))


class Dot(NamedTuple):
    """A LoRA on the map."""

    x: float
    y: float
    family: str | None
    """None if it is not known."""

    strength: float
    consistency: float | None


class Name(NamedTuple):
    """A LoRA whose name is to be shown."""

    record: LoraRecord
    x: float
    y: float
    cosine: float | None
    """With what is looked for; None if it is shown for another reason."""

    is_marked: bool
    """Whether it is one that was asked for."""

    @property
    def facts(self) -> dict[str, Any]:
        """For scripts."""
        return {"lora_id": self.record.lora_id, "name": self.record.name, "cosine": self.cosine, "marked": self.is_marked}


@dataclass(frozen=True, eq=False)
class LibraryMap:
    """LoRAs as places in the plane."""

    dots: tuple[Dot, ...]
    """Those that are drawn: at most `MOST_DOTS`, and those with a name."""

    names: tuple[Name, ...]
    """The most important first."""

    families: Mapping[str | None, int]
    """How many LoRAs of the library within the limits are of each family, the most frequent first and unknown ones (None) last;
    those without effect are left out."""

    n_without_effect: int
    shares: tuple[float, float]
    """Of the differences between the LoRAs, along each axis, in [0, 1]."""

    query: tuple[float, float] | None = None
    """Where what is looked for lies; None if nothing is looked for, or it is a LoRA."""

    @property
    def n_loras(self) -> int:
        """Of the library within the limits, those without effect left out."""
        return sum(self.families.values())

    @property
    def facts(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "loras": self.n_loras,
            "without_effect": self.n_without_effect,
            "shares": list(self.shares),
            "families": {family or "unknown": n for family, n in self.families.items()},
            "named": [name.facts for name in self.names],
        }

    def title(self, query: str, base_model: str | None) -> str:
        """What it is a map of.

        query: what is looked for; empty for nothing. base_model: the family that is shown; None for all.
        """
        of_family = "" if base_model is None else f" for {base_model}"
        looked_for = f' and "{query}"' if query else " by what they do"
        return f"{counted(self.n_loras, 'LoRA')}{of_family}{looked_for}"


def library_map(
    db: MetricsDatabase, *, base_model: str | None = None, signature: Tensor | None = None, marked: Sequence[str] = ()
) -> LibraryMap:
    """Map the LoRAs of a database by their directions.

    The axes are those of all LoRAs with an effect, whatever is shown of them: a filter moves nothing.

    Args:
        db: the database.
        base_model: show only LoRAs for this family, and those of unknown family.
        signature: what is looked for, [D]; the nearest LoRAs are named.
        marked: ids of LoRAs to mark. If it is one, and nothing is looked for, the nearest to it are named.

    Raises RetrievalError if one of the marked LoRAs is not there.
    """
    arrays = db.ranking_arrays
    has_effect = db.has_effect
    limits = SearchLimits(base_model=base_model)
    taken = np.flatnonzero(has_effect & limits.chosen(db, ()).numpy())
    among = np.flatnonzero(has_effect)
    plane = projection(_units(db, among[_evenly(len(among), MOST_FITTED)]))
    if not len(taken):
        return LibraryMap((), (), {}, int((~has_effect).sum()), plane.shares)
    where = {lora_id: place for place, lora_id in enumerate(np.array(db.column("lora_id"), dtype=object)[arrays.rows])}
    for lora_id in marked:
        row_of(db, lora_id)
    own = [where[lora_id] for lora_id in marked if has_effect[where[lora_id]]]
    towards = unit(signature) if signature is not None else None
    query = None
    if towards is not None:
        query = plane.places(towards.numpy()[None])[0]
    elif len(own) == 1:
        towards = unit(arrays.directions[own[0]])
    nearest = _nearest(db, taken, towards, own) if towards is not None else {}
    drawn = taken[_evenly(len(taken), MOST_DOTS)]
    drawn = np.unique(np.concatenate([drawn, np.array([*own, *nearest], dtype=np.int64)]))
    places = plane.places(_units(db, drawn))
    at = {place: (float(x), float(y)) for place, (x, y) in zip(drawn.tolist(), places, strict=True)}
    landmarks = [] if own or nearest else drawn[_far_apart(places, N_LANDMARKS)].tolist()
    names = [Name(db.row_at(int(arrays.rows[place])), *at[place], nearest.get(place), is_marked=True) for place in own]
    others = [place for place in (*nearest, *landmarks) if place not in own]
    names += [Name(db.row_at(int(arrays.rows[place])), *at[place], nearest.get(place), is_marked=False) for place in others]
    labels = db.column("base_model")
    family_of = {place: family_of_name(labels[arrays.rows[place]]) for place in {*taken.tolist(), *drawn.tolist()}}
    dots = tuple(
        Dot(*at[place], family_of[place], float(arrays.strength[place]), _known(arrays.consistency[place]))
        for place in drawn.tolist()
    )
    found = None if query is None else (float(query[0]), float(query[1]))
    families = _by_number(family_of[place] for place in taken.tolist())
    return LibraryMap(dots, tuple(names), families, int((~has_effect).sum()), plane.shares, found)


def _units(db: MetricsDatabase, places: np.ndarray) -> np.ndarray:
    """Unit directions of rows in ranking order, [N, D] float64."""
    arrays = db.ranking_arrays
    index = torch.from_numpy(places)
    return (arrays.directions[index].double() / arrays.norms[index].double()[:, None]).numpy()


def _nearest(db: MetricsDatabase, taken: np.ndarray, towards: Tensor, own: Sequence[int]) -> dict[int, float]:
    """The marked LoRAs and the others that are nearest to a unit vector, with their cosines; of the others the nearest first."""
    arrays = db.ranking_arrays
    cosines = (arrays.directions @ towards.float() / arrays.norms.clamp(min=1e-12)).numpy()
    order = taken[np.argsort(-cosines[taken], kind="stable")]
    near = order[cosines[order] > _UNLIKE]
    others = [place for place in near[: N_NEAREST + len(own)].tolist() if place not in own][:N_NEAREST]
    return {place: float(cosines[place]) for place in (*own, *others)}


def _evenly(n: int, most: int) -> np.ndarray:
    """At most so many places at even distances among `n`."""
    return np.arange(n) if n <= most else np.unique(np.linspace(0, n - 1, most).round().astype(np.int64))


def _far_apart(places: np.ndarray, most: int) -> np.ndarray:
    """Places in the plane that lie far from each other, from the outermost on: each is farthest from those before it."""
    chosen = [int(np.square(places).sum(axis=1).argmax())]
    distances = np.full(len(places), np.inf)
    while len(chosen) < min(most, len(places)):
        distances = np.minimum(distances, np.square(places - places[chosen[-1]]).sum(axis=1))
        farthest = int(distances.argmax())
        if distances[farthest] <= 0:
            break
        chosen.append(farthest)
    return np.array(chosen, dtype=np.int64)


def _by_number(families: Iterable[str | None]) -> dict[str | None, int]:
    """How often each family is there, as `LibraryMap.families`."""
    counts = Counter(families)
    return {
        family: counts[family] for family in sorted(counts, key=lambda family: (family is None, -counts[family], family or ""))
    }


def _known(value: Tensor) -> float | None:
    return None if bool(torch.isnan(value)) else float(value)
