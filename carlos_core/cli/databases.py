"""`carlos info`, `import`, `export` and `merge`: databases and their rows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..counting import counted, number
from ..errors import DatabaseError
from . import options
from .alike import id_of
from .app import KEEPING, command
from .comfyui import ComfyUI
from .facts import database_facts, database_line, lora_facts
from .output import Answer, Table
from .places import BUNDLED, places_of

if TYPE_CHECKING:
    from ..database.database import MetricsDatabase
    from ..measuring.merging import Merged
    from .places import Places

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the file if it is there.")]
Encoder = Annotated[
    str | None,
    typer.Option("--encoder", metavar="ID", help="The CLIP of the rows, for files that do not name it (open_clip's MODEL/TAG)."),
]


@command("info", KEEPING, "info", "info -d my_loras.parquet --json", "info pixel_art.safetensors -d my_loras.parquet")
def info(
    lora: Annotated[str | None, typer.Argument(help="A LoRA: its id, its file's name, or a part of its name.")] = None,
    database: options.Database = BUNDLED,
    loras: options.Loras = None,
    comfyui: options.ComfyUI = None,
    python: options.Python = None,
    base_directory: options.BaseDirectory = None,
    comfyui_args: options.ComfyUIArguments = "",
    as_json: options.Json = False,
) -> Answer:
    """Say what a database holds, or what is known of one LoRA."""
    places = places_of(ComfyUI.of(comfyui, python, base_directory, comfyui_args), loras)
    opened = places.open_database(database)
    if lora is not None:
        return _of_lora(opened, id_of(opened, lora, places.resolved(opened)), places)
    families = Counter(label or "unknown" for label in opened.column("base_model"))
    presets = Counter(
        str(
            (opened.protocols.get(row.protocol_id or "") or {}).get(
                "preset", "published" if row.protocol_id is None else "unknown"
            )
        )
        for row in opened.measured
    )
    n_installed = len(places.installed(opened)) if places.loras else None
    result = {
        "database": database_facts(opened),
        "dimension": opened.dimension,
        "families": dict(families.most_common()),
        "presets": dict(presets.most_common()),
        "protocols": dict(opened.protocols),
        "described": sum(words is not None for words in opened.column("described_as")),
        "installed": n_installed,
    }
    shown: list[str | Table] = [
        database_line(opened),
        *([f"installed here: {n_installed}"] if n_installed is not None else []),
        Table(("base model", "LoRAs"), [(family, str(n)) for family, n in families.most_common()], ("LoRAs",)),
        Table(("measured with the preset", "LoRAs"), [(preset, str(n)) for preset, n in presets.most_common()], ("LoRAs",)),
    ]
    return Answer(result, shown)


@command("import", KEEPING, "import metrics.parquet my_loras.parquet", "import bundled my_loras.parquet")
def import_database(
    source: Annotated[str, typer.Argument(help="A database of CARLoS or of the reference package, or bundled.")],
    target: Annotated[Path, typer.Argument(help="Your own database. It is made if it is not there.")],
    encoder: Encoder = None,
    as_json: options.Json = False,
) -> Answer:
    """Bring the rows of another database into your own; of one LoRA, the better row stays."""
    merged, opened = _merged(target, [_opened(source, encoder)])
    return _of_merged(merged, opened, [source])


@command("merge", KEEPING, "merge all.parquet part1.parquet part2.parquet")
def merge(
    target: Annotated[Path, typer.Argument(help="The database that all rows go to. It is made if it is not there.")],
    sources: Annotated[list[str], typer.Argument(help="The databases whose rows are brought there.")],
    as_json: options.Json = False,
) -> Answer:
    """Bring databases together, such as the parts of `index-folder --shard`; of one LoRA, the better row stays."""
    merged, opened = _merged(target, [_opened(source, None) for source in sources])
    return _of_merged(merged, opened, sources)


@command("export", KEEPING, "export my_loras.parquet theirs.parquet --layout reference", "export bundled copy.parquet")
def export(
    source: Annotated[str, typer.Argument(help="The database, or bundled.")],
    target: Annotated[Path, typer.Argument(help="The new file.")],
    layout: Annotated[
        str,
        typer.Option("--layout", metavar="WORD", help="carlos: all that is known. reference: as the authors' package reads it."),
    ] = "carlos",
    encoder: Encoder = None,
    overwrite: Overwrite = False,
    as_json: options.Json = False,
) -> Answer:
    """Write a database as a new file, also in the layout of the authors' package."""
    opened = _opened(source, encoder)
    if target.exists() and not overwrite:
        raise DatabaseError(f"{target} exists already.", "Give another name, or --overwrite.")
    opened.copy().save_parquet(target, layout=layout)
    result = {"file": str(target), "layout": layout, "rows": len(opened)}
    return Answer(result, [f"{target}: {counted(len(opened), 'LoRA')}, layout {layout}"])


def _opened(name: str, encoder_id: str | None) -> MetricsDatabase:
    from ..database.database import load_database

    return places_of(None).open_database(name) if encoder_id is None else load_database(name, encoder_id=encoder_id)


def _merged(target: Path, sources: list[MetricsDatabase]) -> tuple[Merged, MetricsDatabase]:
    from ..database.database import MetricsDatabase, create_database
    from ..database.target import DatabaseFile
    from ..measuring.merging import merge_into

    if not target.exists():
        first = sources[0]
        create_database(MetricsDatabase.empty(first.check_encoder(), first.dimension), target)
    file = DatabaseFile(target)
    return merge_into(file, sources), file.read()


def _of_merged(merged: Merged, opened: MetricsDatabase, sources: list[str]) -> Answer:
    result = {"database": database_facts(opened), "sources": sources, **vars(merged)}
    replaced, kept = len(merged.replaced), len(merged.kept)
    did = f"{counted(len(merged.added), 'row')} added, {replaced} replaced by better or newer ones, {kept} kept"
    return Answer(result, [did, database_line(opened)])


def _of_lora(database: MetricsDatabase, lora_id: str, places: Places) -> Answer:
    row = database.row(lora_id)
    assert row is not None, "its id was found"
    file = places.installed(database).get(lora_id)
    described = database.protocols.get(row.protocol_id or "")
    numbers = ("n_images", "n_prompts", "alignment", "strength_se", "consistency_se")
    topics = sorted(row.topics, key=lambda effect: -effect.vector.strength)
    facts: dict[str, Any] = {
        **lora_facts(row, file, places),
        **{name: getattr(row, name) for name in numbers},
        "topics": {effect.topic: effect.vector.strength for effect in topics},
        "strength_curve": [vars(point) for point in row.strength_curve],
        "protocol_id": row.protocol_id,
        "protocol": described,
        "model_key": row.model_key,
        "sha256": row.sha256,
        "indexed_at": row.indexed_at,
        "row_notes": list(row.notes),
    }
    told = [
        ("id", lora_id),
        ("file", facts["file"] or "-"),
        ("installed", facts["path"] or ("yes" if file else "no")),
        ("base model", facts["base_model"] or "-"),
        ("trigger words", ", ".join(facts["trigger_words"]) or "-"),
        ("what it does", facts["described_as"] or "-"),
        ("strength", f"{number(row.strength, 2)} +- {number(row.strength_se, 2)}"),
        ("consistency", f"{number(row.consistency)} +- {number(row.consistency_se)}"),
        ("suggested weight", number(row.suggested_weight, 2)),
        ("pictures", f"{row.n_images or '-'} pairs of {row.n_prompts or '-'} prompts"),
        ("topics", ", ".join(f"{effect.topic} {number(effect.vector.strength, 1)}" for effect in topics) or "-"),
        ("measured", f"{row.indexed_at or 'by the authors'}, preset {(described or {}).get('preset', '-')}"),
    ]
    return Answer(
        {"lora": facts, "database": database_facts(database)},
        [Table(("", facts["name"]), told), database_line(database)],
        row.notes,
    )
