"""The node that lists LoRAs that do the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..carlos_core.counting import counted
from ..carlos_core.drawing import theme
from ..carlos_core.drawing.listing import MOST_ROWS, Listing, Said
from ..carlos_core.loras.listed import posix
from ..carlos_core.search import duplicates
from .common import matches, pictures
from .common.report import database_facts, database_line, number, report, table
from .common.schema import search_aliases
from .common.sockets import CarlosDb, facts_output, picture_output
from .host import lora_folder

if TYPE_CHECKING:
    from ..carlos_core.database.database import MetricsDatabase
    from ..carlos_core.search.matches import Match


class CarlosDuplicateLoras(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CarlosDuplicateLoras",
            display_name="Duplicate LoRAs (CARLoS)",
            category="CARLoS",
            description="Lists groups of LoRAs that do the same thing to pictures.",
            is_output_node=True,
            inputs=[
                CarlosDb.Input("database", tooltip="From Metrics DB Loader."),
                io.Float.Input(
                    "min_cosine",
                    default=0.95,
                    min=0.5,
                    max=1.0,
                    step=0.01,
                    tooltip="How similar LoRAs must be. 1: exactly the same effect.",
                ),
                io.Boolean.Input(
                    "installed_only", default=False, optional=True, tooltip="Only LoRAs whose file is in models/loras."
                ),
            ],
            outputs=[io.String.Output(display_name="report"), facts_output(), picture_output()],
            **search_aliases("same lora", "redundant loras", "clean up loras", "dedupe", "compare loras"),
        )

    @classmethod
    def fingerprint_inputs(cls, **_inputs: object) -> str:
        return matches.fingerprint()

    @classmethod
    def execute(cls, database: MetricsDatabase, min_cosine: float, installed_only: bool = False) -> io.NodeOutput:
        files = lora_folder.resolved(database)
        at_hand, copies = lora_folder.installed(files), [list(map(posix, names)) for names in lora_folder.copies(files)]
        groups = duplicates.groups_of(database, min_cosine, at_hand, installed_only=installed_only)
        first = f"cosine of at least {min_cosine:g} with the first of the group"
        same = [f"the same content in several files: {', '.join(names)}" for names in copies]
        found = f"{counted(len(groups), 'group')} of LoRAs that do" if groups else "No LoRAs do"
        lines = [f"{found} the same ({first}).", *same]
        for number_of_group, group in enumerate(groups, start=1):
            header = ("cosine", f"group {number_of_group}", "strength", "installed")
            lines += ["", *table(header, [_cells(match) for match in group])]
        facts = {
            "min_cosine": min_cosine,
            "copies": copies,
            "groups": [
                [
                    {
                        "lora_id": match.lora_id,
                        "file": matches.file_of(match),
                        "cosine": match.score,
                        "installed": match.file is not None,
                    }
                    for match in group
                ]
                for group in groups
            ],
            "database": database_facts(database),
        }
        text, said = report([*lines, "", database_line(database)], facts)
        picture, shown = pictures.drawn(_listing(groups, Said(f"{found} the same"), [f"C{first[1:]}.", *same], database), text)
        return io.NodeOutput(text, said, picture, ui=shown)


def _listing(groups: Sequence[Sequence[Match]], title: Said, notes: Sequence[str], database: MetricsDatabase) -> Listing:
    """The groups as a picture, one below the other. notes: how alike they are, and which files are copies, in words."""
    rows = pictures.Rows(database)
    every = [
        (match, f"group {number_of_group}" if match is group[0] else "")
        for number_of_group, group in enumerate(groups, start=1)
        for match in group
    ]
    drawn = [
        rows.of_record(
            match.record,
            match.name,
            [Said(f"cosine {number(match.score)}", theme.QUIET)],
            is_installed=match.file is not None,
            heading=heading,
        )
        for match, heading in every[:MOST_ROWS]
    ]
    return rows.listing(title, [Said(line, theme.QUIET) for line in notes], drawn, len(every))


def _cells(match: Match) -> tuple[str, ...]:
    return (number(match.score), matches.name_of(match), number(match.vector.strength, 2), "yes" if match.file else "no")


NODES = [CarlosDuplicateLoras]
