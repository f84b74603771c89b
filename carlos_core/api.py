"""Indexing as the reference package offers it: one call from a LoRA to a row of a database."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from . import paths
from .civitai.client import CivitaiClient
from .civitai.lora import CivitaiLora
from .clip.encoder import Encoder
from .clip.loading import load_encoder
from .database.database import MetricsDatabase
from .errors import GenerationError, IndexingError
from .generator import Generator
from .loras.lora_file import LoraFile, read_lora_file
from .measuring.measure import measure_lora
from .measuring.plan import all_shots
from .measuring.protocol import TRIGGERS_ON_LORA_SIDE, Protocol, shared_seed_rule
from .measuring.strength_curve import sweep_lora
from .measuring.studio import OnProgress
from .prompts.prompt_set import PromptSet, default_index_prompts
from .records import IndexingResult, LoraVector


def index_lora(
    db: MetricsDatabase,
    *,
    lora_source: str | Path,
    model_id: str | int | None = None,
    version_id: str | int | None = None,
    overwrite: bool = False,
    working_directory: str | Path | None = None,
    download_directory: str | Path | None = None,
    generator: Generator | None = None,
    encoder: Encoder | None = None,
    prompts: PromptSet | None = None,
    seeds: int = 1,
    first_seed: int = 0,
    max_prompts: int = 0,
    lora_weight: float = 1.0,
    batch_size: int = 0,
    scale_sweep: bool = False,
    on_progress: OnProgress | None = None,
) -> IndexingResult:
    """Measure a LoRA and put the row into `db` (which is not saved: `db.save_parquet`).

    A LoRA that `db` knows already is neither fetched nor measured again unless `overwrite`; its row is returned. lora_source:
    path of a LoRA file, or "civitai" with `version_id`, or with `model_id` for that model's newest version.
    download_directory: where LoRAs from CivitAI go (default: CARLOS_HOME/loras). generator: what makes the pictures.
    working_directory: where finished pictures' features are kept (default: CARLOS_HOME/cache).
    scale_sweep: also measure the strength curve and suggest a weight.
    Raises IndexingError, GenerationError, LoraError, DatabaseError, CivitaiError.
    """
    lora: LoraFile | CivitaiLora
    if str(lora_source) == "civitai":
        lora = CivitaiLora(model_id, version_id, CivitaiClient.from_environment)
    else:
        lora = read_lora_file(lora_source)
    found = None
    if not overwrite:
        found = _known(db, lora.lora_id if isinstance(lora, LoraFile) else db.id_of_version(lora.version_id))
    if found is not None:
        return found
    if db.read_only:
        raise IndexingError(f"{db.name} is read-only.", "Make a writable copy with copy_bundled_database or db.copy().")
    if generator is None:
        raise GenerationError(
            "There is no text-to-image model to measure the LoRA with.",
            "Pass generator=..., or use the LoRA Indexer node in ComfyUI.",
        )
    encoder_id = db.check_encoder(encoder.encoder_id if encoder is not None else None)
    encoder = encoder or load_encoder(encoder_id)
    prompts = prompts or default_index_prompts()
    shots = all_shots(prompts, seeds=seeds, first_seed=first_seed, max_prompts=max_prompts)
    folder = Path(working_directory) if working_directory else paths.cache_directory()
    if isinstance(lora, CivitaiLora):
        lora = _fetched(lora, Path(download_directory) if download_directory else paths.loras_directory())
    measurement = measure_lora(
        lora,
        generator=generator,
        encoder=encoder,
        protocol=Protocol(
            preset="custom",
            prompts_hash=prompts.content_hash,
            seed_rule=shared_seed_rule(first_seed),
            lora_weight=lora_weight,
            trigger_rule=TRIGGERS_ON_LORA_SIDE,
            generator=generator.settings,
        ),
        shots=shots,
        working_directory=folder,
        batch_size=batch_size,
        afresh=overwrite,
        on_progress=on_progress,
    )
    record = measurement.record
    if scale_sweep and record.strength and lora_weight:
        sweep = sweep_lora(
            lora,
            record.direction,
            generator=generator,
            encoder=encoder,
            protocol=measurement.protocol,
            shots=shots,
            working_directory=folder,
            batch_size=batch_size,
            on_progress=on_progress,
        )
        record = replace(record, strength_curve=sweep.curve, suggested_weight=sweep.suggested_weight)
    db.upsert(record, measurement.protocol.described())
    row = db.row(lora.lora_id)
    assert row is not None, "the row was just written"
    return IndexingResult(lora.lora_id, row, record.vector, is_new=True)


def _fetched(wanted: CivitaiLora, folder: Path) -> LoraFile:
    return read_lora_file(wanted.fetch(folder, at_hand=sorted(folder.glob("*.safetensors"))))


def _known(db: MetricsDatabase, lora_id: str) -> IndexingResult | None:
    row = db.row(lora_id)
    if row is None:
        return None
    return IndexingResult(lora_id, row, LoraVector(row["direction"], row["strength"], row["consistency"]), is_new=False)
