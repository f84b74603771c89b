"""How many pictures and how much time a run will take, before it begins and while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ..loras.listed import posix
from ..loras.lora_file import LoraFile
from ..progress import OnProgress, Progress
from .indexer import Indexer
from .measure import sides_of
from .speed import UNKNOWN, in_words
from .strength_curve import most_pictures


@dataclass(frozen=True)
class Estimate:
    """Pictures of both sides that are still to be made, and the time that each takes."""

    expected: int
    """Pictures that are likely to be made."""

    most: int
    """Pictures that are made at most."""

    seconds_per_picture: float | None
    """None if unknown."""

    def __str__(self) -> str:
        """For people, e.g. "about 25 min, at most about 3.1 h"."""
        if self.most == 0:
            return "nothing to make"
        if self.seconds_per_picture is None:
            return UNKNOWN
        limit = f", at most {in_words(self.most * self.seconds_per_picture)}" if self.most > self.expected else ""
        return f"{in_words(self.expected * self.seconds_per_picture)}{limit}"


def estimate_lora(indexer: Indexer, lora: LoraFile) -> Estimate:
    """What measuring one LoRA will take, without the pictures that are kept from earlier runs."""
    database = indexer.target.read()
    studio, shots = indexer.studio, indexer.plan.shots
    row = database.row(database.id_of(lora.lora_id, lora.sha256))
    known = row.measured if row is not None and indexer.is_covered(row.measured, database) else None
    wants_sweep = indexer.scale_sweep if known is None else indexer.wants_sweep(known)
    sweep = most_pictures(shots) if wants_sweep else 0
    expected = most = 0
    if known is None:
        likely = indexer.likely_images(database, row)
        base, with_lora = sides_of(studio, lora, indexer.protocol)
        is_again = indexer.overwrite and with_lora.store.is_complete
        for side in (base, with_lora):
            missing = side.missing(shots, studio.batch)
            if side is with_lora and is_again:
                missing[:] = True
            expected, most = expected + int(missing[:likely].sum()), most + int(missing.sum())
    return Estimate(expected + sweep, most + sweep, studio.speed.seconds_per_picture)


class LibraryEstimate:
    """The time that a library run has left. names: its files, in the order of the run.

    Rows are recognised by their file's name. Hashing all files first would take longer than it is worth, and a file that was
    renamed only makes the estimate too long.
    """

    def __init__(self, indexer: Indexer, names: Sequence[str]) -> None:
        self._indexer, self._names = indexer, list(names)
        self._pictures, self._others, self._begin = 0, 0, time.monotonic()
        if self._names:
            self.begin(self._names[0])

    def begin(self, name: str) -> None:
        """Call this when the run comes to a file. Looks at what is left, with the database as it is now."""
        indexer, studio = self._indexer, self._indexer.studio
        database = indexer.target.read()
        likely = indexer.likely_images(database)
        left = {posix(file) for file in self._names[self._names.index(name) :]}
        covered = [row for row in database.measured if row.file_name in left and indexer.is_covered(row, database)]
        to_sweep = {row.file_name for row in covered if indexer.wants_sweep(row)}
        unknown = left - {row.file_name for row in covered}
        base = int(studio.without_lora().missing(indexer.plan.shots[:likely], studio.batch).sum()) if unknown else 0
        sweeps = len(unknown | (left & to_sweep)) if indexer.scale_sweep else 0
        self._pictures = len(unknown) * likely + base + sweeps * most_pictures(indexer.plan.shots)
        own = likely + base if posix(name) in unknown else 0
        self._others = self._pictures - own
        self._begin = time.monotonic()

    def update(self, pictures_left: int) -> None:
        """Call this with what the file that the run has come to still needs: `Progress.pictures_left`."""
        self._pictures, self._begin = self._others + pictures_left, time.monotonic()

    def __str__(self) -> str:
        """For people, e.g. "about 40 min left"; empty while the time is not known."""
        seconds = self._indexer.studio.speed.seconds_per_picture
        if seconds is None:
            return ""
        return f"{in_words(max(0.0, self._pictures * seconds - (time.monotonic() - self._begin)))} left"


class LibraryProgress:
    """Progress of a library run: that of each LoRA, with its place among `names` and the time left for all of them."""

    def __init__(self, indexer: Indexer, names: Sequence[str], show: Callable[[Callable[[], str]], OnProgress]) -> None:
        """show: (what each line begins with, as it is then) -> the callback for one LoRA."""
        self._names, self._show = list(names), show
        self._estimate = LibraryEstimate(indexer, names)
        self.known = str(self._estimate) or UNKNOWN
        """The time that the run will take, in words."""

    def __call__(self, name: str) -> OnProgress:
        self._estimate.begin(name)
        place = f"{self._names.index(name) + 1} of {len(self._names)}"
        show = self._show(lambda: ", ".join(filter(None, [place, str(self._estimate), f"{name}: "])))

        def tell(progress: Progress) -> None:
            if progress.pictures_left is not None:
                self._estimate.update(progress.pictures_left)
            # The time that is told is that of the whole run.
            show(replace(progress, note=progress.note_without_time or progress.note))

        return tell
