"""Indexing into a database file: one LoRA or a whole library, with everything but the LoRA decided once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from ..clip.encoder import Encoder
from ..database.database import MetricsDatabase
from ..database.parquet import change_database, load_database, upsert_into_file
from ..errors import CarlosError, DatabaseError
from ..foreign import printable
from ..generator import Generator
from ..loras.lora_file import LoraFile, read_lora_file
from ..loras.metadata import Sidecar
from .measure import kept_contact_sheet, measure_lora
from .plan import Shot
from .protocol import Protocol, protocol_covers
from .stopping import NO_EFFECT, StoppingRule
from .strength_curve import sweep_lora
from .studio import OnProgress

logger = logging.getLogger(__name__)

INDEXED = "indexed"
ALREADY_INDEXED = "already indexed"


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of one LoRA. row: its row of the database. evaluations are those of `runner.Measurement`, 0 if it was there;
    sweep_evaluations: those of `sweep.Sweep`."""

    lora: LoraFile
    status: str
    row: Mapping[str, Any]
    model_evaluations: int
    base_model_evaluations: int
    notes: tuple[str, ...]
    contact_sheet: Tensor
    sweep_evaluations: int = 0


@dataclass(frozen=True)
class Failure:
    """A LoRA of a library run that could not be measured, and why."""

    file: str
    reason: str


@dataclass(frozen=True, eq=False)
class Session:
    """Generator, protocol and plan for any number of LoRAs. `load_encoder` is called when the first one must be measured.

    expected: pictures a LoRA is likely to take, 0 for all of `shots`. scale_sweep: also measure the strength curve of each.
    read: (path, name) -> the LoRA, LoraError if it is none. at_hand: the LoRA of this name ("/" between folders) as it is now,
    None if there is none.
    """

    database_path: Path
    generator: Generator
    protocol: Protocol
    shots: tuple[Shot, ...]
    load_encoder: Callable[[str], Encoder]
    working_directory: Path
    rule: StoppingRule | None = None
    n_full: int = 0
    expected: int = 0
    batch_size: int = 0
    overwrite: bool = False
    scale_sweep: bool = False
    read: Callable[[Path, str], LoraFile] = read_lora_file
    at_hand: Callable[[str], LoraFile | None] = lambda name: None

    def index(self, lora: LoraFile, on_progress: OnProgress | None = None) -> Outcome:
        """Measure a LoRA and save its row, unless the database has it by the same protocol or a fuller one.

        A scale sweep comes after the row is saved, and is all that is done for a row that lacks nothing else.
        Raises what `runner.measure_lora` raises, and DatabaseError when the row cannot be saved.
        """
        database = load_database(self.database_path)
        row, covering = self._covering(database, lora.lora_id)
        if row is not None and covering is not None:
            return self._swept(self._known(database, lora, row, covering), on_progress)
        measurement = measure_lora(
            lora,
            generator=self.generator,
            encoder=self._encoder,
            protocol=self.protocol,
            shots=self.shots,
            working_directory=self.working_directory,
            batch_size=self.batch_size,
            afresh=self.overwrite,
            rule=self.rule,
            n_full=self.n_full,
            expected=self.expected,
            on_progress=on_progress,
        )
        saved = upsert_into_file(self.database_path, measurement.record, self.protocol.described()).row(lora.lora_id)
        assert saved is not None, "the row was just written"
        outcome = Outcome(
            lora,
            INDEXED,
            saved,
            measurement.model_evaluations,
            measurement.base_model_evaluations,
            tuple(saved["notes"] or ()),
            measurement.contact_sheet,
        )
        return self._swept(outcome, on_progress)

    def known_version(self, version_id: int) -> Outcome | None:
        """The outcome for a LoRA of CivitAI that need not be measured, so that its file need not be there; None if it must be."""
        database = load_database(self.database_path)
        lora_id = database.id_of_version(version_id)
        row, covering = self._covering(database, lora_id)
        if row is None or covering is None:
            return None
        lora = LoraFile(
            path=Path(row["file_name"] or ""),
            name=row["file_name"] or "",
            sha256=row["sha256"] or "",
            base_model=row["base_model"],
            trigger_words=tuple(row["trigger_words"] or ()),
            sidecar=Sidecar(version_id=version_id if lora_id == str(version_id) else None),
        )
        return self._known(database, lora, row, covering)

    def index_all(
        self, files: Iterable[tuple[str, Path]], on_progress: Callable[[str], OnProgress | None]
    ) -> Iterator[Outcome | Failure]:
        """Measure LoRAs one after another, each saved as it comes; one that fails does not stop the rest.

        files: (name, path) of each. on_progress: name -> the callback for it. Errors that are not about the LoRA (a cancel)
        pass through. The same content under two names is measured once.
        """
        for name, path in files:
            try:
                yield self.index(self.read(path, name), on_progress(name))
            # Readers and models raise all kinds of errors over a bad file; a cancel is none of these.
            except (CarlosError, OSError, RuntimeError, ValueError, TypeError, KeyError, MemoryError) as error:
                shown = printable(name.replace("\\", "/"))
                logger.warning("carlos: %s could not be indexed: %s", shown, error)
                yield Failure(shown, str(error) or type(error).__name__)

    def wants_sweep(self, row: Mapping[str, Any]) -> bool:
        """Whether a row lacks a strength curve that this session can add. There is none for a LoRA without measurable effect."""
        has_effect = bool(row["strength"]) and NO_EFFECT not in (row["notes"] or ())
        is_own = row["protocol_id"] == self.protocol.protocol_id and self.protocol.lora_weight != 0
        return self.scale_sweep and is_own and has_effect and not row["curve_weights"]

    def _swept(self, outcome: Outcome, on_progress: OnProgress | None) -> Outcome:
        """The outcome with its row's strength curve, measured if it is wanted and not there."""
        row = outcome.row
        if self.scale_sweep and not row["curve_weights"] and row["protocol_id"] != self.protocol.protocol_id:
            note = "no scale sweep: it belongs to the row's own protocol; choose the settings that the row was measured with"
            return replace(outcome, notes=(*outcome.notes, note))
        if not self.wants_sweep(row):
            return outcome
        sweep = sweep_lora(
            outcome.lora,
            row["direction"],
            generator=self.generator,
            encoder=self._encoder,
            protocol=self.protocol,
            shots=self.shots,
            working_directory=self.working_directory,
            batch_size=self.batch_size,
            on_progress=on_progress,
        )
        lora_id = outcome.lora.lora_id
        database = change_database(
            self.database_path, lambda changed: changed.set_curve(lora_id, sweep.curve, sweep.suggested_weight)
        )
        swept = database.row(lora_id)
        assert swept is not None, "a value of the row was just changed"
        return replace(
            outcome,
            row=swept,
            base_model_evaluations=outcome.base_model_evaluations + sweep.base_model_evaluations,
            sweep_evaluations=sweep.model_evaluations,
        )

    @cached_property
    def _encoder(self) -> Encoder:
        return self.load_encoder(str(load_database(self.database_path).encoder_id))

    def _covering(self, database: MetricsDatabase, lora_id: str) -> tuple[Mapping[str, Any] | None, str | None]:
        """A LoRA's row, and the preset that makes measuring it again superfluous; None if there is none."""
        row = database.row(lora_id)
        if row is None or self.overwrite:
            return row, None
        return row, protocol_covers(row, database.protocols, self.protocol, len(self.shots))

    def _known(self, database: MetricsDatabase, lora: LoraFile, row: Mapping[str, Any], covering: str) -> Outcome:
        if row["file_name"] != lora.name and not self._is_still_at(row["file_name"], lora):
            change_database(self.database_path, lambda changed: changed.set_value(lora.lora_id, "file_name", lora.name))
        sheet = kept_contact_sheet(
            lora,
            generator=self.generator,
            encoder_id=str(database.encoder_id),
            dimension=database.dimension,
            protocol=self.protocol,
            shots=self.shots,
            working_directory=self.working_directory,
        )
        note = f"measured with the preset {covering!r} on {row['indexed_at']}"
        return Outcome(lora, ALREADY_INDEXED, row, 0, 0, (note, *(row["notes"] or ())), sheet)

    def _is_still_at(self, name: str | None, lora: LoraFile) -> bool:
        """Whether the row's own file is there: then `lora` is a copy of it, which must not take its place."""
        there = self.at_hand(name) if name else None
        return there is not None and there.lora_id == lora.lora_id


def check_writable(database: MetricsDatabase) -> Path:
    """The file that rows can be saved to. Raises DatabaseError, before anything is generated, if there is none."""
    if database.read_only:
        raise DatabaseError("The bundled database is read-only.", "Type a name into create_as of Metrics DB Loader.")
    if database.path is None:
        raise DatabaseError("This database has no file to save to.", "Type a name into create_as of Metrics DB Loader.")
    return database.path
