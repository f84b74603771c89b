"""The user's own phrases: a text file as people write it, and one that is none ends in a message."""

from __future__ import annotations

from pathlib import Path

import pytest

from carlos_core.errors import PromptSetError
from carlos_core.search.phrase_file import read_phrases


def written(folder: Path, content: bytes) -> Path:
    path = folder / "phrases.txt"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("content", "phrases"),
    [
        (b"", ()),
        (b"white snow\n\n  golden   hour \n", ("white snow", "golden hour")),
        (b"# mine\r\nwhite snow\r\nWhite Snow\r\nflames\r\n", ("white snow", "flames")),
        ("\ufeffÉté brûlant".encode(), ("Été brûlant",)),
        (b"tab\there", ("tab here",)),
        (b"bell\x07", ("bell\\x07",)),
    ],
)
def test_lines_are_phrases(tmp_path: Path, content: bytes, phrases: tuple[str, ...]) -> None:
    assert read_phrases(written(tmp_path, content)) == phrases


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe\x00\x01", "is not plain text"),
        (b"x" * 201, "is longer than 200 characters"),
        (b"\n".join(b"%d" % k for k in range(1001)), "holds 1,001 phrases"),
        (b"\n" * (256 << 10) + b"x", "is larger than 256 KB"),
    ],
)
def test_a_file_that_is_no_list_of_phrases_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(PromptSetError, match=message):
        read_phrases(written(tmp_path, content))


def test_limits_are_not_one_too_low(tmp_path: Path) -> None:
    lines = [b"%0200d" % k for k in range(1000)]
    assert len(read_phrases(written(tmp_path, b"\n".join(lines)))) == 1000


def test_a_file_that_is_gone_is_a_message(tmp_path: Path) -> None:
    with pytest.raises(PromptSetError, match=r"Cannot read phrases\.txt"):
        read_phrases(tmp_path / "phrases.txt")
