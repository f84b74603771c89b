"""The user's own phrases for describing LoRAs: a plain text file, one phrase a line."""

from __future__ import annotations

from pathlib import Path

from ..errors import PromptSetError
from ..foreign import printable, whole_text
from ..storage import bytes_within

FILE_NAME = "phrases.txt"
_MOST_BYTES = 256 << 10
_MOST_PHRASES = 1000
_LONGEST = 200
"""Characters of a phrase. What stands in a report is to be short, and CLIP reads no more than some hundred."""


def read_phrases(path: Path) -> tuple[str, ...]:
    """The phrases of a text file, in its order, each once. Empty lines, and lines that begin with #, are left out.

    Raises PromptSetError for a file that cannot be read, is no UTF-8 text or too large, or has too many or too long phrases.
    """
    shape = "Write one short phrase a line, as plain text (UTF-8)."
    try:
        content = bytes_within(path, _MOST_BYTES)
        if content is None:
            raise PromptSetError(f"{path.name} is larger than {_MOST_BYTES >> 10} KB.", f"Keep at most {_MOST_PHRASES} phrases.")
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise PromptSetError(f"Cannot read {path.name}: {error.strerror}.", "Check the file.") from error
    except UnicodeDecodeError as error:
        raise PromptSetError(f"{path.name} is not plain text.", shape) from error
    lines = [printable(whole_text(" ".join(line.split()))) for line in text.splitlines()]
    phrases: dict[str, str] = {}
    for line in lines:
        if line and not line.startswith("#"):
            phrases.setdefault(line.casefold(), line)
    too_long = next((phrase for phrase in phrases.values() if len(phrase) > _LONGEST), None)
    if too_long is not None:
        raise PromptSetError(f"{path.name}: the phrase {too_long[:40]!r}... is longer than {_LONGEST} characters.", shape)
    if len(phrases) > _MOST_PHRASES:
        raise PromptSetError(f"{path.name} holds {len(phrases):,} phrases.", f"Keep at most {_MOST_PHRASES:,}.")
    return tuple(phrases.values())
