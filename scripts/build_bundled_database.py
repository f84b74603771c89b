"""Makes carlos_core/database/data/published.parquet from the figures in the `carlos` 0.0.3 wheel.

usage: python -m scripts.build_bundled_database WHEEL

Get the wheel with: pip download carlos==0.0.3 --no-deps --only-binary=:all: --python-version 3.9 --ignore-requires-python
The creators' descriptions are left out. Every LoRA in it was measured on Stable Diffusion XL 1.0.
"""

from __future__ import annotations

import hashlib
import io
import logging
import sys
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from carlos_core.clip.encoder import DEFAULT_ENCODER_ID
from carlos_core.database.columns import normalised
from carlos_core.database.database import MetricsDatabase
from carlos_core.database.published import BUNDLED_PATH
from carlos_core.database.reference import from_reference_layout

WHEEL_SHA256 = "94d2f4bd246289bfc15c13d05ef1164dede3bbc812c632081645e54a677bb2a3"
TABLE = "carlos/data/metrics_database.parquet"
PROTOCOL_ID = "published"
PROTOCOL = {
    "source": "carlos 0.0.3 (PyPI), arXiv 2512.08826",
    "model": "Stable Diffusion XL 1.0",
    "steps": 25,
    "cfg": 5.0,
    "size": "1024x1024",
    "lora_weight": 1.0,
    "prompts": 280,
    "images": 4480,
}


def build(wheel: Path, target: Path) -> MetricsDatabase:
    """Read the published table from the wheel and write it in our layout. Raises SystemExit for another wheel."""
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != WHEEL_SHA256:
        sys.exit(f"{wheel} is not the wheel of carlos 0.0.3 (sha256 {found}).")
    with zipfile.ZipFile(wheel) as archive:
        published = pq.read_table(io.BytesIO(archive.read(TABLE)))
    table = from_reference_layout(published.drop_columns(["model_description"]))
    rows = table.num_rows
    for name, value, type_ in (
        ("base_model", "SDXL", pa.string()),
        ("encoder_id", DEFAULT_ENCODER_ID, pa.string()),
        ("protocol_id", PROTOCOL_ID, pa.string()),
        ("n_images", 4480, pa.int32()),
        ("n_prompts", 280, pa.int32()),
    ):
        table = table.append_column(name, pa.array([value] * rows, type_))
    database = MetricsDatabase(
        normalised(table, "the published table"), encoder_id=DEFAULT_ENCODER_ID, protocols={PROTOCOL_ID: PROTOCOL}
    )
    database.save_parquet(target)
    return database


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    made = build(Path(sys.argv[1]), BUNDLED_PATH)
    logging.info("%d rows, %d bytes: %s", len(made), BUNDLED_PATH.stat().st_size, BUNDLED_PATH)
