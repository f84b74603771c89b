"""Random changes of bytes and of JSON, most of which leave enough in order to get past the first check."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

_LONGEST = 4096
"""Bytes of a piece that is inserted or repeated."""

_ODD_BYTES = (
    b"",
    b"\0",
    b"\xff" * 8,
    b"{}",
    b"[",
    b"]" * 64,
    b'"',
    b"\\ud83d",
    b"null",
    b"NaN",
    b"1e999",
    b"-1",
    b"\xef\xbb\xbf",
    b" " * 999,
    b"[" * 99_999,
)
_ODD_NUMBERS = (0, -1, 1, 255, 2**15, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64, -(2**63), -(2**70), 10**30)
_ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, "", " ", "\0", "\ud83d", "a" * 999, "../../x", "<lora:a:1>", "a, b, c", "((x:1.5))", "[]", "{}"),
    *(*_ODD_NUMBERS, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *([], {}, [[]], [None], [{}], {"": None}, {"a": {"b": {"c": []}}}, [1, "2", 3.0], ["x"] * 40),
)


def changed(seed: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    """A seed with one to eight changes. others: seeds that pieces may be taken from."""
    content = seed
    for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 5, 8))):
        content = chance.choice((_json_changed, _json_changed, _json_changed, _bytes_changed, _header_changed))(
            content, others, chance
        )
    return content


def _bytes_changed(content: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    start = chance.randint(0, len(content))
    end = min(len(content), start + chance.choice((0, 1, 1, 2, 4, 8, 64, _LONGEST)))
    piece = content[start:end]
    other = chance.choice(others) if others else content
    cut = chance.randint(0, len(other))
    new = chance.choice(
        (
            b"",
            bytes(byte ^ (1 << chance.randrange(8)) for byte in piece),
            chance.randbytes(len(piece) or 1),
            piece * 2,
            chance.choice(_ODD_BYTES),
            other[cut : cut + _LONGEST],
            struct.pack(chance.choice(("<Q", ">I", "<I")), chance.choice(_ODD_NUMBERS) % 2**32),
        )
    )
    return content[:start] + new + content[end:]


def _json_changed(content: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    """A value of the JSON changed. What is no JSON is changed as bytes; the JSON of a header gets its right length."""
    start, text = _header_of(content)
    try:
        changed_value = _value_changed(json.loads(text), chance)
        new = json.dumps(changed_value, ensure_ascii=chance.random() < 0.5).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):
        # No JSON, or by now too deep to be written as such.
        return _bytes_changed(content, others, chance)
    return new if not start else struct.pack("<Q", len(new)) + new + content[start + len(text) :]


def _header_changed(content: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    """What a safetensors header says of its own length, changed; what has no such header is changed as bytes."""
    start, text = _header_of(content)
    if not start:
        return _bytes_changed(content, others, chance)
    length = chance.choice((len(text) - 1, len(text) + 1, len(content), *_ODD_NUMBERS))
    return struct.pack("<Q", length % 2**64) + content[start:]


def _header_of(content: bytes) -> tuple[int, bytes]:
    """Where the JSON begins and what it is: behind a length of 8 bytes, or from the start."""
    length = struct.unpack("<Q", content[:8])[0] if len(content) > 9 else 0
    return (8, content[8 : 8 + length]) if 0 < length <= len(content) - 8 else (0, content)


def _value_changed(value: Any, chance: random.Random) -> Any:
    """A value in which one value somewhere is another, gone, repeated, or under another key."""
    if isinstance(value, dict) and isinstance(value.get("__metadata__"), dict) and chance.random() < 0.7:
        # Behind a header whose tensors make no sense, nothing is read.
        return {**value, "__metadata__": _texts_changed(value["__metadata__"], chance)}
    if chance.random() < 0.2 or not isinstance(value, (dict, list)) or not value:
        return _odd(value, chance)
    return _list_changed(value, chance) if isinstance(value, list) else _dict_changed(value, chance)


def _list_changed(value: list[Any], chance: random.Random) -> list[Any]:
    place = chance.randrange(len(value))
    way = chance.random()
    if way < 0.2:
        return [*value[:place], *value[place + 1 :]]
    if way < 0.4:
        return [*value, *value[place:]]
    return [*value[:place], _value_changed(value[place], chance), *value[place + 1 :]]


def _dict_changed(value: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    key = chance.choice(list(value))
    left = {name: item for name, item in value.items() if name != key}
    way = chance.random()
    if way < 0.15:
        return left
    if way < 0.3:
        return {**left, chance.choice(list(value)): value[key], chance.choice(("", "id", "\ud83d", "x" * 300)): value[key]}
    return {**left, key: _value_changed(value[key], chance)}


def _texts_changed(texts: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    new = _value_changed(texts, chance)
    if not isinstance(new, dict):
        return texts
    return {key: item if isinstance(item, str) else json.dumps(item) for key, item in new.items()}


def _odd(value: Any, chance: random.Random) -> Any:
    if isinstance(value, str) and value[:1] in ("{", "[") and chance.random() < 0.7:
        # Headers hold JSON in texts.
        with suppress(ValueError, RecursionError):
            return json.dumps(_value_changed(json.loads(value), chance))
    if isinstance(value, str) and value and chance.random() < 0.5:
        cut = chance.randrange(len(value))
        return value[:cut] + chance.choice(("", "\0", "\ud83d", "\\", "(", "<", ",", " ", value[:64])) + value[cut + 1 :]
    if isinstance(value, (int, float)) and chance.random() < 0.3:
        return chance.choice((-value, value + 1, value * 2, str(value)))
    if chance.random() < 0.02:
        deep: Any = value
        for _ in range(chance.choice((10, 100, 900))):
            deep = [deep]
        return deep
    return chance.choice(_ODD_VALUES)
