"""What somebody for whom nothing was found can do now, in one sentence, by the reason."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..counting import counted
from ..loras.same_file import by_file

if TYPE_CHECKING:
    from ..database.database import MetricsDatabase
    from ..loras.library import LibraryEntry
    from ..loras.matching import Resolved
    from .limits import SearchLimits

_LOOSEN = {
    "max_nsfw_level": "raise",
    "min_downloads": "lower",
    "max_strength": "raise",
    "min_consistency": "lower",
    "min_alignment": "lower",
}
"""By the limit that left none: what to do about it."""

SAY_EFFECT = "Next: say what the LoRA should do, in plain words."
"""For somebody who types only a name."""

_FAMILIES_NAMED = 2


@dataclass(frozen=True)
class Ways:
    """How the ways out are called where somebody asks."""

    measure: str
    """What measures all files."""

    race: str
    """What races them."""

    widen: Callable[[str], str]
    """Families that LoRAs are labelled for, perhaps none -> how to set the base model so that their labels leave out fewer."""

    files: str = "in models/loras"
    """Where the LoRA files are."""

    limit: Callable[[str], str] = str
    """A limit's name -> how it is set."""


def unmeasured(entries: Iterable[LibraryEntry], files: Mapping[str, Resolved], left_out: Collection[str] = ()) -> int:
    """How many LoRA files no row is of; one with several names counts once, and what makes no LoRA does not.

    Args:
        entries: the files, `LoraLibrary.entries`.
        files: lora_id -> its file, `LoraLibrary.resolve`.
        left_out: names of files that do not count, such as those for other models.
    """
    known = {name for where in files.values() for name in (where.name, *where.others)} | set(left_out)
    return sum(known.isdisjoint(entry.name for entry in same) for same in by_file(each for each in entries if each.is_usable))


def after_filters(
    database: MetricsDatabase, limits: SearchLimits, installed: Collection[str], n_unmeasured: int, ways: Ways
) -> str:
    """What to do where the limits leave no LoRA; empty if they leave some.

    Args:
        database: what was searched.
        limits: among which LoRAs.
        installed: ids of the LoRAs on this machine.
        n_unmeasured: files that no row is of, and that may fit.
        ways: what there is to do.
    """
    if not len(database):
        return f"Next: {_unmeasured(n_unmeasured, ways)}." if n_unmeasured else ""
    filters = limits.filters(database, installed)
    if not filters or filters[-1].left:
        return ""
    name = filters[-1].name
    if name in _LOOSEN:
        # Not the last, which may take what little another one has left.
        lefts = [len(database), *(each.left for each in filters)]
        taken = {each.name: before - each.left for before, each in zip(lefts, filters, strict=False) if each.name in _LOOSEN}
        most = max(taken, key=lambda name: taken[name])
        return f"Next: {_LOOSEN[most]} {ways.limit(most)}."
    others = " or ".join(limits.other_families(database, installed)[:_FAMILIES_NAMED])
    if name == "base_model" and isinstance(limits.base_model, str):
        return f"Next: {ways.widen(others)}."
    if name in ("model", "base_model"):
        return f"Next: load a checkpoint{f' for {others}' if others else ''}, or measure LoRAs that are made for this one."
    return f"Next: {_unmeasured(n_unmeasured, ways)}." if name == "installed" and n_unmeasured else ""


def after_search(n_unmeasured: int | None, n_raced: int, is_for_model: bool, ways: Ways) -> str:
    """What to do where LoRAs were looked at and none fits.

    Args:
        n_unmeasured: files that no row is of, and that may fit; None if it is not known which files there are.
        n_raced: rows of few pictures, by a race.
        is_for_model: whether only LoRAs that fit a model were looked at.
        ways: what there is to do.
    """
    if n_unmeasured:
        return f"Next: ask in other words, {_unmeasured(n_unmeasured, ways)}."
    other = "Next: ask in other words, or for another effect"
    if n_raced:
        raced = counted(n_raced, "row of this database is", "rows of this database are")
        return f"{other}, or measure whole what was only raced ({ways.measure}): {raced} of few pictures."
    if n_unmeasured is None:
        return f"{other}."
    all_of = "that fits this model is" if is_for_model else "is"
    return f"{other}; every LoRA {ways.files} {all_of} in this database."


def _unmeasured(n: int, ways: Ways) -> str:
    their = counted(n, f"LoRA {ways.files} that is", f"LoRAs {ways.files} that are")
    return f"measure the {their} not in this database yet ({ways.measure}), or race them for this query ({ways.race})"
