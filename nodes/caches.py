"""The node that shows and clears what is kept to save time."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from comfy_api.latest import io, ui

from .. import carlos_core as carlos
from ..carlos_core.counting import counted
from ..carlos_core.foreign import printable
from ..carlos_core.measuring.caches import CLEARABLE, FACTS, SIGNATURES, THUMBNAILS
from ..carlos_core.measuring.picture_cache import BASE, LORAS, TRIALS, VARIABLE
from .common.report import report, table
from .common.schema import search_aliases
from .common.sockets import facts_output
from .host import folders
from .host.progress import NodeProgress

if TYPE_CHECKING:
    from ..carlos_core.measuring.caches import CachePart, CacheUsage

NOTHING = "nothing"
_CHOICES = (NOTHING, *CLEARABLE)
_IN_WORDS = {
    BASE: "pictures without a LoRA",
    LORAS: "pictures with a LoRA",
    TRIALS: "pictures that no row is made of",
    THUMBNAILS: "thumbnails",
    SIGNATURES: "signatures of texts",
    FACTS: "files of facts about models",
}


class CarlosCaches(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CarlosCaches",
            display_name="Caches (CARLoS)",
            category="CARLoS",
            description="Shows how much is kept of pictures and texts to save time, and clears it. No database needs it.",
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Combo.Input(
                    "clear",
                    options=list(_CHOICES),
                    default=NOTHING,
                    tooltip="nothing: only shows. Otherwise this is cleared whenever the node runs, but for what a measurement "
                    "needs now. pictures: their features and thumbnails. signatures: what CLIP says of texts.",
                )
            ],
            outputs=[io.String.Output(display_name="report"), facts_output()],
            **search_aliases("clear cache", "cache size", "disk space", "free space", "clean up"),
        )

    @classmethod
    def fingerprint_inputs(cls, **_inputs: object) -> str:
        # What there is changes without the node.
        return str(time.time_ns())

    @classmethod
    def execute(cls, clear: str) -> io.NodeOutput:
        folders.check_choice(clear, _CHOICES, "cache")
        folder = folders.cache_folder()
        cleared = carlos.clear_cache(clear, folder) if clear != NOTHING else ()
        usage = carlos.cache_usage(folder)
        facts = _facts(usage, cleared, clear)
        lines = _lines(usage, cleared, clear)
        NodeProgress(cls.hidden.unique_id).say(lines[0] if cleared else _in_short(usage))
        text, said = report(lines, facts)
        return io.NodeOutput(text, said, ui=ui.PreviewText(text))


def _lines(usage: CacheUsage, cleared: tuple[CachePart, ...], what: str) -> list[str]:
    lines = []
    if cleared:
        gone = [f"{part.count:,} {_IN_WORDS[part.kind]} ({_megabytes(part.size)} MB)" for part in cleared if part.count]
        lines.append(f"cleared ({what}): {', '.join(gone) or 'there was nothing to clear'}")
    lines += [
        f"in {printable(str(usage.folder))}",
        f"pictures and thumbnails: {_of_pictures(usage) / 1e9:.2f} GB, {_limit(usage)} ({VARIABLE}); signatures: at most "
        f"{usage.most_signatures:,}. What was not used for longest goes first.",
        *table(
            ("what is kept", "number", "MB", "MB in use"),
            [(_IN_WORDS[part.kind], str(part.count), _megabytes(part.size), _megabytes(part.in_use)) for part in usage.parts],
        ),
    ]
    if any(part.in_use for part in usage.parts):
        lines.append("What is in use is needed by a measurement that runs now: it is not removed before that has ended.")
    return lines


def _of_pictures(usage: CacheUsage) -> int:
    """Bytes that count for the limit."""
    return sum(part.size for part in usage.parts if part.kind in (BASE, LORAS, TRIALS, THUMBNAILS))


def _limit(usage: CacheUsage) -> str:
    return "no limit" if math.isinf(usage.limit) else f"limit {usage.limit / 1e9:g} GB"


def _in_short(usage: CacheUsage) -> str:
    """What there is, for the node itself."""
    signatures = counted(usage.part(SIGNATURES).count, "signature")
    return f"pictures and thumbnails: {_megabytes(_of_pictures(usage))} MB, {_limit(usage)}; {signatures}"


def _facts(usage: CacheUsage, cleared: tuple[CachePart, ...], what: str) -> dict[str, object]:
    return {
        "cleared": what,
        "limit_bytes": usage.limit,
        "most_signatures": usage.most_signatures,
        "parts": [
            {
                "kind": part.kind,
                "count": part.count,
                "bytes": part.size,
                "bytes_in_use": part.in_use,
                "count_cleared": cleared[place].count if cleared else 0,
                "bytes_cleared": cleared[place].size if cleared else 0,
            }
            for place, part in enumerate(usage.parts)
        ],
    }


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f}"


NODES = [CarlosCaches]
