"""Facts from JSON that others wrote: each is read by itself, and one that makes no sense counts as missing."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""What breaks a line or turns its order around: control characters, Unicode's line ends, and marks that override a direction."""


LONGEST_TEXT = 1 << 20
"""Bytes of a text that a row can hold, as UTF-8."""


def whole_text(text: str) -> str:
    """Text that any file or database takes. Halves of characters, which JSON can hold and UTF-8 cannot, are left out."""
    return text.encode("utf-8", "ignore").decode("utf-8")


def printable(text: str) -> str:
    """Text to be shown in one line. What is not a character that can be seen (in a file name, for example) is shown escaped."""
    whole = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), whole)


def reason_of(error: BaseException) -> str:
    """What an error says, in one line; its kind where it says nothing."""
    return printable(str(error)) or type(error).__name__


def is_too_long(text: str) -> bool:
    """Whether a text is too long for a row. It has no halves of characters (`whole_text`)."""
    return len(text) > LONGEST_TEXT or (len(text) > LONGEST_TEXT // 4 and len(text.encode()) > LONGEST_TEXT)


def fits_into(number: int, bits: int) -> bool:
    """Whether a signed number of this many bits can hold `number`."""
    return -(2 ** (bits - 1)) <= number < 2 ** (bits - 1)


class ForeignFacts:
    """The fields of a JSON object. Whatever the JSON holds, a field gives a value of the right kind, or nothing.

    problems: a sentence for each number that cannot be kept. misfits: a few words for each value that is of another kind than
    it should be. Both lists are shared with the parts of the object.
    """

    def __init__(
        self,
        content: Any,
        problems: list[str] | None = None,
        misfits: list[str] | None = None,
        *,
        is_lenient: bool = False,
    ) -> None:
        """is_lenient: an empty text, list or object is no misfit; tools write them where they have nothing to say."""
        self.problems = [] if problems is None else problems
        self.misfits = [] if misfits is None else misfits
        self._is_lenient = is_lenient
        self._content: Mapping[str, Any] = content if isinstance(content, Mapping) else {}

    def says(self, key: str) -> bool:
        """Whether a key has a value."""
        return self._content.get(key) is not None

    def part(self, key: str) -> ForeignFacts:
        """The object under a key; an empty one if there is none."""
        return self._facts(self._of(key, Mapping))

    def parts(self, key: str) -> Iterator[ForeignFacts]:
        """The objects of the list under a key."""
        items = self._of(key, list) or ()
        self.misfits += [f"{key} holds {type(item).__name__}" for item in items if not isinstance(item, Mapping)]
        return (self._facts(item) for item in items)

    def text(self, key: str) -> str | None:
        """Text without blanks around it; None if there is none, or none that a row can hold."""
        value = self._of(key, str)
        text = None if value is None else whole_text(value).strip() or None
        if text is not None and is_too_long(text):
            self.problems.append(f"{key} has {len(text):,} characters")
            return None
        return text

    def flag(self, key: str) -> bool:
        """Yes or no; no if there is none."""
        return self._of(key, bool) or False

    def number(self, key: str, bits: int = 64) -> int | None:
        """A whole number that a column of this many bits can hold; None if there is none."""
        value = self.decimal(key, bits)
        if isinstance(value, float) and not value.is_integer():
            self.problems.append(f"{key} is not a whole number ({value!r})")
            return None
        return None if value is None else int(value)

    def decimal(self, key: str, bits: int = 64) -> float | None:
        """A number whose whole part a column of this many bits can hold; None if there is none."""
        value = self._of(key, (int, float))
        if value is None:
            return None
        if (isinstance(value, float) and not math.isfinite(value)) or not fits_into(int(value), bits):
            # A whole number of thousands of digits cannot even be written out.
            shown = repr(value) if isinstance(value, float) else f"of {value.bit_length()} bits"
            self.problems.append(f"{key} is a number that makes no sense ({shown})")
            return None
        return value  # type: ignore[no-any-return]

    def texts(self, key: str) -> tuple[str, ...] | None:
        """The texts of a list that a row can hold, and numbers as texts; None if there is no list."""
        value = self._of(key, list)
        if value is None:
            return None
        texts = [whole_text(item if isinstance(item, str) else str(item)) for item in value if _is_plain(item)]
        self.problems += [f"{key} holds a text of {len(text):,} characters" for text in texts if is_too_long(text)]
        return tuple(text for text in texts if not is_too_long(text))

    def _facts(self, content: Any) -> ForeignFacts:
        return ForeignFacts(content, self.problems, self.misfits, is_lenient=self._is_lenient)

    def _of(self, key: str, kind: Any) -> Any:
        value = self._content.get(key)
        # In JSON, yes is not a number.
        if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
            return value
        if value is not None and not (self._is_lenient and value in ("", [], {})):
            self.misfits.append(f"{key} is {type(value).__name__}")
        return None


def _is_plain(item: Any) -> bool:
    """Whether something is a word, or a number that may be one."""
    return isinstance(item, (str, float)) or (isinstance(item, int) and not isinstance(item, bool) and fits_into(item, 64))
