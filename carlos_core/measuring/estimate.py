"""How many pictures and how much time a session will take, before it begins and while it runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from ..database.database import MetricsDatabase
from ..database.parquet import load_database
from ..loras.lora_file import LoraFile
from .indexer import Session
from .protocol import protocol_covers
from .speed import Speed, in_words
from .strength_curve import most_pictures
from .studio import base_side, lora_side

UNKNOWN = "the time is told after the first batch"


@dataclass(frozen=True)
class Estimate:
    """Pictures that are yet to be made, of both sides: as many as are likely, and at most. seconds_per_picture: None if
    unknown."""

    expected: int
    most: int
    seconds_per_picture: float | None

    def __str__(self) -> str:
        """For people, e.g. "about 25 min, at most about 3.1 h"."""
        if self.most == 0:
            return "nothing to make"
        if self.seconds_per_picture is None:
            return UNKNOWN
        limit = f", at most {in_words(self.most * self.seconds_per_picture)}" if self.most > self.expected else ""
        return f"{in_words(self.expected * self.seconds_per_picture)}{limit}"


def estimate_lora(session: Session, lora: LoraFile) -> Estimate:
    """What measuring one LoRA will take, less the pictures that are kept from earlier runs.

    It is likely to need as many pictures as the rows of its protocol did (median), or as many as the session expects.
    """
    database = load_database(session.database_path)
    row = None if session.overwrite else database.row(lora.lora_id)
    if row is not None and protocol_covers(row, database.protocols, session.protocol, len(session.shots)) is None:
        row = None
    wants_sweep = session.scale_sweep if row is None else session.wants_sweep(row)
    sweep = most_pictures(session.shots) if wants_sweep else 0
    expected = most = 0
    if row is None:
        batch = session.batch_size or session.generator.suggest_batch_size()
        likely = _likely_images(session, database)
        place = (session.generator, str(database.encoder_id), database.dimension, session.working_directory)
        base = base_side(session.protocol.base_triggers(lora.trigger_words), *place)
        with_lora = lora_side(lora, session.protocol.lora_weight, *place)
        is_afresh = session.overwrite and with_lora.journal.is_complete
        for side in (base, with_lora):
            missing = side.missing(session.shots, batch)
            if side is with_lora and is_afresh:
                missing[:] = True
            expected, most = expected + int(missing[:likely].sum()), most + int(missing.sum())
    return Estimate(expected + sweep, most + sweep, _seconds_per_picture(session))


class LibraryEstimate:
    """The time that a library run has left. names: its files, in the order of the run.

    Rows are recognised by their file's name: hashing all files first would take longer than it is worth, and a file that was
    renamed only makes the estimate too long.
    """

    def __init__(self, session: Session, names: Sequence[str]) -> None:
        self._session, self._names = session, list(names)
        self.begin(self._names[0])

    def begin(self, name: str) -> None:
        """The run comes to a file: look at what is left, with the database as it is now."""
        database = load_database(self._session.database_path)
        likely = _likely_images(self._session, database)
        known, to_sweep = self._known_files(database)
        left = {file.replace("\\", "/") for file in self._names[self._names.index(name) :]}
        place = (self._session.generator, str(database.encoder_id), database.dimension, self._session.working_directory)
        batch = self._session.batch_size or self._session.generator.suggest_batch_size()
        base = int(base_side((), *place).missing(self._session.shots[:likely], batch).sum()) if left - known else 0
        sweeps = len((left - known) | (left & to_sweep)) if self._session.scale_sweep else 0
        self._pictures = len(left - known) * likely + base + sweeps * most_pictures(self._session.shots)
        self._begin = time.monotonic()

    def __str__(self) -> str:
        """For people, e.g. "about 40 min left"; empty while the time is not known."""
        seconds = _seconds_per_picture(self._session)
        if seconds is None:
            return ""
        return f"{in_words(max(0.0, self._pictures * seconds - (time.monotonic() - self._begin)))} left"

    def _known_files(self, database: MetricsDatabase) -> tuple[set[str], set[str]]:
        """Files that will not be measured, and those of them that will be swept."""
        if self._session.overwrite:
            return set(), set()
        columns = ("file_name", "protocol_id", "n_images", "strength", "notes", "curve_weights")
        rows = (dict(zip(columns, values, strict=True)) for values in zip(*map(database.column, columns), strict=True))
        shots = len(self._session.shots)
        known = [row for row in rows if protocol_covers(row, database.protocols, self._session.protocol, shots) is not None]
        return {row["file_name"] for row in known}, {row["file_name"] for row in known if self._session.wants_sweep(row)}


def _likely_images(session: Session, database: MetricsDatabase) -> int:
    """Pictures a LoRA is likely to take on its own side."""
    if session.rule is not None:
        rows = zip(database.column("protocol_id"), database.column("n_images"), strict=True)
        numbers = [n for protocol_id, n in rows if protocol_id == session.protocol.protocol_id and n]
        likely = round(median(numbers)) if numbers else session.expected
    else:
        likely = 0
    return min(likely or len(session.shots), len(session.shots))


def _seconds_per_picture(session: Session) -> float | None:
    return Speed(session.working_directory, session.generator.fingerprint).seconds_per_picture
