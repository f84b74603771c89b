"""`carlos cache`: what is kept to save time."""

from __future__ import annotations

import math
from typing import Annotated

import typer

from ..measuring.caches import CLEARABLE, CachePart, cache_usage, clear_cache
from . import options
from .app import KEEPING, Usage, command
from .comfyui import ComfyUI
from .output import Answer, Table
from .places import places_of

_NOTHING = "nothing"


@command("cache", KEEPING, "cache", "cache --comfyui ~/ComfyUI", "cache --clear pictures")
def cache(
    clear: Annotated[str, typer.Option("--clear", metavar="WORD", help=f"Clear {', '.join(CLEARABLE)}.")] = _NOTHING,
    comfyui: options.ComfyUI = None,
    python: options.Python = None,
    base_directory: options.BaseDirectory = None,
    comfyui_args: options.ComfyUIArguments = "",
    as_json: options.Json = False,
) -> Answer:
    """Show how much is kept of pictures and texts to save time, and clear it. No database needs it."""
    if clear not in (_NOTHING, *CLEARABLE):
        raise Usage(f"{clear!r} is not a part of the cache.", f"Choose one of {', '.join(CLEARABLE)}.")
    folder = places_of(ComfyUI.of(comfyui, python, base_directory, comfyui_args)).cache
    cleared = clear_cache(clear, folder) if clear != _NOTHING else ()
    usage = cache_usage(folder)
    result = {
        "folder": str(usage.folder),
        "cleared": clear,
        "limit_bytes": None if math.isinf(usage.limit) else usage.limit,
        "most_signatures": usage.most_signatures,
        "parts": [
            {**_facts(part), "cleared": _facts(cleared[place]) if cleared else None} for place, part in enumerate(usage.parts)
        ],
    }
    limit = "no limit" if math.isinf(usage.limit) else f"limit {usage.limit / 1e9:g} GB"
    gone = sum(part.size for part in cleared)
    rows = [(part.kind, f"{part.count:,}", _megabytes(part.size), _megabytes(part.in_use)) for part in usage.parts]
    shown: list[str | Table] = [
        f"cache in {usage.folder}, {limit}",
        *([f"cleared {clear}: {_megabytes(gone)} MB"] if cleared else []),
        Table(("what is kept", "number", "MB", "MB in use"), rows, ("number", "MB", "MB in use")),
    ]
    return Answer(result, shown)


def _facts(part: CachePart) -> dict[str, int | str]:
    return {"kind": part.kind, "count": part.count, "bytes": part.size, "bytes_in_use": part.in_use}


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f}"
