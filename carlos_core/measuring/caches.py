"""All that is kept to save time: how much there is of each kind, and how to clear it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..clip import signature_file
from ..clip.signature_file import SignatureFile
from ..errors import CarlosError
from ..storage import cache_directory
from . import kept_facts, picture_cache
from .picture_cache import BASE, LORAS, TRIALS, Unit

THUMBNAILS, PICTURES, SIGNATURES, EVERYTHING = CLEARABLE = ("thumbnails", "pictures", "signatures", "everything")
FACTS = "facts"
KINDS = (BASE, LORAS, TRIALS, THUMBNAILS, SIGNATURES, FACTS)


@dataclass(frozen=True)
class CachePart:
    """What a cache holds of one kind."""

    kind: str
    """One of `KINDS`: pictures without a LoRA, with one, and those that no row is made of; their thumbnails; signatures of texts;
    small facts about models, such as how long a picture takes."""

    count: int
    """Pictures, thumbnails and signatures; of facts, the files."""

    size: int
    """Bytes."""

    in_use: int
    """Bytes of it that a measurement needs now, in whatever process: they are not removed."""


@dataclass(frozen=True)
class CacheUsage:
    """What a cache holds, and what it may hold."""

    folder: Path
    parts: tuple[CachePart, ...]
    """One of each kind, in the order of `KINDS`."""

    limit: float
    """Bytes that pictures and thumbnails may take together; infinite for no limit."""

    most_signatures: int

    def part(self, kind: str) -> CachePart:
        """The part of a kind."""
        return self.parts[KINDS.index(kind)]


def cache_usage(folder: str | Path | None = None) -> CacheUsage:
    """What a cache holds.

    folder: default is CARLOS_HOME/cache; in ComfyUI it is user/carlos/cache. Raises CarlosError if it cannot be read.
    """
    cache = _folder(folder)
    try:
        parts = _parts(cache)
    except OSError as error:
        raise _unusable(cache, error) from error
    return CacheUsage(cache, parts, picture_cache.limit(), signature_file.MOST)


def clear_cache(what: str = EVERYTHING, folder: str | Path | None = None) -> tuple[CachePart, ...]:
    """Remove what a cache holds, but for what a measurement needs now.

    Args:
        what: "thumbnails"; "pictures", which is all that is kept of them, thumbnails included; "signatures"; or "everything",
            which includes facts about models, unless a measurement runs.
        folder: as in `cache_usage`.

    Returns what was removed, one part of each kind.

    Raises CarlosError for another `what`, or if the folder cannot be written.
    """
    if what not in CLEARABLE:
        raise CarlosError(f"{what!r} is not a part of the cache.", f"Choose one of {', '.join(CLEARABLE)}.")
    before = cache_usage(folder)
    try:
        if what in (THUMBNAILS, PICTURES, EVERYTHING):
            _clear_units(picture_cache.units(before.folder), only_thumbnails=what == THUMBNAILS)
        if what in (SIGNATURES, EVERYTHING):
            SignatureFile(before.folder / signature_file.FOLDER).clear()
        if what == EVERYTHING and not picture_cache.in_use(before.folder):
            for path in _facts(before.folder):
                path.unlink(missing_ok=True)
    except OSError as error:
        raise _unusable(before.folder, error) from error
    after = cache_usage(folder)
    return tuple(
        CachePart(was.kind, max(0, was.count - now.count), max(0, was.size - now.size), 0)
        for was, now in zip(before.parts, after.parts, strict=True)
    )


def _clear_units(units: Iterable[Unit], *, only_thumbnails: bool) -> None:
    """Remove units or their thumbnails. One that cannot be removed does not keep the others; then raises its OSError."""
    problem: OSError | None = None
    for unit in units:
        try:
            if not only_thumbnails:
                unit.remove()
            elif unit.thumbnails:
                unit.remove_thumbnails()
        except OSError as error:
            problem = error
    if problem is not None:
        raise problem


def _folder(folder: str | Path | None) -> Path:
    return Path(folder) if folder is not None else cache_directory()


def _parts(cache: Path) -> tuple[CachePart, ...]:
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    needed: Counter[str] = Counter()
    held = picture_cache.in_use(cache)
    for unit in picture_cache.units(cache):
        for kind, count, size in _pieces(unit):
            counts[kind] += count
            sizes[kind] += size
            needed[kind] += size if unit.journal in held else 0
    counts[SIGNATURES], sizes[SIGNATURES] = SignatureFile(cache / signature_file.FOLDER).usage()
    facts = [path.stat().st_size for path in _facts(cache)]
    counts[FACTS], sizes[FACTS] = len(facts), sum(facts)
    needed[FACTS] = sizes[FACTS] if held else 0
    return tuple(CachePart(kind, counts[kind], sizes[kind], needed[kind]) for kind in KINDS)


def _pieces(unit: Unit) -> Iterator[tuple[str, int, int]]:
    """Kind, number and bytes of what belongs to a unit."""
    yield unit.kind, unit.pictures, unit.size
    yield THUMBNAILS, unit.thumbnails, unit.thumbnails_size


def _facts(cache: Path) -> list[Path]:
    places = [folder / name for folder in (cache, cache / TRIALS) for name in kept_facts.FILES]
    return [path for path in places if path.is_file()]


def _unusable(cache: Path, error: OSError) -> CarlosError:
    return CarlosError(
        f"The cache in {cache} cannot be looked through or cleared ({error.strerror or error}).",
        "Check the permissions of the folder, and that no other program has its files open.",
    )
