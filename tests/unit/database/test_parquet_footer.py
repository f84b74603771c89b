"""What a parquet file's footer says of sizes, read without Arrow, which ends the process over some that make no sense."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from carlos_core.database.database import load_database
from carlos_core.database.parquet_footer import ChunkSize, chunk_sizes
from carlos_core.database.published import BUNDLED_PATH
from carlos_core.errors import DatabaseError
from tests.support.miniworld import MINIWORLD

CORPUS = Path(__file__).resolve().parents[3] / "fuzz" / "corpus" / "databases"


def as_arrow_says(path: Path) -> list[ChunkSize]:
    facts = pq.ParquetFile(path).metadata
    groups = [facts.row_group(place) for place in range(facts.num_row_groups)]
    chunks = [group.column(place) for group in groups for place in range(facts.num_columns)]
    return [ChunkSize(each.num_values, each.total_uncompressed_size, each.physical_type == "BYTE_ARRAY") for each in chunks]


@pytest.mark.parametrize("path", [BUNDLED_PATH, MINIWORLD / "reference_metrics.parquet", CORPUS / "ours", CORPUS / "minimal"])
def test_the_sizes_are_those_that_arrow_reads(path: Path) -> None:
    with path.open("rb") as file:
        assert chunk_sizes(file) == as_arrow_says(path)


@pytest.mark.parametrize("version", ["1.0", "2.6"])
def test_files_of_many_groups_types_and_pages_are_read(tmp_path: Path, version: str) -> None:
    n = 1000
    columns = {
        "yes": [place % 2 == 0 for place in range(n)],
        "text": [f"text {place}" for place in range(n)],
        "lists": [[place] * (place % 3) for place in range(n)],
        "nested": [{"a": place, "b": {"c": [str(place)]}} for place in range(n)],
        "none": [None] * n,
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet", row_group_size=17, version=version, write_page_index=True)
    with (tmp_path / "a.parquet").open("rb") as file:
        assert chunk_sizes(file) == as_arrow_says(tmp_path / "a.parquet")


@pytest.mark.parametrize("length", [0, 1, 5, 2**31 - 1])
def test_a_footer_of_another_length_is_no_footer(length: int) -> None:
    content = (CORPUS / "minimal").read_bytes()[:-8] + length.to_bytes(4, "little") + b"PAR1"
    with pytest.raises(ValueError, match="its footer"):
        chunk_sizes(io.BytesIO(content))


@pytest.mark.parametrize(
    "footer", [b"\x1c" * 1000, b"\x19\xfc" + b"\xff" * 9 + b"\x01", b"\x4b\x00", b"\x16" + b"\xff" * 20, b"\x00"]
)
def test_what_makes_no_sense_is_said(footer: bytes) -> None:
    content = b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1"
    with pytest.raises(ValueError, match="its footer"):
        chunk_sizes(io.BytesIO(content))


def test_a_file_over_which_arrow_ends_the_process_is_refused() -> None:
    with pytest.raises(DatabaseError, match="cannot be read as parquet"):
        load_database(CORPUS / "ends_the_process")
