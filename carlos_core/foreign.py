"""Facts out of JSON that strangers wrote: each is read by itself, and one that makes no sense says nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any


def whole_text(text: str) -> str:
    """Text that any file or database takes: halves of characters, which JSON can hold and UTF-8 cannot, are left out."""
    return text.encode("utf-8", "ignore").decode("utf-8")


def printable(text: str) -> str:
    """Text to be shown: what is no character (of a file name, say) as its number."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def fits_into(number: int, bits: int) -> bool:
    """Whether a signed number of so many bits holds this one."""
    return -(2 ** (bits - 1)) <= number < 2 ** (bits - 1)


class ForeignFacts:
    """The fields of a JSON object. Whatever stands there in fact, a field gives what it should hold, or nothing.

    problems: a sentence for each field that says something which nobody can keep; shared with the parts of the object.
    """

    def __init__(self, content: Any, problems: list[str] | None = None) -> None:
        self._content: Mapping[str, Any] = content if isinstance(content, Mapping) else {}
        self.problems = [] if problems is None else problems

    def part(self, key: str) -> ForeignFacts:
        """The object behind a key; an empty one if there is none."""
        return ForeignFacts(self._content.get(key), self.problems)

    def parts(self, key: str) -> Iterator[ForeignFacts]:
        """The objects of a list."""
        value = self._content.get(key)
        return (ForeignFacts(item, self.problems) for item in (value if isinstance(value, list) else ()))

    def text(self, key: str) -> str | None:
        """Text without blanks around it; None for none."""
        value = self._content.get(key)
        return (whole_text(value).strip() or None) if isinstance(value, str) else None

    def number(self, key: str, bits: int = 64) -> int | None:
        """A whole number that a column of so many bits can hold."""
        value = self._content.get(key)
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            return None
        if (isinstance(value, float) and not math.isfinite(value)) or not fits_into(int(value), bits):
            # A whole number of thousands of digits cannot even be written out.
            shown = repr(value) if isinstance(value, float) else f"of {value.bit_length()} bits"
            self.problems.append(f"{key} is a number that makes no sense ({shown})")
            return None
        return int(value)

    def words(self, key: str) -> tuple[str, ...]:
        """Trigger words of a list."""
        return words_of(self._content.get(key))


def words_of(value: Any) -> tuple[str, ...]:
    """Trigger words of a list, without blanks, commas at the ends and repetitions."""
    texts = (item if isinstance(item, str) else str(item) for item in value if _is_plain(item)) if isinstance(value, list) else ()
    words = (whole_text(text).strip().strip(",").strip() for text in texts)
    return tuple(dict.fromkeys(word for word in words if word))


def _is_plain(item: Any) -> bool:
    """Whether something is a word, or a number that may be one."""
    return isinstance(item, (str, float)) or (isinstance(item, int) and not isinstance(item, bool) and fits_into(item, 64))
