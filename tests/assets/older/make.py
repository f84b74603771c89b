"""Makes older.parquet and answers.json beside it, with the code before "Content is identity" (28 November 2026).

usage, from the root of a checkout of that code: python PATH/make.py

Its rows are the mini-world's reference metrics, dressed up with everything that the columns of that time can hold.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

sys.path.insert(0, ".")

import carlos_core as carlos
from carlos_core.database.database import MetricsDatabase, load_database
from carlos_core.measuring.protocol import Protocol
from carlos_core.prompts.prompt_set import load_prompt_set
from carlos_core.records import CurvePoint, LoraMetadata, LoraVector, TopicEffect
from tests.support import miniworld

HERE = Path(__file__).parent
QUERIES = ("drawn with a pencil", "old brown photograph", "snow falling", "blocky low resolution pixels", "flames", "pink hearts")

CHOICES = ("pencil sketch, snow falling", "old brown photograph", "a cat on a sofa")


def content(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def protocol(preset: str, weight: float) -> Protocol:
    generator = {"model": "3f2a" * 4, "steps": 8, "cfg": 3.0, "sampler": "euler", "scheduler": "normal", "width": 64, "height": 64}
    return Protocol(preset, "ab" * 32, "one seed for each prompt", weight, "on the LoRA's side", generator)


def main() -> None:
    measured = load_database(miniworld.MINIWORLD / "reference_metrics.parquet", encoder_id=miniworld.encoder_id())
    rows = [measured.row_at(place) for place in range(len(measured))]
    database = MetricsDatabase.empty(miniworld.encoder_id(), measured.dimension)
    table = database.table
    for name, kind in (("label", pa.string()), ("rating", pa.float64()), ("tags of others", pa.list_(pa.string()))):
        table = table.append_column(name, pa.array([], kind))
    database = MetricsDatabase(table, encoder_id=miniworld.encoder_id())
    for place, row in enumerate(rows):
        sha256 = content(row.file_name or "")
        used = protocol("quick" if place % 2 else "standard", 0.75)
        record = replace(
            row,
            lora_id=f"sha256:{sha256[:16]}",
            sha256=sha256.upper() if place == 3 else sha256,
            metadata=LoraMetadata(base_model="SD 3", trigger_words=(f"word {place}", "naïve, café")),
            protocol_id=used.protocol_id,
            encoder_id=miniworld.encoder_id(),
            model_key="SD3 64x64",
            indexed_at=f"2026-11-{place + 1:02}T10:00:00+00:00",
            measured_on='{"comfyui": "0.33.0"}',
            noise_floor=0.01 * place,
            alignment=0.98,
            n_images=32 + place,
            n_prompts=32,
            strength_se=0.1,
            consistency_se=0.02,
            notes=("no measurable effect",) if row.strength < 0.1 else (f"note {place}", "„zweite“ Notiz"),
            extra={"label": f"by hand {place}", "rating": place / 2, "tags of others": ["a", f"ü{place}"]} if place % 3 else {},
        )
        if place == 1:
            version = LoraMetadata(
                version_id=1234, model_id=77, model_name="雪の結晶 ❄", base_model="SD 3", trigger_words=("雪",), nsfw_level=1,
                download_count=5_000_000_000, preview_url="https://example.invalid/1.jpeg",
            )
            record = replace(record, lora_id="1234", sha256=None, file_name="ぬりえ/Émile – très beau.safetensors", metadata=version)
        if place in (2, 5):
            vectors = [LoraVector((row.direction * f).astype(np.float32), row.strength * float(f), 0.25) for f in (0.5, 1.5)]
            record = replace(record, topics=(TopicEffect("people", 12, vectors[0]), TopicEffect("Städte", 20, vectors[1])))
        if place in (4, 5):
            curve = tuple(CurvePoint(weight, weight * row.strength, None if weight == 0.0 else 0.9) for weight in (0.0, 0.5, 1.0))
            record = replace(record, strength_curve=curve, suggested_weight=0.5)
        database.upsert(record, used.described())
    # When a sidecar came later, that code gave the same file a second row.
    twin = rows[0]
    database.upsert(
        replace(
            twin, lora_id="4711", sha256=content(twin.file_name or ""), encoder_id=miniworld.encoder_id(), strength=twin.strength + 0.5,
            metadata=LoraMetadata(version_id=4711, model_id=78, model_name="A name from a sidecar"), protocol_id=used.protocol_id,
        ),
        used.described(),
    )
    database.save_parquet(HERE / "older.parquet")
    database = load_database(HERE / "older.parquet")
    options = {"prompts": load_prompt_set(miniworld.MINIWORLD / "prompts_signature.json"), "encoder": miniworld.encoder()}
    found = {
        ranking: {
            query: [(match.record.lora_id, match.score) for match in carlos.retrieve(database, query, top_k=6, ranking=ranking, **options)]
            for query in QUERIES
        }
        for ranking in ("published", "calibrated")
    }
    chosen = {
        query: [(pick.match.record.lora_id, pick.weight) for pick in carlos.choose(database, query, **options).picks]
        for query in CHOICES
    }
    answers = {
        "rows": [cells(database, lora_id) for lora_id in database.column("lora_id")],
        "protocols": database.protocols,
        "found": found,
        "chosen": chosen,
    }
    (HERE / "answers.json").write_text(json.dumps(answers, ensure_ascii=False, indent=0, sort_keys=True), encoding="utf-8")


def cells(database: MetricsDatabase, lora_id: str) -> dict[str, object]:
    """A row as plain data, with hashes in place of directions."""
    row = database.cells(lora_id)
    row["direction"] = hashlib.sha256(np.asarray(row["direction"], "<f4").tobytes()).hexdigest()
    if row["topic_directions"] is not None:
        row["topic_directions"] = hashlib.sha256(np.asarray(row["topic_directions"], "<f4").tobytes()).hexdigest()
    return row


if __name__ == "__main__":
    main()
