"""Indexing as the reference package offers it: one call from a LoRA to a row of a database."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from ..civitai.client import CivitaiClient
from ..civitai.lora import CivitaiLora
from ..clip.encoder import Encoder
from ..clip.loading import load_encoder
from ..database.database import MetricsDatabase
from ..database.target import InMemory
from ..errors import GenerationError, IndexingError
from ..generator import Generator
from ..loras.lora_file import LoraFile, read_lora_file
from ..progress import OnProgress
from ..prompts.prompt_set import PromptSet, default_index_prompts
from ..records import IndexingResult
from ..storage import cache_directory, loras_directory
from .gallery import Gallery
from .indexer import Indexer
from .plan import Plan
from .presets import CUSTOM, PRESETS, TRIGGERS_ON_LORA_SIDE
from .protocol import Protocol
from .studio import Studio

if TYPE_CHECKING:
    from typing_extensions import Unpack


class IndexSettings(TypedDict, total=False):
    """How `index_lora` measures."""

    encoder: Encoder | None
    """What looks at the pictures. Default: the database's encoder."""

    preset: str
    """"quick", "standard" or "paper", whose steps the generator must take. Default: "custom", which is all prompts x seeds."""

    prompts: PromptSet
    """Default: the built-in set."""

    seeds: int
    """custom: how many seeds for each prompt, from `first_seed` on. Default: 1."""

    first_seed: int
    """custom: default 0."""

    max_prompts: int
    """custom: only so many prompts. Default: 0, which is all."""

    lora_weight: float
    """Default: 1."""

    trigger_rule: str
    """Where trigger words stand: one of `presets.TRIGGER_RULES`. Default: on the LoRA side."""

    batch_size: int
    """Pictures in a batch. Default: 0, which is what memory allows."""

    scale_sweep: bool
    """Also measure the strength curve and suggest a weight. Default: False."""

    download_directory: str | Path
    """Where LoRAs from CivitAI go. Default: CARLOS_HOME/loras."""

    gallery_directory: str | Path
    """Where a few pairs of pictures of the LoRA are kept, as a JPEG file. Default: nowhere."""

    on_progress: OnProgress


def index_lora(
    db: MetricsDatabase,
    *,
    lora_source: str | Path,
    model_id: str | int | None = None,
    version_id: str | int | None = None,
    civitai_file: str = "",
    overwrite: bool = False,
    working_directory: str | Path | None = None,
    generator: Generator | None = None,
    **settings: Unpack[IndexSettings],
) -> IndexingResult:
    """Measure a LoRA and put its row into a database.

    The database file is not changed; save it with `db.save_parquet`. A LoRA that `db` knows already is not fetched or measured
    again unless `overwrite` is set; its row is returned.

    Args:
        db: the database, which must be writable unless it has the LoRA already.
        lora_source: path of a LoRA file, or "civitai" for a LoRA from CivitAI.
        model_id: with "civitai": the model, for its newest version.
        version_id: with "civitai": the version.
        civitai_file: with "civitai": the id or the name of one of the version's files, or a part of the name. Default: the main
            one.
        overwrite: measure again a LoRA that `db` knows.
        working_directory: where the features of finished pictures are kept (default: CARLOS_HOME/cache).
        generator: what makes the pictures; needed unless `db` has the LoRA already.
        settings: see `IndexSettings`.

    Raises IndexingError, GenerationError, LoraError, DatabaseError, CivitaiError.
    """
    lora: LoraFile | CivitaiLora
    if str(lora_source) == "civitai":
        lora = CivitaiLora(model_id, version_id, CivitaiClient.from_environment, file=civitai_file)
    else:
        lora = read_lora_file(lora_source)
    lora_id = db.id_of(lora.lora_id, lora.sha256) if isinstance(lora, LoraFile) else lora.id_in(db)
    if not overwrite and lora_id is not None and lora_id in db:
        return _result(db, lora_id, is_new=False)
    if db.read_only:
        raise IndexingError(f"{db.name} is read-only.", "Make a writable copy with copy_bundled_database or db.copy().")
    if generator is None:
        raise GenerationError(
            "There is no text-to-image model to measure the LoRA with.",
            "Pass generator=..., or use the LoRA Indexer node in ComfyUI.",
        )
    given = settings.get("encoder")
    encoder_id = db.check_encoder(given.encoder_id if given is not None else None)
    folder = Path(working_directory) if working_directory else cache_directory()
    studio = Studio(generator, given or load_encoder(encoder_id), folder, settings.get("batch_size", 0))
    indexer = _indexer(db, studio, settings, overwrite=overwrite)
    if isinstance(lora, CivitaiLora):
        downloads = Path(settings.get("download_directory") or loras_directory())
        lora = read_lora_file(lora.fetch(downloads, at_hand=sorted(downloads.glob("*.safetensors"))))
    outcome = indexer.index(lora, settings.get("on_progress"))
    return _result(db, outcome.row.lora_id, is_new=outcome.is_new)


def _indexer(db: MetricsDatabase, studio: Studio, settings: IndexSettings, *, overwrite: bool) -> Indexer:
    prompts = settings.get("prompts") or default_index_prompts()
    name = settings.get("preset", CUSTOM)
    if name == CUSTOM:
        plan = Plan.all(
            prompts,
            seeds=settings.get("seeds", 1),
            first_seed=settings.get("first_seed", 0),
            max_prompts=settings.get("max_prompts", 0),
        )
    elif name not in PRESETS:
        raise IndexingError(f"There is no preset {name!r}.", f"Choose {', '.join([*PRESETS, CUSTOM])}.")
    elif PRESETS[name].sampling.steps != studio.generator.steps:
        raise IndexingError(
            f"The generator takes {studio.generator.steps} steps, the preset {name!r} {PRESETS[name].sampling.steps}.",
            "Make it with the preset's sampling: carlos_core.measuring.presets.PRESETS.",
        )
    else:
        plan = Plan.of_preset(PRESETS[name], prompts, studio.generator.evaluations_per_image)
    protocol = Protocol(
        preset=name,
        prompts_hash=prompts.content_hash,
        seed_rule=plan.seed_rule,
        lora_weight=settings.get("lora_weight", 1.0),
        trigger_rule=settings.get("trigger_rule", TRIGGERS_ON_LORA_SIDE),
        generator=studio.generator.settings,
    )
    sweep, pictures = settings.get("scale_sweep", False), settings.get("gallery_directory")
    gallery = Gallery(Path(pictures)) if pictures else None
    return Indexer(studio, protocol, plan, InMemory(db), overwrite, scale_sweep=sweep, gallery=gallery)


def _result(db: MetricsDatabase, lora_id: str, *, is_new: bool) -> IndexingResult:
    record = db.row(lora_id)
    assert record is not None, "the row is there"
    return IndexingResult(lora_id, record, db.cells(lora_id), is_new)
