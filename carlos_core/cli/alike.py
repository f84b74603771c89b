"""`carlos similar` and `carlos duplicates`: LoRAs that do the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..counting import counted, number
from ..errors import RetrievalError
from . import options
from .app import FINDING, command
from .codes import DONE, NOTHING_FITS
from .comfyui import ComfyUI
from .facts import database_facts, database_line, match_facts, matches_table, posix
from .output import Answer, Table
from .places import BUNDLED, places_of

if TYPE_CHECKING:
    from ..database.database import MetricsDatabase
    from ..loras.matching import Resolved


@command("similar", FINDING, "similar 130742", "similar pixel_art.safetensors -d my_loras.parquet", "similar 130742 --json")
def similar(
    lora: Annotated[str, typer.Argument(help="The LoRA: its id, its file's name, or a part of its name.", show_default=False)],
    database: options.Database = BUNDLED,
    top_k: options.TopK = 5,
    installed_only: options.InstalledOnly = False,
    base_model: options.BaseModel = None,
    max_strength: options.MaxStrength = 9.8,
    min_consistency: options.MinConsistency = 0.041,
    loras: options.Loras = None,
    comfyui: options.ComfyUI = None,
    python: options.Python = None,
    base_directory: options.BaseDirectory = None,
    comfyui_args: options.ComfyUIArguments = "",
    as_json: options.Json = False,
) -> Answer:
    """List LoRAs that change pictures the same way as one you know."""
    from ..search.limits import SearchLimits
    from ..search.queries import like_lora

    places = places_of(ComfyUI.of(comfyui, python, base_directory, comfyui_args), loras)
    opened = places.open_database(database)
    files = places.resolved(opened)
    lora_id = id_of(opened, lora, files)
    limits = SearchLimits(
        max_strength,
        min_consistency,
        base_model=base_model,
        installed_only=installed_only,
        exclude=(lora_id,),
        others_are=("is another LoRA", "are other LoRAs"),
    )
    row = opened.row(lora_id)
    assert row is not None, "its id was found"
    found = places.searcher(opened).find(like_lora(opened, lora_id), limits, top_k, query=f"like {row.name}")
    matches = [match_facts(match, files, places) for match in found.items]
    result = {
        "lora_id": lora_id,
        "name": row.name,
        "fits": bool(matches),
        "reason": found.reason,
        "matches": matches,
        "database": database_facts(opened),
    }
    first = f"LoRAs like {row.name}:" if matches else f"Nothing is like {row.name}. {found.reason}"
    shown: list[str | Table] = [first, *([matches_table(matches, "cosine")] if matches else []), database_line(opened)]
    return Answer(result, shown, code=DONE if matches else NOTHING_FITS)


@command("duplicates", FINDING, "duplicates", "duplicates --min-cosine 0.9 --comfyui ~/ComfyUI --installed-only")
def duplicates(
    database: options.Database = BUNDLED,
    min_cosine: Annotated[float, typer.Option("--min-cosine", help="How alike they must be; 1: exactly the same effect.")] = 0.95,
    installed_only: options.InstalledOnly = False,
    loras: options.Loras = None,
    comfyui: options.ComfyUI = None,
    python: options.Python = None,
    base_directory: options.BaseDirectory = None,
    comfyui_args: options.ComfyUIArguments = "",
    as_json: options.Json = False,
) -> Answer:
    """List groups of LoRAs that do the same thing to pictures."""
    from ..search.duplicates import groups_of

    places = places_of(ComfyUI.of(comfyui, python, base_directory, comfyui_args), loras)
    opened = places.open_database(database)
    files = places.resolved(opened)
    at_hand = {lora_id: where.name for lora_id, where in files.items() if where.name is not None}
    groups = [
        [match_facts(match, files, places) for match in group]
        for group in groups_of(opened, min_cosine, at_hand, installed_only=installed_only)
    ]
    result = {"min_cosine": min_cosine, "groups": groups, "database": database_facts(opened)}
    shown: list[str | Table] = [f"{counted(len(groups), 'group')} of LoRAs that do the same (cosine of at least {min_cosine:g})."]
    for place, group in enumerate(groups, start=1):
        cells = [(number(each["score"]), each["name"], number(each["strength"], 2), _yes(each)) for each in group]
        shown += [Table(("cosine", f"group {place}", "strength", "installed"), cells, ("cosine", "strength"))]
    return Answer(result, [*shown, database_line(opened)])


def id_of(database: MetricsDatabase, lora: str, files: dict[str, Resolved]) -> str:
    """The id of the row that a user's words name: an id, a file, or a part of one name only. Raises RetrievalError."""
    from ..search.by_name import find_named

    if lora in database:
        return lora
    wanted = posix(lora).removeprefix("./")
    of_file = [
        row.lora_id
        for row in database.identities
        if wanted in (row.file_name, posix(files[row.lora_id].name or "") if row.lora_id in files else "")
    ]
    if len(of_file) == 1:
        return of_file[0]
    named = find_named(database, lora, top_k=6, installed={}).items
    if len(named) == 1:
        return named[0].lora_id
    if not named:
        raise RetrievalError(f"{database.name} has no LoRA {lora!r}.", "Give its id, its file's name, or a part of its name.")
    several = ", ".join(f"{match.name} ({match.lora_id})" for match in named[:5])
    raise RetrievalError(
        f"Several LoRAs are called {lora!r}.", f"Give the id of one: {several}{' and more' if named[5:] else ''}."
    )


def _yes(match: dict[str, Any]) -> str:
    return "yes" if match["installed"] else "no"
