"""`carlos card` and `carlos map`: one LoRA, and a library, as a picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..counting import counted, number
from ..errors import CarlosError
from ..storage import write_atomically
from . import options
from .alike import id_of
from .app import FINDING, Usage, command
from .comfyui import ComfyUI
from .facts import database_facts, database_line, lora_facts
from .output import Answer, Table
from .places import BUNDLED, places_of

if TYPE_CHECKING:
    from PIL import Image

    from ..database.database import MetricsDatabase
    from ..measuring.gallery import Gallery
    from ..records import LoraRecord
    from ..search.portrait import Portrait

Out = Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The picture: .png, .jpg or .webp.")]
_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


@command("card", FINDING, "card 130742 -o card.png", "card pixel_art -d my_loras --comfyui ~/ComfyUI -o pixel_art.png")
def card(
    lora: Annotated[str, typer.Argument(help="The LoRA: its id, its file's name, or a part of its name.", show_default=False)],
    out: Out = Path("card.png"),
    database: options.Database = BUNDLED,
    loras: options.Loras = None,
    comfyui: options.ComfyUI = None,
    python: options.Python = None,
    base_directory: options.BaseDirectory = None,
    comfyui_args: options.ComfyUIArguments = "",
    as_json: options.Json = False,
) -> Answer:
    """Draw all that is known of one LoRA as a picture, with pictures before and after if indexing has kept some."""
    from ..measuring.gallery import Gallery

    kind = _format_of(out)
    places = places_of(ComfyUI.of(comfyui, python, base_directory, comfyui_args), loras)
    opened = places.open_database(database)
    row = opened.row(id_of(opened, lora, places.resolved(opened)))
    assert row is not None, "its id was found"
    gallery = Gallery(*places.pictures)
    picture, about = card_of(row, opened, gallery)
    save(picture, out, kind)
    near = [each.facts for each in about.neighbours]
    n_pairs = len(gallery.pairs(row))
    facts = lora_facts(row, places.installed(opened).get(row.lora_id), places)
    result = {"file": str(out), "lora": facts, "most_like_it": near, "pairs": n_pairs, "database": database_facts(opened)}
    kept = counted(n_pairs, "pair") + " of pictures" if n_pairs else "no pictures of it are kept: indexing it keeps some"
    return Answer(result, [f"{out}: {facts['name']}, {kept}", database_line(opened)])


@command("map", FINDING, "map -o map.png", 'map "snowfall" -o snow.png', "map --mark 130742 --base-model SDXL -o map.png")
def draw_library(
    query: Annotated[
        str, typer.Argument(help="What to look for on the map; the nearest LoRAs are named.", show_default=False)
    ] = "",
    out: Out = Path("map.png"),
    database: options.Database = BUNDLED,
    mark: Annotated[
        list[str] | None, typer.Option("--mark", metavar="LORA", help="Mark a LoRA. Several times for several.")
    ] = None,
    base_model: options.BaseModel = None,
    prompts: Annotated[
        Path | None, typer.Option("--prompts", metavar="FILE", help="A prompt set for what the query means.")
    ] = None,
    loras: options.Loras = None,
    comfyui: options.ComfyUI = None,
    python: options.Python = None,
    base_directory: options.BaseDirectory = None,
    comfyui_args: options.ComfyUIArguments = "",
    as_json: options.Json = False,
) -> Answer:
    """Draw a library as a map: LoRAs that do alike are near each other."""
    from ..drawing.map import draw_map
    from ..search.library_map import library_map

    kind = _format_of(out)
    places = places_of(ComfyUI.of(comfyui, python, base_directory, comfyui_args), loras)
    opened = places.open_database(database)
    files = places.resolved(opened) if mark else {}
    marked = [id_of(opened, each, files) for each in mark or ()]
    signature = places.searcher(opened, prompts).signature(query) if query.strip() else None
    library = library_map(opened, base_model=base_model, signature=signature, marked=marked)
    title = library.title(query, base_model or None)
    save(draw_map(library, title, query), out, kind)
    result = {"file": str(out), **library.facts, "database": database_facts(opened)}
    rows = [(number(each.cosine, 2), each.record.name, "yes" if each.is_marked else "no") for each in library.names]
    shown: list[str | Table] = [
        f"{out}: {title}",
        Table(("cosine", "named on the map", "marked"), rows, ("cosine",)),
        database_line(opened),
    ]
    return Answer(result, shown)


def _format_of(out: Path) -> str:
    """Pillow's name of a file's format. Raises Usage for another ending."""
    if out.suffix.lower() not in _FORMATS:
        raise Usage(f"{out} is not the name of a picture.", f"End it with {', '.join(_FORMATS)}.")
    return _FORMATS[out.suffix.lower()]


def card_of(row: LoraRecord, database: MetricsDatabase, gallery: Gallery) -> tuple[Image.Image, Portrait]:
    """A LoRA's card, and what the database knows of it. gallery: where pictures of it may be kept."""
    from ..drawing.card import Shown, card
    from ..search.portrait import portrait

    about, sheet = portrait(database, row), gallery.sheet(row)
    pairs = [] if sheet is None else [Shown(pair, which) for pair, which in sheet.shown]
    return card(about, pairs, "" if sheet is None else sheet.about(row)), about


def save(picture: Image.Image, out: Path, kind: str = "PNG") -> None:
    """Write a picture. Raises CarlosError if that cannot be done."""
    _write(lambda target: picture.save(target, format=kind), out)


def save_text(text: str, out: Path) -> None:
    """Write a text. Raises CarlosError if that cannot be done."""
    _write(lambda target: target.write_text(text, encoding="utf-8"), out)


def _write(write: Callable[[Path], object], out: Path) -> None:
    try:
        write_atomically(out, write, is_cache=True)
    except OSError as error:
        raise CarlosError(f"{out} could not be written ({error.strerror or error}).", "Check the folder and the disk.") from error
