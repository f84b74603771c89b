"""The columns of a metrics database, and how foreign tables become ours.

A database is one Arrow table with a row for each LoRA. The table's metadata holds the facts about all rows: the schema's
version, the encoder whose features the directions are made of, and a readable description of every protocol.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import DatabaseError
from ..foreign import LONGEST_TEXT, printable
from ..records import CurvePoint, LoraIdentity, LoraMetadata, LoraRecord, LoraVector, MeasuredRow, TopicEffect, checkpoint_of

SCHEMA_VERSION = 1

_PREFIX = b"carlos."
_REQUIRED = ("direction", "strength", "consistency")
_PLAIN = (
    *("lora_id", "file_name", "sha256", "direction", "strength", "consistency", "n_images", "n_prompts", "alignment"),
    *("strength_se", "consistency_se", "suggested_weight", "protocol_id", "model_key", "encoder_id", "indexed_at"),
    *("notes", "measured_on", "noise_floor", "described_as", "described_by"),
)
"""Columns that are fields of a record without any change."""

_TOPICS = ("topic_names", "topic_images", "topic_strengths", "topic_consistencies", "topic_directions")
_CURVE = ("curve_weights", "curve_strengths", "curve_alignments")
"""Columns whose lists are of the same things: their lengths are equal in each row."""

_CURVE_ERRORS = "curve_strength_ses"
"""As long as the lists of a curve, or null: earlier versions did not know them."""


def column_types(dimension: int) -> dict[str, pa.DataType]:
    """Name -> Arrow type of our columns, in file order; directions have `dimension` numbers."""
    return {
        "lora_id": pa.string(),
        "version_id": pa.int64(),
        "model_id": pa.int64(),
        "model_name": pa.string(),
        "file_name": pa.string(),
        "sha256": pa.string(),
        "base_model": pa.string(),
        "trigger_words": pa.list_(pa.string()),
        "nsfw_level": pa.int32(),
        "download_count": pa.int64(),
        "preview_url": pa.string(),
        "direction": pa.list_(pa.float32(), dimension),
        "strength": pa.float64(),
        "consistency": pa.float64(),
        "n_images": pa.int32(),
        "n_prompts": pa.int32(),
        "alignment": pa.float64(),
        "strength_se": pa.float64(),
        "consistency_se": pa.float64(),
        "topic_names": pa.list_(pa.string()),
        "topic_images": pa.list_(pa.int32()),
        "topic_strengths": pa.list_(pa.float64()),
        "topic_consistencies": pa.list_(pa.float64()),
        "topic_directions": pa.list_(pa.list_(pa.float32(), dimension)),
        "curve_weights": pa.list_(pa.float64()),
        "curve_strengths": pa.list_(pa.float64()),
        "curve_alignments": pa.list_(pa.float64()),
        "suggested_weight": pa.float64(),
        "protocol_id": pa.string(),
        "encoder_id": pa.string(),
        "indexed_at": pa.string(),
        "notes": pa.list_(pa.string()),
        "model_key": pa.string(),
        "measured_on": pa.string(),
        "noise_floor": pa.float64(),
        "described_as": pa.string(),
        "described_by": pa.string(),
        _CURVE_ERRORS: pa.list_(pa.float64()),
    }


def empty_table(dimension: int) -> pa.Table:
    return pa.schema(list(column_types(dimension).items())).empty_table()


def normalised(table: pa.Table, source: str) -> pa.Table:
    """`table` with our column types, ids as text, and unknown columns kept; `source` names it in errors.

    Raises DatabaseError if a needed column is missing or any is there twice, a column has a type that cannot be converted, a
    direction is ragged, a direction or strength is not finite, an id is missing or there twice, or a text has more than 1 MB.
    """
    missing = [name for name in _REQUIRED if name not in table.column_names]
    if "lora_id" not in table.column_names and "version_id" not in table.column_names:
        missing.append("lora_id")
    if missing:
        raise DatabaseError(
            f"{source} is not a metrics database: it lacks {', '.join(missing)}.",
            "Choose a file written by CARLoS or by the reference package.",
        )
    twice = next((name for name, n in Counter(table.column_names).items() if n > 1), None)
    if twice is not None:
        raise DatabaseError(f"{source} has more than one column {printable(twice)}.", "Write each column once.")
    columns = {name: table[name] for name in table.column_names}
    if "lora_id" not in columns:
        columns["lora_id"] = pc.cast(columns["version_id"], pa.string())
    directions = direction_matrix(table["direction"], source)
    types = column_types(directions.shape[1])
    columns["direction"] = direction_array(directions)
    for name, type_ in types.items():
        if name == "direction":
            continue
        if name not in columns:
            columns[name] = pa.nulls(table.num_rows, type_)
            continue
        try:
            columns[name] = pc.cast(columns[name], type_)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise DatabaseError(
                f"Column {name} of {source} cannot be read as {type_} ({error}).", "Write it with that type."
            ) from error
    ordered = [*types, *(name for name in columns if name not in types)]
    result = pa.table({name: columns[name] for name in ordered})
    _check_values(result, source)
    _check_lists(result, source)
    _check_texts(result, types, source)
    return result


def _check_values(table: pa.Table, source: str) -> None:
    ids = table["lora_id"]
    if ids.null_count or pc.any(pc.equal(ids, "")).as_py():
        raise DatabaseError(f"{source} has rows without an id.", "Give each row a lora_id of its own.")
    counts = pc.value_counts(ids)
    repeated = [entry["values"].as_py() for entry in counts if entry["counts"].as_py() > 1] if len(counts) < len(ids) else []
    if repeated:
        raise DatabaseError(
            f"{source} holds the id {repeated[0]} more than once ({len(repeated)} such ids).", "Remove the copies."
        )
    strength = table["strength"]
    if strength.null_count or not pc.all(pc.is_finite(strength), min_count=0).as_py():
        raise DatabaseError(f"{source} has rows whose strength is not a number.", "Index these LoRAs again.")


def _check_lists(table: pa.Table, source: str) -> None:
    for names in (_TOPICS, _CURVE):
        lengths = [pc.fill_null(pc.list_value_length(table[name]), 0) for name in names]
        if not all(pc.all(pc.equal(lengths[0], length), min_count=0).as_py() for length in lengths[1:]):
            raise DatabaseError(
                f"{source} has rows in which {names[0]} and {names[-1]} do not go together.", "Index these LoRAs again."
            )


def _check_texts(table: pa.Table, names: Iterable[str], source: str) -> None:
    if name := _overlong(table, names):
        raise DatabaseError(
            f"Column {name} of {source} holds a text of more than {LONGEST_TEXT >> 20} MB.", "Shorten it, or leave it out."
        )


def _overlong(table: pa.Table, names: Iterable[str]) -> str | None:
    """The first of some columns that holds a text too long for a row; None if there is none."""
    for name in names:
        texts = table[name]
        if pa.types.is_list(texts.type):
            texts = pc.list_flatten(texts)
        if pa.types.is_string(texts.type) and (pc.max(pc.binary_length(texts)).as_py() or 0) > LONGEST_TEXT:
            return name
    return None


def direction_matrix(column: pa.ChunkedArray, source: str) -> np.ndarray:
    """Directions as float32 [R, D], D > 0. Raises DatabaseError for directions that are null, ragged, empty or not finite."""
    if not (pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type) or pa.types.is_large_list(column.type)):
        raise DatabaseError(f"The directions of {source} are {column.type}, not lists of numbers.", "Choose another file.")
    if pa.types.is_fixed_size_list(column.type):
        dimension = column.type.list_size
    else:
        lengths = set(pc.list_value_length(column).drop_null().to_pylist())
        if len(lengths) > 1:
            raise DatabaseError(
                f"{source} mixes directions of {' and '.join(map(str, sorted(lengths)))} dimensions.",
                "Rows of different encoders belong in different databases.",
            )
        dimension = lengths.pop() if lengths else 0
    if column.null_count:
        raise DatabaseError(f"{source} has {column.null_count} rows without a direction.", "Remove them or index them again.")
    if not dimension:
        raise DatabaseError(f"{source} has no directions.", "Choose another file.")
    try:
        values = pc.list_flatten(column).cast(pa.float64()).to_numpy()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DatabaseError(f"The directions of {source} are not numbers ({error}).", "Choose another file.") from error
    with np.errstate(over="ignore"):
        # What is too large becomes infinite, and is refused.
        directions = values.astype(np.float32).reshape(len(column), dimension)
    broken = int((~np.isfinite(directions).all(axis=1)).sum())
    if broken:
        raise DatabaseError(
            f"{broken} of {len(column)} directions in {source} hold NaN or infinity.", "Remove these rows or index them again."
        )
    return directions


def direction_array(directions: np.ndarray) -> pa.Array:
    """[R, D] float32 -> fixed_size_list<float32>[D]."""
    flat = pa.array(np.ascontiguousarray(directions, dtype=np.float32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, directions.shape[1])


def table_of(record: LoraRecord, schema: pa.Schema, extra: Mapping[str, Any] = MappingProxyType({})) -> pa.Table:
    """A table of one row for `record` with the given columns. extra: what the old row has in columns of other programs."""
    values: dict[str, Any] = {**extra, **record.extra, **vars(record.metadata)}
    values.update({name: getattr(record, name) for name in _PLAIN})
    if record.topics:
        values["topic_names"] = [effect.topic for effect in record.topics]
        values["topic_images"] = [effect.n_images for effect in record.topics]
        values["topic_strengths"] = [effect.vector.strength for effect in record.topics]
        values["topic_consistencies"] = [effect.vector.consistency for effect in record.topics]
        values["topic_directions"] = [effect.vector.direction.tolist() for effect in record.topics]
    values.update(curve_columns(record.strength_curve))
    columns = []
    for column in schema:
        if column.name == "direction":
            columns.append(direction_array(record.direction[None]))
            continue
        value = values.get(column.name)
        columns.append(pa.array([list(value) if isinstance(value, tuple) else value], column.type))
    return pa.table(columns, schema=schema)


def check_storable(record: LoraRecord) -> None:
    """Check that a row can be saved. Raises DatabaseError for text that is not Unicode or too long, or a number too large."""
    try:
        row = table_of(record, empty_table(len(record.direction)).schema)
        if name := _overlong(row, row.column_names):
            raise ValueError(f"{name} has a text of more than {LONGEST_TEXT >> 20} MB")
    except (ValueError, OverflowError) as error:  # Arrow's own errors about values are ValueErrors
        raise DatabaseError(
            f"The facts of this LoRA cannot be saved ({error}).", "Correct what stands beside its file."
        ) from error


def appended(table: pa.Table, further: pa.Table) -> pa.Table:
    """A table with the rows of another one added. Its columns stay; those that the other table lacks are null in the new rows."""
    columns = [
        further[field.name] if field in further.schema else pa.nulls(further.num_rows, field.type) for field in table.schema
    ]
    return pa.concat_tables([table, pa.table(columns, schema=table.schema)]).combine_chunks()


def curve_columns(curve: Sequence[CurvePoint]) -> dict[str, list[float | None] | None]:
    """A strength curve as the values of its columns; null if there is none."""
    return {
        "curve_weights": [point.weight for point in curve] or None,
        "curve_strengths": [point.strength for point in curve] or None,
        "curve_alignments": [point.alignment for point in curve] or None,
        _CURVE_ERRORS: None if all(point.strength_se is None for point in curve) else [point.strength_se for point in curve],
    }


def cells_of(table: pa.Table, index: int) -> dict[str, Any]:
    """One row by column; the direction is a float32 array [D]."""
    cells: dict[str, Any] = {name: table[name][index].as_py() for name in table.column_names if name != "direction"}
    cells["direction"] = np.asarray(table["direction"][index].values, dtype=np.float32)
    return cells


def record_of(table: pa.Table, index: int) -> LoraRecord:
    """One row as a record; columns that are not ours go into its `extra`."""
    cells = cells_of(table, index)
    metadata = LoraMetadata(**{name: cells.pop(name) for name in vars(LoraMetadata())})
    if metadata.trigger_words is not None:
        metadata = replace(metadata, trigger_words=tuple(metadata.trigger_words))
    topics, curve = (_zipped(cells, columns) for columns in (_TOPICS, _CURVE))
    errors: list[float | None] = cells.pop(_CURVE_ERRORS) or []
    if len(errors) != len(curve):
        errors = [None] * len(curve)
    plain = {name: cells.pop(name) for name in _PLAIN}
    return LoraRecord(
        **{**plain, "notes": tuple(plain["notes"] or ())},
        metadata=metadata,
        topics=tuple(
            TopicEffect(name, images, LoraVector(np.asarray(direction, np.float32), strength, consistency))
            for name, images, strength, consistency, direction in topics
        ),
        strength_curve=tuple(replace(CurvePoint(*point), strength_se=error) for point, error in zip(curve, errors, strict=True)),
        extra=cells,
    )


def measured_rows(table: pa.Table) -> list[MeasuredRow]:
    """How every row was measured, in table order."""
    names = ("lora_id", "file_name", "protocol_id", "model_key", "n_images", "strength")
    notes = (tuple(notes or ()) for notes in table["notes"].to_pylist())
    has_curve = (bool(weights) for weights in table["curve_weights"].to_pylist())
    checkpoints = map(checkpoint_of, table["measured_on"].to_pylist())
    return list(map(MeasuredRow, *(table[name].to_pylist() for name in names), notes, has_curve, checkpoints))


def identities(table: pa.Table) -> list[LoraIdentity]:
    """Which LoRA every row is, in table order."""
    return list(map(LoraIdentity, *(table[name].to_pylist() for name in LoraIdentity._fields)))


def _zipped(cells: dict[str, Any], names: Sequence[str]) -> list[tuple[Any, ...]]:
    """The lists of some columns of a row, taken out of `cells`, as tuples; empty if they are null."""
    return list(zip(*(cells.pop(name) or () for name in names), strict=True))


def pack_metadata(encoder_id: str, protocols: Mapping[str, Any], stamp: str, made_from: str = "") -> dict[bytes, bytes]:
    """What is known about all rows, as metadata of a file.

    stamp: a name for this writing of the file. made_from: the name of the file that it was made from; empty for none.
    """
    facts = {"schema_version": SCHEMA_VERSION, "encoder_id": encoder_id, "protocols": dict(protocols)}
    facts |= {"made_from": made_from} if made_from else {}
    return {_PREFIX + name.encode(): json.dumps(value, sort_keys=True).encode() for name, value in facts.items()} | stamped(stamp)


def stamped(stamp: str) -> dict[bytes, bytes]:
    """Metadata that hold only the stamp."""
    return {_PREFIX + b"stamp": json.dumps(stamp).encode()}


def stamp_of(metadata: Mapping[bytes, bytes] | None) -> str:
    """The stamp of a file's metadata; empty if it has none."""
    try:
        return str(json.loads((metadata or {}).get(_PREFIX + b"stamp", b'""')))
    except ValueError:
        return ""


def unpack_metadata(metadata: Mapping[bytes, bytes] | None, source: str) -> dict[str, Any]:
    """Our facts in a file's metadata; empty for a file that is not ours. Raises DatabaseError for damage or a newer schema."""
    facts = {}
    for key, value in (metadata or {}).items():
        if key.startswith(_PREFIX):
            try:
                facts[key[len(_PREFIX) :].decode()] = json.loads(value)
            except ValueError as error:
                raise DatabaseError(f"The metadata of {source} is damaged.", "Restore the file from a copy.") from error
    version = facts.get("schema_version", 0)
    if not isinstance(version, int):
        raise DatabaseError(f"The schema version of {source} is {version!r}.", "Restore the file from a copy.")
    if version > SCHEMA_VERSION:
        raise DatabaseError(
            f"{source} was written by a newer version (schema {facts['schema_version']}, known: {SCHEMA_VERSION}).",
            "Update CARLoS.",
        )
    return facts
