"""What the footer of a parquet file says of its columns' sizes.

Arrow can tell that, too, but asking it for facts that make no sense ends the process (pyarrow 26). So the few numbers are read
here: the footer is a struct in Thrift's compact protocol (github.com/apache/thrift, doc/specs/thrift-compact-protocol.md), whose
fields are named in parquet.thrift (github.com/apache/parquet-format).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, BinaryIO

_MAGIC = b"PAR1"
_LONGEST = 4 << 20
"""Bytes. One with 35 columns and 100 groups of rows has half a megabyte."""

_DEEPEST = 16
_BYTE_ARRAY = 6
"""Of parquet.thrift's types: texts."""

_ROW_GROUPS, _COLUMNS, _META_DATA = 4, 1, 3
"""Fields: of the file's facts, of a group of rows, of a column's chunk."""
_TYPE, _NUM_VALUES, _UNCOMPRESSED = 1, 5, 6
"""Fields of the facts about a chunk."""

_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)


@dataclass(frozen=True)
class ChunkSize:
    """A column's values in one group of rows, as the file says."""

    n_values: int
    n_bytes: int
    """Once unpacked, but still encoded."""
    is_text: bool


def chunk_sizes(file: BinaryIO) -> list[ChunkSize]:
    """The sizes of all chunks of a parquet file. Raises ValueError for a footer that makes no sense, or is too long."""
    end = file.seek(0, 2)
    file.seek(max(0, end - 8))
    tail = file.read(8)
    length = int.from_bytes(tail[:4], "little")
    if tail[4:] != _MAGIC or not 0 < length <= min(_LONGEST, end - 8):
        raise ValueError(f"its footer has {length:,} bytes")
    file.seek(end - 8 - length)
    facts = _Reader(file.read(length)).struct()
    groups = _structs(facts.get(_ROW_GROUPS))
    return [_size_of(chunk.get(_META_DATA)) for group in groups for chunk in _structs(group.get(_COLUMNS))]


def _structs(value: Any) -> list[dict[int, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ValueError("its footer has something else in place of a list")
    return value


def _size_of(facts: Any) -> ChunkSize:
    numbers = [facts.get(field) if isinstance(facts, dict) else None for field in (_NUM_VALUES, _UNCOMPRESSED, _TYPE)]
    sizes = [number for number in numbers if isinstance(number, int) and number >= 0]
    if len(sizes) < len(numbers):
        raise ValueError("its footer does not say how large its columns are")
    return ChunkSize(sizes[0], sizes[1], is_text=sizes[2] == _BYTE_ARRAY)


class _Reader:
    """Reads Thrift's compact protocol. Every method raises ValueError where the content ends or makes no sense."""

    def __init__(self, content: bytes) -> None:
        self._content, self._place, self._depth = content, 0, 0

    def struct(self) -> dict[int, Any]:
        """Field -> value. Of several values of one field, the last."""
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ValueError("its footer is nested too deeply")
        fields: dict[int, Any] = {}
        field = 0
        while kind := self._byte():
            step = kind >> 4
            field = field + step if step else self._number()
            kind &= 0x0F
            # In a struct, the kind itself is the value of yes or no.
            fields[field] = kind == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind)
        self._depth -= 1
        return fields

    def _value(self, kind: int) -> Any:
        if kind in (_I16, _I32, _I64):
            return self._number()
        if kind == _BINARY:
            return self._skip(self._unsigned())
        if kind == _STRUCT:
            return self.struct()
        if kind in (_LIST, _SET):
            return self._list()
        if kind in (_TRUE, _FALSE, _BYTE):
            return self._skip(1)
        if kind == _DOUBLE:
            return self._skip(8)
        # Maps are in no parquet file.
        raise ValueError(f"its footer has a value of the unknown kind {kind}")

    def _list(self) -> list[Any]:
        head = self._byte()
        size = head >> 4 if head >> 4 != 0x0F else self._unsigned()
        if size > len(self._content) - self._place:
            raise ValueError("its footer has a list that is longer than itself")
        return [self._value(head & 0x0F) for _ in range(size)]

    def _number(self) -> int:
        """A signed number: zigzag encoding."""
        number = self._unsigned()
        return number >> 1 ^ -(number & 1)

    def _unsigned(self) -> int:
        number, shift = 0, 0
        while True:
            byte = self._byte()
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return number
            if shift > 63:
                raise ValueError("its footer has a number that is too large")

    def _byte(self) -> int:
        self._skip(1)
        return self._content[self._place - 1]

    def _skip(self, n_bytes: int) -> None:
        self._place += n_bytes
        if self._place > len(self._content):
            raise ValueError("its footer ends too early")
