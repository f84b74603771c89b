"""Indexing into a database: one LoRA or a whole library, with everything but the LoRA decided once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import NamedTuple
from typing import Protocol as Interface

from ..civitai.lora import CivitaiLora
from ..clip.lazy_encoder import LazyEncoder
from ..database.database import MetricsDatabase
from ..database.target import Target
from ..errors import OF_A_FILE, CarlosError, DatabaseError
from ..foreign import printable, reason_of
from ..generator import OnDevice
from ..loras.listed import posix
from ..loras.lora_file import LoraFile, read_lora_file
from ..progress import OnProgress, Progress
from ..records import LoraMetadata, LoraRecord, MeasuredRow
from .base_check import BaseCheck, Checked
from .failures import Failure, FailureLog
from .gallery import Gallery
from .measure import check_row, measure, sides_of, take_in
from .outcome import ALREADY_INDEXED, INDEXED, Outcome
from .plan import Plan
from .presets import CUSTOM
from .protocol import Covering, Protocol, ThisModel, has_effect, words_of_preset
from .quick_steps import QuickSteps
from .row_change import RowChange
from .strength_curve import strength_curve
from .studio import Studio
from .telling_pairs import candidates

logger = logging.getLogger(__name__)


class LoraFolder(Interface):
    """Where the LoRAs of a run are."""

    def read(self, path: Path, name: str) -> LoraFile:
        """The LoRA at a path, listed under a name. Raises LoraError if the file is not a LoRA."""
        ...

    def at_hand(self, name: str) -> LoraFile | None:
        """The LoRA with this name ("/" between folders) as it is now; None if there is no such file."""
        ...


class AnyFolder:
    """LoRAs that are known by their paths alone."""

    def read(self, path: Path, name: str) -> LoraFile:
        return read_lora_file(path, name)

    def at_hand(self, name: str) -> LoraFile | None:
        return None


@dataclass(frozen=True, eq=False)
class Indexer:
    """Measures LoRAs by one protocol and plan, and puts their rows into a database."""

    studio: Studio
    protocol: Protocol
    plan: Plan
    target: Target
    """The database that rows are added to."""

    overwrite: bool = False
    """Measure again LoRAs that are in the database."""

    scale_sweep: bool = False
    """Also measure the strength curve of each LoRA."""

    folder: LoraFolder = AnyFolder()
    """Where the LoRAs are."""

    any_checkpoint: bool = True
    """Do not measure again what was measured on another checkpoint of the same shape."""

    base_check: BaseCheck | None = None
    """What looks at the pictures without a LoRA before one is measured on them."""

    quick_steps: QuickSteps | None = None
    """What chose the steps of the studio's generator; the first LoRA with an effect is compared with full steps."""

    remarks: tuple[str, ...] = ()
    """What is to be said of the settings, in words."""

    notes: tuple[str, ...] = ()
    """What every row is to say."""

    gallery: Gallery | None = None
    """Where a few pairs of pictures of each LoRA are kept; None for nowhere."""

    def index(self, lora: LoraFile, on_progress: OnProgress | None = None) -> Outcome:
        """Measure a LoRA and keep its row, unless the database has it by the same protocol, a fuller one or a better one.

        A scale sweep comes after the row is kept. It is all that is done for a row that lacks nothing else.
        Raises what `measure` raises, and DatabaseError when the row cannot be kept.
        """
        check_row(lora, self.studio.encoder.dimension)
        database = self.target.read()
        outcome = self._indexed(database, lora, on_progress)
        return replace(outcome, file_notes=(*_file_notes(database, lora), *outcome.file_notes))

    def _indexed(self, database: MetricsDatabase, lora: LoraFile, on_progress: OnProgress | None) -> Outcome:
        row, covering = self._covering(database, database.id_of(lora.lora_id, lora.sha256))
        if row is not None and covering is not None:
            known = self._known(database, lora, row, covering)
            if known.change is not None and on_progress is not None:
                on_progress(Progress(0, 0, str(known.change)))
            return self._swept(known, on_progress)
        checked = self._checked(lora, on_progress)
        notes = (*self.notes, checked.note) if checked.note else self.notes
        at_least, likely = self._at_least(database, row), self.likely_images(database, row)
        plan = replace(self.plan, at_least=at_least, expected=likely)
        found = measure(self.studio, lora, self.protocol, plan, on_progress, again=self.overwrite, notes=notes)
        kept = self._kept(found.record, row)
        if kept.better is not None:
            known = self._known(self.target.read(), lora, kept.row, kept.better)
            return replace(known, model_evaluations=found.model_evaluations, base_model_evaluations=found.base_model_evaluations)
        new, change = kept.row, kept.change
        self.keep_pictures(lora, new)
        if self.quick_steps is not None and has_effect(new.measured):
            self.quick_steps.compare(self.studio, lora, self.protocol, on_progress)
        outcome = Outcome(
            lora,
            INDEXED,
            new,
            found.model_evaluations,
            found.base_model_evaluations + checked.base_evaluations,
            new.notes if change is None else (str(change), *new.notes),
            found.sheet,
            found.other_evaluations + checked.other_evaluations,
            change=change,
        )
        return self._swept(outcome, on_progress)

    def _kept(self, record: LoraRecord, before: LoraRecord | None) -> _Kept:
        """Put a row into the database, unless one that is better has come there since `before` was read."""
        kept: list[_Kept] = []

        def put(database: MetricsDatabase) -> None:
            lora_id = database.id_of(record.lora_id, record.sha256)
            there = database.row(lora_id)
            is_other = there is not None and (before is None or _when(there) != _when(before))
            better = None
            if there is not None and is_other and not self.overwrite:
                better = self.protocol.better(there.measured, database.protocols, self._most, self._model)
            if there is not None and better is not None:
                kept.append(_Kept(there, None, better))
                return
            change = None if there is None else self._replaced(database, there)
            database.upsert(record, self.protocol.described())
            row = database.row(lora_id)
            assert row is not None, "the row was just put there"
            kept.append(_Kept(row, change))

        self.target.change(put)
        return kept[-1]

    def keep_pictures(self, lora: LoraFile, row: LoraRecord) -> None:
        """Keep a few pairs of the pictures that a row is made of, as far as their small copies are there."""
        if self.gallery is not None:
            base, with_lora = sides_of(self.studio, lora, self.protocol)
            found = candidates(base, with_lora, self.plan.shots, row.direction)
            self.gallery.keep(row, found, self.protocol.lora_weight)

    def check_ready(self) -> None:
        """Raises EncoderError or DatabaseError where no LoRA can be measured, before any picture is made for one."""
        if isinstance(self.studio.encoder, LazyEncoder):
            self.studio.encoder.load()
        self.target.check_writable()

    def _checked(self, lora: LoraFile, on_progress: OnProgress | None) -> Checked:
        """What the pictures without the LoRA look like. What stands against measuring it, or any, is an error before that."""
        take_in(self.studio, lora, self.protocol.lora_weight)
        self.check_ready()
        if self.base_check is None:
            return Checked()
        return self.base_check.look(self.studio, self.plan.shots, on_progress)

    def known_version(self, wanted: CivitaiLora) -> Outcome | None:
        """The outcome for a LoRA of CivitAI if it need not be measured, even without its file; None if only the file can tell."""
        database = self.target.read()
        lora_id = wanted.id_in(database)
        row, covering = (None, None) if lora_id is None else self._covering(database, lora_id)
        if row is None or covering is None:
            return None
        metadata = LoraMetadata(
            version_id=wanted.version_id if lora_id == str(wanted.version_id) else None,
            base_model=row.metadata.base_model,
            trigger_words=row.metadata.trigger_words,
        )
        lora = LoraFile(Path(row.file_name or ""), row.file_name or "", row.sha256 or "", metadata)
        return self._known(database, lora, row, covering)

    def index_all(
        self, files: Iterable[tuple[str, Path]], on_progress: Callable[[str], OnProgress | None]
    ) -> Iterator[Outcome | Failure]:
        """Measure LoRAs one after another, each kept as it comes; one that fails does not stop the rest.

        files: (name, path) of each. on_progress: name -> the callback for it. Errors that are not about the LoRA, such as a
        cancel or one that `CarlosError.ends_run`, pass through. The same content under two names is measured once.
        """
        log = FailureLog()
        try:
            for name, path in files:
                try:
                    yield self.index(self.folder.read(path, name), on_progress(name))
                except OF_A_FILE as error:
                    if isinstance(error, CarlosError) and error.ends_run:
                        raise
                    failure = Failure(printable(posix(name)), reason_of(error))
                    log.add(failure)
                    yield failure
        finally:
            log.close()

    def is_covered(self, row: MeasuredRow, database: MetricsDatabase) -> bool:
        """Whether a row makes measuring its LoRA unnecessary."""
        return not self.overwrite and self._covering_of(row, database) is not None

    def likely_images(self, database: MetricsDatabase, row: LoraRecord | None = None) -> int:
        """Pictures that a LoRA is likely to take on its own side: as many as the rows of its protocol did (median).

        Without such rows it is what the plan expects. row: the LoRA's own, which may ask for as many as it has.
        """
        likely = 0
        if self.plan.rule is not None:
            own = self.protocol.protocol_id
            numbers = [each.n_images for each in database.measured if each.protocol_id == own and each.n_images]
            likely = round(median(numbers)) if numbers else self.plan.expected
        return min(max(likely or self._most, self._at_least(database, row)), self._most)

    def wants_sweep(self, row: MeasuredRow) -> bool:
        """Whether a row lacks a strength curve that this run can add. A LoRA without measurable effect gets none."""
        is_own = row.protocol_id == self.protocol.protocol_id and self.protocol.lora_weight != 0
        return self.scale_sweep and is_own and has_effect(row) and not row.has_curve

    def _swept(self, outcome: Outcome, on_progress: OnProgress | None) -> Outcome:
        """The outcome with its row's strength curve, which is measured if it is wanted and missing."""
        row, lora_id = outcome.row, outcome.row.lora_id
        if self.scale_sweep and not row.strength_curve and row.protocol_id != self.protocol.protocol_id:
            note = "no scale sweep: it belongs to the row's own protocol; choose the settings that the row was measured with"
            return replace(outcome, notes=(*outcome.notes, note))
        if not self.wants_sweep(row.measured):
            return outcome
        curve = strength_curve(self.studio, outcome.lora, row.direction, self.protocol, self.plan, on_progress)
        changed = self.target.change(lambda database: database.set_curve(lora_id, curve.points, curve.suggested_weight))
        swept = changed.row(lora_id)
        assert swept is not None, "a value of the row was just changed"
        return replace(
            outcome,
            row=swept,
            base_model_evaluations=outcome.base_model_evaluations + curve.base_model_evaluations,
            sweep_evaluations=curve.model_evaluations,
        )

    def _covering(self, database: MetricsDatabase, lora_id: str) -> tuple[LoraRecord | None, Covering | None]:
        """A LoRA's row, and what makes measuring it again unnecessary; None if there is none."""
        row = database.row(lora_id)
        if row is None or self.overwrite:
            return row, None
        return row, self._covering_of(row.measured, database)

    def _covering_of(self, row: MeasuredRow, database: MetricsDatabase) -> Covering | None:
        wanted = (row, database.protocols, self._most)
        covering = self.protocol.covering(*wanted, model_key=self._model.key)
        return covering or self.protocol.better(*wanted, self._model)

    def _replaced(self, database: MetricsDatabase, row: LoraRecord) -> RowChange:
        described = database.protocols.get(row.protocol_id or "") or {}
        return RowChange.replaced(row, described, self._where(database, row))

    def _at_least(self, database: MetricsDatabase, row: LoraRecord | None) -> int:
        """How many pairs of pictures to take at least, so that the row that is to be replaced is no better."""
        if row is None or self.overwrite:
            return 0
        return self.protocol.at_least(row.measured, database.protocols, self._model)

    @property
    def _wanted(self) -> str:
        """What these settings measure, in words."""
        name = f"the preset {self.protocol.preset!r}"
        return f"{self._most} pairs by {name}" if self.protocol.preset == CUSTOM else name

    @property
    def _most(self) -> int:
        return len(self.plan.shots)

    @property
    def _model(self) -> ThisModel:
        generator = self.studio.generator
        checkpoint = generator.environment.checkpoint if isinstance(generator, OnDevice) else ""
        return ThisModel(generator.model_key if self.any_checkpoint else "", checkpoint)

    def _where(self, database: MetricsDatabase, row: LoraRecord) -> str:
        """What to say of where a row was measured, if that is known to be another checkpoint."""
        if not self.protocol.is_elsewhere(row.measured, database.protocols, self._model):
            return ""
        is_alike = bool(row.model_key) and row.model_key == self.studio.generator.model_key
        if is_alike and (program := self.protocol.other_program(row.measured, database.protocols)):
            return f"with {program} on a model of the same shape ({row.model_key})"
        return f"on another checkpoint of the same shape ({row.model_key})" if is_alike else "on another model"

    def _known(self, database: MetricsDatabase, lora: LoraFile, row: LoraRecord, covering: Covering) -> Outcome:
        original = None if row.file_name == lora.name else self._original(row, lora)
        unnamed = () if row.file_name == lora.name or original is not None else self._renamed(row, lora.name)
        is_ours = row.sha256 == lora.sha256 and row.protocol_id == self.protocol.protocol_id
        if self.gallery is not None and is_ours and not self.gallery.is_of(row):
            self.keep_pictures(lora, row)
        earlier = self.studio.small_pictures(*sides_of(self.studio, lora, self.protocol), self.plan.shots)
        where = self._where(database, row)
        note = f"measured with the preset {covering.preset!r} on {row.indexed_at}{where and f', {where}'}"
        is_other = covering.is_better or covering.preset != self.protocol.preset
        change = RowChange.kept(row, covering.preset, where, self._wanted) if is_other else None
        notes = (note, *([str(change)] if change else []), *_other_words(row, lora, covering.preset), *row.notes)
        is_copy = original is not None and original.sha256 == lora.sha256 and not _is_one_file(original.path, lora.path)
        copy_notes = (f"has the same content as {row.file_name}",) if is_copy else ()
        file_notes = (*copy_notes, *unnamed)
        program = self.protocol.other_program(row.measured, database.protocols)
        told = Outcome(lora, ALREADY_INDEXED, row, 0, 0, notes, None, earlier=earlier)
        return replace(told, file_notes=file_notes, other_program=program, change=change)

    def _renamed(self, row: LoraRecord, name: str) -> tuple[str, ...]:
        """Give a row the name that its file has now. What is to be said if the database cannot be written: that ends no run."""
        try:
            self.target.change(lambda changed: changed.set_value(row.lora_id, "file_name", name))
        except DatabaseError as error:
            return (f"its row still has the name {row.file_name}: {error}",)
        return ()

    def _original(self, row: LoraRecord, lora: LoraFile) -> LoraFile | None:
        """The row's own file, if it is still there: then `lora` is a copy of it, which must not take its place."""
        there = self.folder.at_hand(row.file_name) if row.file_name else None
        if there is None:
            return None
        # A row that does not know its content is that of every file that claims its id.
        is_it = there.sha256 == lora.sha256 or (row.sha256 is None and there.lora_id == lora.lora_id)
        return there if is_it else None


class _Kept(NamedTuple):
    """A row as it is in the database now."""

    row: LoraRecord
    change: RowChange | None
    """What became of the row that was there before; None if there was none."""

    better: Covering | None = None
    """What measured the row, if it is another one than ours, and better."""


def _when(row: LoraRecord) -> tuple[str | None, str | None]:
    """What tells one measurement of a LoRA from the next."""
    return row.indexed_at, row.protocol_id


def _is_one_file(path: Path, other: Path) -> bool:
    """Whether two paths lead to one file."""
    try:
        return path.samefile(other)
    except OSError:
        return False


def _file_notes(database: MetricsDatabase, lora: LoraFile) -> Iterator[str]:
    """What is odd about a file or its sidecars, though it can be measured. database: before it was."""
    if lora.problem:
        yield lora.problem.removeprefix(f"{printable(lora.path.name)}: ")
    claimed = database.row(lora.lora_id) if lora.metadata.version_id is not None else None
    if claimed is not None and claimed.sha256 is not None and claimed.sha256.lower() != lora.sha256:
        yield f"another file than {claimed.file_name or claimed.name}, which is of CivitAI version {lora.lora_id}, too"


def _other_words(row: LoraRecord, lora: LoraFile, preset: str) -> tuple[str, ...]:
    """What to say if a file names other trigger words now than its row, which was measured by a preset.

    That is no reason to measure again.
    """
    ours, theirs = row.metadata.trigger_words, lora.metadata.trigger_words
    if ours is None or theirs is None:
        return ()
    before, now = (", ".join(words_of_preset(preset, entries)) or "none" for entries in (ours, theirs))
    return (f"its row names the trigger words {before}; its file and sidecars name {now} now",) if before != now else ()
