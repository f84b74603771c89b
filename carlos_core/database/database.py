"""A metrics database: rows in memory and in a file, and the arrays that ranking needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import pyarrow as pa

from ..clip.encoder import DEFAULT_ENCODER_ID
from ..errors import DatabaseError, EncoderError
from ..records import NO_EFFECT, CurvePoint, LoraIdentity, LoraRecord, MeasuredRow, id_of_content
from ..storage import is_there, target_of
from . import columns as schema
from . import parquet, reference
from .layouts import OURS, check_layout, table_to_write
from .ranking_arrays import RankingArrays, ranking_arrays

if TYPE_CHECKING:
    import pandas as pd


class MetricsDatabase:
    """What is known about many LoRAs, all measured with one encoder.

    `path` is the file that it was read from or last saved to in our own layout; None if it was never saved. A `read_only`
    database refuses changes. Tables are immutable inside, so `copy()` costs nothing and a copy never changes its original.
    """

    def __init__(
        self,
        table: pa.Table,
        *,
        encoder_id: str | None,
        protocols: Mapping[str, Any] | None = None,
        path: Path | None = None,
        read_only: bool = False,
        stamp: str = "",
    ) -> None:
        """Take a table as it is, without checks; `load_database` and `empty` make one that is right.

        Args:
            table: one row for each LoRA, with at least the columns of `columns.column_types`.
            encoder_id: the encoder that all rows were measured with; None if it is not known.
            protocols: protocol id -> readable description.
            path: the file that the table was read from; None if there is none.
            read_only: refuse changes.
            stamp: the name of the writing of `path` that was read; empty if it was not read.

        Raises OSError if it cannot be told where the links of `path` lead.
        """
        self._table = table
        self.encoder_id = encoder_id
        self.protocols: dict[str, Any] = dict(protocols or {})
        self.path = path
        self.read_only = read_only
        self.made_from = ""
        """Name of the database file that this one was made from, as a copy to be changed; empty if there is none."""
        self._changes: list[Callable[[MetricsDatabase], None]] = []
        self._bases: dict[Path, tuple[str, int]] = {}
        """Files that this database was read from or saved to, with the stamp of that writing and how many changes were in it."""
        if path is not None and stamp:
            self.saved(target_of(path), stamp)

    @classmethod
    def empty(cls, encoder_id: str, dimension: int) -> MetricsDatabase:
        """A database without rows for directions of `dimension` numbers."""
        return cls(schema.empty_table(dimension), encoder_id=encoder_id)

    def __len__(self) -> int:
        return self._table.num_rows

    def __contains__(self, lora_id: object) -> bool:
        return lora_id in self._position

    @property
    def name(self) -> str:
        return self.path.name if self.path else "this unsaved database"

    @property
    def table(self) -> pa.Table:
        return self._table

    @property
    def dimension(self) -> int:
        """Length of a direction."""
        return self._table.schema.field("direction").type.list_size

    def copy(self) -> MetricsDatabase:
        """An independent database with the same rows. It may be changed, even if this one may not.

        A copy of a read-only database has no file yet.
        """
        path = None if self.read_only else self.path
        copied = MetricsDatabase(self._table, encoder_id=self.encoder_id, protocols=self.protocols, path=path)
        copied.made_from = self.made_from
        if not self.read_only:
            copied._changes, copied._bases = list(self._changes), dict(self._bases)
        return copied

    def check_encoder(self, encoder_id: str | None = None) -> str:
        """The encoder that made the rows. Raises EncoderError if it is not known, or if another one is given."""
        if self.encoder_id is None:
            raise EncoderError(
                f"It is not known which encoder made the rows of {self.name}.",
                "Open the file with load_database(path, encoder_id=...).",
            )
        if encoder_id not in (None, self.encoder_id):
            raise EncoderError(
                f"The rows of {self.name} were measured with {self.encoder_id}, not with {encoder_id}.",
                f"Use {self.encoder_id} for this database: the two spaces do not mix.",
            )
        return self.encoder_id

    def row(self, lora_id: str) -> LoraRecord | None:
        """What is known about one LoRA, or None if it is not in the database."""
        position = self._position.get(lora_id)
        return None if position is None else self.row_at(position)

    def cells(self, lora_id: str) -> dict[str, Any]:
        """All columns of one LoRA by name, as in the file. Raises KeyError if it is not in the database."""
        return schema.cells_of(self._table, self._position[lora_id])

    def id_of(self, lora_id: str, sha256: str | None) -> str:
        """The id under which a LoRA's row is here, or would come. Content decides; what its sidecar claims comes second.

        Any number of files can claim to be one version of CivitAI: the first content keeps the version's id, another one gets
        an id of its content. A row that does not know its content, as the published ones, is that of whatever claims its id.

        Args:
            lora_id: as the file claims, `LoraFile.lora_id`.
            sha256: of the file; None if it is not known.
        """
        if sha256 is None:
            return lora_id
        same = self._by_content.get(sha256.lower())
        if same is not None:
            return same
        position = self._position.get(lora_id)
        if position is None or self.identities[position].sha256 is None:
            return lora_id
        short = id_of_content(sha256)
        return short if short not in self else f"sha256:{sha256}"

    def id_of_version(self, version_id: int) -> str:
        """The lora_id of a CivitAI version: `str(version_id)`, unless its row was written before the version was known."""
        lora_id, versions = str(version_id), self.column("version_id")
        return lora_id if lora_id in self or version_id not in versions else self.column("lora_id")[versions.index(version_id)]

    def row_at(self, position: int) -> LoraRecord:
        """The row at a place in the table."""
        return schema.record_of(self._table, position)

    def column(self, name: str) -> list[Any]:
        """All values of one column, in table order."""
        return self._table[name].to_pylist()

    def upsert(self, record: LoraRecord, protocol: Mapping[str, Any] | None = None) -> None:
        """Add a row, or replace that of the same LoRA (`id_of`). protocol: what `record.protocol_id` stands for.

        Raises DatabaseError for a read-only database, another encoder, a wrong dimension or a direction that is not finite.
        """
        if self.read_only:
            raise DatabaseError(f"{self.name} is read-only.", "Make a copy of your own first, and change that (copy).")
        if record.encoder_id is not None and record.encoder_id != self.encoder_id:
            raise DatabaseError(
                f"A row measured with {record.encoder_id} does not belong among rows of {self.encoder_id}.",
                "Use a database of that encoder, or index the LoRA with this one's.",
            )
        if record.direction.shape != (self.dimension,):
            raise DatabaseError(
                f"The direction has shape {list(record.direction.shape)}, rows of {self.name} have {self.dimension} numbers.",
                "Rows of different encoders belong in different databases.",
            )
        consistency = 0.0 if record.consistency is None else record.consistency
        if not (np.isfinite(record.direction).all() and np.isfinite([record.strength, consistency]).all()):
            raise DatabaseError(f"The metrics of {record.lora_id} are not finite.", "Index the LoRA again.", ends_run=False)
        lora_id = self.id_of(record.lora_id, record.sha256)
        position = self._position.get(lora_id)
        extra = {} if position is None else self.row_at(position).extra
        row = schema.table_of(replace(record, lora_id=lora_id), self._table.schema, extra)
        end = len(self) if position is None else position
        parts = [self._table.slice(0, end), row, self._table.slice(end + 1)]
        self._replace(pa.concat_tables(parts).combine_chunks())
        if record.protocol_id is not None and protocol is not None:
            self.protocols[record.protocol_id] = dict(protocol)
        self._changes.append(lambda database: database.upsert(record, protocol))

    def add_rows(self, source: MetricsDatabase, lora_ids: Sequence[str]) -> list[str]:
        """Add rows of another database of the same encoder, which this one lacks, at once. Returns their ids here (`id_of`).

        Raises DatabaseError for a read-only database, and KeyError for an id that `source` does not have.
        """
        if self.read_only:
            raise DatabaseError(f"{self.name} is read-only.", "Make a copy of your own first, and change that (copy).")
        places: dict[str, int] = {}
        for lora_id in lora_ids:
            place = source._position[lora_id]
            places.setdefault(self.id_of(lora_id, source._sha256(lora_id)), place)
        self._replace(schema.appended(self._table, _rows_named(source.table, places)))
        self.protocols = {**source.protocols, **self.protocols}

        def repeat(database: MetricsDatabase) -> None:
            database.add_rows(source, [each for each in lora_ids if database.id_of(each, source._sha256(each)) not in database])

        self._changes.append(repeat)
        return list(places)

    def set_value(self, lora_id: str, column: str, value: Any) -> None:
        """Change one cell that is not a metric, such as the name of a file that moved. Raises as `set_values` does."""
        self.set_values(column, {lora_id: value})

    def set_values(self, column: str, values: Mapping[str, Any]) -> None:
        """Change cells of one column that is not a metric. values: lora_id -> value.

        Raises DatabaseError for a read-only database, an id that is not there, or an unknown column.
        """
        cells = self.column(column) if column in self._table.column_names else None
        for lora_id, value in values.items():
            position = self._position.get(lora_id)
            if self.read_only or position is None or cells is None:
                raise DatabaseError(
                    f"{column} of {lora_id} cannot be changed in {self.name}.",
                    "Check the id, use a writable copy.",
                    ends_run=False,
                )
            cells[position] = value
        if not values:
            return
        # In the file that the change is repeated in one day, a LoRA of this content may have another id.
        kept = [(lora_id, self.identities[self._position[lora_id]].sha256, value) for lora_id, value in values.items()]
        field = self._table.schema.field(column)
        self._replace(self._table.set_column(self._table.schema.get_field_index(column), field, pa.array(cells, field.type)))

        def repeat(database: MetricsDatabase) -> None:
            there = {database.id_of(lora_id, sha256): value for lora_id, sha256, value in kept}
            database.set_values(column, {lora_id: value for lora_id, value in there.items() if lora_id in database})

        self._changes.append(repeat)

    def set_curve(self, lora_id: str, curve: Sequence[CurvePoint], suggested_weight: float | None) -> None:
        """Add to a row what a scale sweep by its protocol has found. Raises as `set_values` does."""
        for column, value in {**schema.curve_columns(curve), "suggested_weight": suggested_weight}.items():
            self.set_value(lora_id, column, value)

    def save_parquet(self, path: str | Path, *, layout: str = OURS) -> None:
        """Write all rows to `path`, atomically. layout: "carlos", or "reference" for the reference package's own columns.

        If this database was read from `path` or saved there before, and another process has changed the file since then, the rows
        of that process are kept: only the changes made here are made in the file. Any other file is replaced.
        Raises DatabaseError if the file cannot be written; the file that was there before is then untouched.
        """
        _save(self, Path(path), layout)

    def saved(self, target: Path, stamp: str) -> None:
        """Note that a file holds all rows, in the writing that is called `stamp`."""
        self._bases[target] = (stamp, len(self._changes))

    def base_of(self, target: Path) -> str | None:
        """The stamp of the writing of a file that this database knows; None if it was neither read from it nor saved there.

        target: the file at the end of all links, as in `saved` and `rebase`.
        """
        base = self._bases.get(target)
        return None if base is None else base[0]

    def rebase(self, target: Path, current: MetricsDatabase) -> None:
        """Take over the rows of a file as it is now, then repeat the changes made here since the two were last the same.

        Rows that only this database has stay, because nothing in this package removes rows. current: the database in the file.
        Raises DatabaseError if the file now holds the rows of another encoder.
        """
        if (current.encoder_id, current.dimension) != (self.encoder_id, self.dimension):
            raise DatabaseError(
                f"{current.name} is another database by now, of the encoder {current.encoder_id}.", "Save under another name."
            )
        for change in self._changes[self._bases[target][1] :]:
            change(current)
        missing: dict[str, int] = {}
        for place, row in enumerate(self.identities):
            lora_id = current.id_of(row.lora_id, row.sha256)
            if lora_id not in current:
                missing[lora_id] = place
        self._replace(schema.appended(current.table, _rows_named(self._table, missing)))
        self.protocols = {**current.protocols, **self.protocols}
        self.made_from = current.made_from

    def to_dataframe(self) -> pd.DataFrame:
        """All rows as a pandas table; directions are float32 arrays."""
        frame = self._table.drop_columns(["direction"]).to_pandas()
        directions = schema.direction_matrix(self._table["direction"], self.name)
        frame.insert(self._table.column_names.index("direction"), "direction", list(directions))
        return frame

    @cached_property
    def ranking_arrays(self) -> RankingArrays:
        """Directions, norms, strengths and consistencies in the order of the ids, prepared once."""
        return ranking_arrays(self._table, self.name)

    def _sha256(self, lora_id: str) -> str | None:
        return self.identities[self._position[lora_id]].sha256

    @cached_property
    def has_effect(self) -> np.ndarray:
        """[R] bool, in the order of `ranking_arrays`: whether a row has a direction, and one that is more than noise."""
        arrays = self.ranking_arrays
        is_noise = np.array([NO_EFFECT in row.notes for row in self.measured], dtype=bool)[arrays.rows]
        return (arrays.norms > 0).numpy() & ~is_noise

    @cached_property
    def identities(self) -> list[LoraIdentity]:
        """What every row knows about which LoRA it is, in table order."""
        return schema.identities(self._table)

    @cached_property
    def measured(self) -> list[MeasuredRow]:
        """How every row was measured, in table order."""
        return schema.measured_rows(self._table)

    @cached_property
    def _position(self) -> dict[str, int]:
        return {lora_id: position for position, lora_id in enumerate(self._table["lora_id"].to_pylist())}

    @cached_property
    def _by_content(self) -> dict[str, str]:
        """Hash of the whole file -> lora_id. Of two rows of one content the later one counts."""
        return {row.sha256.lower(): row.lora_id for row in self.identities if row.sha256}

    def _replace(self, table: pa.Table) -> None:
        self._table = table
        for derived in ("ranking_arrays", "has_effect", "identities", "measured", "_position", "_by_content"):
            self.__dict__.pop(derived, None)


def _rows_named(table: pa.Table, places: Mapping[str, int]) -> pa.Table:
    """Rows of a table under other ids. places: id -> place of its row."""
    rows = table.take(np.array(list(places.values()), dtype=np.int64))
    return rows.set_column(rows.schema.get_field_index("lora_id"), "lora_id", pa.array(list(places), pa.string()))


def load_database(path: str | Path, *, encoder_id: str | None = None) -> MetricsDatabase:
    """Open a metrics database: ours, or a parquet file of the reference package.

    encoder_id: for files that do not name their encoder; if a file names one, that one counts.
    Raises DatabaseError if the file is missing, damaged, or not a metrics database.
    """
    path = Path(path)
    table, stamp = parquet.read_table(path)
    facts = schema.unpack_metadata(table.schema.metadata, path.name)
    encoder_id = facts.get("encoder_id") or encoder_id
    if reference.has_reference_layout(table):
        table = reference.from_reference_layout(table)
        encoder_id = encoder_id or DEFAULT_ENCODER_ID
    table = schema.normalised(table.replace_schema_metadata(None), path.name)
    with parquet.opening(path):
        database = MetricsDatabase(table, encoder_id=encoder_id, protocols=facts.get("protocols"), path=path, stamp=stamp)
    database.made_from = str(facts.get("made_from") or "")
    return database


def create_database(database: MetricsDatabase, path: Path) -> MetricsDatabase:
    """Save `database` as a new file and open it. Raises DatabaseError if the file already exists."""
    with parquet.locked(path):
        with parquet.saving(path):
            exists = is_there(path)
        if exists:
            raise DatabaseError(f"{path.name} exists already.", "Choose another name, or delete the file first.")
        _write(database, path)
    return load_database(path)


def change_database(path: Path, change: Callable[[MetricsDatabase], None]) -> MetricsDatabase:
    """Read the file as it is now, change it, save it. No other process can interfere. Returns the saved database."""
    with parquet.locked(path):
        database = load_database(path)
        change(database)
        _write(database, path)
    return database


def upsert_into_file(path: Path, record: LoraRecord, protocol: Mapping[str, Any]) -> MetricsDatabase:
    """Add or replace one row of a database file. Returns the saved database."""
    return change_database(path, lambda database: database.upsert(record, protocol))


def _save(database: MetricsDatabase, path: Path, layout: str) -> None:
    """Write a database as it is now in memory; see `MetricsDatabase.save_parquet`."""
    # What cannot be saved at all is refused before anything is touched.
    check_layout(database, layout)
    # A file of which nothing is kept is locked, too: somebody who is changing it now would write the old rows over the new ones.
    with parquet.locked(path):
        with parquet.saving(path):
            target = target_of(path)
            base = database.base_of(target)
            is_changed = base is not None and is_there(path) and parquet.stamp_of_file(path) != base
        if is_changed:
            database.rebase(target, load_database(path, encoder_id=database.encoder_id))
        _write(database, path, layout)


def _write(database: MetricsDatabase, path: Path, layout: str = OURS) -> None:
    """Write a database so that `path` is at every moment either the old file or the complete new one."""
    # A name for each writing. By it a reader knows whether the file is still the one that it read.
    stamp = uuid4().hex
    with parquet.saving(path):
        target = target_of(path)
    parquet.write_table(table_to_write(database, layout, stamp), path)
    database.saved(target, stamp)
    if layout == OURS:
        database.path = path
