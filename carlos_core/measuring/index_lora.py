"""Indexing as the reference package offers it: one call from a LoRA to a row of a database."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from ..civitai.client import CivitaiClient
from ..civitai.lora import CivitaiLora
from ..clip.encoder import Encoder
from ..clip.loading import load_encoder
from ..database.database import MetricsDatabase
from ..database.target import InMemory
from ..errors import IndexingError
from ..generator import Generator
from ..loras.lora_file import LoraFile, read_lora_file
from ..progress import OnProgress
from ..prompts.prompt_set import PromptSet, default_index_prompts
from ..records import IndexingResult
from ..storage import cache_directory, loras_directory
from .gallery import Gallery
from .headless import check_installed, diffusers_model
from .indexer import AnyFolder, Indexer
from .presets import CUSTOM, PRESETS, TRIGGERS_ON_LORA_SIDE
from .settings import AS_PRESET, MeasureSettings
from .studio import Studio
from .workplace import Workplace, plan_for, protocol_for

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..diffusers.model import DiffusersModel

_USUAL = "standard"


class IndexSettings(TypedDict, total=False):
    """How `index_lora` measures."""

    encoder: Encoder | None
    """What looks at the pictures. Default: the database's encoder."""

    preset: str
    """"quick", "standard", "paper", or "custom", which is all prompts x seeds. A given generator must take the preset's steps.

    Default: "standard", which stops when the direction is known, after some 150 pairs of pictures; the reference package makes
    4,480 of them, as "paper" does. It is "custom" where `seeds`, `first_seed` or `max_prompts` are given, and for a given
    generator that takes other steps than "standard".
    """

    model: str | Path | DiffusersModel
    """Without a generator: a folder in diffusers' layout, a .safetensors file of a whole checkpoint, an id of the Hugging Face
    hub, or what `load_model` gave for one of these. Default: SDXL base 1.0, which is fetched once."""

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
        generator: what makes the pictures. Default: diffusers with `settings["model"]`, for which the extra `headless` must be
            installed.
        settings: see `IndexSettings`.

    Raises IndexingError, GenerationError, LoraError, DatabaseError, EncoderError, CivitaiError.
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
    # What takes a second before what may take gigabytes.
    if generator is None:
        check_installed()
    wanted = _measure_settings(settings, generator, overwrite=overwrite)
    given = settings.get("encoder")
    encoder_id = db.check_encoder(given.encoder_id if given is not None else None)
    at = Workplace(
        InMemory(db),
        settings.get("prompts") or default_index_prompts(),
        given or load_encoder(encoder_id),
        Path(working_directory) if working_directory else cache_directory(),
        AnyFolder(),
        Gallery(Path(settings["gallery_directory"])) if settings.get("gallery_directory") else None,
    )
    if generator is not None:
        indexer = _indexer(at, generator, wanted)
    else:
        indexing, model = diffusers_model(settings.get("model"))
        # The usual model is known to show what it is asked for.
        wanted = wanted if "model" in settings else replace(wanted, sampling=AS_PRESET)
        indexer = indexing.diffusers_indexer(model, wanted, at, on_progress=settings.get("on_progress"))
    if isinstance(lora, CivitaiLora):
        downloads = Path(settings.get("download_directory") or loras_directory())
        lora = read_lora_file(lora.fetch(downloads, at_hand=sorted(downloads.glob("*.safetensors"))))
    outcome = indexer.index(lora, settings.get("on_progress"))
    return _result(db, outcome.row.lora_id, is_new=outcome.is_new)


def _measure_settings(given: IndexSettings, generator: Generator | None, *, overwrite: bool) -> MeasureSettings:
    """Raises IndexingError for a preset or a trigger rule that there is not, or whose steps a generator does not take."""
    names = ("seeds", "first_seed", "max_prompts", "batch_size", "lora_weight", "scale_sweep")
    plain: dict[str, Any] = {name: value for name, value in given.items() if name in names}
    takes_steps = generator is None or generator.steps == PRESETS[_USUAL].sampling.steps
    is_custom = not takes_steps or any(name in given for name in ("seeds", "first_seed", "max_prompts"))
    preset = given.get("preset", CUSTOM if is_custom else _USUAL)
    triggers = given.get("trigger_rule", TRIGGERS_ON_LORA_SIDE)
    wanted = MeasureSettings(preset=preset, overwrite=overwrite, triggers=triggers, **plain)
    wanted.check()
    if generator is not None and preset != CUSTOM and PRESETS[preset].sampling.steps != generator.steps:
        raise IndexingError(
            f"The generator takes {generator.steps} steps, the preset {preset!r} {PRESETS[preset].sampling.steps}.",
            "Make it with the preset's sampling: carlos_core.measuring.presets.PRESETS.",
        )
    return wanted


def _indexer(at: Workplace, generator: Generator, settings: MeasureSettings) -> Indexer:
    """An indexer with a generator that samples as it was made to."""
    plan = plan_for(at.prompts, generator, settings)
    protocol = protocol_for(at.prompts, plan, generator, settings)
    studio = Studio(generator, at.encoder, at.cache, settings.batch_size)
    sweep = settings.scale_sweep
    return Indexer(studio, protocol, plan, at.target, settings.overwrite, scale_sweep=sweep, gallery=at.gallery)


def _result(db: MetricsDatabase, lora_id: str, *, is_new: bool) -> IndexingResult:
    record = db.row(lora_id)
    assert record is not None, "the row is there"
    return IndexingResult(lora_id, record, db.cells(lora_id), is_new)
